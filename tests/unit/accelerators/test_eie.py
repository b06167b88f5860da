"""EIE: products worked out by hand, its recurrence against a cycle-by-cycle simulation, and the published balance."""

from __future__ import annotations

import math
from collections import deque
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from accelerator_cases import layers, masked_layer
from dovetail.accelerators.draw import drawn
from dovetail.accelerators.eie import Eie, finish
from dovetail.accelerators.machine import machine_named
from dovetail.errors import MachineError


def machine(elements: int = 2, queue: int = 8, **fields: int) -> Eie:
    return replace(machine_named("eie"), name="small", elements=elements, queue=queue, **fields)


# Entries (columns, elements) of two elements, inputs that are there, depth of the queue, cycles.
HAND = {
    # Each column takes the element with most entries as long as nobody runs ahead: first 3 and 1 are done at 3 and 1;
    # the second, 1 and 3, starts at 3 and 1 and is done at 4 and 4.
    "running ahead": ([[3, 1], [1, 3]], "11", 8, 4),
    # Depth 1: the third column may come when the second has started everywhere. Element 0 is done at 3, 4 and 5;
    # element 1 at 1, then starts the second at 1 and is done at 2. The third comes at 3: done at 3 + 4.
    "a short queue": ([[3, 1], [1, 1], [1, 4]], "111", 1, 7),
    # Depth 2: it comes at 2, as the first has started at once everywhere: done at 2 + 4.
    "a longer queue": ([[3, 1], [1, 1], [1, 4]], "111", 2, 6),
    # Columns of inputs that are zero cost nothing.
    "skipped": ([[9, 9], [1, 2]], "01", 8, 2),
    # A column without entries costs a cycle.
    "empty": ([[0, 0], [0, 0]], "11", 8, 2),
    "nothing": ([[1, 1]], "0", 8, 0),
}


@pytest.mark.parametrize("name", HAND)
def test_recurrence_by_hand(name):
    stored, word, queue, cycles = HAND[name]
    vector = np.array([[digit == "1" for digit in word]])
    assert finish(np.array(stored), vector, queue).tolist() == [cycles]


def cycle_by_cycle(columns: list[list[int]], queue: int, elements: int) -> int:
    """Queues and elements, one cycle at a time; a column takes each element its entries, at least a cycle."""
    queues: list[deque[int]] = [deque() for _ in range(elements)]
    busy, sent, clock, last = [0] * elements, 0, 0, 0
    while sent < len(columns) or any(queues) or any(busy):
        for p in range(elements):
            if not busy[p] and queues[p]:
                busy[p] = max(1, columns[queues[p].popleft()][p])
        if sent < len(columns) and all(len(q) < queue for q in queues):
            for p in range(elements):
                queues[p].append(sent)
                if not busy[p] and len(queues[p]) == 1:
                    busy[p] = max(1, columns[queues[p].popleft()][p])
            sent += 1
        clock += 1
        busy = [max(0, left - 1) for left in busy]
        last = clock
    return last


@given(
    seed=st.integers(0, 999), columns=st.integers(1, 30), elements=st.integers(1, 5), queue=st.sampled_from([1, 2, 8])
)
def test_recurrence_equals_a_simulation_of_cycles(seed, columns, elements, queue):
    random = np.random.default_rng(seed)
    stored = random.integers(0, 6, (columns, elements))
    vectors = random.random((3, columns)) < 0.6
    want = [cycle_by_cycle(stored[vector].tolist(), queue, elements) for vector in vectors]
    assert finish(stored, vectors, queue).tolist() == want


def test_rows_are_interleaved_and_long_gaps_take_entries():
    # Rows 0, 2, 4, … are in element 0. A gap of 16 rows there, 0 to 15 of its own, takes an entry of zero more.
    weights = np.zeros((40, 1), np.bool_)
    weights[[1, 32, 34]] = True
    assert machine(2).stored(weights).tolist() == [[3, 1]]


def test_a_layer_by_hand():
    # Filters of 1111 and 1010 over 4 inputs, of which 3 are there: each element has one row. Entries 1 1, 1 0, 1 1:
    # 3 cycles, 5 products on 2 multipliers, 4 of fill; two images.
    layer = masked_layer(
        np.array([[1, 1, 1, 1], [1, 0, 1, 0]])[:, :, None, None], np.array([[1, 1, 1, 0]] * 2)[:, :, None, None]
    )
    assert machine().array_cycles(layer) == {"compute": 5, "imbalance": 1, "fill": 8}
    # 6 entries of 8 bits, 5 pointers of 16 for each element, 16 shared weights; 8 inputs and 4 outputs of 16 bits.
    assert machine().simulate(layer).bytes_by["dram"] * 8 == 6 * 8 + 2 * 5 * 16 + 16 * 16 + (8 + 4) * 16


def test_the_published_balance_of_alexnets_fc7():
    # Recalled: 80 to 90 % with queues of 8, by ten points.
    layer = drawn("fc7", (4096, 4096, 1, 1), (1, 1), weight_density=0.09, input_density=0.3, seed=0, correlated=False)
    works = [machine(64, queue).work(layer) for queue in (1, 8)]
    balances = [work.entries / (64 * work.cycles) for work in works]
    assert balances == sorted(balances)
    assert 0.7 <= balances[1] <= 1.0


@given(layer=layers(), seed=st.integers(0, 99))
def test_products_are_conserved_and_less_takes_no_longer(layer, seed):
    small = machine(3, 2, run_bits=1)
    work = small.work(layer)
    assert work.products == layer.effective_macs <= work.entries
    no_gaps = replace(small, run_bits=8)
    assert no_gaps.work(layer).entries == layer.effective_macs
    random = np.random.default_rng(seed)
    fewer = layer.weight_mask & (random.random(layer.weight_mask.shape) < 0.7)
    options = {name: getattr(layer, name) for name in ("stride", "padding", "groups")}
    assert no_gaps.work(masked_layer(fewer, layer.mask, **options)).cycles <= no_gaps.work(layer).cycles


@pytest.mark.parametrize(
    ("fields", "complaint"),
    [
        ({"elements": 0}, "machine 'eie': elements is 0"),
        ({"queue": 0}, "queue is 0"),
        ({"node_nm": math.nan}, "node_nm is nan"),
    ],
)
def test_bad_descriptions_are_refused(fields, complaint):
    with pytest.raises(MachineError, match=complaint):
        replace(machine_named("eie"), **fields)


# Weight, shares of weights and inputs that are not zero, published microseconds [recalled].
ALEXNET = {
    "fc6": ((4096, 9216), 0.09, 0.351, 30.3),
    "fc7": ((4096, 4096), 0.09, 0.353, 12.2),
    "fc8": ((1000, 4096), 0.25, 0.375, 9.9),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", ALEXNET)
def test_the_published_times_of_alexnet(name):
    # 29.1, 13.0 and 8.1: within a fifth.
    shape, weights, inputs, published = ALEXNET[name]
    layer = drawn(name, (*shape, 1, 1), (1, 1), weight_density=weights, input_density=inputs, seed=0, correlated=False)
    cycles = sum(machine(64).array_cycles(layer).values())
    assert 1e6 * cycles / 800e6 == pytest.approx(published, rel=0.2)
