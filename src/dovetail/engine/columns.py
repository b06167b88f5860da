"""Sparse convolutions summed up by columns of the kernel: tiles of lines, and lists for every block of channels."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from dovetail.engine.builder import Builder
from dovetail.engine.conv import (
    Epilogue,
    Geometry,
    Taps,
    allow_reads,
    allow_whole_vectors,
    entry_lists,
    epilogue_fields,
    evenly,
    lying,
    plane_fields,
    prepare,
    row_runs,
)
from dovetail.engine.layout import View, round_up

MOST_SCRATCH = 10240  # elements that a block's lines may take: they stay in L1
MOST_REACH = 4  # columns of neighbours that leave some of eight lanes to a tile


@dataclass(frozen=True)
class Lines:
    """How pixels lie in vectors, and which vectors of a channel a tile needs.

    Attributes:
        rows: of a line: 1, 2 or 4.
        lanes: of a row.
        first_column: that the first lane of a row holds, relative to the tile's first pixel.
        width: pixels of a tile's row at most.
        vectors: lines of a tile's output at most.
        columns: `(R, S)`, by which the sums of each tap have to be turned, or `first_column`.
        strips: (x offset of the first line, lines more than the tile has).
        line: `(R, S)`, that of each tap for the tile's first vector, among a channel's lines.
        count: lines of a channel.
    """

    rows: int
    lanes: int
    first_column: int
    width: int
    vectors: int
    columns: np.ndarray
    strips: np.ndarray
    line: np.ndarray
    count: int


def reach(kernel: int, stride: int, dilation: int) -> int:
    """Between how many columns of pixels, or of a phase, the taps of one pixel lie at most."""
    return -(-(kernel - 1) * dilation // stride)


def conv_sparse_columns(b: Builder, x: View, weight: np.ndarray, y: View, at: Geometry, epilogue: Epilogue) -> None:
    """As `conv_sparse`, each column of taps by itself."""
    taps, tables, fields = column_tables(b, x, weight.astype(np.float32), y, at)
    allow_whole_vectors(b, epilogue.residual)
    b.emit(
        "conv2d_sparse_columns_f32",
        {"x": taps.x, "bias": None if epilogue.bias is None else b.constant(epilogue.bias.astype(np.float32)),
         "residual": epilogue.residual, **tables},
        {"y": y}, disjoint=True, **plane_fields(taps.x, y), **epilogue_fields(epilogue), **fields,
    )  # fmt: skip


def column_tables(
    b: Builder, x: View, weight: np.ndarray, y: View, at: Geometry, *, together: int = 1, zeros: bool = True
) -> tuple[Taps, dict[str, View], dict[str, Any]]:
    """The taps, pointers and numbers of DOVETAIL_COLUMNS and DOVETAIL_RUNS, for weights in float32 or words.

    A thread takes at least `together` outputs; `zeros`: whether what lies around the input adds nothing to a sum.
    """
    taps = strided_taps(b, x, weight.shape, y, at)
    lines = lines_of(b.lanes, taps, y, zeros=zeros)
    outputs, channels = weight.shape[0], weight.shape[1] * at.groups
    blocks = min(-(-channels * lines.count * b.lanes // MOST_SCRATCH), channels)
    tiles, fields = _tiles(b, taps, lines, y)
    groups = min(output_groups(y.shape[0] * fields["tile_count"], b.threads), -(-outputs // together))
    lists = _lists(b.lanes, weight, at, lines, blocks)
    most = -(-channels // blocks) * lines.count + round_up(-(-outputs // groups), together) * lines.vectors
    b.scratch = max(b.scratch, most * b.lanes + round_up(int(tiles["runs"][:, 2].max()), b.lanes))
    return (
        taps,
        {name: b.constant(table) for name, table in {**tiles, **lists}.items()},
        {**fields, "channels": channels, "block_count": blocks, "column_count": len(lists["turns"]) + 1,
         "out_channels": outputs, "group_count": groups,
         "work": 2 * len(lists["entries"]) * y.shape[0] * y.shape[2] * y.shape[3]},
    )  # fmt: skip


def output_groups(tiles: int, threads: int) -> int:
    """Groups of outputs that the work on tiles is cut into: as few as leave no thread a quarter more than its share.

    Not into more, as each group copies the lines of its tile anew.
    """
    return next(n for n in itertools.count(1) if 4 * threads * -(-tiles * n // threads) <= 5 * tiles * n)


def strided_taps(b: Builder, x: View, weight_shape: Sequence[int], y: View, at: Geometry) -> Taps:
    """The phases of a stride of up to two columns are taken from `x` as it lies, while its lines are copied."""
    down, right = at.stride
    if at.stride == (1, 1) or right > 2:
        return prepare(b, x, weight_shape, y, at)
    taps = lying(b, x, weight_shape, y, at)
    rows, columns = taps.rows // down, taps.columns // right
    return replace(taps, pitch=down * taps.pitch, rows=rows, columns=columns, step=right)


def lines_of(lanes: int, taps: Taps, y: View, *, zeros: bool = True) -> Lines:
    """The lines for tiles of an output, which are as high as the registers allow.

    Where a row fits into a vector, or into half or a quarter of it, its lanes are its pixels; else some hold the
    neighbours' pixels. A map of a line or two has lines for every column.
    """
    (height, width), columns = y.shape[2:], taps.columns
    assert taps.x.planes is not None
    furthest = max(width, min(width + int(columns.max()), -(-taps.x.planes.width // taps.step)))
    few = max(2, lanes // 4)  # rows of a line at most: 4 of 16 lanes, 2 of 8
    copied = width <= lanes and width * height <= 2 * lanes
    fits = width if copied else furthest
    rows = next((n for n in (4, 2) if n <= few and n * fits <= lanes and (zeros or copied)), 1)
    whole = copied or (furthest <= lanes and zeros)
    first_column = 0 if whole else int(columns.min())
    vectors = evenly(-(-height // rows), 14 if lanes == 16 else 6)[0]  # as kMostLines in conv_sparse_columns.inl
    places = taps.offsets - taps.rows * taps.pitch - columns * taps.step
    shifts = columns if copied else np.full_like(columns, first_column)
    strips, line, count = [], np.zeros(taps.offsets.shape, np.int64), 0
    for place, shift, odd in itertools.product(np.unique(places), np.unique(shifts), range(rows)):
        here = (places == place) & (shifts == shift) & (taps.rows % rows == odd)
        if not here.any():
            continue
        top, bottom = int(taps.rows[here].min()), int(taps.rows[here].max())
        line[here] = count + (taps.rows[here] - top) // rows
        strips.append((int(place) + top * taps.pitch + int(shift) * taps.step, (bottom - top) // rows))
        count += (bottom - top) // rows + vectors
    return Lines(
        rows, lanes // rows, first_column, width if whole else evenly(width, lanes - int(np.ptp(columns)))[0],
        vectors, np.zeros_like(columns) if copied else columns, np.array(strips, np.int32), line, count,
    )  # fmt: skip


def _tiles(b: Builder, taps: Taps, lines: Lines, y: View) -> tuple[dict[str, np.ndarray], dict[str, int]]:
    """Tables of the tiles and of their rows, and numbers."""
    assert y.planes is not None
    (height, width), pitch = y.shape[2:], y.planes.pitch
    tiles: list[tuple[int, ...]] = []
    runs: list[tuple[int, int, int, int]] = []
    masks: list[int] = []
    top = 0
    for vectors in evenly(-(-height // lines.rows), lines.vectors):
        left = 0
        for wide in evenly(width, lines.width):
            first = len(runs)
            high = min(vectors * lines.rows, height - top)
            runs += row_runs(b.lanes, y, (top, high), (left, wide), lines.lanes, masks)
            stored = [pixels for _, _, pixels, _ in runs[first:]]
            longer = sum(pixels > min(stored[0], b.lanes) for pixels in stored)
            tiles.append((top * taps.pitch + left * taps.step, first, len(stored), longer, vectors))
            left += wide
        top += vectors * lines.rows
    ends = [at + (vectors * lines.rows - 1) * taps.pitch for at, _, _, _, vectors in tiles]
    beyond = lines.lanes + lines.first_column - int(taps.columns.min())
    allow_reads(taps.x, max(ends) + taps.furthest + beyond * taps.step)
    return (
        {"tiles": np.array(tiles, np.int32), "runs": np.array(runs, np.int32), "masks": np.array(masks, np.uint32),
         "strips": lines.strips},
        {"tile_count": len(tiles), "most_vectors": lines.vectors, "y_row": pitch,
         "line_rows": lines.rows, "x_row": taps.pitch, "step": taps.step, "strip_count": len(lines.strips),
         "line_count": lines.count},
    )  # fmt: skip


def _lists(lanes: int, weight: np.ndarray, at: Geometry, lines: Lines, blocks: int) -> dict[str, np.ndarray]:
    """Entries of each (block of channels, output, column), where they begin, and how the columns' sums are turned."""
    outputs, (k, c, r, s) = weight.shape[0], np.nonzero(weight)
    channel = k // (outputs // at.groups) * weight.shape[1] + c
    firsts = weight.shape[1] * at.groups * np.arange(blocks) // blocks
    block = np.searchsorted(firsts, channel, side="right") - 1
    columns = [*(n for n in np.unique(lines.columns).tolist() if n != lines.first_column), lines.first_column]
    column = np.array([columns.index(n) for n in lines.columns.ravel().tolist()]).reshape(lines.columns.shape)[r, s]
    row = (block * outputs + k) * len(columns) + column
    order = np.argsort(row, kind="stable")
    offset = ((channel - firsts[block]) * lines.count + lines.line[r, s]) * lanes
    entries, starts = entry_lists(
        row[order], offset[order], weight[k, c, r, s][order], blocks * outputs * len(columns),
        multiple=8 if lines.vectors == 1 else 1,  # as column_chains in conv_sparse_columns.inl
    )  # fmt: skip
    lane = np.arange(lanes)
    turns = np.zeros((len(columns) - 1, lanes + 1), np.int32)
    for turn, n in zip(turns, columns):
        within = lane % lines.lanes + n - lines.first_column
        real = (within >= 0) & (within < lines.lanes)
        turn[:lanes] = np.where(real, lane - lane % lines.lanes + within, 0)
        turn[lanes] = np.sum(1 << lane[real])
    return {"entries": entries, "starts": starts.astype(np.int32), "turns": turns}
