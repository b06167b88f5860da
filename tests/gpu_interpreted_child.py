"""Runs all cases of `gpu_layers.py` and `gpu_blocks.py` in Triton's interpreter and prints a line of JSON for each.

The interpreter is chosen as Triton is imported, for a whole process: hence this one.
"""

from __future__ import annotations

import json
import os
import sys
import time

os.environ["TRITON_INTERPRET"] = "1"

import torch

import gpu_blocks
import gpu_layers
from dovetail.gpu import tucker_conv2d, tucker_core
from dovetail.gpu.tucker import kernels
from gpu_layers import Case, Layer


def run(layer: Layer) -> torch.Tensor:
    case = layer.case
    return tucker_conv2d(
        layer.x, *layer.weights, layer.bias, case.stride, case.padding, case.dilation,
        residual=layer.residual, relu=case.relu, tiles=case.tiles,
    )  # fmt: skip


def tell(case: Case) -> None:
    layer = gpu_layers.make(case)
    start = time.perf_counter()
    y = run(layer)
    print(json.dumps({
        "seconds": round(time.perf_counter() - start, 2),
        "name": case.name,
        "error": gpu_layers.error(y, layer.truth()),
        "allowed": gpu_layers.allowed(layer),
        "dtype": str(y.dtype),
        "last": y.is_contiguous(memory_format=torch.channels_last),
    }), flush=True)  # fmt: skip


def tell_block(case: gpu_blocks.Case) -> None:
    layer = gpu_blocks.make(case)
    y = layer.run()
    print(json.dumps({
        "name": str(case),
        "error": gpu_layers.error(y, layer.truth()),
        "allowed": gpu_blocks.allowed(layer),
        "dtype": str(y.dtype),
        "again": torch.equal(layer.run(), y),
    }), flush=True)  # fmt: skip


def tell_core(name: str, tiles: str) -> None:
    layer = gpu_layers.make(Case(name, (4, 34, 5, 3), size=(4, 5)))
    core = layer.weights[1]
    z = torch.randn(2, 34, 4, 5)
    got = tucker_core(z, core, padding=1, tiles=tiles)
    want = torch.nn.functional.conv2d(z.double(), core.double(), padding=1)
    print(json.dumps({"name": name, "error": gpu_layers.error(got, want)}), flush=True)


def tell_nan() -> None:
    """A NaN goes through the ReLU as in torch."""
    layer = gpu_layers.make(Case("nan", (2, 2, 2, 2), size=(4, 4), relu=True))
    layer.x[0, 0, 0, 0] = torch.nan
    print(json.dumps({"name": "nan", "same": torch.equal(run(layer).isnan(), layer.truth().isnan())}), flush=True)


def tell_gradients() -> None:
    """Of everything that trains, against autograd through torch's convolutions."""
    layer = gpu_layers.make(Case("gradients", (3, 2, 4, 5), size=(4, 4), bias=True, residual=True, relu=True))
    leaves = [layer.x, *layer.weights, layer.bias, layer.residual]
    found = []
    for compute in (run, lambda each: each.truth(torch.float32)):
        for leaf in leaves:
            leaf.requires_grad_().grad = None
        compute(layer).square().sum().backward()
        found.append([leaf.grad.clone() for leaf in leaves])
    errors = [gpu_layers.error(got, want.double()) for got, want in zip(*found)]
    print(json.dumps({"name": "gradients", "error": max(errors)}), flush=True)


def tell_compiled() -> None:
    """torch.compile takes the op into its one graph."""
    layer = gpu_layers.make(gpu_layers.SMALL)

    def work(x: torch.Tensor) -> torch.Tensor:
        return tucker_conv2d(x.relu(), *layer.weights, padding=1, tiles=layer.case.tiles) + 1

    graphs = []

    def backend(graph: torch.fx.GraphModule, inputs: object) -> torch.fx.GraphModule:
        graphs.append([str(node.target) for node in graph.graph.nodes if node.op == "call_function"])
        return graph

    same = torch.equal(torch.compile(work, fullgraph=True, backend=backend)(layer.x), work(layer.x))
    print(json.dumps({"name": "compiled", "same": same, "graphs": graphs}), flush=True)


def tell_repeats() -> None:
    """Splits, fused or not: the same bits in every run."""
    for name in ("splits, all at the end, half", "fused, half"):
        layer = gpu_layers.make(next(case for case in gpu_layers.CASES if case.name == name))
        print(json.dumps({"name": f"again: {name}", "same": torch.equal(run(layer), run(layer))}), flush=True)


if __name__ == "__main__":
    torch.set_num_threads(1)
    assert type(kernels.core).__name__ == "InterpretedFunction", "the interpreter is not on"
    quick = sys.argv[1] == "quick"
    for each in gpu_layers.interpreted(quick=quick):
        tell(each)
    for each in gpu_blocks.interpreted(quick=quick):
        tell_block(each)
    if not quick:
        tell_core("core", "4x4x16x16:1:4:3")
        tell_core("core in splits", "4x4x16x16:2:4:3")
        tell_nan()
        tell_compiled()
        tell_gradients()
        tell_repeats()
