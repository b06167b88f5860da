"""Winograd's minimal filtering along rows: wide kernels whose columns are a stride of two apart, as in stems.

A phase of the columns has up to four taps, and four outputs of a row then take seven products, F(4, 4): two phases take
14 where a kernel of seven columns has 28. The points are those of F(4, 3) and 1/4 (see winograd.py), so that the
transforms are those of F(4, 3) with one step more.
"""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from weakref import WeakKeyDictionary

import numpy as np

from dovetail.engine.builder import Builder
from dovetail.engine.conv import Epilogue, Geometry, Taps, allow_reads, prepare
from dovetail.engine.layout import View
from dovetail.engine.winograd import (
    LARGEST_ERROR,
    Matrices,
    cook_toom,
    emit_tiles,
    root_mean_square,
    split,
    tile_groups,
)
from dovetail.formats.base import Packed

OUTPUTS = TAPS = 4
KERNELS = range(5, 2 * TAPS + 1)  # columns: with fewer, direct convolution takes as few products
LEAST_WIDTH = 16  # of rows: with less, tiles reach beyond the map, and what they find there reaches all their outputs


def fits(columns: int, left: int) -> bool:
    """Whether a kernel of so many columns, two apart and padded by `left`, gets by with four taps in each phase."""
    return columns in KERNELS and left % 2 + columns <= 2 * TAPS


@cache
def matrices() -> Matrices:
    """Those of F(4, 4), in the kernel's order: the points of F(4, 3), infinity, 1/4."""
    made = cook_toom([0.0, 0.75, -0.75, 1.5, -1.5, 0.25], OUTPUTS)
    order = [0, 1, 2, 3, 4, 6, 5]
    return Matrices(made.input[order], made.weight[order], made.output[:, order])


def conv_winograd_rows(b: Builder, x: View, weight: np.ndarray, y: View, at: Geometry, epilogue: Epilogue) -> None:
    """Writes activation(conv(x, weight) + bias + residual) to `y`; columns are a stride of two apart.

    Tiles read what four taps of each phase would, so the weights are filled up to that, and with them the halo.
    """
    work, (top, bottom, left, right) = weight[0].size, at.padding
    before = left % 2
    weight = np.pad(weight, [(0, 0)] * 3 + [(before, 2 * TAPS - before - weight.shape[3])])
    taps = prepare(b, x, weight.shape, y, replace(at, padding=(top, bottom, left + before, right)))
    starts, lines = _lines(taps, weight)
    offsets = (np.arange(weight.shape[1])[:, None] * taps.channel + starts).astype(np.int32)
    groups = tile_groups(y, taps.pitch, 0, OUTPUTS, b.lanes, high=1)
    furthest = int(taps.rows.max()) * taps.pitch + int(taps.columns.min())
    allow_reads(taps.x, int(groups["x"].max()) + furthest + OUTPUTS + b.lanes)
    parts = split(lines, groups=1)
    emit_tiles(b, taps.x, parts, offsets.ravel(), _transformed, y, groups, epilogue, work=work, tile=0)


def _lines(taps: Taps, weight: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Where the lines of taps begin in one channel, and the weights as `(K, C, lines, 4)`."""
    first = int(taps.columns.min())
    starts, line = np.unique(taps.offsets - taps.columns + first, return_inverse=True)
    lines = np.zeros((*weight.shape[:2], len(starts), TAPS), np.float32)
    lines[:, :, line.reshape(taps.columns.shape), taps.columns - first] = weight
    return starts, lines


def _transformed(lines: np.ndarray) -> np.ndarray:
    """`(K, C, lines, 4)` to `(places, C * lines, K)` in float32; computed in float64."""
    made: np.ndarray = np.einsum("pj,kclj->pclk", matrices().weight, lines.astype(np.float64))
    return made.reshape(len(made), -1, len(lines)).astype(np.float32)


_ERRORS: WeakKeyDictionary[Packed, float] = WeakKeyDictionary()


def exact_enough(packed: Packed) -> bool:
    """Whether the layer's error stays within `LARGEST_ERROR`, on its own weights and a few random tiles."""
    if packed not in _ERRORS:
        _ERRORS[packed] = relative_error(packed.dense())
    return _ERRORS[packed] <= LARGEST_ERROR


def relative_error(weight: np.ndarray, outputs: int = 16, tiles: int = 64) -> float:
    """As `winograd.relative_error`, for rows: over that of direct convolution, both in float32, against float64."""
    chosen = weight[np.linspace(0, len(weight) - 1, min(outputs, len(weight))).astype(int)]
    phases = [np.pad(chosen[..., first::2], [(0, 0)] * 3 + [(0, TAPS)])[..., :TAPS] for first in (0, 1)]
    g = np.stack(phases, axis=3).reshape(len(chosen), -1, TAPS)
    m = matrices()
    x = np.abs(np.random.default_rng(0).standard_normal((tiles, g.shape[1], len(m.input)), dtype=np.float32))
    windows = np.lib.stride_tricks.sliding_window_view(x, TAPS, axis=2)
    exact = np.einsum("tlij,klj->tki", windows.astype(np.float64), g.astype(np.float64))
    direct = np.zeros(exact.shape, np.float32)
    products = np.zeros((tiles, len(chosen), len(m.input)), np.float32)
    moved = np.einsum("pi,tli->tlp", m.input.astype(np.float32), x)
    made = np.einsum("pj,klj->lkp", m.weight, g.astype(np.float64)).astype(np.float32)
    for line in range(g.shape[1]):  # one after another, as the kernels add them
        direct += np.einsum("tij,kj->tki", windows[:, line], g[:, line].astype(np.float32))
        products += moved[:, None, line] * made[line]
    found = products @ m.output.T.astype(np.float32)
    return root_mean_square(found - exact) / max(root_mean_square(direct - exact), np.finfo(float).tiny)
