"""What every registered machine keeps to: a new one is tested without writing a test."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from accelerator_cases import dense_layer, layers, masked_layer
from dovetail.accelerators import ACCELERGY45, MACHINES, Trace, Workload, as_convolutions, machine_named, total
from programs import random_packed

NAMES = sorted(MACHINES)


def decomposed(name: str, **fields: int) -> Workload:
    random = np.random.default_rng(0)
    packed = random_packed(name, (8, 6, 3, 3), random, **fields)
    return Workload("x", packed, random.random((1, 6, 9, 9)) < 0.5, padding=(1, 1, 1, 1))


def ternary_linear() -> Workload:
    random = np.random.default_rng(0)
    packed = random_packed("kernel_basis", (8, 70), random, bases=1, coefficients="ternary")
    return Workload("x", packed, random.random((2, 70, 1, 1)) < 0.5)


@pytest.mark.parametrize("name", NAMES)
def test_traces_are_plain_data(name):
    trace = machine_named(name).simulate(dense_layer(5, 4, (3, 3), (6, 6), padding=(1, 1, 1, 1)))
    data = json.loads(json.dumps(trace.to_json()))
    assert Trace.from_json(data) == trace
    assert trace.machine == name
    assert all(charge.source for charge in trace.charges)
    assert trace.joules == pytest.approx(1e-12 * math.fsum(c.count * c.picojoules for c in trace.charges))


@pytest.mark.parametrize("name", NAMES)
@given(layer=layers(), faster=st.sampled_from([1.5, 100.0]))
def test_invariants(name, layer, faster):
    machine = machine_named(name)
    trace = machine.simulate(layer)
    assert trace.cycles * machine.units >= trace.macs + trace.gated_macs
    assert trace.macs + trace.gated_macs <= layer.dense_macs
    assert layer.effective_macs <= trace.macs + trace.gated_macs + trace.additions
    assert trace.utilisation <= 1
    assert all(n >= 0 for n in trace.bytes_by.values())
    assert trace.cycles >= trace.bytes_by["dram"] / machine.dram_bytes_per_cycle
    quick = replace(machine, dram_bytes_per_cycle=faster * machine.dram_bytes_per_cycle).simulate(layer)
    assert quick.cycles <= trace.cycles
    assert quick.bytes_by == trace.bytes_by
    other = replace(machine, costs=ACCELERGY45).simulate(layer)
    assert (other.cycles_by, other.bytes_by, other.macs) == (trace.cycles_by, trace.bytes_by, trace.macs)


@pytest.mark.parametrize("name", NAMES)
def test_what_is_left_on_the_chip_does_not_cross_its_border(name):
    layer = dense_layer(5, 4, (3, 3), (6, 6), padding=(1, 1, 1, 1))
    kept = replace(layer, input_on_chip=True, output_on_chip=True)
    alone, between = (machine_named(name).simulate(one) for one in (layer, kept))
    assert between.bytes_by["dram"] < alone.bytes_by["dram"]
    assert between.bytes_by["dram"] >= 5 * 4 * 9 / 2  # the weights, in 4 bits at least
    assert between.cycles <= alone.cycles


@pytest.mark.parametrize("name", NAMES)
def test_two_images_take_about_twice_what_one_takes(name):
    one, two = (dense_layer(16, 8, (3, 3), (16, 16), images=images) for images in (1, 2))
    ratio = machine_named(name).simulate(two).cycles / machine_named(name).simulate(one).cycles
    assert 1 <= ratio <= 2.1


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    "layer",
    [
        decomposed("kernel_basis", bases=3),
        ternary_linear(),
        decomposed("tucker", rank_in=3, rank_out=4),
        dense_layer(16, 1, (3, 3), (8, 8), groups=16),  # depthwise
        dense_layer(10, 40, (1, 1), (1, 1), images=3),  # linear
        masked_layer(np.ones((3, 2, 3, 3)), np.zeros((1, 2, 5, 5))),  # nothing to read
    ],
    ids=["kernel basis", "ternary linear", "Tucker", "depthwise", "linear", "zeros"],
)
def test_every_kind_of_layer_runs_whole_and_in_parts(name, layer):
    machine = machine_named(name)
    parts = as_convolutions(layer)
    trace = total(machine.simulate(part) for part in parts)
    assert trace.macs <= sum(part.dense_macs for part in parts)
    assert machine.simulate(layer).macs <= layer.dense_macs
    assert trace.cycles > 0
