"""Machines of one size are of one size."""

from __future__ import annotations

from dataclasses import replace

import pytest

from dovetail.accelerators import machine_named, of_common_size
from dovetail.accelerators.common_size import (
    BANDWIDTH,
    BITS,
    CLOCK,
    MAP_KB,
    NODE,
    SHARED,
    STANDS_FOR,
    UNITS,
    WEIGHT_KB,
    differences,
)
from dovetail.errors import MachineError

COMMON = ("cambricon-x-1024", "cnvlutin-1024", "dadiannao-1024", "eyeriss-1024", "scnn", "sparten", "systolic-1024")


@pytest.mark.parametrize("name", COMMON)
def test_each_has_the_multipliers_clock_node_widths_and_memories(name):
    machine = machine_named(name)
    assert (machine.units, machine.clock_hz, machine.node_nm) == (UNITS, CLOCK, NODE)
    assert (machine.dram_bytes_per_cycle, machine.dram, machine.bits) == (BANDWIDTH, "lpddr4", BITS)
    assert machine.kept_values == MAP_KB * 1024 * 8 // BITS
    weights = {"eyeriss-1024": "filter_kb"}.get(name, "weight_kb")
    elements = getattr(machine, "elements", 1)
    assert getattr(machine, weights) * elements == WEIGHT_KB
    assert of_common_size(machine) is machine


@pytest.mark.parametrize("name", COMMON)
def test_what_is_shared_is_that_of_escalate(name):
    machine, other = machine_named(name), machine_named("escalate")
    assert [field for field in SHARED if getattr(machine, field) != getattr(other, field)] == []


@pytest.mark.parametrize("name", sorted(STANDS_FOR))
def test_a_variant_is_the_same_kind_of_machine(name):
    machine, variant = machine_named(name), of_common_size(machine_named(name))
    assert type(variant) is type(machine)
    assert variant.name in COMMON
    assert variant != machine


@pytest.mark.parametrize(("name", "complaint"), [("tpu-v1", "65,536 multipliers instead of 1,024"), ("eie", "64 mult")])
def test_a_machine_of_another_size_without_a_variant_is_refused(name, complaint):
    with pytest.raises(MachineError, match=f"machine '{name}' has {complaint}.*, and no variant of the common size"):
        of_common_size(machine_named(name))


def test_the_common_size_has_a_little_room():
    assert differences(replace(machine_named("systolic-1024"), rows=36)) == []  # 1152
    assert differences(replace(machine_named("systolic-1024"), rows=37)) == ["1,184 multipliers instead of 1,024"]
    slow = replace(machine_named("scnn"), clock_hz=400e6, node_nm=28)
    assert differences(slow) == ["400 instead of 800 MHz", "28 instead of 45 nm"]
