"""Row-stationary mappings: the part of a convolution that a pass over Eyeriss's array computes, and how long it takes.

A unit holds a row of a kernel and slides it over a row of the input; R x e units, a set, give e rows of the output. In
a unit p filters and q channels are interleaved; t sets work on other filters and r sets on other channels. The passes
cover all filters, channels, strips of e output rows and images:

    passes = groups ceil(Kg/(p t)) ceil(Cg/(q r)) ceil(E/e) N
    busy   = max(F S p q, 2 p t e F / (2 ports))       products of a unit; partial sums read and written beside them
    load   = (q r ((e-1) stride + R) W + p t q r R S) / port
    cycles = passes (busy + load)

with W the padded width and a port of so many words a cycle each way.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

import numpy as np

from dovetail.accelerators.workload import Workload
from dovetail.errors import MachineError

Array = np.ndarray


@dataclass(frozen=True)
class Shape:
    """What of a layer decides its mapping; filters and channels are those of a group."""

    images: int
    groups: int
    filters: int
    channels: int
    kernel: tuple[int, int]
    out_size: tuple[int, int]
    width: int
    stride: int

    @classmethod
    def of(cls, layer: Workload) -> Shape:
        """Of a layer without dilation; the stride is that of the rows."""
        return cls(
            layer.images,
            layer.groups,
            layer.outputs // layer.groups,
            layer.weight.shape[1],
            layer.kernel,
            layer.out_size,
            layer.padded[1],
            layer.stride[0],
        )


@dataclass(frozen=True)
class Limits:
    """What of the machine decides which mappings it can hold.

    Attributes:
        rows: of the array.
        columns: of the array.
        input_spad: words of the input that a unit holds.
        filter_spad: words of filters.
        sum_spad: partial sums.
        buffer_bits: of the global buffer.
        bits: of a word of the input or of a filter.
        sum_bits: of a partial sum.
        port: words a cycle, each way.
        depth: largest q r; 0 where it is free.
    """

    rows: int
    columns: int
    input_spad: int
    filter_spad: int
    sum_spad: int
    buffer_bits: int
    bits: int
    sum_bits: int
    port: int
    depth: int = 0


@dataclass(frozen=True)
class Mapping:
    """Filters `p` and channels `q` in a unit, sets over `r` channels and `t` filters, `e` output rows in a pass."""

    p: int
    q: int
    r: int
    t: int
    e: int


@dataclass(frozen=True)
class Passes:
    """What a mapping costs: how many passes, and of each the cycles and the words loaded."""

    count: int
    products: int
    busy: int
    load: int
    words: int

    @property
    def cycles(self) -> int:
        """All passes."""
        return self.count * (self.busy + self.load)


def passes(shape: Shape, limits: Limits, mapping: Mapping) -> Passes:
    """The equations above for one mapping, which must fit.

    Raises:
        MachineError: the machine cannot hold the mapping.
    """
    grid = [np.array([value]) for value in (mapping.p, mapping.q, mapping.r, mapping.t, mapping.e)]
    if min(vars(mapping).values()) < 1 or not _fits(shape, limits, *grid)[0]:
        raise MachineError(f"{mapping} does not fit an array of {limits.rows} x {limits.columns} with {shape}")
    return Passes(*(int(column[0]) for column in _costs(shape, limits, *grid)))


def active_units(shape: Shape, mapping: Mapping) -> int:
    """Units that a full pass uses."""
    return shape.kernel[0] * mapping.e * mapping.r * mapping.t


@lru_cache(maxsize=4096)
def best(shape: Shape, limits: Limits) -> Mapping:
    """The mapping of fewest cycles; of equal ones, that which moves fewest words through the buffer.

    Raises:
        MachineError: no mapping fits.
    """
    grid = _candidates(shape, limits)
    fitting = _fits(shape, limits, *grid)
    grid = [column[fitting] for column in grid]
    if not grid[0].size:
        raise MachineError(
            f"no row-stationary mapping of a {shape.kernel} kernel over width {shape.width} fits {limits.rows} x "
            f"{limits.columns} units with {limits.input_spad} words of input each"
        )
    count, _, busy, load, words = _costs(shape, limits, *grid)
    p, q, r, t, e = grid
    sums = -(-shape.channels // (q * r)) * shape.groups * shape.filters * math.prod(shape.out_size) * shape.images
    order = np.lexsort((e, t, r, q, p, count * words + 2 * sums, count * (busy + load)))
    return Mapping(*(int(column[order[0]]) for column in grid))


def _candidates(shape: Shape, limits: Limits) -> list[Array]:
    """Columns p, q, r, t, e of every mapping worth a look."""
    rows, _ = shape.out_size
    filters = _pairs(shape.filters, limits.sum_spad, limits.rows * limits.columns)
    channels = _pairs(shape.channels, limits.input_spad // shape.kernel[1], limits.rows * limits.columns)
    if limits.depth:
        channels = channels[:, channels[0] * channels[1] <= limits.depth]
    tables = []
    for e in sorted({math.ceil(rows / n) for n in range(1, rows + 1)}):  # higher strips of the same count are no better
        a, b = np.nonzero(filters[1][:, None] * channels[1] <= _sets(shape, limits, e))
        p, t, q, r = *filters[:, a], *channels[:, b]
        tables.append(np.stack([p, q, r, t, np.full(p.size, e)]))
    return list(np.concatenate(tables, axis=1))


def _pairs(count: int, most_inside: int, most_sets: int) -> Array:
    """Columns (inside a unit, sets) that share out `count` filters or channels, the least for their number of passes.

    A larger one of as many passes loads more and is no faster.
    """
    inside = np.arange(1, min(most_inside, count) + 1)[:, None]
    sets = np.arange(1, min(most_sets, count) + 1)
    parts = -(-count // (inside * sets))
    least = (inside == -(-count // (sets * parts))) & (sets == -(-count // (inside * parts)))
    rows, columns = np.nonzero(least)
    return np.stack([inside[rows, 0], sets[columns]])


def _sets(shape: Shape, limits: Limits, e: int) -> int:
    """How many sets of e output rows the array holds."""
    beside, folds = max(limits.columns // e, 1), math.ceil(e / limits.columns)
    return limits.rows // (shape.kernel[0] * folds) * beside


def _fits(shape: Shape, limits: Limits, p: Array, q: Array, r: Array, t: Array, e: Array) -> Array:
    """Which mappings the units, the array and the buffer hold."""
    (kernel_rows, kernel_columns), (_, columns) = shape.kernel, shape.out_size
    unit = (q * kernel_columns <= limits.input_spad) & (p * q * kernel_columns <= limits.filter_spad)
    unit &= p <= limits.sum_spad
    beside = np.maximum(limits.columns // e, 1)  # sets next to each other, where strips are no wider than the array
    narrow = -(-(r * t) // beside) * kernel_rows
    folded = -(-e // limits.columns) * kernel_rows * r * t
    array = np.where(e <= limits.columns, narrow, folded) <= limits.rows
    inputs = q * r * ((e - 1) * shape.stride + kernel_rows) * shape.width
    buffer = inputs * limits.bits + p * t * e * columns * limits.sum_bits <= limits.buffer_bits
    fits: Array = unit & array & buffer
    return fits


def _costs(shape: Shape, limits: Limits, p: Array, q: Array, r: Array, t: Array, e: Array) -> tuple[Array, ...]:
    """Columns of `Passes`."""
    (kernel_rows, kernel_columns), (rows, columns) = shape.kernel, shape.out_size
    count = -(-shape.filters // (p * t)) * -(-shape.channels // (q * r)) * -(-rows // e)
    products = columns * kernel_columns * p * q
    sums = -(-2 * p * t * e * columns // (2 * limits.port))
    words = q * r * ((e - 1) * shape.stride + kernel_rows) * shape.width
    words = words + p * t * q * r * kernel_rows * kernel_columns
    busy, load = np.maximum(products, sums), -(-words // limits.port)
    return count * shape.groups * shape.images, products, busy, load, words


CHIP_DEPTHS: Final = ((112, 1), (56, 2), (0, 4))
"""Least output rows, and the largest q r that the chip used on VGG16 [derived from its recalled buffer traffic]."""


def chip_depth(shape: Shape) -> int:
    """The largest q r of the chip's own mappings."""
    return next(depth for rows, depth in CHIP_DEPTHS if shape.out_size[0] >= rows)
