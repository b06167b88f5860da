"""Permuted diagonals under a natural index: a dense product of each class, between two permutations."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from typing import Final

import numpy as np

from dovetail.engine.builder import Builder, activation_fields
from dovetail.engine.conv import Epilogue, Geometry, Group, conv_groups, evenly
from dovetail.engine.layout import View, round_up
from dovetail.engine.winograd import conv_winograd_groups
from dovetail.formats.permuted_diagonal import PackedPermutedDiagonal
from dovetail.formats.values import CODEBOOK4, INT8

AHEAD: Final = 16  # as kColumnsAhead in native/kernels/linear_classes.inl
MOST_VECTORS: Final = 12
NONE: Final = -1


@dataclass(frozen=True)
class Classes:
    """The products that a weight is made of.

    Attributes:
        weights: (classes, outputs, inputs) of whatever its diagonals hold.
        inputs: (classes, inputs), the channels that they read; `NONE` beyond the last.
        outputs: (classes, outputs), those that they are.
    """

    weights: np.ndarray
    inputs: np.ndarray
    outputs: np.ndarray


def classes_of(packed: PackedPermutedDiagonal, diagonals: np.ndarray) -> Classes:
    """The classes of a weight under a natural index; `diagonals` are its own, or codes in their place."""
    inputs, outputs, places = packed.spec.classes(packed.shape)
    inputs = np.where(inputs < packed.shape[1], inputs, NONE).astype(np.int32)
    outputs = np.where(outputs < packed.shape[0], outputs, NONE).astype(np.int32)
    return Classes(diagonals[np.arange(places.shape[1]), :, places], inputs, outputs)


def conv_classes(
    b: Builder, x: View, packed: PackedPermutedDiagonal, scale: np.ndarray | None, y: View, at: Geometry,
    epilogue: Epilogue,
) -> None:  # fmt: skip
    """A convolution of each class; its channels are read and written where they lie."""
    conv_groups(b, x, _groups(packed, scale), y, at, epilogue)


def conv_classes_winograd(
    b: Builder, x: View, packed: PackedPermutedDiagonal, scale: np.ndarray | None, y: View, at: Geometry,
    epilogue: Epilogue, tile: int,
) -> None:  # fmt: skip
    """The same by Winograd's filtering in tiles of `tile` x `tile` outputs."""
    conv_winograd_groups(b, x, _groups(packed, scale), y, at, epilogue, tile)


def _groups(packed: PackedPermutedDiagonal, scale: np.ndarray | None) -> list[Group]:
    found, groups = classes_of(packed, packed.diagonals()), []
    for weight, inputs, outputs in zip(found.weights, found.inputs, found.outputs):
        kept = outputs[outputs != NONE]
        weight = np.where((inputs != NONE)[:, None, None], weight[outputs != NONE], np.float32(0))
        weight = weight if scale is None else weight * scale[kept].reshape(-1, 1, 1, 1)
        groups.append(Group(weight, np.maximum(inputs, 0), kept))
    return groups


def linear_classes(
    b: Builder, x: View, packed: PackedPermutedDiagonal, scale: np.ndarray | None, y: View, epilogue: Epilogue
) -> None:
    """Writes activation(scale * (x weight^T) + bias + residual) to `y` in float32 weights."""
    found = classes_of(packed, packed.diagonals())
    _emit(b, "linear_classes_f32", x, found, y, epilogue, scale)


def linear_classes_bytes(
    b: Builder, x: View, packed: PackedPermutedDiagonal, scale: np.ndarray | None, y: View, epilogue: Epilogue
) -> None:
    """The same of int8 values: bytes in memory, whose scales follow the sums."""
    found = classes_of(packed, INT8.codes("weight", packed.arrays, packed.rows("weight")))
    own = INT8.scale("weight", packed.arrays, packed.rows("weight"))[: packed.shape[0]]
    _emit(b, "linear_classes_bytes_f32", x, found, y, epilogue, own if scale is None else own * scale)


def linear_classes_book(
    b: Builder, x: View, packed: PackedPermutedDiagonal, scale: np.ndarray | None, y: View, epilogue: Epilogue
) -> None:
    """The same of 4-bit codes, which stay such in memory."""
    found = classes_of(packed, CODEBOOK4.codes("weight", packed.arrays, packed.rows("weight")))
    book = CODEBOOK4.book("weight", packed.arrays)
    _emit(b, "linear_classes_book_f32", x, found, y, epilogue, scale, book=b.constant(book))


