"""Cartesian products of sparse lists, as in SCNN: every vector of inputs meets every vector of weights.

Padded coordinates of the input are shared out over a grid of elements in tiles. In an element, the inputs of a channel
that are not zero, row by row, fill vectors; so do the weights of the channel, in the order (r, s, k), k fastest. Each
pair of vectors takes a step, and a step as many cycles as the fullest accumulator bank gets products that fall into the
output, at least one. With a stride, coordinates are split into phases, and only equal phases meet.

A product of the input at (y, x) and the weight (k, r, s) goes to the output of row v = (y - r)/stride and column
u = (x - s)/stride, and to the bank 16 (k_2 ^ u_1 ^ v_1) + 8 u_0 + 4 v_0 + k mod 4, where j_i is bit i of j. All depends
on u and v modulo 4 and on whether they are inside, so that inputs fall into few classes, and equal vectors of classes
are counted once.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

import numpy as np
from numpy.typing import NDArray

from dovetail.accelerators.workload import Mask

Array = NDArray[np.int64]
BANKS: Final = 32
BLOCK: Final = 1 << 19  # steps counted at once
FEW: Final = 8  # products that fall inside are listed one by one where there are so many steps to each


@dataclass(frozen=True)
class Grid:
    """Elements, and the lengths of their vectors."""

    rows: int
    columns: int
    inputs: int
    weights: int


@dataclass(frozen=True, eq=False)
class Axis:
    """Rows or columns of one phase: the class of each coordinate, and what a class means for each place of the kernel.

    Attributes:
        kinds: class of every padded coordinate over the stride.
        inside: `(classes, places)`: whether the output is there.
        low: `(classes, places)`: the output's coordinate modulo 4.
    """

    kinds: Array
    inside: NDArray[np.bool_]
    low: Array


@lru_cache(maxsize=256)
def axis_of(size: int, kernel: int, outputs: int) -> Axis:
    """Of `size` coordinates, `kernel` places and `outputs` outputs, all of one phase."""
    at = np.arange(size)[:, None] - np.arange(kernel)
    inside = (at >= 0) & (at < outputs)
    keys = np.concatenate([inside, at % 4], axis=1).astype(np.int64)
    _, first, kinds = np.unique(keys, axis=0, return_index=True, return_inverse=True)
    return Axis(kinds.reshape(-1), inside[first], at[first] % 4)


@dataclass(frozen=True, eq=False)
class Vectors:
    """Vectors of inputs of one channel and phase in all elements.

    Attributes:
        classes: `(distinct, length)`: pairs of row and column class as one number; `none` fills up.
        which: of the distinct ones, for every vector.
        element: of every vector.
        none: the class of nothing.
    """

    classes: Array
    which: Array
    element: Array
    none: int


@dataclass(frozen=True, eq=False)
class Steps:
    """What the vectors of one channel and some filters take.

    Attributes:
        cycles: of each element.
        steps: pairs of vectors in each element.
        products: those that fall into the output.
        pairs: all products, of inputs and weights that are both not zero.
    """

    cycles: Array
    steps: Array
    products: int
    pairs: int


def phases(stride: tuple[int, int], kernel: tuple[int, int]) -> Iterator[tuple[int, int]]:
    """Row and column phase, of those that the kernel has a place in."""
    for row in range(min(stride[0], kernel[0])):
        for column in range(min(stride[1], kernel[1])):
            yield row, column


def input_vectors(
    mask: Mask, phase: tuple[int, int], stride: tuple[int, int], axes: tuple[Axis, Axis], grid: Grid
) -> Vectors:
    """Vectors of the padded `mask` (H, W) of a channel."""
    rows, columns = np.nonzero(mask[phase[0] :: stride[0], phase[1] :: stride[1]])
    tile = tile_of(mask.shape, grid)
    element = (rows * stride[0] + phase[0]) // tile[0] * grid.columns
    element = element + (columns * stride[1] + phase[1]) // tile[1]
    order = np.argsort(element, kind="stable")
    kinds = axes[0].kinds[rows] * len(axes[1].inside) + axes[1].kinds[columns]
    none = len(axes[0].inside) * len(axes[1].inside)
    counts = np.bincount(element, minlength=grid.rows * grid.columns)
    each = -(-counts // grid.inputs)
    filled = np.full((int(each.sum()), grid.inputs), none)
    starts = np.cumsum(each) - each
    place = np.arange(len(order)) - np.repeat(np.cumsum(counts) - counts, counts)
    filled.reshape(-1)[np.repeat(starts * grid.inputs, counts) + place] = kinds[order]
    distinct, which = np.unique(np.sort(filled, axis=1), axis=0, return_inverse=True)
    return Vectors(distinct, which.reshape(-1), np.repeat(np.arange(len(counts)), each), none)


def tile_of(size: tuple[int, ...], grid: Grid) -> tuple[int, int]:
    """Rows and columns of the tile of an element."""
    return math.ceil(size[0] / grid.rows), math.ceil(size[1] / grid.columns)


def meet(inputs: Vectors, weights: Mask, first: int, axes: tuple[Axis, Axis], grid: Grid) -> Steps:
    """All pairs of vectors.

    Args:
        inputs: of a channel and phase.
        weights: `(filters, rows, columns)` of the same, without those of other phases.
        first: index of the first filter.
        axes: of the phase.
        grid: of the machine.
    """
    elements = grid.rows * grid.columns
    vectors = np.bincount(inputs.element, minlength=elements)
    count = -(-int(weights.sum()) // grid.weights)
    if not count or not len(inputs.which):
        nothing = np.zeros(elements, np.int64)
        return Steps(nothing, nothing, 0, 0)
    found = _inside(weights, axes)[inputs.classes].sum(axis=1)
    if FEW * found.sum() < len(found) * count:
        each = count + _waits(inputs, weights, first, axes, grid.weights)
    else:
        each = _cycles(inputs.classes, _table(weights, first, axes, inputs.none, grid.weights))
    cycles = np.bincount(inputs.element, each[inputs.which], minlength=elements).astype(np.int64)
    there = (inputs.classes != inputs.none).sum(axis=1)[inputs.which].sum()
    return Steps(cycles, vectors * count, int(found[inputs.which].sum()), int(there) * int(weights.sum()))


def _inside(weights: Mask, axes: tuple[Axis, Axis]) -> Array:
    """How many of the weights take an input of each class into the output; none for the class of nothing."""
    at_places = weights.sum(axis=0, dtype=np.int64)
    found = axes[0].inside.astype(np.int64) @ at_places @ axes[1].inside.T.astype(np.int64)
    return np.append(found.reshape(-1), 0)


def _bank(k: Array, v: Array, u: Array) -> Array:
    """Of products for filter `k` and the output whose row and column are `v` and `u` modulo 4."""
    found: Array = 16 * ((k >> 2 & 1) ^ (u >> 1) ^ (v >> 1)) + 8 * (u & 1) + 4 * (v & 1) + k % 4
    return found


def _table(weights: Mask, first: int, axes: tuple[Axis, Axis], none: int, length: int) -> NDArray[np.uint8]:
    """`(weight vectors, classes, banks)`: products of a vector and an input of a class that a bank gets."""
    rows, columns, filters = np.nonzero(weights.transpose(1, 2, 0))
    vectors = -(-len(filters) // length)
    table = np.zeros((vectors, none + 1, BANKS), np.uint8)
    k = (filters + first)[:, None, None]
    v, u = axes[0].low[:, rows].T[:, :, None], axes[1].low[:, columns].T[:, None, :]
    inside = axes[0].inside[:, rows].T[:, :, None] & axes[1].inside[:, columns].T[:, None, :]
    bank, inside = _bank(k, v, u).reshape(len(filters), none), inside.reshape(len(filters), none)
    for lane in range(length):
        count = len(bank[lane::length])
        at = np.arange(count)[:, None], np.arange(none), bank[lane::length]
        table[at] += inside[lane::length]
    return table


def _cycles(classes: Array, table: NDArray[np.uint8]) -> Array:
    """Of each distinct vector of inputs, with all vectors of weights."""
    vectors = len(table)
    packed = table.view(np.uint64)  # eight banks to a word: no bank gets more than 255
    found = np.empty(len(classes), np.int64)
    block = max(1, BLOCK // vectors)
    for start in range(0, len(classes), block):
        part = classes[start : start + block]
        sums = packed[:, part[:, 0]]
        for lane in range(1, classes.shape[1]):
            sums += packed[:, part[:, lane]]
        fullest = sums.view(np.uint8).max(axis=2)
        found[start : start + block] = np.maximum(fullest, 1).sum(axis=0, dtype=np.int64)
    return found


def _waits(inputs: Vectors, weights: Mask, first: int, axes: tuple[Axis, Axis], length: int) -> Array:
    """Cycles beyond one for each step, of each distinct vector of inputs with all vectors of weights.

    Products inside are listed, which is quick where they are few: in a linear layer an input meets one place only.
    """
    rows, columns, filters = np.nonzero(weights.transpose(1, 2, 0))
    places = weights.shape[2]
    starts = np.searchsorted(rows * places + columns, np.arange(weights.shape[1] * places + 1))
    vector, lane = np.nonzero(inputs.classes != inputs.none)
    down, across = np.divmod(inputs.classes[vector, lane], len(axes[1].inside))
    met, place = np.nonzero(
        (axes[0].inside[down][:, :, None] & axes[1].inside[across][:, None, :]).reshape(len(vector), -1)
    )
    counts = np.diff(starts)[place]
    product = np.repeat(np.arange(len(met)), counts)
    weight = starts[place][product] + np.arange(len(product)) - np.repeat(np.cumsum(counts) - counts, counts)
    entry, row, column = met[product], rows[weight], columns[weight]
    bank = _bank(filters[weight] + first, axes[0].low[down[entry], row], axes[1].low[across[entry], column])
    step = vector[entry] * -(-len(filters) // length) + weight // length
    keys, full = np.unique(step * BANKS + bank, return_counts=True)
    steps, begin = np.unique(keys // BANKS, return_index=True)
    if not len(steps):
        return np.zeros(len(inputs.classes), np.int64)
    beyond = np.maximum.reduceat(full, begin) - 1
    waits = np.bincount(steps // -(-len(filters) // length), beyond, minlength=len(inputs.classes))
    return waits.astype(np.int64)
