"""PermDNN: products worked out by hand, its closed form, and the same layers cycle by cycle with what they compute."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from accelerator_cases import dense_layer, diagonal_layer, diagonal_layers, masked_layer
from dovetail.accelerators import diagonal_engine
from dovetail.accelerators.machine import machine_named
from dovetail.accelerators.permdnn import Permdnn
from dovetail.accelerators.workload import Workload
from dovetail.errors import MachineError
from dovetail.formats import PackedPermutedDiagonal, PermutedDiagonalSpec
from dovetail.program.functions import conv2d


def machine(**fields: Any) -> Permdnn:
    """Two elements of two multipliers and four accumulators, which read four inputs a cycle, but for `fields`."""
    small = {"elements": 2, "multipliers": 2, "accumulators": 4, "queue": 4, "banks": 1, **fields}
    return replace(machine_named("permdnn"), name="small", **small)  # type: ignore[arg-type]


def vector(word: str) -> list[list[int]]:
    return [[int(digit) for digit in word]]


def dense(rows: int, word: str) -> Workload:
    x = np.array(vector(word))[:, :, None, None]
    return masked_layer(np.ones((rows, x.shape[1], 1, 1)), x)


# Name → machine, layer, cycles (compute, imbalance, stalls, fill).
HAND: dict[str, tuple[Permdnn, Workload, tuple[int, int, int, int]]] = {
    # 4 rows in each element, which are 2 blocks of size 2: 2 numbers in each of 4 columns, one cycle on 2 multipliers.
    # 5 cycles of pipeline, and 8 outputs that are written 4 at a time.
    "whole blocks": (machine(), diagonal_layer((8, 4), 2, vector("1111")), (4, 0, 0, 7)),
    "zeros are skipped": (machine(), diagonal_layer((8, 4), 2, vector("0101")), (2, 0, 0, 7)),
    # One multiplier: 2 cycles a column.
    "a multiplier less": (machine(multipliers=1), diagonal_layer((8, 4), 2, vector("1111")), (8, 0, 0, 7)),
    # 2 accumulators for 4 rows: two passes, a number a column in each, one of two multipliers idle.
    "two passes": (machine(accumulators=2), diagonal_layer((8, 4), 2, vector("1111")), (4, 4, 0, 7)),
    # 3 accumulators: 3 rows, then 1. Blocks have rows 0 1 | 2 3: the first pass has 1 or 2 numbers in a column, the
    # second 1 or none, which takes a cycle, too.
    "passes that part a block": (machine(accumulators=3), diagonal_layer((8, 4), 2, vector("1111")), (4, 4, 0, 7)),
    # 6 rows of size 4, 3 in each element; shifts of 0 and 1. Columns have rows 0 | 1 4 | 2 5 | 3, the last block being
    # cut: 6 products on 2 multipliers, a cycle for each column.
    "blocks that are cut": (
        machine(multipliers=1),
        diagonal_layer((6, 4), 4, vector("1111")),
        (3, 1, 0, 5 + 2),
    ),
    # 10 rows of size 3, 5 in each element; shifts of 0, 1, 2, 0. Columns have rows 0 5 7 9 | 1 3 8 | 2 4 6. The second
    # element has 3 of the first column, one more than 5 / 3 rounded up: 2 cycles.
    "edges of blocks": (
        machine(accumulators=5),
        diagonal_layer((10, 3), 3, vector("111")),
        (3, 1, 0, 5 + 3),
    ),
    # Any other weight is dense: 2 rows in each element.
    "dense": (machine(), dense(4, "110"), (2, 0, 0, 6)),
    # A number a column leaves a lane idle, so that two inputs go together; without that, one.
    "two columns at once": (machine(multi_column=True), diagonal_layer((4, 4), 2, vector("1111")), (2, 0, 0, 6)),
    "one column at once": (machine(), diagonal_layer((4, 4), 2, vector("1111")), (2, 2, 0, 6)),
    # Three inputs: two and one.
    "a column is left": (machine(multi_column=True), diagonal_layer((4, 4), 2, vector("1101")), (2, 0, 0, 6)),
    # Four inputs are read in a cycle; the last of 16 comes in the cycle 3, and is worked on in 4, after one in 1.
    "waiting for an input": (
        machine(),
        diagonal_layer((2, 16), 1, vector("1" + 14 * "0" + "1")),
        (1, 1, 2, 6),
    ),
    # Nothing but zeros: 4 words are read, of which the first is hidden in the pipeline.
    "nothing to read": (machine(), diagonal_layer((2, 16), 1, vector(16 * "0")), (0, 0, 3, 6)),
    # A queue of one: the second input enters when the first is taken.
    "a queue of one": (machine(queue=1), diagonal_layer((8, 4), 2, vector("1111")), (4, 0, 0, 7)),
    # Two positions of a kernel of two places over 2 channels: 4 columns of a number each, in either element.
    "a convolution": (
        machine(),
        diagonal_layer((2, 2, 1, 2), 2, np.ones((1, 2, 1, 3))),
        (2, 6, 0, 2 * (5 + 1)),
    ),
    # Two images, one after another.
    "two images": (machine(), diagonal_layer((8, 4), 2, vector("1111") + vector("1000")), (5, 0, 0, 14)),
}


@pytest.mark.parametrize("name", HAND)
def test_cycles_by_hand(name):
    small, layer, cycles = HAND[name]
    assert tuple(small.array_cycles(layer).values()) == cycles


def test_the_reference_vector():
    # m = n = 4, p = 2, k = 0 1 0 1, q = 1 … 8: W x = 13, 16, 33, 36 of x = 1 2 3 4.
    spec, values = PermutedDiagonalSpec(size=2), np.arange(1, 9, dtype=np.float32).reshape(2, 2, 2)
    packed = PackedPermutedDiagonal.from_diagonals(values, spec, (4, 4), spec.shifts((4, 4)))
    layer = replace(diagonal_layer((4, 4), 2, [[1, 2, 3, 4]]), weight=packed)
    assert diagonal_engine.run(machine(), layer).sums.ravel().tolist() == [13, 16, 33, 36]


small_machines = st.builds(
    machine,
    elements=st.integers(1, 4),
    multipliers=st.integers(1, 3),
    accumulators=st.integers(1, 6),
    queue=st.integers(1, 6),
    banks=st.integers(1, 2),
    multi_column=st.booleans(),
)


@given(layer=diagonal_layers(), small=small_machines)
def test_elements_compute_the_layer_and_take_the_cycles_that_are_counted(layer, small):
    result, work = diagonal_engine.run(small, layer), small.work(layer)
    options: dict[str, Any] = {name: getattr(layer, name) for name in ("stride", "padding", "dilation", "groups")}
    weight = layer.weight.dense().astype(np.float64)
    inputs = layer.input.astype(np.float64) - layer.zero
    np.testing.assert_array_equal(result.sums, conv2d(inputs, weight, **options))
    assert (result.cycles, result.products) == (work.cycles, work.products)
    assert work.products == layer.effective_macs  # no number is zero


@given(
    size=st.integers(1, 4),
    blocks=st.integers(1, 4),
    columns=st.integers(1, 5),
    elements=st.integers(1, 3),
    multipliers=st.integers(1, 3),
    in_a_pass=st.integers(1, 4),
    seed=st.integers(0, 99),
)
def test_whole_blocks_take_the_closed_form(size, blocks, columns, elements, multipliers, in_a_pass, seed):
    random = np.random.default_rng(seed)
    x = random.random((1, size * columns)) < 0.6
    x[:, ::4] = True  # an input in each word, so that none is waited for
    rows, accumulators = size * blocks, size * in_a_pass
    small = machine(elements=elements, multipliers=multipliers, accumulators=accumulators)
    work = small.work(diagonal_layer((rows * elements, size * columns), size, x, "random", seed))
    passes = [min(accumulators, rows - start) for start in range(0, rows, accumulators)]
    assert work.busy == x.sum() * sum(math.ceil(math.ceil(each / size) / multipliers) for each in passes)
    assert work.cycles == work.busy


# Cycles of the published layers by the closed form, without fill; inputs that are not zero are so many.
LAYERS = {
    "Alex-FC6": (4096, 9216, 10, 3299, 6598),
    "Alex-FC7": (4096, 4096, 10, 844, 1688),
    "Alex-FC8": (1000, 4096, 4, 1819, 1819),
    "NMT-1": (2048, 1024, 8, 1024, 1024),
    "NMT-2": (2048, 1536, 8, 1536, 1536),
    "NMT-3": (2048, 2048, 8, 2048, 2048),
}


@pytest.mark.parametrize("name", LAYERS)
def test_published_layers_take_the_closed_form_and_never_wait_for_inputs(name):
    outputs, inputs, size, there, cycles = LAYERS[name]
    x = np.zeros((1, inputs), np.bool_)
    x[0, np.random.default_rng(0).permutation(inputs)[:there]] = True
    permdnn = machine_named("permdnn")
    assert isinstance(permdnn, Permdnn)
    work = permdnn.work(diagonal_layer((outputs, inputs), size, x))
    assert (work.busy, work.cycles) == (cycles, cycles)


@given(layer=diagonal_layers(), small=small_machines)
def test_less_takes_no_longer(layer, small):
    alone = replace(small, multi_column=False)
    work = alone.work(layer)
    assert replace(alone, multipliers=alone.multipliers + 1).work(layer).cycles <= work.cycles
    assert replace(alone, queue=alone.queue + 1).work(layer).cycles <= work.cycles
    assert replace(alone, accumulators=99).work(layer).cycles <= work.cycles
    first = np.argwhere(layer.mask)[:1]
    if len(first):
        inputs = layer.input.copy()
        inputs[tuple(first[0])] = layer.zero
        assert alone.work(replace(layer, input=inputs)).busy <= work.busy


def test_bytes_by_hand():
    # 16 numbers of 4 bits, 16 shared ones of 16; 4 inputs and 8 outputs of 16 bits. Shifts of 8 blocks: none where
    # they follow from the place, 32 bits of a seed, or a bit each.
    expected = {"natural": 0, "random": 32, "searched": 8}
    for index, bits in expected.items():
        trace = machine().simulate(diagonal_layer((8, 4), 2, vector("1111"), index))
        assert trace.bytes_by["dram"] * 8 == 16 * 4 + 256 + bits + (4 + 8) * 16
        read = sum(charge.count for charge in trace.charges if charge.part == "shifts" and "read" in charge.event)
        assert read * 64 == (16 if bits else 0)  # a bit for each of 16 products


def test_events_by_hand():
    # 3 inputs of 4 that are there, 4 rows of each of which the first is read in either pass: 4 products an input.
    small = machine(accumulators=2)
    trace = small.simulate(diagonal_layer((8, 4), 2, vector("1101")))
    counts = {(charge.part, charge.event.split()[0]): charge.count for charge in trace.charges}
    assert trace.macs == counts["multipliers", "16x16"] == 12
    assert counts["registers", "bit"] == 2 * 24 * 12
    assert counts["queues", "bit"] == 2 * 32 * 3 * 2  # in both passes
    assert counts["weights", "read"] * 64 == 12 * 4
    assert counts["activations", "read"] * 64 == 2 * 4 * 16  # zeros, too
    assert counts["activations", "write"] * 64 == (4 + 8) * 16


def test_weights_that_do_not_fit_are_fetched_again():
    # Elements of 1 KB and 1 KB of shifts: 4096 bytes together; 144 x 128 dense numbers of 4 bits are 9216. Inputs of 4
    # images fit their 1024 bytes; with 64 bits they are 4096 bytes, which are read for each of 3 parts of the weights.
    layer = replace(dense_layer(144, 128, (1, 1), (1, 1), images=4), output_on_chip=True)
    small = machine(weight_kb=1, weight_banks=1, permutation_kb=1, activation_kb=1)
    weights = 144 * 128 * 4 + 256
    assert small.simulate(layer).bytes_by["dram"] * 8 == weights + 4 * 128 * 16
    wide = replace(small, bits=64)
    assert wide.simulate(layer).bytes_by["dram"] * 8 == (weights - 256 + 1024) + 4 * 128 * 64 * 3


@pytest.mark.parametrize(
    ("fields", "complaint"),
    [
        ({"elements": 0}, "machine 'permdnn': elements is 0; it must be a whole number of at least 1"),
        ({"multipliers": 0}, "multipliers is 0"),
        ({"accumulators": 0}, "accumulators is 0"),
        ({"queue": 0}, "queue is 0"),
        ({"banks": 0}, "banks is 0"),
        ({"fill": -1}, "fill is -1; it must be a whole number of at least 0"),
        ({"dram_bytes_per_cycle": -1}, "dram_bytes_per_cycle is -1; it must be a finite number above 0"),
        ({"multi_column": 1}, "multi_column is 1; it must be True or False"),
    ],
)
def test_bad_descriptions_are_refused(fields, complaint):
    with pytest.raises(MachineError, match=complaint):
        replace(machine_named("permdnn"), **fields)
