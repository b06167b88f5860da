"""Workloads of a network: every weight op of a Program with the input that it meets when the reference runs images."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from typing import Any

import numpy as np

from dovetail.accelerators.workload import Workload
from dovetail.program import reference
from dovetail.program.ops import complete
from dovetail.program.program import Graph, Node, Program, Tensor

Array = np.ndarray


def record(program: Program, *inputs: Any, graph: str = "main") -> tuple[Workload, ...]:
    """Run the reference on images, and keep what each convolution and linear layer read.

    Every tensor of the run is in memory at once: give a few images.

    Args:
        program: the packed network.
        inputs: one array per input of the graph.
        graph: its name.

    Returns:
        One workload per weight op, in order of execution; those in the body of a scan come last, and each is of all
        time steps together.
    """
    values = reference.run(program, *inputs, graph=graph, every=True)
    return tuple(
        _workload(program, each, complete(node), values)
        for each in program.run_by(program.graphs[graph])
        for node in each.nodes
        if node.weight is not None
    )


def handovers(program: Program, graph: str = "main") -> dict[str, str]:
    """Weight op → the one whose output it reads as it is, and nobody else."""
    found = {}
    for each in program.run_by(program.graphs[graph]):
        makers = {node.output: node.name for node in each.nodes if node.weight is not None}
        read = Counter(name for node in each.nodes for name in node.reads()) + Counter(each.outputs)
        for node in each.nodes:
            if node.weight is not None and node.inputs[0] in makers and read[node.inputs[0]] == 1:
                found[node.name] = makers[node.inputs[0]]
    return found


def _workload(program: Program, graph: Graph, node: Node, values: Mapping[str, Array]) -> Workload:
    read = node.inputs[0]
    x, y = _images(values[read], node), _images(values[node.output], node)
    return Workload(
        node.name,
        program.weights[node.weight or ""],
        x,
        **{name: node.attributes[name] for name in ("stride", "padding", "dilation", "groups") if node.op == "conv2d"},
        zero=_zero(graph.tensors.get(read)),
        output_mask=y != _zero(graph.tensors[node.output]),
    )


def _images(array: Array, node: Node) -> Array:
    """`(N, C, H, W)`: rows of a linear layer become images of one pixel, time steps images of their own."""
    if node.op == "conv2d":
        return array.reshape(-1, *array.shape[-3:])
    return array.reshape(math.prod(array.shape[:-1]), array.shape[-1], 1, 1)


def _zero(tensor: Tensor | None) -> int:
    return 0 if tensor is None else tensor.zero or 0
