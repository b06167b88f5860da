"""Winograd's minimal filtering for dense 3x3 convolutions: transformed weights, tiles, and how exact it is.

Sources: Winograd, "Arithmetic complexity of computations" (1980); Lavin and Gray, "Fast algorithms for convolutional
neural networks" (2016), section 4. The points of F(4, 3) are 0, ±3/4, ±3/2 and infinity instead of 0, ±1, ±2: on random
networks that halves the error, and their powers are exact in binary.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from weakref import WeakKeyDictionary

import numpy as np

from dovetail.engine.builder import Builder
from dovetail.engine.conv import (
    Epilogue,
    Geometry,
    Group,
    allow_reads,
    allow_whole_vectors,
    epilogue_fields,
    evenly,
    plane_fields,
    prepare,
)
from dovetail.engine.layout import View
from dovetail.formats.base import Packed

LARGEST_ERROR = 10.0
"""Times the error of direct convolution in float32, both against float64, that a layer may have."""
GROUP = np.dtype([(name, "<i4") for name in ("x", "y", "pixels", "first", "last", "mask", "gap", "rest", "end")])
_POINTS = {2: (1.0,), 4: (0.75, 1.5)}
_SCRATCH = 1 << 17  # floats of transformed input that a unit of two vectors may take: half of a usual L2


@dataclass(frozen=True)
class Matrices:
    """F(m, r) from n = m + r - 1 products: `output @ ((weight @ g) * (input @ d))` in one dimension.

    Attributes:
        input: `(n, n)`.
        weight: `(n, r)`.
        output: `(m, n)`.
    """

    input: np.ndarray
    weight: np.ndarray
    output: np.ndarray


def cook_toom(points: Sequence[float], outputs: int) -> Matrices:
    """The Cook-Toom construction in float64 over these points and, as the last one, infinity."""
    size = len(points) + 1
    taps = size + 1 - outputs
    into, weight, output = np.zeros((size, size)), np.zeros((size, taps)), np.zeros((outputs, size))
    for row, point in enumerate(points):
        others = [p for p in points if p != point]
        into[row, : size - 1] = np.poly(others)[::-1]
        weight[row] = point ** np.arange(taps) / math.prod(point - p for p in others)
        output[:, row] = point ** np.arange(outputs)
    into[-1, :] = np.poly(points)[::-1]
    weight[-1, -1] = output[-1, -1] = 1.0
    return Matrices(into, weight, output)


@cache
def matrices(tile: int) -> Matrices:
    """Those of F(tile, 3); the signs are the kernel's."""
    made = cook_toom([0.0, *(sign * p for p in _POINTS[tile] for sign in (1, -1))], tile)
    if tile == 2:  # the usual signs
        made.input[0], made.weight[0] = -made.input[0], -made.weight[0]
        made.input[-1], made.output[-1, -1] = -made.input[-1], -1.0
    return made


def transformed(weight: np.ndarray, tile: int) -> np.ndarray:
    """`(K, C, 3, 3)` to `(places, C, K)` in float32; computed in float64."""
    g = matrices(tile).weight
    made: np.ndarray = np.einsum("ir,kcrs,js->ijck", g, weight.astype(np.float64), g, optimize=True)
    return made.reshape(-1, *made.shape[2:]).astype(np.float32)


_ERRORS: WeakKeyDictionary[Packed, dict[int, float]] = WeakKeyDictionary()


def exact_enough(packed: Packed, tile: int) -> bool:
    """Whether the layer's error stays within `LARGEST_ERROR`, on its own weights and a few random tiles."""
    known = _ERRORS.setdefault(packed, {})
    if tile not in known:
        known[tile] = relative_error(packed.dense(), tile)
    return known[tile] <= LARGEST_ERROR


