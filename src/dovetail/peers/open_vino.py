"""OpenVINO on the CPU in f32, bf16 and int8, for one stream of requests at the lowest latency.

The precision is always stated: left alone, OpenVINO takes bf16 wherever the CPU has it. int8 is NNCF's post-training
quantization with its defaults (fast bias correction) over all calibration images of the source; "int4" its compression
of the weights of linear layers alone, 32 of them to a scale, or an output where a layer's inputs are no multiple of 32.
"""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from dovetail.errors import PeerError
from dovetail.peers.peer import Arguments, Images, Runner, Source
from dovetail.peers.quiet import quietly


def export(source: Source, folder: Path, dtype: str) -> Arguments:
    """Write the f32 graph, shared by f32 and bf16, or the quantized one."""
    if dtype == "bf16" and "BF16" not in _openvino().Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        raise PeerError("openvino-bf16: this CPU has no bf16 arithmetic, it would be emulated")
    path = folder / f"{source.name}.xml"
    if not path.exists():
        _convert(source, path)
    if dtype == "int8":
        path = _quantize(source, path, folder / f"{source.name}-int8.xml")
    if dtype == "int4":
        path = _compress(path, folder / f"{source.name}-int4.xml")
    return {"path": str(path), "precision": dtype if dtype == "bf16" else "f32"}


def load(threads: int, path: str, precision: str) -> Runner:
    """Compile for `threads` threads; `precision` is that of whatever is not quantized.

    Raises:
        PeerError: OpenVINO settled on another precision than the one asked for.
    """
    openvino = _openvino()
    hints = {
        "PERFORMANCE_HINT": "LATENCY",
        "NUM_STREAMS": 1,
        "INFERENCE_NUM_THREADS": threads,
        "INFERENCE_PRECISION_HINT": precision,
    }
    compiled = openvino.Core().compile_model(path, "CPU", hints)
    settled = compiled.get_property("INFERENCE_PRECISION_HINT").to_string()
    if settled != precision:
        raise PeerError(f"OpenVINO computes in {settled}, not in {precision}")
    return _Runner(openvino, compiled.create_infer_request())


class _Runner:
    def __init__(self, openvino: Any, request: Any) -> None:
        self.openvino = openvino
        self.request = request

    def bind(self, x: Images) -> None:
        self.x = x  # the request sees this memory but does not hold it
        self.request.set_input_tensor(self.openvino.Tensor(self.x, shared_memory=True))

    def run(self) -> None:
        self.request.infer()

    def outputs(self) -> tuple[np.ndarray, ...]:
        return tuple(tensor.data for tensor in self.request.output_tensors)


def _convert(source: Source, path: Path) -> None:
    openvino = _openvino()
    with quietly():
        shape = [tuple(source.example.shape)]
        graph = openvino.convert_model(source.model, example_input=source.example, input=shape)
        openvino.save_model(graph, path, compress_to_fp16=False)


def _quantize(source: Source, path: Path, result: Path) -> Path:
    if source.calibration is None:
        raise PeerError("openvino-int8: needs images to calibrate on; give data=")
    openvino = _openvino()
    images = source.calibration.reshape(-1, *source.example.shape)
    with quietly():
        import nncf

        graph = openvino.Core().read_model(path)
        quantized = nncf.quantize(graph, nncf.Dataset(list(images)), subset_size=len(images))
        openvino.save_model(quantized, result, compress_to_fp16=False)
    return result


def _compress(path: Path, result: Path) -> Path:
    openvino = _openvino()
    with quietly():
        import nncf

        def compressed(group_size: int) -> Any:
            graph, mode = openvino.Core().read_model(path), nncf.CompressWeightsMode.INT4_ASYM
            return nncf.compress_weights(graph, mode=mode, ratio=1.0, group_size=group_size, all_layers=True)

        try:
            made = compressed(32)
        except nncf.InvalidGroupSizeError:  # a layer has no multiple of 32 inputs
            made = compressed(-1)
        openvino.save_model(made, result, compress_to_fp16=False)
    return result


def silence_telemetry() -> None:
    """To be called before OpenVINO or NNCF are imported, whose telemetry would otherwise call home on import."""
    if "openvino" not in sys.modules:
        sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]


def _openvino() -> ModuleType:
    silence_telemetry()
    import openvino

    return openvino