def _emit(
    b: Builder, kernel: str, x: View, found: Classes, y: View, epilogue: Epilogue, scale: np.ndarray | None,
    book: View | None = None,
) -> None:  # fmt: skip
    (classes, _, inner), rows, outputs = found.weights.shape, math.prod(x.shape[:-1]), y.shape[-1]
    sizes = _vectors(-(-found.weights.shape[1] // b.lanes), rows, in_codes=book is not None)
    filled = in_lanes(found, sum(sizes) * b.lanes)
    table, order = records(classes, sizes), filled.outputs.ravel()
    if rows == 1:
        b.scratch = max(b.scratch, 2 * (inner + AHEAD))
        reads, x_row = {"x": x, "inputs": b.constant(filled.inputs)}, x.shape[-1]
    else:
        reads, x_row = {"x": taken(b, x, filled.inputs.ravel())}, filled.inputs.size
    b.emit(
        kernel,
        {**reads, "w": b.constant(blocks(filled.weights, sizes, b.lanes, in_codes=book is not None)), "book": book,
         "blocks": b.constant(table), "places": b.constant(order),
         "scale": ordered(b, scale, order), "bias": ordered(b, epilogue.bias, order), "residual": epilogue.residual},
        {"y": y}, disjoint=True, rows=rows, x_row=x_row, y_row=outputs, inner=inner, block_count=len(table),
        r_row=outputs, work=rows * found.weights.size, **activation_fields(epilogue.activation),
    )  # fmt: skip


def _vectors(total: int, rows: int, *, in_codes: bool) -> list[int]:
    """Vectors of the blocks of a class: all that registers hold at one row, four of them else; codes come by fours."""
    if rows > 1:
        return [4] * -(-total // 4)
    if in_codes:
        return [8] * (round_up(total, 4) // 8) + [4] * (round_up(total, 4) // 4 % 2)
    return evenly(total, MOST_VECTORS)


def in_lanes(found: Classes, outputs: int) -> Classes:
    """Filled up to so many outputs a class."""
    fill = (0, outputs - found.weights.shape[1])
    weights = np.pad(found.weights, ((0, 0), fill, (0, 0)))
    return Classes(weights, found.inputs, np.pad(found.outputs, ((0, 0), fill), constant_values=NONE))


def records(classes: int, sizes: list[int]) -> np.ndarray:
    """(class, first vector, vectors) of every block."""
    firsts = np.cumsum([0, *sizes[:-1]])
    found = [(k, k * sum(sizes) + at, size) for k in range(classes) for at, size in zip(firsts, sizes)]
    return np.array(found, dtype=np.int32)


def blocks(weights: np.ndarray, sizes: list[int], lanes: int, *, in_codes: bool = False) -> np.ndarray:
    """Per class and block [inputs][vectors][lanes]; (classes, outputs, inputs) filled up."""
    pieces, edges = [], np.cumsum([0, *sizes]) * lanes
    for weight in weights:
        for first, last in itertools.pairwise(edges):
            block = weight[first:last].T.reshape(-1, (last - first) // lanes, lanes)
            pieces.append((halves(block) if in_codes else block).ravel())
    return np.concatenate(pieces)


def halves(codes: np.ndarray) -> np.ndarray:
    """Two codes a byte, in the order in which `decode` in native/isa/portable.h gives (inputs, vectors, lanes) back."""
    inputs, vectors, lanes = codes.shape
    if lanes == 16:
        low, high = codes[:, ::2], codes[:, 1::2]  # of each byte of a word
        return np.ascontiguousarray((low | high << 4).transpose(0, 2, 1))
    quads = codes.reshape(inputs, vectors // 4, 4, 2, 4)  # four vectors, two halves of four lanes
    if vectors == 4:
        return np.ascontiguousarray(quads[:, 0, :, 0] | quads[:, 0, :, 1] << 4)
    return np.ascontiguousarray((quads[:, 0] | quads[:, 1] << 4).transpose(0, 2, 1, 3))


def ordered(b: Builder, numbers: np.ndarray | None, order: np.ndarray) -> View | None:
    """A number of each output where the kernel has it, zero where there is none."""
    if numbers is None:
        return None
    return b.constant(np.where(order < 0, 0, numbers[order]).astype(np.float32))


def taken(b: Builder, x: View, order: np.ndarray) -> View:
    """Channels of every row in another order."""
    rows = math.prod(x.shape[:-1])
    y = b.rows((rows, len(order)))
    b.emit(
        "take_f32", {"x": x, "from": b.constant(order)}, {"y": y}, disjoint=True, rows=rows, columns=len(order),
        x_row=x.shape[-1], y_row=len(order),
    )  # fmt: skip
    return y