def relative_error(weight: np.ndarray, tile: int, outputs: int = 16, tiles: int = 16) -> float:
    """Root mean square error of F(tile, 3) over that of direct convolution, both in float32, against float64.

    Inputs are random and not negative, as after a ReLU; of the outputs, `outputs` spread evenly are looked at.
    """
    chosen = weight[np.linspace(0, len(weight) - 1, min(outputs, len(weight))).astype(int)]
    size = tile + 2
    x = np.abs(np.random.default_rng(0).standard_normal((tiles, weight.shape[1], size, size), dtype=np.float32))
    windows = np.lib.stride_tricks.sliding_window_view(x, (3, 3), axis=(2, 3))
    exact = np.einsum("tcijrs,kcrs->tkij", windows.astype(np.float64), chosen.astype(np.float64), optimize=True)
    direct = np.zeros(exact.shape, np.float32)
    products = np.zeros((tiles, len(chosen), size * size), np.float32)
    m = matrices(tile)
    into, output = m.input.astype(np.float32), m.output.astype(np.float32)
    moved = np.einsum("ij,tcjl,nl->tcin", into, x, into).reshape(tiles, -1, size * size)
    made = transformed(chosen, tile)
    for c in range(weight.shape[1]):  # one channel after another, as the kernels add them
        direct += np.einsum("tijrs,krs->tkij", windows[:, c], chosen[:, c].astype(np.float32))
        products += moved[:, None, c] * made[:, c].T[None]
    found = np.einsum("ij,tkjl,nl->tkin", output, products.reshape(tiles, len(chosen), size, size), output)
    return root_mean_square(found - exact) / max(root_mean_square(direct - exact), np.finfo(float).tiny)


def conv_winograd(
    b: Builder, x: View, weight: np.ndarray, y: View, at: Geometry, epilogue: Epilogue, tile: int
) -> None:
    """Writes activation(conv(x, weight) + bias + residual) to `y`, in tiles of `tile` x `tile` outputs."""
    conv_winograd_groups(b, x, split(weight, at.groups), y, at, epilogue, tile)


