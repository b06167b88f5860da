"""SparTen: layers worked out by hand, its slow twin, conservation of products, and what holds for every layer."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from accelerator_cases import dense_layer, layers, masked_layer
from dovetail.accelerators import bits
from dovetail.accelerators.energy import ACCELERGY45
from dovetail.accelerators.inner_join import per_cluster
from dovetail.accelerators.machine import machine_named
from dovetail.accelerators.sparten import BALANCES, SIDES, Sparten
from dovetail.accelerators.workload import Workload
from dovetail.errors import MachineError


def machine(clusters: int, cluster_units: int, balance: str = "none", **fields: Any) -> Sparten:
    small = {"clusters": clusters, "cluster_units": cluster_units, "balance": balance, "chunk": 64, "fill": 0}
    return replace(machine_named("sparten"), name="small", **{**small, **fields})


def filters(*counts: tuple[int, ...]) -> np.ndarray:
    """A filter of 1 x n kernels over 64 channels for each tuple: so many weights that are not zero in each chunk."""
    weight = np.zeros((len(counts), 64, 1, len(counts[0])))
    for k, s in np.ndindex(len(counts), len(counts[0])):
        weight[k, : counts[k][s], 0, s] = 1
    return weight


def window(weight: np.ndarray) -> Workload:
    """One position whose inputs are all there."""
    return masked_layer(weight, np.ones((1, weight.shape[1], *weight.shape[2:])))


def two_positions() -> Workload:
    """Two filters over four channels, at two positions."""
    weight = np.array([[1, 1, 0, 0], [1, 1, 1, 1]]).reshape(2, 4, 1, 1)
    inputs = np.array([[1, 0, 1, 0], [1, 1, 1, 1]]).T.reshape(1, 4, 1, 2)
    return masked_layer(weight, inputs)


NINE = filters((10, 0), (0, 9), (0, 8), (7, 0))
# Name → machine, layer, cycles of compute (products over units, rounded up), imbalance and fill.
HAND = {
    # Products 1 and 2 at the first position, 2 and 4 at the second: 2 and 4 cycles, in a cluster each; fill 3.
    "a position each": (machine(2, 2, fill=3), two_positions(), (math.ceil(9 / 4), 1, 3)),
    # The same in one cluster: 2 + 4 cycles and twice the fill.
    "one cluster": (machine(1, 2, fill=3), two_positions(), (math.ceil(9 / 2), 1, 6)),
    # Filters of 4, 3, 2 and 1: two teams take 4 + 2.
    "no balance": (machine(1, 2), window(filters((4,), (3,), (2,), (1,))), (5, 1, 0)),
    # Pairs 4 + 1 and 3 + 2 at once.
    "pairs": (machine(1, 2, "software"), window(filters((4,), (3,), (2,), (1,))), (5, 0, 0)),
    # Two chunks. By whole filters 10 goes with 7 and 9 with 8, which meet in the same chunk: 17 + 17.
    "pairs that meet": (machine(1, 2, "software"), window(NINE), (17, 17, 0)),
    # By chunks 10 and 7 are apart, then 9 and 8: 10 + 9.
    "pairs by chunk": (machine(1, 2, "hybrid"), window(NINE), (17, 2, 0)),
    # Without: max(10, 0) + max(0, 9), then max(0, 7) + max(8, 0).
    "two teams": (machine(1, 2), window(NINE), (17, 17, 0)),
    # Three filters on two units: 5 + 1 beside 3.
    "odd": (machine(1, 2, "software"), window(filters((5,), (3,), (1,))), (5, 1, 0)),
    # As many filters as units: nobody shares, 5 beside 3.
    "enough units": (machine(1, 2, "hybrid"), window(filters((5,), (3,))), (4, 1, 0)),
    # A 3x3 kernel over 2x2 inputs with a border meets all 4 at each of 4 positions, 2 in a cluster.
    "border": (machine(2, 1), dense_layer(1, 1, (3, 3), (2, 2), padding=(1, 1, 1, 1)), (8, 0, 0)),
    # No input is there: every chunk takes a cycle; 3 filters are 2 teams, 4 positions 2 to a cluster.
    "nothing": (machine(2, 2), masked_layer(np.ones((3, 4, 1, 1)), np.zeros((1, 4, 2, 2))), (0, 4, 0)),
    # 2 groups of 2 filters over one channel: 1 product each at 4 positions, one group after the other.
    "groups": (machine(1, 2), dense_layer(4, 1, (1, 1), (2, 2), groups=2), (8, 0, 0)),
}


@pytest.mark.parametrize("name", HAND)
def test_cycles_by_hand(name):
    small, layer, (compute, imbalance, fill) = HAND[name]
    assert small.array_cycles(layer) == {"compute": compute, "imbalance": imbalance, "fill": fill}


@pytest.mark.parametrize("sides", SIDES)
@pytest.mark.parametrize("balance", BALANCES)
@pytest.mark.parametrize(("channels", "kernel"), [(3, (3, 3)), (64, (1, 1)), (70, (3, 2))])
def test_dense_masks_give_the_closed_form(sides, balance, channels, kernel):
    # Every filter of a unit takes C R S cycles at a position: 8 filters on 2 units are 4 to a unit; 12 positions on 5
    # clusters are 3 to a cluster.
    layer = dense_layer(8, channels, kernel, (kernel[0] + 2, kernel[1] + 3))
    cycles = machine(5, 2, balance, sides=sides, fill=1).array_cycles(layer)
    assert cycles["fill"] == 3
    assert cycles["compute"] + cycles["imbalance"] == 3 * 4 * channels * math.prod(kernel)


def plain_cycles(small: Sparten, layer: Workload) -> list[int]:
    """Cycles of every position without balancing, chunk by chunk."""
    k_per_group, c = layer.outputs // layer.groups, layer.weight.shape[1]
    found = np.zeros(layer.positions, int)
    patches = layer.patches.transpose(0, 2, 3, 4, 5, 1).reshape(layer.positions, *layer.kernel, layer.groups, c)
    for position, g in np.ndindex(layer.positions, layer.groups):
        weights = layer.weight_mask[g * k_per_group : (g + 1) * k_per_group].transpose(0, 2, 3, 1)
        both = (weights & patches[position, :, :, g]).reshape(k_per_group, -1)
        row = c if c >= small.chunk else both.shape[1]
        for start in range(0, k_per_group, small.cluster_units):
            for vector in range(0, both.shape[1], row):
                for chunk in range(vector, vector + row, small.chunk):
                    end = min(chunk + small.chunk, vector + row)
                    products = both[start : start + small.cluster_units, chunk:end].sum(axis=1)
                    found[position] += max(1, int(products.max()))
    return found.tolist()


@given(layer=layers())
def test_the_joins_are_those_of_the_slow_twin(layer):
    small = machine(3, 2)
    assert small.work(layer).cycles.tolist() == plain_cycles(small, layer)


@pytest.mark.parametrize("channels", [63, 64, 100, 130])
def test_long_vectors_are_those_of_the_slow_twin(channels):
    random = np.random.default_rng(channels)
    layer = masked_layer(random.random((5, channels, 2, 1)) < 0.4, random.random((1, channels, 4, 3)) < 0.5)
    small = machine(3, 2)
    assert small.work(layer).cycles.tolist() == plain_cycles(small, layer)


@given(layer=layers(), balance=st.sampled_from(BALANCES), units=st.integers(1, 5))
def test_products_are_conserved(layer, balance, units):
    small = machine(2, units, balance)
    assert small.work(layer).products == layer.effective_macs
    assert replace(small, sides="one").work(layer).products == layer.input_macs
    assert replace(small, sides="none").work(layer).products == layer.dense_macs


@given(layer=layers(), seed=st.integers(0, 99))
def test_removing_what_is_not_zero_never_takes_longer(layer, seed):
    random = np.random.default_rng(seed)
    weight, inputs = layer.weight_mask, layer.mask
    options = {name: getattr(layer, name) for name in ("stride", "padding", "groups")}
    fewer = masked_layer(
        weight & (random.random(weight.shape) < 0.7), inputs & (random.random(inputs.shape) < 0.7), **options
    )
    small = machine(3, 2, fill=2)
    assert sum(small.array_cycles(fewer).values()) <= sum(small.array_cycles(layer).values())


@given(layer=layers(), balance=st.sampled_from(BALANCES), sides=st.sampled_from(SIDES))
def test_what_holds_for_every_layer(layer, balance, sides):
    small = machine(2, 3, balance, sides=sides, dram_bytes_per_cycle=2, weight_kb=1, input_kb=1)
    trace = small.simulate(layer)
    assert trace.cycles * small.units >= trace.macs
    nonzeros = int(layer.weight_mask.sum() + layer.mask.sum()) + layer.output_nonzeros
    assert trace.bytes_by["dram"] >= nonzeros
    faster = replace(small, dram_bytes_per_cycle=4).simulate(layer)
    assert faster.cycles <= trace.cycles
    other = replace(small, costs=ACCELERGY45).simulate(layer)
    assert (other.cycles_by, other.bytes_by) == (trace.cycles_by, trace.bytes_by)


def test_bytes_by_hand():
    # Weights: 2 filters of 1 x 2 kernels over 64 channels are 4 chunks of 64 + 32 bits, and 12 values of 8 bits.
    # Inputs: 2 positions of one chunk, 128 values. Outputs: 2 values in one chunk, both taken to be there.
    layer = window(filters((10, 0), (0, 2)))
    trace = machine(1, 2).simulate(layer)
    assert trace.bytes_by["dram"] * 8 == (4 * 96 + 12 * 8) + (2 * 96 + 128 * 8) + (96 + 2 * 8)
    one = machine(1, 2, sides="one").simulate(layer)
    assert one.bytes_by["dram"] * 8 == 256 * 8 + (2 * 96 + 128 * 8) + (96 + 2 * 8)
    none = machine(1, 2, sides="none").simulate(layer)
    assert none.bytes_by["dram"] == 256 + 128 + 2


def test_energy_by_hand():
    trace = machine(1, 2).simulate(two_positions())
    # 9 products, no empty join.
    assert trace.energy_by["multipliers"] == pytest.approx(9 * 0.3)
    assert trace.energy_by["joins"] == pytest.approx(9 * 1.5)
    assert trace.energy_by["registers"] == pytest.approx(9 * 64 * 0.009)
    # Each of 4 joins reads a mask of 64 bits from its unit's KB, each product two bytes; 1 KB is half of 2 KB.
    access = 2.23 * 1.7 * 0.5**0.48
    assert trace.energy_by["units"] == pytest.approx((4 * 64 + 9 * 16) / 64 * access)
    empty = machine(2, 2).simulate(HAND["nothing"][1])
    assert empty.energy_by["joins"] == pytest.approx(3 * 4 * 1.5)
    assert "multipliers" not in empty.energy_by
    assert "joins" not in machine(1, 2, sides="none").simulate(two_positions()).energy_by


@given(words=st.lists(st.integers(0, 2**64 - 1), min_size=1, max_size=20))
def test_popcount_with_and_without_numpys_own(words):
    array = np.array(words, np.uint64)
    want = [word.bit_count() for word in words]
    assert bits.popcount(array).tolist() == want
    assert bits._popcount(array).tolist() == want


def test_positions_are_dealt_in_contiguous_parts():
    assert per_cluster(np.array([1, 2, 3, 4, 5]), 2).tolist() == [6, 9]
    assert per_cluster(np.array([1, 2]), 3).tolist() == [1, 2, 0]


@pytest.mark.parametrize(
    ("fields", "complaint"),
    [
        ({"clusters": 0}, "machine 'sparten': clusters is 0"),
        ({"chunk": 100}, "chunk is 100; it must be a multiple of 64"),
        ({"fill": -1}, "fill is -1; it must be a whole number of at least 0"),
        ({"balance": "greedy"}, "balance is 'greedy'; it must be one of none, software, hybrid"),
        ({"sides": 2}, "sides is 2; it must be one of two, one, none"),
        ({"join_picojoules": math.nan}, "join_picojoules is nan"),
    ],
)
def test_bad_descriptions_are_refused(fields, complaint):
    with pytest.raises(MachineError, match=complaint):
        replace(machine_named("sparten"), **fields)


def test_dilation_is_counted():
    random = np.random.default_rng(0)
    layer = masked_layer(random.random((3, 2, 2, 2)) < 0.6, random.random((1, 2, 5, 5)) < 0.6, dilation=(2, 2))
    assert machine(1, 2).work(layer).products == layer.effective_macs
