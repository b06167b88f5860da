"""Chunks of weights and inputs, what they share at every position, and which filters share a unit.

A window is a vector in the order (r, s, c), c fastest, cut into chunks; every chunk is a mask. Where there are as many
channels as a chunk has places, each (r, s) starts a chunk; else the window is packed without gaps.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

from dovetail.accelerators.bits import Words, pack, popcount
from dovetail.accelerators.workload import Mask, Workload

Balance = Literal["none", "software", "hybrid"]
Sides = Literal["two", "one", "none"]
Cycles = NDArray[np.int64]
BLOCK: Final = 1 << 21  # words counted at once


@dataclass(frozen=True, eq=False)
class Group:
    """The chunks of a group of a convolution.

    Attributes:
        weights: `(filters, chunks, words)`.
        inputs: `(positions, chunks, words)`.
        lengths: places of each chunk that are not there to fill it up.
    """

    weights: Words
    inputs: Words
    lengths: Cycles


@dataclass(frozen=True, eq=False)
class Team:
    """Filters that work at once, one or two in a unit; which two may change from chunk to chunk.

    Attributes:
        first: a filter of each unit, `(units, chunks, words)`.
        second: the other one, empty where there is none; None: nobody has another.
        filters: how many there are.
    """

    first: Words
    second: Words | None
    filters: int


@dataclass(frozen=True)
class Joined:
    """Of some filters over all positions: cycles of each position, products, and joins that found none."""

    cycles: Cycles
    products: int
    empty: int


def groups(layer: Workload, chunk: int) -> Iterator[Group]:
    """One for each group of the convolution."""
    per_group, filters = layer.weight.shape[1], layer.outputs // layer.groups
    windows = layer.patches.transpose(0, 2, 3, 4, 5, 1).reshape(layer.positions, *layer.kernel, layer.channels)
    for g in range(layer.groups):
        weights = layer.weight_mask[g * filters : (g + 1) * filters].transpose(0, 2, 3, 1)
        inputs = windows[..., g * per_group : (g + 1) * per_group]
        ones = np.ones((1, *layer.kernel, per_group), np.bool_)
        lengths = popcount(chunked(ones, chunk)).sum(axis=-1, dtype=np.int64)[0]
        yield Group(chunked(weights, chunk), chunked(inputs, chunk), lengths)


def chunked(vectors: Mask, chunk: int) -> Words:
    """`(n, R, S, C)` as `(n, chunks, words)`."""
    n, c = vectors.shape[0], vectors.shape[-1]
    rows = vectors.reshape(n, -1, c) if c >= chunk else vectors.reshape(n, 1, -1)
    padded = np.pad(rows, ((0, 0), (0, 0), (0, -rows.shape[2] % chunk)))
    return pack(padded.reshape(n, -1, chunk))


def teams(weights: Words, units: int, balance: Balance) -> list[Team]:
    """Filters dealt to units.

    Without balancing every unit has one. With it, filters are sorted by density and the densest shares a unit with the
    sparsest; where no more are left than there are units, each has a unit of its own. `"hybrid"` sorts again, in every
    team, for each chunk.
    """
    if balance == "none":
        parts = (weights[start : start + units] for start in range(0, len(weights), units))
        return [Team(part, None, len(part)) for part in parts]
    density = popcount(weights).sum(axis=(1, 2), dtype=np.int64)
    made, left = [], np.argsort(-density, kind="stable")
    while len(left) > units:
        pairs = min(units, len(left) // 2)
        rest = left[pairs : len(left) - pairs]
        alone = rest[: int(pairs < units)]
        made.append(_paired(weights[np.concatenate([left[:pairs], alone, left[len(left) - pairs :]])], balance))
        left = rest[len(alone) :]
    return made + ([Team(weights[left], None, len(left))] if len(left) else [])


def _paired(filters: Words, balance: Balance) -> Team:
    """Filters, sorted by falling density, in pairs of first and last; the middle one of an odd count stays alone."""
    if balance == "hybrid":
        density = popcount(filters).sum(axis=2, dtype=np.int64)
        order = np.argsort(-density, axis=0, kind="stable")
        filters = np.take_along_axis(filters, order[:, :, None], axis=0)
    units = (len(filters) + 1) // 2
    second = np.zeros_like(filters[:units])
    second[: len(filters) - units] = filters[units:][::-1]
    return Team(filters[:units], second, len(filters))


def join(team: Team, group: Group, sides: Sides) -> Joined:
    """Every position's chunks, each as long as its slowest unit and at least one cycle."""
    if sides != "two":
        return _one_sided(team, group, sides)
    units, chunks, words = team.first.shape
    block = max(1, BLOCK // (units * chunks * words))
    cycles, products, empty = np.empty(len(group.inputs), np.int64), 0, 0
    for start in range(0, len(group.inputs), block):
        inputs = group.inputs[start : start + block, None]
        shared = _shared(inputs, team.first)
        both = shared if team.second is None else shared + _shared(inputs, team.second)
        cycles[start : start + block] = np.maximum(both.max(axis=1), 1).sum(axis=1, dtype=np.int64)
        products += int(both.sum(dtype=np.int64))
        empty += int((both == 0).sum())
    return Joined(cycles, products, empty)


def _shared(inputs: Words, weights: Words) -> NDArray[np.uint16]:
    shared = popcount(inputs[..., 0] & weights[..., 0]).astype(np.uint16)
    for word in range(1, weights.shape[-1]):
        shared += popcount(inputs[..., word] & weights[..., word])
    return shared


def _one_sided(team: Team, group: Group, sides: Sides) -> Joined:
    """Products of every input that is not zero (one side) or of all (no side), whatever the weights."""
    if sides == "one":
        shared = popcount(group.inputs).sum(axis=-1, dtype=np.int64)
    else:
        shared = np.broadcast_to(group.lengths, group.inputs.shape[:2])
    each = 1 if team.second is None else 2
    cycles = np.maximum(each * shared, 1).sum(axis=1)
    return Joined(cycles, int(shared.sum()) * team.filters, int((shared == 0).sum()) * len(team.first))


def per_cluster(cycles: Cycles, clusters: int) -> Cycles:
    """Sums over contiguous parts of the positions, as equal as can be, one for each cluster."""
    size = math.ceil(len(cycles) / clusters)
    padded = np.pad(cycles, (0, size * clusters - len(cycles)))
    sums: Cycles = padded.reshape(clusters, size).sum(axis=1)
    return sums
