"""Drawn linear layers on machines that have their weights: what is left out, densities, sweeps, and sensitivities."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from dovetail.accelerators.eie import Eie
from dovetail.accelerators.linear_layers import permuted, resident, scattered, sways, sweep, vectors
from dovetail.accelerators.machine import Machine, machine_named
from dovetail.accelerators.permdnn import Permdnn
from dovetail.errors import MachineError

EIE, PERMDNN = machine_named("eie"), machine_named("permdnn")
X = vectors(120, 0.5, 3, seed=0)
OURS, RIVAL = permuted("x", 200, 4, X, seed=1), scattered("x", 200, 0.2, X, seed=2)


def test_what_is_drawn_has_the_densities():
    assert X.shape == (3, 120, 1, 1)
    assert X.dtype == np.bool_
    many = vectors(5000, 0.3, 4, seed=0)
    assert many.mean() == pytest.approx(0.3, abs=0.01)
    assert scattered("x", 100, 0.2, many[:1], seed=0).weight_mask.mean() == pytest.approx(0.2, abs=0.01)
    assert OURS.weight_mask.mean() == pytest.approx(1 / 4)
    assert (vectors(120, 0.5, 3, seed=0) == X).all()
    assert (vectors(120, 1, 1, seed=3)).all()


@pytest.mark.parametrize(("machine", "layer"), [(PERMDNN, OURS), (EIE, RIVAL)], ids=["permdnn", "eie"])
def test_weights_are_there_and_memory_never_waits(machine: Machine, layer):
    cost, trace = resident(machine, layer), machine.simulate(layer)
    assert cost.cycles == sum(machine.array_cycles(layer).values())  # type: ignore[attr-defined]
    assert cost.fill == trace.cycles_by["fill"]
    assert cost.seconds == cost.cycles / machine.clock_hz
    assert cost.used == pytest.approx(trace.macs / machine.units / cost.cycles)
    assert 0 < cost.joules < trace.joules
    slow = replace(machine, dram_bytes_per_cycle=0.01, dram="ddr3")
    assert resident(slow, layer) == cost
    # A network that is loaded once and asked twice writes its weights once: what is left is for each vector.
    both = replace(layer, input=np.concatenate([layer.input, layer.input]))
    twice = resident(machine, both)
    assert (twice.cycles, twice.used) == (2 * cost.cycles, pytest.approx(cost.used))
    assert twice.joules == pytest.approx(2 * cost.joules)


def test_a_sweep_takes_every_count_one_column_at_a_time_and_several():
    assert isinstance(PERMDNN, Permdnn)
    swept = list(sweep(PERMDNN, OURS, (8, 100)))
    assert [(machine.elements, machine.multi_column) for machine, _ in swept] == [
        (8, False),
        (100, False),
        (8, True),
        (100, True),
    ]
    few, many, _, several = (cost.cycles - cost.fill for _, cost in swept)
    # 25 rows of size 4 are 7 numbers, 2 rows one: a cycle each; of these, eight together.
    assert few == many == X.sum()
    assert several == sum(-(-int(each) // 8) for each in X.sum(axis=(1, 2, 3)))


def test_sways_by_hand():
    found = {
        (sway.of, sway.field): sway
        for sway in sways({"ours": PERMDNN, "theirs": EIE}, [{"ours": OURS, "theirs": RIVAL}], ("recalled", "chosen"))
    }
    ours, theirs = resident(PERMDNN, OURS), resident(EIE, RIVAL)
    assert isinstance(EIE, Eie)
    half = resident(replace(EIE, elements=32), RIVAL)
    sway = found["theirs", "elements"]
    assert sway.value == 64
    assert sway.time[0] == pytest.approx(half.seconds / theirs.seconds)
    assert sway.energy[0] == pytest.approx(half.joules / theirs.joules)
    # A ratio falls where the first machine takes longer.
    assert isinstance(PERMDNN, Permdnn)
    narrow = resident(replace(PERMDNN, multipliers=1), OURS)
    assert narrow.cycles > ours.cycles
    narrow = resident(replace(PERMDNN, multipliers=4), OURS)
    assert found["ours", "multipliers"].time[0] == pytest.approx(ours.seconds / narrow.seconds)
    assert not {field for _, field in found} & {"clock_hz", "dram_bytes_per_cycle", "bits", "costs.sram_factor"}


def test_a_machine_that_cannot_be_has_no_factor():
    # No memory has half a kilobyte of weights, nor 32 banks of 32 bytes.
    small = replace(PERMDNN, weight_kb=1, weight_banks=16)
    small = small.sourced(("weight_kb weight_banks", "chosen", ""))
    found = {
        sway.field: sway
        for sway in sways({"ours": small, "theirs": EIE}, [{"ours": OURS, "theirs": RIVAL}], ("chosen",))
    }
    assert found["weight_kb"].time[0] is None
    assert found["weight_banks"].time[1] is None
    assert found["weight_banks"].time[0] == 1.0


def test_no_vectors_are_refused():
    with pytest.raises(MachineError, match="0 vectors are none; draw at least one"):
        vectors(4, 0.5, 0, seed=0)
    with pytest.raises(MachineError, match="a density is a number from 0 to 1"):
        vectors(4, 1.5, 1, seed=0)
