"""The two stages: their recurrence by hand and between its bounds, their slow twin, and what holds for every layer."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from accelerator_cases import basis_layer, basis_layers
from dovetail.accelerators.escalate import Escalate
from dovetail.accelerators.machine import machine_named
from dovetail.accelerators.stages import Pace, finish
from dovetail.accelerators.ternary_rows import rows_of
from dovetail.accelerators.workload import Workload

BORDER = {"padding": (1, 1, 1, 1)}


def machine(**fields: Any) -> Escalate:
    """Two inputs are added a cycle, of windows of 4 channels."""
    return replace(machine_named("escalate"), name="small", **{"window": 4, "adders": 2, **fields})


LOCKED = Pace(adders=1, look_ahead=True, queue=4, ahead=2, independent=False)
# Cycles of adding and of multiplying of one team, depth of the queue, cycles in all.
RECURRENCE = {
    # The third sum may be begun when the second is taken up, at 10: added at 15.
    "a short queue": ([1, 1, 5], [9, 1, 1], 1, 16),
    # Added at 7, and taken up when the second is done, at 11.
    "a longer queue": ([1, 1, 5], [9, 1, 1], 4, 12),
    # A position without coefficients passes; the second, broadcast at 1, is added at 3, and its sum is zero.
    "zeros": ([0, 2, 0], [0, 0, 3], 4, 6),
    # Nothing to do: the third broadcast is at 2.
    "only broadcasts": ([0, 0, 0], [0, 0, 0], 4, 2),
}


@pytest.mark.parametrize("name", RECURRENCE)
def test_recurrence_by_hand(name):
    adding, multiplying, queue, cycles = RECURRENCE[name]
    t, u = np.array(adding)[:, None, None], np.array(multiplying)[:, None]
    assert int(finish(t, u, replace(LOCKED, queue=queue))) == cycles


@given(
    seed=st.integers(0, 999),
    teams=st.integers(1, 3),
    rows=st.integers(1, 3),
    queue=st.sampled_from([1, 2, 4]),
    ahead=st.sampled_from([1, 2, 3]),
)
def test_the_recurrence_is_its_slow_twin_and_lies_between_its_bounds(seed, teams, rows, queue, ahead):
    random = np.random.default_rng(seed)
    t = random.integers(0, 6, (20, teams, rows))
    u = random.integers(0, 10, (20, teams)) * (random.random((20, teams)) < 0.8)
    pace = replace(LOCKED, queue=queue, ahead=ahead)
    together = t.max(axis=2, keepdims=True)
    cycles, alone, own = (
        int(found) for found in (finish(together, u, pace), finish(together, u, pace, shared=False), finish(t, u, pace))
    )
    assert cycles == plain_finish(together[..., 0].tolist(), u.tolist(), queue, ahead)
    assert max(together.sum(axis=0).max(), u.sum(axis=0).max(), 19) <= cycles
    assert cycles <= np.maximum(1, (together[..., 0] + u).max(axis=1)).sum()
    assert own <= cycles
    assert alone <= (together[..., 0] + u).sum(axis=0).max()
    assert alone <= cycles
    assert int(finish(together, u, replace(pace, queue=queue + 1, ahead=ahead + 1))) <= cycles


def plain_work(small: Escalate, layer: Workload) -> tuple[int, int, int, int, int]:
    """Cycles, products, additions, windows and updates of a decomposed layer, straight from the equations."""
    rows = rows_of(layer, small.window)
    mapping = small.mapping(layer, rows)
    cycles = macs = additions = windows = updates = 0
    for first in range(0, layer.outputs, small.blocks):
        outputs = range(first, min(first + small.blocks, layer.outputs))
        if not rows.codes[list(outputs)].any():
            continue
        slots, strip = [0] * mapping.strips, 0
        for n in range(layer.images):
            for left in range(0, layer.size[1], mapping.columns):
                columns = range(left, min(left + mapping.columns, layer.size[1]))
                at = [(h, w) for h in range(layer.size[0]) for w in columns]
                taps = [taps_of(layer, *position) for position in at]
                read = [(position, count) for position, count in zip(at, taps) if count]
                if not read:
                    continue
                t, u = [], []
                for (h, w), count in read:
                    found = [plain_sums(small, layer, rows, k, n, h, w) for k in outputs]
                    t.append([max(one[0] for one in sums) for sums in found])
                    u.append([count * any(one[1] for one in sums) for sums in found])
                    macs += sum(count * one[1] for sums in found for one in sums)
                    additions += sum(one[2] for sums in found for one in sums)
                    windows += sum(one[3] for sums in found for one in sums)
                updates += sum(map(sum, u))
                slots[strip % len(slots)] += plain_finish(t, u, small.queue, small.ahead)
                strip += 1
        cycles += max(slots)
    return cycles, macs, additions, windows, updates


def taps_of(layer: Workload, h: int, w: int) -> int:
    (top, _, left, _), (down, across) = layer.padding, layer.stride
    return sum(
        (h + top - r) % down == 0 == (w + left - s) % across
        and 0 <= (h + top - r) // down < layer.out_size[0]
        and 0 <= (w + left - s) // across < layer.out_size[1]
        for r, s in np.ndindex(*layer.kernel)
    )


def plain_sums(small: Escalate, layer: Workload, rows: Any, k: int, n: int, h: int, w: int) -> list[tuple]:
    """Of each basis: cycles, whether any input meets a coefficient, how many do in all bits, windows."""
    sums = []
    for m in range(rows.bases_count):
        cycles = matches = windows = 0
        for plane in rows.planes(rows.codes[k, m]):
            met = plane & layer.mask[n, :, h, w]
            parts = [(met[s : s + small.window], plane[s : s + small.window]) for s in rows.starts]
            counts = [int(both.sum()) for both, there in parts if there.any()]
            if small.look_ahead:
                cycles += max(len(counts), math.ceil(sum(counts) / small.adders))
            else:
                cycles += sum(max(1, math.ceil(count / small.adders)) for count in counts)
            matches += sum(counts)
            windows += len(counts)
        sums.append((cycles, matches > 0, matches, windows))
    return sums


def plain_finish(t: list[list[int]], u: list[list[int]], queue: int, ahead: int) -> int:
    added, start, done, sent = [], [], [], []
    for i in range(len(t)):
        sent.append(0 if i == 0 else sent[-1] + 1)
        if i >= ahead:
            sent[i] = max(sent[i], *added[i - ahead])
        added.append([
            max(added[i - 1][b] if i else 0, sent[i], start[i - queue][b] if i >= queue else 0) + t[i][b]
            for b in range(len(t[i]))
        ])  # fmt: skip
        start.append([max(added[i][b], done[i - 1][b] if i else 0) for b in range(len(t[i]))])
        done.append([start[i][b] + u[i][b] for b in range(len(t[i]))])
    return max(done[-1])


@given(
    layer=basis_layers(),
    blocks=st.integers(1, 3),
    slices=st.integers(1, 3),
    columns=st.sampled_from([1, 2, 32]),
    even=st.booleans(),
    look_ahead=st.booleans(),
    queue=st.sampled_from([1, 4]),
)
def test_the_work_is_that_of_the_slow_twin(layer, blocks, slices, columns, even, look_ahead, queue):
    strips = {"blocks": blocks, "slices": slices, "rows": 9, "columns": columns, "even_strips": even}
    small = machine(**strips, look_ahead=look_ahead, queue=queue, pointwise=False)
    if layer.kernel == (1, 1):  # positions of 1x1 layers are those of the output
        layer = replace(layer, stride=(1, 1), padding=(0,) * 4)
    work = small.work(layer)
    assert (work.cycles, work.macs, work.additions, work.windows, work.updates) == plain_work(small, layer)


@given(layer=basis_layers(), seed=st.integers(0, 99), order=st.sampled_from(["coef_first", "conv_first"]))
def test_what_holds_for_every_layer(layer, seed, order):
    small = machine(blocks=2, slices=2, rows=9, dram_bytes_per_cycle=2, input_kb=1, order=order)
    trace, work = small.simulate(layer), small.work(layer)
    assert work.regular <= work.unshared <= work.cycles
    assert work.cycles * small.units >= trace.macs + trace.gated_macs
    random = np.random.default_rng(seed)
    fewer = replace(layer, input=layer.input & (random.random(layer.input.shape) < 0.7))
    less = small.work(fewer)
    for name in ("cycles", "unshared", "regular", "macs", "additions", "windows", "updates"):
        assert getattr(less, name) <= getattr(work, name), name
    if order == "coef_first":
        relaxed = replace(small, rows_independent=True).work(layer)
        assert relaxed.cycles <= work.cycles
        assert (relaxed.macs, relaxed.additions) == (work.macs, work.additions)
        assert replace(small, look_ahead=False).work(layer).cycles >= work.cycles


@given(seed=st.integers(0, 999), density=st.sampled_from([0.1, 0.5, 1.0]))
def test_fewer_coefficients_take_no_longer(seed, density):
    random = np.random.default_rng(seed)
    signs = random.choice([-1, 1], (5, 7, 3)) * (random.random((5, 7, 3)) < density)
    inputs = random.random((1, 7, 5, 6)) < 0.6
    small = machine(blocks=2, slices=2, rows=3, columns=3)
    many, few = (
        basis_layer(kept, inputs, (3, 3), **BORDER) for kept in (signs, signs * (random.random(signs.shape) < 0.7))
    )
    for order in ("coef_first", "conv_first"):
        ordered = replace(small, order=order)
        assert ordered.work(few).cycles <= ordered.work(many).cycles
