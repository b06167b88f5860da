"""What convolutions with outputs in lanes need beside weights: pixels row by row, and segments of rows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from dovetail.engine.builder import Builder
from dovetail.engine.conv import (
    Epilogue,
    Geometry,
    Taps,
    allow_whole_vectors,
    epilogue_fields,
    evenly,
    lane_masks,
    lying,
    plane_fields,
)
from dovetail.engine.layout import View, round_up

MOST_PIXELS = 128  # of a segment: their sums for a block of outputs stay in L1


def conv_lanes(b: Builder, x: View, weight: np.ndarray, y: View, at: Geometry, epilogue: Epilogue) -> None:
    """As `conv_dense` for small maps, one group: no lane is spent on the halo, and a stride costs nothing."""
    taps = lying(b, x, weight.shape, y, at)
    outputs = weight.shape[0]
    bias = np.zeros(outputs, np.float32) if epilogue.bias is None else epilogue.bias.astype(np.float32)
    filled = np.pad(weight.reshape(outputs, -1), ((0, -outputs % b.lanes), (0, 0))).astype(np.float32)
    tables, fields = lane_tables(b, y, taps, at.stride, outputs, epilogue.residual, turned=False)
    b.emit(
        "conv2d_lanes_f32",
        {"x": taps.x, "bias": b.constant(np.pad(bias, (0, -outputs % b.lanes))), "residual": epilogue.residual,
         "weight": b.constant(lane_blocks(b, filled)), **tables},
        {"y": y}, disjoint=True, **plane_fields(taps.x, y), **epilogue_fields(epilogue), **fields,
        channels=weight.shape[1], out_channels=outputs, work=weight.size * y.shape[0] * y.shape[2] * y.shape[3],
    )  # fmt: skip


def lane_blocks(b: Builder, weight: np.ndarray) -> np.ndarray:
    """Rows of outputs, filled up to whole vectors, as blocks `[inputs][outputs of the block]`."""
    blocks = blocks_of(b, len(weight))
    return np.concatenate([weight[first * b.lanes : (first + n) * b.lanes].T.ravel() for first, n in blocks])


def blocks_of(b: Builder, outputs: int) -> np.ndarray:
    """Records (first, how many) of the vectors of outputs, dealt into blocks that give all threads equal work.

    Larger blocks read the pixels less often: they are taken where it makes no difference.
    """
    vectors, most = -(-outputs // b.lanes), 4 if b.lanes == 16 else 2  # kLaneVectors in native/kernels/conv_lanes.inl
    found = [_spread(vectors, size) for size in range(most, most // 2, -1)]
    best = min(found, key=lambda blocks: -(-len(blocks) // b.threads) * int(blocks[:, 1].max()))
    return best.astype(np.int32)


def _spread(total: int, most: int) -> np.ndarray:
    """As `evenly`, with where each piece begins, large and small ones in turn."""
    count = -(-total // most)
    ends = total * np.arange(count + 1) // count
    return np.stack([ends[:-1], np.diff(ends)], axis=1)


def lane_tables(
    b: Builder,
    y: View,
    taps: Taps,
    stride: tuple[int, int],
    outputs: int,
    residual: View | None,
    *,
    turned: bool = True,
) -> tuple[dict[str, View], dict[str, Any]]:
    """Pointers and numbers of DOVETAIL_LANES and DOVETAIL_RUNS; `turned`: sums are turned around in more scratch."""
    allow_whole_vectors(b, residual)
    (height, width), blocks = y.shape[2:], blocks_of(b, outputs)
    pixels = np.arange(height)[:, None] * stride[0] * taps.pitch + np.arange(width) * stride[1]
    rows = _segments(height, width, y.shape[0] * len(blocks), b.threads)
    segments, runs, masks = _runs(y, rows, b.lanes)
    most, block = round_up(int(segments[:, 3].max()), b.lanes), int(blocks[:, 1].max()) * b.lanes
    room = 2 * most + b.lanes + round_up(int(runs[:, 2].max()), b.lanes)  # where codes end
    more = most * block + room if turned else b.lanes * block
    b.scratch = max(b.scratch, most * block + more)
    return (
        {"runs": b.constant(runs), "masks": b.constant(masks), "pixels": b.constant(pixels.astype(np.int32).ravel()),
         "segments": b.constant(segments), "blocks": b.constant(blocks),
         "taps": b.constant(taps.offsets.astype(np.int32).ravel())},
        {"segment_count": len(segments), "most_pixels": most, "block_count": len(blocks),
         "tap_count": taps.offsets.size},
    )  # fmt: skip


def _segments(height: int, width: int, blocks: int, threads: int) -> Sequence[int]:
    """Rows dealt into segments of at most `MOST_PIXELS`, more of them where the threads would have too few units."""
    wanted = 1 if threads == 1 or blocks >= 2 * threads else -(-4 * threads // blocks)
    return evenly(height, max(1, min(MOST_PIXELS // width, -(-height // wanted))))


def _runs(y: View, segments: Sequence[int], lanes: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Records of the segments (numbers of rows) and of their runs, and masks.

    A run is a row with the zeros after it; where rows follow each other without a gap, all rows of a segment.
    """
    out, (height, width) = y.planes, y.shape[2:]
    assert out is not None
    records: list[tuple[int, int, int, int]] = []
    runs: list[tuple[int, int, int, int]] = []
    masks: list[int] = []
    row = 0
    for rows in segments:
        sizes = [rows] if out.pitch == width else [1] * rows
        records.append((len(runs), len(sizes), row * width, rows * width))
        for size in sizes:
            start, row = row * out.pitch, row + size
            stored = (row * out.pitch if row < height else out.body) - start
            runs.append(((row - size) * width, start, stored, len(masks)))
            masks += lane_masks(start, stored, out.pitch, height, width, lanes)
    return np.array(records, np.int32), np.array(runs, np.int32), np.array(masks, np.uint32)
