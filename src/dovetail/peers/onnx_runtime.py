"""onnxruntime on the CPU, in f32: exported by torch's own ONNX exporter, input and output buffers bound once.

In "int4" its linear layers have weights of 4 bits, 32 of them to a scale, and sums in int8, by its own quantizer.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from dovetail.errors import PeerError
from dovetail.peers.peer import Arguments, Images, Runner, Source
from dovetail.peers.quiet import quietly


def export(source: Source, folder: Path, dtype: str) -> Arguments:
    """Write `<name>.onnx` with static shapes (their best), weights inside."""
    import torch

    path = folder / f"{source.name}.onnx"
    with quietly():
        torch.onnx.export(source.model, (source.example,), path, dynamo=True, verbose=False, external_data=False)
    return {"path": str(_with_four_bits(path) if dtype == "int4" else path)}


def _with_four_bits(path: Path) -> Path:
    """The network with `MatMulNBits` in place of its linear layers; `PeerError` where it has none."""
    import onnx
    from onnxruntime.quantization.matmul_nbits_quantizer import MatMulNBitsQuantizer

    with quietly():
        network = onnx.load(path)
        for node in [n for n in network.graph.node if n.op_type == "Gemm"]:
            _split(network.graph, node)
        quantizer = MatMulNBitsQuantizer(network, block_size=32, is_symmetric=True, accuracy_level=4)
        quantizer.process()
    if all(node.op_type != "MatMulNBits" for node in quantizer.model.model.graph.node):
        raise PeerError("onnxruntime-int4: the network has no linear layer")
    target = path.with_stem(f"{path.stem}-int4")
    quantizer.model.save_model_to_file(str(target), False)
    return target


def _split(graph: Any, gemm: Any) -> None:
    """A linear layer as a product and a sum: the quantizer knows products alone."""
    import onnx

    x, name, *bias = gemm.input
    (weight,) = (array for array in graph.initializer if array.name == name)
    turned = onnx.numpy_helper.to_array(weight).T.copy()
    product, place = f"{name}.product", list(graph.node).index(gemm)
    graph.initializer.remove(weight)
    graph.initializer.append(onnx.numpy_helper.from_array(turned, name))
    graph.node.remove(gemm)
    graph.node.insert(place, onnx.helper.make_node("MatMul", [x, name], [product] if bias else gemm.output))
    if bias:
        graph.node.insert(place + 1, onnx.helper.make_node("Add", [product, *bias], gemm.output))


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
