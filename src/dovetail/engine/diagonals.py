"""Linear layers of permuted diagonals under any index: every block by its own shift."""

from __future__ import annotations

import math
from typing import Final

import numpy as np

from dovetail.engine.builder import Builder, activation_fields
from dovetail.engine.classes import NONE, ordered
from dovetail.engine.conv import Epilogue, evenly
from dovetail.engine.layout import View, round_up
from dovetail.formats.permuted_diagonal import PackedPermutedDiagonal

LARGEST_SIZE: Final = 1 << 15  # a shift and an output's place in its block, together, are a word of 16 bits
MOST_VECTORS: Final = 8  # as in native/kernels/linear_diagonals.inl


def linear_diagonals(
    b: Builder, x: View, packed: PackedPermutedDiagonal, scale: np.ndarray | None, y: View, epilogue: Epilogue
) -> None:
    """Writes activation(scale * (x weight^T) + bias + residual) to `y`."""
    size, (rows, columns) = packed.spec.size, packed.spec.grid(packed.shape)
    outputs, inputs = packed.shape
    q = packed.diagonals()
    if scale is not None:
        q = q * np.pad(scale, (0, rows * size - outputs)).reshape(rows, 1, size)
    layout = _rows_in_lanes if _fits_lanes(size, b.lanes) else _outputs_in_lanes
    weights, shifts, records, places = layout(q.astype(np.float32), packed.index(), b.lanes)
    order = np.where(places < outputs, places, NONE).astype(np.int32)
    b.scratch = max(b.scratch, 2 * size * columns + 3 * b.lanes)
    b.emit(
        "linear_diagonals_f32",
        {"x": x, "w": b.constant(weights), "shifts": b.constant(shifts), "blocks": b.constant(records),
         "places": b.constant(order), "bias": ordered(b, epilogue.bias, order), "residual": epilogue.residual},
        {"y": y}, disjoint=True, rows=math.prod(x.shape[:-1]), x_row=inputs, y_row=outputs, r_row=outputs,
        inputs=inputs, columns=columns, size=size, block_count=len(records),
        rows_in_lanes=int(layout is _rows_in_lanes), work=2 * math.prod(x.shape[:-1]) * weights.size,
        **activation_fields(epilogue.activation),
    )  # fmt: skip


def _fits_lanes(size: int, lanes: int) -> bool:
    """Whether two vectors hold a block's inputs, to be picked out; where outputs fill whole vectors none is picked."""
    return size <= 2 * lanes and size % lanes != 0


Layout = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]


def _rows_in_lanes(q: np.ndarray, index: np.ndarray, lanes: int) -> Layout:
    """Weights, shifts, records and places with as many block rows in a vector as it has lanes."""
    rows, columns, size = q.shape
    fill = (0, round_up(rows, lanes) - rows)
    q, index = np.pad(q, (fill, (0, 0), (0, 0))), np.pad(index, (fill, (0, 0)))
    place = np.pad(np.arange(rows * size).reshape(rows, size), (fill, (0, 0)), constant_values=rows * size)
    pieces, places, records, vectors = [], [], [], 0
    for first in range(0, len(q), lanes):
        output = 0
        for count in evenly(size, MOST_VECTORS):
            part = np.s_[first : first + lanes], np.s_[output : output + count]
            pieces.append(q[part[0], :, part[1]].transpose(1, 2, 0).ravel())
            places.append(place[part].T.ravel())
            records.append((vectors, count, output, first * columns))
            output, vectors = output + count, vectors + count
    shifts = index.reshape(-1, lanes, columns).transpose(0, 2, 1).astype(np.uint8)
    return np.concatenate(pieces), shifts, np.array(records, dtype=np.int32), np.concatenate(places)


def _outputs_in_lanes(q: np.ndarray, index: np.ndarray, lanes: int) -> Layout:
    """The same with the outputs of a block row in vectors, the last one filled up, and several vectors side by side."""
    rows, columns, size = q.shape
    wide = round_up(size, lanes)
    q = np.pad(q, ((0, 0), (0, 0), (0, wide - size))).reshape(rows, columns, -1, lanes)
    q = q.transpose(0, 2, 1, 3).reshape(-1, columns, lanes)
    output = np.arange(wide)
    place = np.where(output < size, np.arange(rows)[:, None] * size + output, rows * size)
    shifts = (index[:, None] + output[::lanes, None]).reshape(-1, columns)
    pieces, froms, records, first = [], [], [], 0
    for count in evenly(len(q), MOST_VECTORS):
        pieces.append(q[first : first + count].transpose(1, 0, 2).ravel())
        froms.append(shifts[first : first + count].T.ravel())
        records.append((first, count, 0, first * columns))
        first += count
    made = np.concatenate(pieces), np.concatenate(froms).astype(np.uint16)
    return *made, np.array(records, dtype=np.int32), place.ravel()
