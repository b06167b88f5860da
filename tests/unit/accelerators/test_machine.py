"""Descriptions are checked when made and say where their values are from; traces add up and survive JSON."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest

from accelerator_cases import dense_layer
from dovetail.accelerators import machine as registry
from dovetail.accelerators.energy import ACCELERGY45, ISSCC45
from dovetail.accelerators.machine import MACHINES, Machine, machine_named, register
from dovetail.accelerators.memory import Traffic, chained, refetch, with_memory
from dovetail.accelerators.parameters import flag, markdown, one_of, share, whole
from dovetail.accelerators.trace import Charge, Trace, total
from dovetail.accelerators.workload import Workload
from dovetail.errors import DovetailError, MachineError


@dataclass(frozen=True, kw_only=True)
class Toy(Machine):
    """One multiply-accumulate per unit and cycle."""

    lanes: int = whole("multipliers")
    idle: float = share("of all cycles", default=0.0)
    mode: str = one_of("how", ("fast", "slow"), default="fast")
    gating: bool = flag("skips zeros", default=True)

    @property
    def units(self) -> int:
        return self.lanes

    def simulate(self, layer: Workload) -> Trace:
        self.require_undilated(layer)
        macs = layer.dense_macs
        cost = self.costs.mac(8, 8, 32)
        charge = Charge("multipliers", "MAC", macs, cost.picojoules, cost.source)
        cycles = with_memory({"compute": -(-macs // self.lanes)}, 8 * macs, 64, self.dram_bytes_per_cycle)
        return self.trace(layer, cycles, {"dram": macs}, [charge, self.dram_charge(8 * macs)], macs)


TOY = Toy(name="toy", lanes=4, clock_hz=1e9, node_nm=45, dram_bytes_per_cycle=2.0)


@pytest.mark.parametrize(
    ("fields", "complaint"),
    [
        ({"lanes": 0}, "machine 'toy': lanes is 0; it must be a whole number of at least 1"),
        ({"lanes": 2.0}, "lanes is 2.0; it must be a whole number"),
        ({"lanes": True}, "lanes is True; it must be a whole number"),
        ({"dram_bytes_per_cycle": -1}, "dram_bytes_per_cycle is -1; it must be a finite number above 0"),
        ({"clock_hz": math.nan}, "clock_hz is nan; it must be a finite number above 0"),
        ({"clock_hz": math.inf}, "clock_hz is inf"),
        ({"node_nm": "45"}, "node_nm is '45'"),
        ({"idle": 1.01}, "idle is 1.01; it must be a number from 0 to 1"),
        ({"mode": "warm"}, "mode is 'warm'; it must be one of fast, slow"),
        ({"gating": 1}, "gating is 1; it must be True or False"),
        ({"dram": "ddr9"}, "dram is 'ddr9'; it must be one of ddr3, ddr4"),
        ({"costs": "isscc45"}, "costs is 'isscc45'; it must be a CostSet"),
    ],
)
def test_bad_descriptions_are_refused(fields, complaint):
    with pytest.raises(MachineError, match=complaint):
        replace(TOY, **fields)


def test_the_error_is_one_of_dovetails():
    assert issubclass(MachineError, DovetailError)


def test_provenance_follows_the_value_not_the_field():
    known = TOY.sourced(("lanes mode", "paper", "table 1"), ("clock_hz", "recalled", ""))
    rows = {row.field: row for row in known.provenance()}
    assert (rows["lanes"].mark, rows["lanes"].note, rows["lanes"].value) == ("paper", "table 1", 4)
    assert (rows["clock_hz"].mark, rows["clock_hz"].unit) == ("recalled", "Hz")
    assert rows["gating"].mark == "given"
    changed = {row.field: row.mark for row in replace(known, lanes=8).provenance()}
    assert (changed["lanes"], changed["mode"]) == ("given", "paper")
    lines = markdown(known.provenance()).splitlines()
    assert "| `lanes` | 4 | multipliers | paper, table 1 |" in lines
    assert "| `clock_hz` | 1,000,000,000 Hz | clock | recalled |" in lines
    assert "| `costs` | isscc45 | energies of events | given |" in lines


def test_sources_name_known_fields_and_marks():
    with pytest.raises(MachineError, match="machine 'toy' has no parameter 'lane'; it has clock_hz"):
        TOY.sourced(("lane", "paper", ""))
    with pytest.raises(MachineError, match="unknown mark 'guessed'; known are paper, repo"):
        TOY.sourced(("lanes", "guessed", ""))


def test_registry(monkeypatch):
    monkeypatch.setattr(registry, "MACHINES", {})
    assert register(TOY) is TOY
    assert machine_named("toy") is TOY
    with pytest.raises(MachineError, match="machine 'toy' is registered already"):
        register(TOY)
    with pytest.raises(MachineError, match="unknown machine 'tay'; known are toy"):
        machine_named("tay")
    with pytest.raises(MachineError, match="is no Machine"):
        register("toy")


def test_a_trace_by_hand():
    trace = TOY.simulate(dense_layer(3, 2, (1, 1), (2, 2)))
    # 24 MACs on 4 units: 6 cycles. 24 bytes at 2 a cycle: 12, of which 6 show. 8 bytes first: 4.
    assert trace.cycles_by == {"compute": 6, "memory": 6, "first load": 4}
    assert trace.cycles == 16
    assert trace.seconds == 16e-9
    assert trace.utilisation == 24 / (4 * 16)
    assert trace.energy_by == {"multipliers": pytest.approx(24 * 0.3), "dram": 24 * 8 * 8}
    assert trace.joules == pytest.approx(sum(trace.energy_by.values()) * 1e-12)


def test_leakage_and_control_come_on_top_of_what_is_on_the_chip():
    machine = replace(TOY, costs=replace(ISSCC45, leakage=0.1, control=0.2))
    energy = machine.simulate(dense_layer(3, 2, (1, 1), (2, 2))).energy_by
    assert energy["leakage"] == pytest.approx(0.1 * 24 * 0.3)
    assert energy["control"] == pytest.approx(0.2 * 24 * 0.3)


def test_costs_never_change_cycles():
    layer = dense_layer(3, 2, (1, 1), (2, 2))
    trace, other = TOY.simulate(layer), replace(TOY, costs=ACCELERGY45).simulate(layer)
    assert (trace.cycles_by, trace.bytes_by) == (other.cycles_by, other.bytes_by)
    assert trace.joules != other.joules


def test_traces_add_up():
    one, two = (TOY.simulate(dense_layer(k, 2, (1, 1), (2, 2))) for k in (3, 5))
    both = total([one, two], "net")
    assert both.layer == "net"
    assert both.cycles == one.cycles + two.cycles
    assert both.bytes_by == {"dram": 24 + 40}
    assert both.macs == 24 + 40
    assert both.joules == pytest.approx(one.joules + two.joules)
    assert len(both.charges) == 2  # the same events at the same price are one row
    assert total([one]) == replace(one, layer="total")
    assert total([replace(one, additions=3), replace(two, additions=4)]).additions == 7


def test_traces_of_several_machines_do_not():
    trace = TOY.simulate(dense_layer(3, 2, (1, 1), (2, 2)))
    with pytest.raises(MachineError, match="no traces to add up"):
        total([])
    with pytest.raises(MachineError, match="'toy' and 'other' are of machines that differ"):
        total([trace, replace(trace, machine="other")])


def test_json_round_trip():
    trace = TOY.simulate(dense_layer(3, 2, (1, 1), (2, 2)))
    assert Trace.from_json(json.loads(json.dumps(trace.to_json()))) == trace
    for wrong in ({}, [], {**trace.to_json(), "more": 1}):
        with pytest.raises(MachineError, match="a trace has the fields additions, bytes_by, charges"):
            Trace.from_json(wrong)
    with pytest.raises(MachineError, match="this is no trace"):
        Trace.from_json({**trace.to_json(), "charges": [{"part": "x"}]})
    with pytest.raises(MachineError, match="unknown cause of cycles boredom"):
        Trace.from_json({**trace.to_json(), "cycles_by": {"boredom": 1}})
    with pytest.raises(MachineError, match="cycles of compute must be whole numbers"):
        Trace.from_json({**trace.to_json(), "cycles_by": {"compute": -1}})


def test_dilation_is_refused_by_name():
    layer = dense_layer(1, 1, (2, 2), (5, 5), dilation=(2, 2))
    with pytest.raises(MachineError, match=r"layer 'layer' has a dilation of \(2, 2\); machine 'toy'"):
        TOY.simulate(layer)


@pytest.mark.parametrize(
    ("sizes", "traffic"),
    [
        ((10, 90, 5, 10, 20), Traffic(10, 90, 5)),  # the weights fit: everything once
        ((90, 20, 5, 10, 20), Traffic(90, 20, 5)),  # the inputs fit
        # Neither fits: weights in 3 parts read 30 + 3 * 50 = 180; inputs in 2 parts 50 + 2 * 30 = 110.
        ((30, 50, 5, 10, 25), Traffic(60, 50, 5)),
        # Weights in 2 parts: 20 + 2 * 50 = 120; inputs in 5 parts: 50 + 5 * 20 = 150.
        ((20, 50, 5, 10, 10), Traffic(20, 100, 5)),
        ((0, 50, 5, 10, 10), Traffic(0, 50, 5)),
    ],
)
def test_refetch(sizes, traffic):
    assert refetch(*sizes) == traffic


def test_outputs_that_fit_stay_on_the_chip():
    # 8 bits: 8 + 12 values of the first layer fit 20 bytes, 12 + 16 of the second do not.
    layers = [dense_layer(k, c, (1, 1), (2, 2)) for c, k in ((2, 3), (3, 4), (4, 1))]
    kept = chained(layers, 160, 8)
    assert [(layer.input_on_chip, layer.output_on_chip) for layer in kept] == [
        (False, True),
        (True, False),
        (False,) * 2,
    ]
    assert not any(layer.output_on_chip for layer in chained(layers, 159, 8))
    with pytest.raises(MachineError, match="reads 12 values, but 'layer' gives 4"):
        chained([layers[2], layers[1]], 160, 8)


def test_every_registered_machine_says_where_its_values_are_from():
    for machine in MACHINES.values():
        assert [row.field for row in machine.provenance() if row.mark == "given"] == [], machine.name
        assert machine_named(machine.name) is machine


def test_a_trace_takes_plain_numbers_only():
    trace = TOY.simulate(dense_layer(3, 2, (1, 1), (2, 2)))
    with pytest.raises(MachineError, match="cycles of compute must be whole numbers"):
        replace(trace, cycles_by={"compute": np.float64(1.5)})


DOCS = Path(__file__).resolve().parents[3] / "docs" / "accelerators"


@pytest.mark.parametrize("name", MACHINES)
def test_a_page_shows_the_parameters_of_each_machine(name):
    table = markdown(machine_named(name).provenance())
    pages = [page for page in DOCS.glob("*.md") if f"`{name}`:\n\n{table}\n" in page.read_text()]
    assert len(pages) == 1
    assert f"`{name}`" in (DOCS / "index.md").read_text()
    assert f"accelerators/{pages[0].name}" in (DOCS.parents[1] / "mkdocs.yml").read_text()
