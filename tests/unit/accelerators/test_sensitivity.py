"""Parameters halved and doubled: which ones, with what values, and what a change does, by hand."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace

import numpy as np
import pytest

from dovetail.accelerators import MACHINES, Machine, Trace, Workload, machine_named, sensitivity
from dovetail.accelerators.parameters import flag, one_of, positive, share, whole
from dovetail.accelerators.sensitivity import variations
from dovetail.accelerators.simulation import recorded
from dovetail.errors import MachineError
from dovetail.program.program import Program
from programs import Sketch, random_packed


@dataclass(frozen=True, kw_only=True)
class Toy(Machine):
    """`macs / lanes` cycles, and a byte of off-chip memory for each."""

    lanes: int = whole("multipliers")
    odd: int = whole("for nothing", default=5)
    one: int = whole("for nothing, too", default=1)
    most: float = share("a share", default=0.75)
    scale: float = positive("of the cycles", default=1.0)
    mode: str = one_of("a name: b takes twice the cycles", ("a", "b"), default="a")
    gating: bool = flag("a flag", default=True)
    kind: str = one_of("one of three", ("x", "y", "z"), default="x")

    @property
    def units(self) -> int:
        return self.lanes

    def simulate(self, layer: Workload) -> Trace:
        cycles = int(layer.dense_macs * self.scale) // self.lanes * (2 if self.mode == "b" else 1)
        return self.trace(layer, {"compute": cycles}, {"dram": cycles}, [self.dram_charge(8 * cycles)], 0)


CHOSEN = (("lanes odd one most scale mode gating kind costs", "chosen", ""),)
TOY = Toy(name="toy", lanes=4, clock_hz=1e9, node_nm=45, dram_bytes_per_cycle=1).sourced(
    *CHOSEN,
    ("clock_hz node_nm", "paper", ""),
    ("dram", "repo", ""),
)


def network() -> tuple[Program, np.ndarray]:
    sketch = Sketch(0)
    y = sketch.add("linear", sketch.input("batch", 16), packed=random_packed("dense", (8, 16), sketch.random))
    return sketch.program(y), np.ones((1, 16), np.float32)


def test_the_effects_by_hand():
    # 128 multiply-accumulates on 4 lanes: 32 cycles, 32 bytes, 8 pJ a bit: 2048 pJ.
    effects = {effect.field: effect for effect in sensitivity(TOY, recorded(*network()))}
    lanes, scale, dram = effects["lanes"], effects["scale"], effects["costs.dram_factor"]
    assert (lanes.value, lanes.values, lanes.cycles) == (4, (2, 8), (64, 16))
    assert lanes.joules == pytest.approx((4096e-12, 1024e-12))
    assert (scale.value, scale.values, scale.cycles) == (1.0, (0.5, 2.0), (16, 64))
    assert (dram.value, dram.values, dram.cycles) == (1.0, (0.5, 2.0), (32, 32))
    assert dram.joules == pytest.approx((1024e-12, 4096e-12))
    assert effects["costs.sram_factor"].joules == pytest.approx((2048e-12, 2048e-12))
    assert json.loads(json.dumps(lanes.to_json()))["cycles"] == [64, 16]


def test_what_cannot_be_halved_or_doubled_says_so():
    effects = {effect.field: effect for effect in sensitivity(TOY, recorded(*network()))}
    assert effects["odd"].values == (2, 10)
    assert (effects["one"].values, effects["one"].cycles) == ((None, 2), (None, 32))
    assert (effects["most"].values, effects["most"].joules[1]) == ((0.375, None), None)


def test_a_node_without_known_energies_is_left_out():
    machine = machine_named("systolic")
    effects = {effect.field: effect for effect in sensitivity(machine, recorded(*network()))}
    assert effects["node_nm"].values == (22.5, None)
    assert effects["node_nm"].joules[0] is not None


def test_what_is_one_of_a_few_is_changed_for_the_others():
    by_field = {variation.field: variation for variation in variations(replace(TOY, mode="b").sourced(*CHOSEN))}
    mode, gating, kind = by_field["mode"], by_field["gating"], by_field["kind"]
    assert (mode.value, mode.halved.mode, mode.doubled) == ("b", "a", None)
    assert (gating.value, gating.halved.gating, gating.doubled) == (True, False, None)
    assert (kind.value, kind.halved.kind, kind.doubled.kind) == ("x", "y", "z")
    effects = {effect.field: effect for effect in sensitivity(TOY, recorded(*network()))}
    assert (effects["mode"].values, effects["mode"].cycles) == (("b", None), (64, None))
    assert json.loads(json.dumps(effects["gating"].to_json()))["values"] == [False, None]


def test_what_has_the_marks_is_varied():
    fields = [variation.field for variation in variations(TOY)]
    assert fields == [
        *("costs.sram_factor", "costs.dram_factor", "costs.gated"),
        *("lanes", "odd", "one", "most", "scale", "mode", "gating", "kind"),
    ]
    assert [variation.field for variation in variations(TOY, ("paper",))] == ["clock_hz", "node_nm"]
    with pytest.raises(MachineError, match="unknown mark 'guessed'; known are paper, repo"):
        list(variations(TOY, ("guessed",)))


def test_each_parameter_is_told():
    told: list[str] = []
    sensitivity(TOY, recorded(*network()), report=told.append)
    assert told[0] == "toy: costs.sram_factor halved and doubled"
    assert len(told) == 11


@pytest.mark.parametrize("name", sorted(MACHINES))
def test_every_machine_can_be_varied(name):
    machine = machine_named(name)
    for variation in variations(machine, ("chosen", "recalled")):
        for other in (variation.halved, variation.doubled):
            assert other is None or type(other) is type(machine)
        assert variation.halved != machine
        assert variation.doubled is not None or isinstance(variation.value, bool | str) or variation.value > 0.5


def test_faster_memory_is_never_slower():
    machine = replace(machine_named("sparten"), dram_bytes_per_cycle=0.25).sourced(
        ("dram_bytes_per_cycle", "chosen", "")
    )
    (effect,) = sensitivity(machine, recorded(*network()))
    assert effect.cycles[0] > effect.cycles[1]
