"""Over codes, linear layers of permuted diagonals under a natural index: as `classes.py`, with words of four inputs."""

from __future__ import annotations

import math

import numpy as np

from dovetail.engine.builder import Builder
from dovetail.engine.classes import NONE, Classes, blocks, classes_of, in_lanes, records
from dovetail.engine.codes import CodeCall, words, words_of
from dovetail.engine.layout import View
from dovetail.errors import EngineError
from dovetail.formats.permuted_diagonal import PackedPermutedDiagonal
from dovetail.program.integer import Product, is_quantized


def linear_classes(b: Builder, call: CodeCall, x: View, found: Product, y: View) -> None:
    """Dot products of bytes in each class."""
    packed = call.program.weights[call.node.weight or ""]
    if not isinstance(packed, PackedPermutedDiagonal):
        raise EngineError(f"node {call.node.name!r}: its weight is in no classes, but {packed.spec.format}")
    classes = _in_words(classes_of(packed, _codes(packed)))
    sizes = [4] * -(-classes.weights.shape[1] // (4 * b.lanes))
    filled = in_lanes(classes, sum(sizes) * b.lanes)
    order, (count, _, inner) = filled.outputs.ravel(), filled.weights.shape
    lost = found.weight.sum(axis=1, dtype=np.int64) * (call.tensor().zero or 0)
    rows, outputs = math.prod(x.shape[:-1]), len(found.weight)
    size = words(outputs) * 4 if is_quantized(call.output) else outputs
    table = records(count, sizes)
    b.scratch = max(b.scratch, 6 * inner)  # kGemmRows rows of a class
    b.emit(
        "linear_classes_int8",
        {"x": x, "inputs": b.constant(filled.inputs), "w": b.constant(blocks(filled.weights, sizes, b.lanes)),
         "blocks": b.constant(table), "places": b.constant(order), "residual": call.residual,
         "bias": b.constant((found.bias - lost)[order].astype(np.int32)),
         "multiplier": b.constant(found.multiplier[order])},
        {"y": y}, disjoint=True, rows=rows, x_row=x.shape[-1], y_row=size, r_image=size, inner=inner,
        block_count=len(table), **call.rounding(), work=rows * filled.weights.size,
    )  # fmt: skip


def _codes(packed: PackedPermutedDiagonal) -> np.ndarray:
    """The whole numbers on the diagonals."""
    values, rows = packed.spec.values, packed.rows("weight")
    return values.codes("weight", packed.arrays, rows)  # type: ignore[attr-defined, no-any-return]


def _in_words(classes: Classes) -> Classes:
    """Weights as words of four inputs, zeros for what is missing of the last one."""
    count, outputs, inner = classes.weights.shape
    made = words_of(classes.weights.reshape(-1, inner)[:, :, None, None]).reshape(count, outputs, -1)
    inputs = np.pad(classes.inputs, ((0, 0), (0, -inner % 4)), constant_values=NONE)
    return Classes(made, inputs, classes.outputs)
