"""Mending a quantised Program: biases and scales by which its layers give what they gave in floating point."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from dovetail.program.calibrate import Statistics
from dovetail.program.check import check
from dovetail.program.integer import touches_codes
from dovetail.program.ops import complete
from dovetail.program.program import Node, Program
from dovetail.program.quantize import fresh, names_of

Array = np.ndarray


def correct_bias(program: Program, quantized: Program, statistics: Mapping[str, Statistics]) -> Program:
    """`quantized`, its biases shifted by what rounding the weights changes on average.

    A weight that is rounded by `dW` shifts an output by the sum of `dW` times the means of the inputs (Nagel et al.,
    Data-free quantization, 2019, section 4.2, with measured means; borders are taken like the rest).

    Raises:
        ProgramError: with its new bias a sum could exceed 32 bits.
    """
    arrays, nodes, taken = dict(quantized.arrays), [], names_of(quantized)
    before = {node.name: complete(node) for node in program.graph.nodes}
    for node in quantized.graph.nodes:
        old = before.get(node.name)
        packed = quantized.weights[node.weight] if node.weight is not None else None
        if old is None or packed is None or not touches_codes(node, quantized.graph):
            nodes.append(node)
            continue
        shift = _shift(program, quantized, old, node, statistics[old.inputs[0]].mean)
        bias = fresh(f"{node.name}.corrected", taken)
        arrays[bias] = (_bias(program, old, len(shift)) - shift).astype(np.float32)
        nodes.append(replace(node, epilogue=replace(node.epilogue, bias=bias)))
    graph = replace(quantized.graph, nodes=tuple(nodes))
    used = {name for node in nodes for name in (*node.reads(), node.epilogue.scale, node.epilogue.bias)}
    made = replace(
        quantized, graphs={"main": graph}, arrays={name: array for name, array in arrays.items() if name in used}
    )
    check(made)
    return made


def _shift(program: Program, quantized: Program, old: Node, node: Node, mean: Array) -> Array:
    """Sum over the inputs of each output of (rounded - real weight) * mean."""
    real = program.weights[old.weight or ""].dense().astype(np.float64)
    if old.epilogue.scale is not None:
        real = real * program.arrays[old.epilogue.scale].reshape(-1, *(1,) * (real.ndim - 1))
    change = quantized.weights[node.weight or ""].dense() - real
    change = change.reshape(*change.shape[:2], -1).sum(axis=2)
    groups = int(node.attributes.get("groups", 1))
    of_group = mean.reshape(groups, -1).repeat(len(change) // groups, axis=0)
    shift: Array = (change * of_group).sum(axis=1)
    return shift


def _bias(program: Program, node: Node, outputs: int) -> Array:
    name = node.epilogue.bias
    return np.zeros(outputs) if name is None else program.arrays[name].astype(np.float64)
