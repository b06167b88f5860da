"""onnxruntime on the CPU, in f32: exported by torch's own ONNX exporter, input and output buffers bound once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from dovetail.peers.peer import Arguments, Images, Runner, Source
from dovetail.peers.quiet import quietly


def export(source: Source, folder: Path, dtype: str) -> Arguments:
    """Write `<name>.onnx` with static shapes (their best), weights inside."""
    import torch

    path = folder / f"{source.name}.onnx"
    with quietly():
        torch.onnx.export(source.model, (source.example,), path, dynamo=True, verbose=False, external_data=False)
    return {"path": str(path)}


def load(threads: int, path: str) -> Runner:
    """A session with all graph optimisations and `threads` threads inside ops."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    return _Runner(onnxruntime, onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"]))


class _Runner:
    def __init__(self, runtime: Any, session: Any) -> None:
        self.runtime = runtime
        self.session = session
        self.binding = session.io_binding()

    def bind(self, x: Images) -> None:
        self.x = self.runtime.OrtValue.ortvalue_from_numpy(x)  # may share the memory; the binding does not hold it
        self.binding.bind_ortvalue_input(self.session.get_inputs()[0].name, self.x)
        for output in self.session.get_outputs():
            buffer = self.runtime.OrtValue.ortvalue_from_shape_and_type(output.shape, np.float32)
            self.binding.bind_ortvalue_output(output.name, buffer)

    def run(self) -> None:
        self.session.run_with_iobinding(self.binding)

    def outputs(self) -> tuple[np.ndarray, ...]:
        return tuple(self.binding.copy_outputs_to_cpu())
