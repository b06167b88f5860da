"""Published chips: the projection gives the figures that the PermDNN paper compares with, and so do the ratios."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from dovetail.accelerators.chips import (
    CIRCNN_CHIP,
    EIE_CHIP,
    PERMDNN_CHIP,
    PERMDNN_POWER,
    PERMDNN_SYNTHESISED,
    projected,
)
from dovetail.accelerators.draw import drawn
from dovetail.accelerators.machine import machine_named
from dovetail.errors import MachineError


def test_eie_at_28_nm():
    # Published: 1285 MHz, 15.7 mm2, 590 mW. 800 x 45 / 28 = 1285.7; 40.8 x (28 / 45)^2 = 15.8.
    chip = EIE_CHIP.projected(28)
    assert chip.clock_hz == pytest.approx(1285e6, rel=0.001)
    assert chip.area_mm2 == pytest.approx(15.7, rel=0.01)
    assert (chip.watts, chip.node_nm) == (EIE_CHIP.watts, 28)


def test_circnn_at_28_nm():
    # Published: 320 MHz, 1.28 TOPS, 16.0 TOPS/W, each within 2 %.
    chip = CIRCNN_CHIP.projected(28)
    assert chip.clock_hz == pytest.approx(320e6, rel=0.02)
    assert chip.equivalent == pytest.approx(1.28e12, rel=0.02)
    assert chip.equivalent / chip.watts == pytest.approx(16.0e12, rel=0.02)
    assert chip.area_mm2 is None


def test_a_projection_and_back():
    there = EIE_CHIP.projected(28).projected(45)
    assert replace(there, name="EIE").clock_hz == pytest.approx(EIE_CHIP.clock_hz)
    assert there.area_mm2 == pytest.approx(EIE_CHIP.area_mm2)
    assert EIE_CHIP.projected(45).clock_hz == EIE_CHIP.clock_hz


def test_the_power_of_permdnn_is_the_sum_of_its_parts():
    # 32 x 21.874 mW + 3.4 mW = 703.37 mW; idle, registers and the clock are left: 32 x 7.819 mW + 3.4 mW = 253.6 mW.
    assert PERMDNN_POWER.watts() == pytest.approx(PERMDNN_CHIP.watts, rel=1e-3)
    assert PERMDNN_POWER.watts(0) == pytest.approx(0.253608)
    assert PERMDNN_POWER.watts(0.5) == pytest.approx((PERMDNN_POWER.watts(0) + PERMDNN_POWER.watts(1)) / 2)
    assert PERMDNN_CHIP.joules(2.0) == pytest.approx(1.4068)


def test_ratios_that_follow_from_published_figures():
    # Throughput 3.3 to 4.8 goes with area efficiency 5.9 to 8.5 and energy efficiency 2.8 to 4.0, each within 3 %.
    eie = EIE_CHIP.projected(28)
    for area, energy, time in ((5.9, 2.8, 3.3), (8.5, 4.0, 4.8)):
        assert eie.area_mm2 / PERMDNN_CHIP.area_mm2 == pytest.approx(area / time, rel=0.03)
        assert eie.watts / PERMDNN_CHIP.watts == pytest.approx(energy / time, rel=0.03)
    # Against CirCNN 11.51 and 3.89: of figures after synthesis, within 1 and 2 %.
    circnn = CIRCNN_CHIP.projected(28)
    assert PERMDNN_CHIP.equivalent / circnn.equivalent == pytest.approx(11.51, rel=0.01)
    efficiency = PERMDNN_SYNTHESISED.equivalent / PERMDNN_SYNTHESISED.watts
    assert efficiency / (circnn.equivalent / circnn.watts) == pytest.approx(3.89, rel=0.02)


def test_a_machine_at_another_node_takes_the_same_cycles():
    eie = machine_named("eie")
    small = projected(eie, 28)
    layer = drawn("x", (80, 60, 1, 1), (1, 1), weight_density=0.2, input_density=0.5, seed=0)
    assert small.simulate(layer).cycles == eie.simulate(layer).cycles
    assert small.simulate(layer).seconds * 45 == pytest.approx(eie.simulate(layer).seconds * 28)
    assert small.name == "eie at 28 nm"
    assert {row.mark for row in small.provenance() if row.field in ("node_nm", "clock_hz")} == {"given"}


@pytest.mark.parametrize("node", [0, -28, math.nan, math.inf])
def test_nodes_that_are_none_are_refused(node):
    with pytest.raises(MachineError, match="a process node is a finite number of nanometres above 0"):
        EIE_CHIP.projected(node)
    with pytest.raises(MachineError, match="a process node"):
        projected(machine_named("eie"), node)


def test_figures_that_are_none_are_refused():
    with pytest.raises(MachineError, match="chip 'EIE': watts is 0; it must be a finite number above 0"):
        replace(EIE_CHIP, watts=0)
    with pytest.raises(MachineError, match="area_mm2 is nan"):
        replace(EIE_CHIP, area_mm2=math.nan)
    with pytest.raises(MachineError, match="this breakdown of power: elements is 0"):
        replace(PERMDNN_POWER, elements=0)
    with pytest.raises(MachineError, match=r"from 0 to 1, not 1\.5"):
        PERMDNN_POWER.watts(1.5)