def conv_winograd_groups(
    b: Builder, x: View, parts: Sequence[Group], y: View, at: Geometry, epilogue: Epilogue, tile: int
) -> None:
    """The same by groups of as many inputs each; every channel of `y` is an output of one of them."""
    taps = prepare(b, x, parts[0].weight.shape, y, at)
    assert y.planes is not None
    groups = tile_groups(y, taps.pitch, int(taps.offsets[0, 0]), tile, b.lanes)
    allow_reads(taps.x, int(groups["x"].max()) + (tile + 1) * taps.pitch + tile * b.lanes // 4 + tile)
    lines = np.concatenate([part.inputs for part in parts]).astype(np.int64) * taps.channel
    emit_tiles(
        b, taps.x, parts, lines, lambda some: transformed(some, tile), y, groups, epilogue, tile=tile,
        work=parts[0].weight[0].size, x_row=taps.pitch, narrow=int(y.shape[3] < tile * b.lanes // 4),
    )  # fmt: skip


def split(weight: np.ndarray, groups: int) -> list[Group]:
    """The groups of a convolution, in order."""
    inputs, outputs = (np.arange(groups * n).reshape(groups, n) for n in (weight.shape[1], len(weight) // groups))
    return [Group(weight[k], c, k) for c, k in zip(inputs, outputs)]


def emit_tiles(
    b: Builder,
    x: View,
    parts: Sequence[Group],
    lines: np.ndarray,
    transform: Callable[[np.ndarray], np.ndarray],
    y: View,
    groups: np.ndarray,
    epilogue: Epilogue,
    *,
    work: int,
    **fields: int,
) -> None:
    """The kernel call; `transform` takes some outputs of a part's weight, `(k, ...)`, to `(places, C, k)`.

    `lines`: where in x the C channels of each part begin, part by part.
    `work`: multiply-accumulates of a pixel of one output, done directly.
    """
    places, channels = transform(parts[0].weight[:1]).shape[:2]
    vectors = _vectors(b, len(groups), places * channels)
    groups = np.concatenate([groups, np.repeat(_idle(groups[:1]), -len(groups) % (4 * vectors))])
    most = most_outputs(b.lanes, vectors) // 4
    cut = [[4 * n for n in evenly(-(-len(part.weight) // 4), most)] for part in parts]
    packed, room = b.room(places * channels * sum(map(sum, cut)))
    blocks = _blocks(parts, transform, cut, room)
    filled = [
        np.pad(part.outputs, (0, sum(sizes) - len(part.outputs)), constant_values=-1) for part, sizes in zip(parts, cut)
    ]
    largest = max(map(max, cut))
    b.scratch = max(b.scratch, places * (channels * vectors + 1 + largest * vectors + 1) * b.lanes)
    allow_whole_vectors(b, epilogue.residual)
    bias = None if epilogue.bias is None else b.constant(epilogue.bias.astype(np.float32))
    b.emit(
        "conv2d_winograd_f32",
        {"x": x, "bias": bias, "residual": epilogue.residual, "weight": packed,
         "groups": b.constant(groups.view(np.int32)), "blocks": b.constant(blocks),
         "lines": b.constant(lines.astype(np.int32)), "places": b.constant(np.concatenate(filled).astype(np.int32))},
        {"y": y}, disjoint=True, **plane_fields(x, y), **epilogue_fields(epilogue), **fields,
        y_row=y.strides[2], channels=channels, out_channels=y.shape[1], group_count=len(groups), vectors=vectors,
        block_count=len(blocks), work=work * math.prod(y.shape) // 2,
    )  # fmt: skip


def most_outputs(lanes: int, vectors: int) -> int:
    """Outputs of a block, as `winograd_product_of` in native/kernels/conv_winograd.inl has them."""
    if vectors == 2:
        return 12 if lanes == 16 else 4
    return 16 if lanes == 16 else 12


def tile_groups(y: View, x_pitch: int, first_tap: int, tile: int, lanes: int, high: int = 0) -> np.ndarray:
    """The visit of an output: rows of tiles, cut into groups of `lanes / 4` tiles side by side.

    Tiles are as high as they are wide, `tile`, if not told.

    The last row and the last group of a row move back until they end with the map; what others store already they do
    not store again. So nothing beyond the convolution's own zeros is read, but where rows are shorter than a group: it
    says how many pixels it has.
    """
    assert y.planes is not None
    height, width = y.shape[2:]
    across, high = tile * lanes // 4, high or tile
    gap = y.planes.pitch - width
    rest = y.planes.body - (height - 1) * y.planes.pitch - width
    records = []
    for row, skip_rows in _starts(height, high):
        for column, skip in _starts(width, across):
            pixels = min(across, width - column)
            mask = (1 << pixels) - (1 << skip)
            ends, bottom = column + pixels == width, row + high >= height
            records.append((
                row * x_pitch + column + first_tap, row * y.strides[2] + column, pixels + 2, skip_rows,
                min(high, height - row), mask, gap if ends else 0, rest if ends and bottom else 0, pixels,
            ))  # fmt: skip
    return np.array(records, dtype=GROUP)


def _starts(length: int, step: int) -> list[tuple[int, int]]:
    """Where pieces of `step` begin, and how much of each the one before it covers; one piece may be too long."""
    starts = [(at, 0) for at in range(0, length - step + 1, step)]
    covered = len(starts) * step
    if covered < length:
        at = max(0, length - step)
        starts.append((at, covered - at))
    return starts


def _idle(group: np.ndarray) -> np.ndarray:
    """A group that reads what another reads, and stores nothing."""
    idle = group.copy()
    idle["last"], idle["mask"] = idle["first"], 0
    return idle


def _vectors(b: Builder, groups: int, floats: int) -> int:
    """Vectors of tiles for one unit: two where the threads have enough to do and the transformed input stays in L2."""
    enough = groups >= (8 * b.threads if b.threads > 1 else 5)
    return 2 if enough and 2 * floats * b.lanes <= _SCRATCH else 1


def _blocks(
    parts: Sequence[Group], transform: Callable[[np.ndarray], np.ndarray], cut: list[list[int]], packed: np.ndarray
) -> np.ndarray:
    """Records as in `pack_blocks`; the weights of each block go to `packed`, `[places][C][outputs]`.

    One block after another: all transformed weights in float64 would be eight times as large as the layer's.
    """
    each = packed.size // sum(map(sum, cut))
    records, start = [], 0
    for group, (part, sizes) in enumerate(zip(parts, cut)):
        for first, last in pairwise(np.cumsum([0, *sizes])):
            made = transform(part.weight[first:last])
            block = packed[each * (start + first) : each * (start + last)].reshape(each, last - first)
            block[:, : made.shape[2]] = made.reshape(each, -1)
            records.append((group, start + first, last - first, each * (start + first)))
        start += sum(sizes)
    return np.array(records, dtype=np.int32)


def root_mean_square(a: np.ndarray) -> float:
    """Of all elements, in float64."""
    return float(np.sqrt(np.mean(np.square(a.astype(np.float64)))))
