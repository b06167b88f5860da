"""SCNN: layers worked out by hand, its slow twin, conservation of products, and what holds for every layer."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any
from unittest import mock

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from accelerator_cases import dense_layer, layers, masked_layer
from dovetail.accelerators import cartesian
from dovetail.accelerators.draw import drawn
from dovetail.accelerators.energy import ACCELERGY45
from dovetail.accelerators.machine import machine_named
from dovetail.accelerators.scnn import Scnn, as_planes, halo_area
from dovetail.accelerators.workload import Workload
from dovetail.errors import MachineError


def machine(rows: int, columns: int, accumulators: int = 1024, **fields: Any) -> Scnn:
    return replace(machine_named("scnn"), name="small", rows=rows, columns=columns, accumulators=accumulators, **fields)


def row(inputs: list[int]) -> np.ndarray:
    return np.array(inputs).reshape(1, 1, 1, -1)


# Name → machine, layer, cycles: steps without conflicts, stalls by conflicts, halo.
HAND = {
    # One element. 4 inputs in a row and 4 filters of 1x1 are a vector each: one step of 16 products. Output u = 0..3
    # and k = 0..3 go to banks 16 u_1 + 8 u_0 + k: all different.
    "one step": (machine(1, 1), dense_layer(4, 1, (1, 1), (1, 4)), (1, 0, 0)),
    # Inputs at 0, 4, 8 and 12 have the same u mod 4, so that the products of a filter all go to one bank: 4 cycles.
    "conflict": (
        machine(1, 1),
        masked_layer(np.ones((4, 1, 1, 1)), row([1, 0, 0, 0] * 3 + [1])),
        (1, 3, 0),
    ),
    # 5 inputs are 2 vectors, 6 filters are 2: 4 steps. The filters of a vector differ modulo 4, the outputs of a vector
    # modulo 4: no two products of a step meet.
    "fragments": (machine(1, 1), dense_layer(6, 1, (1, 1), (1, 5)), (4, 0, 0)),
    # Two elements share a row of 8 inputs, 4 each. In the first channel the left one has 4 inputs and the right one 1,
    # a step each; in the second the right one has 4, another step. The left one waits.
    "imbalance": (
        machine(1, 2),
        masked_layer(np.ones((4, 2, 1, 1)), [[[[1, 1, 1, 1, 1, 0, 0, 0]], [[0, 0, 0, 0, 1, 1, 1, 1]]]]),
        (2, 0, 0),
    ),
    # 2 sums to an accumulator, outputs of 1 x 2 on one element: one filter at a time, each 1 step for 2 inputs.
    "few accumulators": (machine(1, 1, 2), dense_layer(3, 1, (1, 1), (1, 2)), (3, 0, 0)),
    # Stride 2: inputs 0 and 2 are one phase, 1 and 3 the other; the two places of the kernel one each. 2 steps. In the
    # first, outputs u = 0 and 1, banks 0 and 8; in the second the same. Halo: a column, 2 - 1 - 0, of the one row.
    "stride": (machine(1, 1), dense_layer(1, 1, (1, 2), (1, 4), stride=(1, 2)), (2, 0, 1)),
    # A 1x3 kernel over 4 inputs and a border: 3 weights and 4 inputs, one step. Inputs at x = 1..4 and places s = 0..2
    # reach u = x - s, of which 0..3 are inside: u = 0 by (1,1), (2,2); 1 by (1,0), (2,1), (3,2); 2 by (2,0), (3,1),
    # (4,2); 3 by (3,0), (4,1). The fullest bank gets 3. Halo: a column, 3 - 1 - 1 or 1, of the one row.
    "border": (machine(1, 1), dense_layer(1, 1, (1, 3), (1, 4), padding=(0, 0, 1, 1)), (1, 2, 1)),
    # No input: nothing to do.
    "nothing": (machine(2, 2), masked_layer(np.ones((3, 2, 1, 1)), np.zeros((1, 2, 4, 4))), (0, 0, 0)),
}


@pytest.mark.parametrize("name", HAND)
def test_cycles_by_hand(name):
    small, layer, (steps, stalls, halo) = HAND[name]
    cycles = small.array_cycles(layer)
    assert cycles["compute"] == math.ceil(layer.effective_macs / small.units)
    assert (cycles["compute"] + cycles["imbalance"], cycles["stalls"], cycles["halo"]) == (steps, stalls, halo)


def test_a_barrier_after_each_channel_by_hand():
    # As in "imbalance", but with 8 inputs of the first channel on the left: 2 steps left, 1 right; then 0 and 1.
    inputs = np.zeros((1, 2, 2, 8))
    inputs[0, 0, :, :4] = inputs[0, 0, 0, 4] = inputs[0, 1, 0, 4:] = 1
    layer = masked_layer(np.ones((4, 2, 1, 1)), inputs)
    assert machine(1, 2).work(layer).steps == 2
    assert machine(1, 2, sync="strict").work(layer).steps == 2 + 1


@pytest.mark.parametrize(
    ("kernel", "padding", "size", "area"),
    [
        # One row of 8 x 8 elements over 16 x 16: tiles of 2 or 3. Sides {0, 2, 0}: no halo.
        ((1, 1), 0, 16, 0),
        # 3x3 with a border of 1: 18 in tiles of 3; sides {1, 3, 1}: 1 x 3.
        ((3, 3), 1, 16, 3),
        # 3x3 without: 16 in tiles of 2; sides {2, 2, 0}: 2 x 2.
        ((3, 3), 0, 16, 4),
        # 5x5 with a border of 2 over 14: 18 in tiles of 3; sides {2, 3, 2}: 2 x 3.
        ((5, 5), 2, 14, 6),
        # A kernel as large as the plane has one output: sides are at most 1.
        ((16, 16), 0, 16, 1),
    ],
)
def test_halos_by_hand(kernel, padding, size, area):
    layer = dense_layer(3, 1, kernel, (size, size), padding=(padding,) * 4)
    assert halo_area(layer, machine_named("scnn").grid) == area
    assert machine_named("scnn").array_cycles(layer)["halo"] == 3 * area


def plain_work(small: Scnn, layer: Workload) -> tuple[int, int, int, int]:
    """Cycles with relaxed and strict barriers, steps and products inside, product by product."""
    tile = [math.ceil(n / count) for n, count in zip(layer.padded, (small.rows, small.columns))]
    kc, per_group = small.filters_at_once(layer), layer.outputs // layer.groups
    relaxed = strict = all_steps = products = 0
    for n, g in np.ndindex(layer.images, layer.groups):
        for start in range(0, per_group, kc):
            totals, step_totals = np.zeros((small.rows, small.columns), int), np.zeros((small.rows, small.columns), int)
            for c in range(layer.weight.shape[1]):
                channel = np.zeros((small.rows, small.columns), int)
                for element in np.ndindex(small.rows, small.columns):
                    cycles, steps, inside = plain_element(small, layer, n, g, c, start, kc, element, tile)
                    channel[element] = cycles
                    step_totals[element] += steps
                    products += inside
                totals += channel
                strict += channel.max()
            relaxed += totals.max()
            all_steps += step_totals.max()
    return int(relaxed), int(strict), int(all_steps), products


def plain_element(
    small: Scnn, layer: Workload, n: int, g: int, c: int, start: int, kc: int, element: tuple, tile: list[int]
) -> tuple[int, int, int]:
    per_group, (sy, sx) = layer.outputs // layer.groups, layer.stride
    top, _, left, _ = layer.padding
    cycles = steps = products = 0
    for py, px in np.ndindex(sy, sx):
        inputs = [
            (y + top, x + left)
            for y, x in np.argwhere(layer.mask[n, g * layer.weight.shape[1] + c])
            if ((y + top) // tile[0], (x + left) // tile[1]) == element
            and ((y + top) % sy, (x + left) % sx) == (py, px)
        ]
        weights = [
            (k, r, s)
            for r, s in np.ndindex(*layer.kernel)
            for k in range(start, min(start + kc, per_group))
            if layer.weight_mask[g * per_group + k, c, r, s] and (r % sy, s % sx) == (py, px)
        ]
        for i in range(0, len(inputs), small.input_vector):
            for j in range(0, len(weights), small.weight_vector):
                banks = [0] * 32
                for y, x in inputs[i : i + small.input_vector]:
                    for k, r, s in weights[j : j + small.weight_vector]:
                        v, u = (y - r) // sy, (x - s) // sx
                        if 0 <= v < layer.out_size[0] and 0 <= u < layer.out_size[1]:
                            high = (k >> 2 & 1) ^ (u >> 1 & 1) ^ (v >> 1 & 1)
                            banks[16 * high + 8 * (u & 1) + 4 * (v & 1) + k % 4] += 1
                steps += 1
                cycles += max(1, *banks)
                products += sum(banks)
    return cycles, steps, products


@given(
    layer=layers(),
    rows=st.integers(1, 3),
    columns=st.integers(1, 3),
    accumulators=st.sampled_from([1, 20, 1024]),
    lengths=st.sampled_from([(4, 4), (2, 3)]),
)
def test_the_work_is_that_of_the_slow_twin(layer, rows, columns, accumulators, lengths):
    small = machine(rows, columns, accumulators, input_vector=lengths[0], weight_vector=lengths[1])
    relaxed, strict, steps, products = plain_work(small, as_planes(layer))
    work = small.work(layer)
    assert (work.cycles, work.steps, work.products) == (relaxed, steps, products)
    assert replace(small, sync="strict").work(layer).cycles == strict


@given(layer=layers(), lengths=st.sampled_from([(4, 4), (2, 3)]))
def test_products_one_by_one_give_what_the_table_gives(layer, lengths):
    small = machine(2, 2, 20, input_vector=lengths[0], weight_vector=lengths[1])
    found = []
    for few in (0, 8, 1 << 40):  # always one by one, as it is, never
        with mock.patch.object(cartesian, "FEW", few):
            found.append(small.work(layer))
    assert found[0] == found[1] == found[2]


def test_a_linear_layer_lists_its_products():
    layer = drawn("fc", (40, 600, 1, 1), (1, 1), weight_density=0.5, input_density=0.5, seed=0)
    with mock.patch.object(cartesian, "_table", side_effect=AssertionError("a table was made")):
        work = machine_named("scnn").work(layer)
    assert work.products == layer.effective_macs


@given(layer=layers())
def test_products_are_conserved(layer):
    assert machine(2, 2).work(layer).products == layer.effective_macs


@given(layer=layers())
def test_what_holds_for_every_layer(layer):
    small = machine(2, 2, 16, dram_bytes_per_cycle=2, weight_kb=1, input_kb=1)
    trace = small.simulate(layer)
    assert trace.macs == layer.effective_macs
    assert trace.cycles * small.units >= trace.macs
    nonzeros = int(layer.weight_mask.sum() + layer.mask.sum()) + layer.output_nonzeros
    assert trace.bytes_by["dram"] * 8 >= nonzeros * (8 + 4)
    assert replace(small, dram_bytes_per_cycle=4).simulate(layer).cycles <= trace.cycles
    other = replace(small, costs=ACCELERGY45).simulate(layer)
    assert (other.cycles_by, other.bytes_by) == (trace.cycles_by, trace.bytes_by)
    strict = replace(small, sync="strict").array_cycles(layer)
    assert sum(strict.values()) >= sum(small.array_cycles(layer).values())


@pytest.mark.parametrize(
    "options", [{}, {"stride": (2, 2)}, {"padding": (1, 1, 1, 1)}, {"stride": (1, 3), "groups": 2}]
)
def test_the_dense_peer_is_the_machine_without_zeros_and_conflicts(options):
    layer = dense_layer(6, 3, (3, 3), (11, 13), images=2, **options)
    small = machine(2, 3, 64)
    cycles = small.array_cycles(layer)
    assert small.dense_cycles(layer) == cycles["compute"] + cycles["imbalance"] + cycles["halo"]


def test_a_linear_layer_becomes_planes():
    random = np.random.default_rng(0)
    layer = masked_layer(random.random((5, 300, 1, 1)) < 0.3, random.random((2, 300, 1, 1)) < 0.5)
    planes = as_planes(layer)
    assert planes.weight.shape == (5, 2, 16, 16)
    assert planes.out_shape == layer.out_shape
    assert planes.effective_macs == layer.effective_macs == machine_named("scnn").work(layer).products
    assert as_planes(planes) is planes


def test_bytes_by_hand():
    # A channel, 1x1, 4 filters of which 2 are there: 2 entries of 8 + 4 bits. 40 inputs in a row on one element, of
    # which the first and the last are there: 38 zeros between them take 2 entries of 16 more. 160 outputs.
    layer = masked_layer(np.array([1, 0, 0, 1]).reshape(4, 1, 1, 1), row([1] + [0] * 38 + [1]))
    trace = machine(1, 1).simulate(layer)
    assert trace.bytes_by["dram"] * 8 == 12 * (2 + (2 + 2) + 160)


def test_energy_by_hand():
    layer = dense_layer(4, 1, (1, 1), (1, 4))
    energy = machine(1, 1).simulate(layer).energy_by
    # 16 products in one step, no halo. A bank of 32 sums of 24 bits is 0.009 24 + 0.029 5/32 32 = 0.361 pJ.
    assert energy["multipliers"] == pytest.approx(16 * 0.2)
    assert energy["accumulators"] == pytest.approx(16 * (0.05 * 2 ** (math.log2(1.5))) + 32 * 0.361)
    assert energy["crossbar"] == pytest.approx(16 * 4.1)
    # One vector of 4 weights of 12 bits from 500 bytes.
    assert energy["queues"] == pytest.approx(2.23 * (0.3 + 0.7 * 48 / 32) * (500 / 2048) ** 0.48)


@pytest.mark.parametrize(
    ("fields", "complaint"),
    [
        ({"rows": 0}, "machine 'scnn': rows is 0"),
        ({"accumulators": 0}, "accumulators is 0"),
        ({"sync": "loose"}, "sync is 'loose'; it must be one of relaxed, strict"),
        ({"route_picojoules": -1.0}, r"route_picojoules is -1.0; it must be a finite number above 0"),
        ({"fifo_bytes": 10}, "fifo_bytes is 10; it must be a whole number of at least 64"),
    ],
)
def test_bad_descriptions_are_refused(fields, complaint):
    with pytest.raises(MachineError, match=complaint):
        replace(machine_named("scnn"), **fields)


def test_dilation_is_refused():
    with pytest.raises(MachineError, match="machine 'scnn' is modelled without dilation"):
        machine_named("scnn").simulate(dense_layer(1, 1, (2, 2), (5, 5), dilation=(2, 2)))
