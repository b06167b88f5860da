"""Two stages in a row: units that add up what coefficients of -1, 0 and 1 select, and multipliers for the bases.

At each position a team of rows adds up one sum per row; then, tap by tap, its multipliers give each sum to the outputs
that it belongs to. With t cycles of adding and u of multiplying at position i, queues of D sums between the stages, and
positions that are broadcast to all teams of a group, at most two before the last of them has added up:

    added[i]     = max(added[i-1], broadcast[i], start[i-D]) + t[i]
    start[i]     = max(added[i], done[i-1])
    done[i]      = start[i] + u[i]
    broadcast[i] = max(broadcast[i-1] + 1, max over teams of added[i-2])

`lanes` computes the same layer lane by lane.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from dovetail.accelerators.strips import Inputs
from dovetail.accelerators.ternary_rows import Codes, Rows
from dovetail.accelerators.workload import Counts, Mask, Workload

BLOCK: Final = 1 << 22  # numbers held at once
EXACT: Final = 1 << 24  # whole numbers below are exact in float32


@dataclass(frozen=True)
class Mapping:
    """Who does what.

    Attributes:
        teams: that work at once, an output each, or as many outputs as they have rows.
        rows: of a team: as many as there are bases, or more, one for each of its outputs.
        pointwise: each row has an output of its own.
        strips: of the image that are worked on at once.
        columns: of a strip.
    """

    teams: int
    rows: int
    pointwise: bool
    strips: int
    columns: int


@dataclass(frozen=True)
class Pace:
    """How fast the stages are.

    Attributes:
        adders: sums of a unit take so many inputs in a cycle.
        look_ahead: the adders are filled from the next window.
        queue: sums between the stages, D.
        ahead: positions that are broadcast before all teams have added up.
        independent: rows of a team add up as they can; otherwise all wait for the slowest at each position.
    """

    adders: int
    look_ahead: bool
    queue: int
    ahead: int
    independent: bool


@dataclass
class Work:
    """What a layer takes.

    Attributes:
        cycles: of the teams that take longest.
        unshared: the same, if each team had its own broadcasts.
        regular: the same, if adding took no time either.
        drain: cycles for the last line of outputs of each group.
        groups: of outputs (or of channels, where bases come first) that are worked on at once.
        passes: over the input, one for each group of outputs that has a coefficient; one, where bases come first.
        macs: products of sums that are not zero.
        gated: products of sums that are zero, beside a row whose sum is not.
        additions: inputs added or subtracted.
        windows: gone through by the adding units.
        updates: partial sums read and written.
        values: inputs broadcast in a pass, zeros included.
        nonzeros: of these, those that are not zero.
    """

    cycles: int = 0
    unshared: int = 0
    regular: int = 0
    drain: int = 0
    groups: int = 0
    passes: int = 0
    macs: int = 0
    gated: int = 0
    additions: int = 0
    windows: int = 0
    updates: int = 0
    values: int = 0
    nonzeros: int = 0


@dataclass(frozen=True, eq=False)
class Group:
    """Outputs that are worked on at once: codes `(teams, rows, places)`, and how many rows of each team are real."""

    codes: Codes
    real: Counts


def groups(rows: Rows, mapping: Mapping) -> Iterator[Group]:
    """Rows dealt to teams in their order."""
    flat = rows.codes.reshape(-1, rows.places)
    size = mapping.teams * mapping.rows
    for start in range(0, len(flat), size):
        part = flat[start : start + size]
        filled = np.pad(part, ((0, size - len(part)), (0, 0))).reshape(mapping.teams, mapping.rows, -1)
        real = (np.arange(size) < len(part)).reshape(mapping.teams, mapping.rows).sum(axis=1)
        yield Group(filled, real)


def coef_first(layer: Workload, rows: Rows, mapping: Mapping, pace: Pace) -> Work:
    """Coefficients first, on the layer's own zeros: sums are used where they arise and never stored."""
    inputs, every = Inputs.of(layer, rows), list(groups(rows, mapping))
    live = [group for group in every if group.codes.any()]
    strips = inputs.strips(mapping.columns)
    work = Work(groups=len(every), passes=len(live), drain=len(every) * _widest(layer, rows, mapping))
    work.values = layer.images * inputs.positions * rows.places
    times = np.zeros((3, len(live), layer.images, len(strips)), np.int64)
    for j, columns in enumerate(strips if live else []):
        taps, size = inputs.taps(columns), len(live) * mapping.teams * (mapping.rows if pace.independent else 1)
        batch = max(1, BLOCK // (len(taps) * max(rows.places, size)))
        for start in range(0, layer.images, batch):
            images = slice(start, min(start + batch, layer.images))
            values = inputs.at(images, columns)
            work.nonzeros += int(np.count_nonzero(values))
            found = [_count(group, rows, values, inputs.whole, pace) for group in live]
            adding, busy = (np.stack(parts, axis=1) for parts in zip(*((c.adding, c.busy) for c in found)))
            multiplying = busy * taps[:, None, None, None]
            times[0, :, images, j] = finish(adding, multiplying, pace)
            times[1, :, images, j] = finish(adding, multiplying, pace, shared=False)
            times[2, :, images, j] = multiplying.sum(axis=0).max(axis=-1)
            for group, count in zip(live, found):
                _add_events(work, group, count, taps, mapping.pointwise)
    work.cycles, work.unshared, work.regular = map(int, _slowest(times, mapping.strips))
    return work


def _slowest(times: Counts, at_once: int) -> Counts:
    """From the times of strips `(3, groups, images, strips)`, dealt in turn, to those of all groups."""
    kinds, live, count = times.shape[0], times.shape[1], times.shape[2] * times.shape[3]
    rounds = math.ceil(count / at_once)
    padded = np.pad(times.reshape(kinds, live, count), ((0, 0), (0, 0), (0, rounds * at_once - count)))
    slowest: Counts = padded.reshape(kinds, live, rounds, at_once).sum(axis=2).max(axis=2).sum(axis=1)
    return slowest


@dataclass(frozen=True, eq=False)
class Count:
    """Of a group over a strip of some images.

    Attributes:
        adding: cycles `(positions, images, teams, rows)`; one row where all wait for the slowest.
        busy: teams of which any sum is not zero, `(positions, images, teams)`.
        sums: how many of their sums are not zero, of the same shape.
        additions: inputs that met a coefficient.
        windows: gone through.
    """

    adding: NDArray[np.int32]
    busy: Mask
    sums: Counts
    additions: int
    windows: int


def _count(group: Group, rows: Rows, values: NDArray[Any], whole: bool, pace: Pace) -> Count:
    """What each row of a group adds up at each position, by products of masks."""
    images, positions = values.shape[:2]
    flat, codes = values.reshape(images * positions, -1), group.codes.reshape(-1, rows.places)
    mask = (flat != 0).astype(np.float32)
    adding, matches = (np.zeros((len(flat), len(codes)), np.float32) for _ in range(2))
    gone = 0
    for plane in rows.planes(codes):
        there = np.logical_or.reduceat(plane, rows.starts, axis=1)
        matched, cycles = _add_up(mask, plane, there, rows.starts, pace)
        adding += cycles
        matches += matched
        gone += int(there.sum()) * len(flat)
    nonzero = _sums(flat, codes) != 0 if whole else matches > 0
    shape = images, positions, *group.codes.shape[:2]
    each = adding.astype(np.int32).reshape(shape).swapaxes(0, 1)
    sums = nonzero.reshape(shape).sum(axis=3).swapaxes(0, 1)
    additions = int(matches.sum(dtype=np.float64))
    return Count(each if pace.independent else each.max(axis=3, keepdims=True), sums > 0, sums, additions, gone)


def _add_up(
    mask: NDArray[np.float32], plane: Mask, there: Mask, starts: Counts, pace: Pace
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Inputs `(positions, rows)` that meet a coefficient, and cycles to add them up."""
    weights = plane.T.astype(np.float32)
    if pace.look_ahead:
        matched = mask @ weights
        return matched, np.maximum(np.ceil(matched / pace.adders), there.sum(axis=1, dtype=np.float32))
    total, cycles = (np.zeros((len(mask), len(plane)), np.float32) for _ in range(2))
    for j, (start, stop) in enumerate(zip(starts, [*starts[1:], plane.shape[1]])):
        matched = mask[:, start:stop] @ weights[start:stop]
        total += matched
        cycles += np.maximum(np.ceil(matched / pace.adders), 1) * there[:, j]
    return total, cycles


def _sums(values: NDArray[Any], codes: Codes) -> NDArray[np.floating]:
    """U of each position and row, exactly."""
    largest = int(np.abs(values).max(initial=0)) * int(np.abs(codes).sum(axis=1, dtype=np.int64).max(initial=0))
    kind = np.float32 if largest < EXACT else np.float64
    sums: NDArray[np.floating] = values.astype(kind) @ codes.T.astype(kind)
    return sums


def _add_events(work: Work, group: Group, count: Count, taps: Counts, pointwise: bool) -> None:
    macs = int((count.sums.sum(axis=(1, 2)) * taps).sum())
    work.macs += macs
    work.gated += int(((count.busy * group.real).sum(axis=(1, 2)) * taps).sum()) - macs
    work.updates += macs if pointwise else int((count.busy.sum(axis=(1, 2)) * taps).sum())
    work.additions += count.additions
    work.windows += count.windows


def _widest(layer: Workload, rows: Rows, mapping: Mapping) -> int:
    """Outputs in a line of the widest strip."""
    stride = layer.stride[1] if rows.spatial else 1
    return min(layer.out_size[1], math.ceil(mapping.columns / stride))


def finish(adding: NDArray[Any], multiplying: NDArray[Any], pace: Pace, shared: bool = True) -> Counts:
    """When the last team is done with its strip, by the recurrence above.

    Args:
        adding: cycles `(positions, …, teams, rows)`; a sum waits for all rows of its team.
        multiplying: cycles `(positions, …, teams)`.
        pace: of the stages.
        shared: a position is broadcast to all teams at once; otherwise each has it when it likes.
    """
    added, done = np.zeros(adding.shape[1:], np.int64), np.zeros(multiplying.shape[1:], np.int64)
    sent = np.full(done.shape[:-1], -1, np.int64)
    starts: deque[Counts] = deque(maxlen=pace.queue)
    ends: deque[Counts] = deque(maxlen=pace.ahead)
    for t, u in zip(adding, multiplying):
        ready = np.zeros_like(done)
        if shared:
            sent = sent + 1 if len(ends) < pace.ahead else np.maximum(sent + 1, ends[0])
            ready += sent[..., None]
        if len(starts) == pace.queue:
            ready = np.maximum(ready, starts[0])
        added = np.maximum(added, ready[..., None]) + t
        start = np.maximum(added.max(axis=-1), done)
        done = start + u
        starts.append(start)
        ends.append(added.max(axis=(-1, -2)))
    last: Counts = done.max(axis=-1)
    return last


def conv_first(layer: Workload, rows: Rows, teams: int, multipliers: int, adders: int, columns: int) -> Work:
    """Bases first: a team takes a channel, and its maps are added into all outputs at once, `adders` a cycle.

    Maps are not stored, and zeros of the input are not skipped; channels without a coefficient are.
    """
    products = rows.bases.size
    entries = np.zeros(rows.places, np.int64)
    for plane in rows.planes(rows.codes):
        entries += plane.sum(axis=(0, 1))
    live = entries > 0
    regular = np.where(live, -(-layer.positions * products // multipliers), 0)
    each = np.maximum(regular, -(-layer.positions * entries // adders))
    cycles, multiplying = (
        int(np.pad(c, (0, -len(c) % teams)).reshape(-1, teams).max(axis=1).sum()) for c in (each, regular)
    )
    macs = rows.bases_count * int(layer.taps[live].sum())
    additions = layer.positions * int(entries.sum())
    return Work(
        cycles=cycles,
        unshared=cycles,
        regular=multiplying,
        drain=math.ceil(layer.outputs / teams) * min(columns, layer.out_size[1]),
        groups=math.ceil(rows.places / teams),
        passes=1,
        macs=macs,
        gated=layer.positions * products * int(live.sum()) - macs,
        additions=additions,
        updates=additions,
        values=layer.input.size,
        nonzeros=int(layer.mask.sum()),
    )
