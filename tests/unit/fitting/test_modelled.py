"""Formats by cycles and energy on the model of a machine."""

from __future__ import annotations

from dataclasses import replace
from unittest.mock import Mock

import pytest
import torch
from torch import nn

from dovetail.accelerators import identity, machine_named, simulation
from dovetail.engine import native_status
from dovetail.errors import BudgetError, DataError, MachineError
from dovetail.fitting import Asked, Modelled, Survey, choose, fit, in_values, modelled_costs, on_machine, open_table
from dovetail.formats import FORMATS, BlockSparseSpec, PackedTucker, TuckerSpec
from dovetail.program.layers import layer_shapes
from dovetail.program.lower import lower
from dovetail.search import Budget

pytestmark = pytest.mark.skipif(not native_status().available, reason="needs the native engine")


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, padding=1)
        self.one = nn.Conv2d(16, 16, 3, padding=1)
        self.two = nn.Conv2d(16, 16, 3, padding=1)
        self.fc = nn.Linear(16, 4)

    def forward(self, x):
        for layer in (self.stem, self.one, self.two):
            x = torch.relu(layer(x))
        return self.fc(x.mean((2, 3)))


@pytest.fixture
def model():
    torch.manual_seed(0)
    return Net().eval()


@pytest.fixture
def dense(model, images):
    return in_values(lower(model, torch.from_numpy(images[:1])), images, int8=True)


@pytest.fixture
def measured(model, images):
    """As if nothing here took any time: only models are asked."""
    shapes = tuple(layer_shapes(lower(model, torch.from_numpy(images[:1]))))
    layers = {name: 0.0 for shape in shapes for name in shape.layers}
    return Survey(shapes, layers, 1.0, 1.0, 1.0, "somebody", 1.0, 1, True, 1e4, 4e4, 1e6)


def plan(model, images, measured, budget, machine, tmp_path, method="block", **more):
    asked = Asked(Budget.parse(budget, 1.0), method, machine=machine)
    modelled = on_machine(asked, model, images, memory=tmp_path / "modelled.json")
    return choose(model, images, asked, measured, table=open_table(1, int8=True), modelled=modelled, **more)


@pytest.mark.parametrize("name", ["roofline", "escalate", "sparten", "eyeriss"])
def test_the_dense_network_is_the_reference(name, dense, images):
    modelled = Modelled.of(machine_named(name), dense, images, int8=True)
    whole = simulation.simulate(dense, on=name, inputs=images[:4])
    assert modelled.references == pytest.approx({"cycles": whole.total.cycles / 4, "energy": whole.total.joules / 4})
    assert modelled_costs(dense, name, images) == pytest.approx(modelled.references)


@pytest.mark.parametrize(
    ("name", "method"), [("roofline", "block"), ("sparten", "magnitude"), ("escalate", "escalate")]
)
@pytest.mark.parametrize("cost", ["cycles", "energy"])
def test_a_plan_keeps_to_the_budget(model, images, measured, tmp_path, name, method, cost):
    found = plan(model, images, measured, f"{cost}=0.7x", name, tmp_path, method)
    assert found.changed
    assert found.predicted[cost] <= 0.7 * found.dense[cost]
    assert found.predicted[cost] == pytest.approx(sum(decision.chosen for decision in found.decisions))


@pytest.mark.parametrize("method", ["block", "magnitude"])
@pytest.mark.parametrize("int8", [True, False])
def test_predicted_costs_are_those_of_the_packed_network(model, images, measured, tmp_path, method, int8):
    """The roofline does not look at inputs: so what training would do to them is no matter."""
    asked = Asked(Budget(cycles="0.95x", accuracy_drop=1), method, machine="roofline", int8=int8)
    modelled = on_machine(asked, model, images)
    table = open_table(1, int8=int8)
    found = choose(model, images, asked, replace(measured, int8=int8), table=table, modelled=modelled)
    assert found.changed
    program = lower(model, torch.from_numpy(images[:1]))
    weights = dict(program.weights)
    for decision in found.changed:
        weights[decision.name] = FORMATS[decision.spec.format].packed.from_dense(
            weights[decision.name].dense(), decision.spec
        )
    came = modelled_costs(in_values(replace(program, weights=weights), images, int8=int8), "roofline", images)
    assert came["cycles"] == pytest.approx(found.predicted["cycles"], rel=0.02)


@pytest.mark.parametrize("spec", [TuckerSpec(rank_in=8, rank_out=4), TuckerSpec(rank_in=16, rank_out=4, fold=True)])
@pytest.mark.parametrize("int8", [True, False])
def test_factors_in_whole_numbers_are_layers_of_their_own(model, images, spec, int8):
    program = lower(model, torch.from_numpy(images[:1]))
    modelled = Modelled.of(machine_named("roofline"), in_values(program, images, int8=int8), images, int8=int8)
    weights = program.weights | {"two": PackedTucker.from_dense(program.weights["two"].dense(), spec)}
    came = modelled_costs(in_values(replace(program, weights=weights), images, int8=int8), "roofline", images)
    change = {cost: modelled.costs("two", spec)[cost] - modelled.costs("two", None)[cost] for cost in came}
    for cost, value in came.items():
        assert value == pytest.approx(modelled.references[cost] + change[cost], rel=0.02), cost


def test_layers_of_one_shape_are_counted_one_by_one(dense, images):
    """Of the same shape, but what they read has other zeros."""
    modelled = Modelled.of(machine_named("sparten"), dense, images, int8=True)
    half = BlockSparseSpec(density=0.5)
    assert modelled.costs("one", half) != modelled.costs("two", half)


def test_cycles_and_bytes_together(model, images, measured, tmp_path):
    found = plan(model, images, measured, "cycles=0.8x,bytes=0.6x", "roofline", tmp_path)
    assert list(found.limits) == ["cycles", "bytes"]
    assert found.predicted["cycles"] <= found.limits["cycles"] == 0.8 * found.dense["cycles"]
    assert found.predicted["bytes"] <= found.limits["bytes"]


def test_a_stopped_search_goes_on(model, images, measured, tmp_path, monkeypatch):
    whole = plan(model, images, measured, "cycles=0.6x", "scnn", tmp_path / "whole")
    ran, run = [], simulation.run

    def stops(machine, layer):
        if len(ran) == 6:
            raise KeyboardInterrupt
        ran.append(layer.name)
        return run(machine, layer)

    monkeypatch.setattr(simulation, "run", stops)
    with pytest.raises(KeyboardInterrupt):
        plan(model, images, measured, "cycles=0.6x", "scnn", tmp_path)
    every = []
    monkeypatch.setattr(simulation, "run", lambda machine, layer: every.append(layer.name) or run(machine, layer))
    assert plan(model, images, measured, "cycles=0.6x", "scnn", tmp_path) == whole
    assert every
    monkeypatch.setattr(simulation, "run", lambda *_: pytest.fail("all of this is known"))
    assert plan(model, images, measured, "cycles=0.5x", "scnn", tmp_path).changed


def test_what_other_models_counted_is_not_taken(dense, images, tmp_path, monkeypatch):
    def counted():
        modelled = Modelled.of(machine_named("roofline"), dense, images, int8=True, memory=tmp_path / "modelled.json")
        modelled.costs("one", None)
        return modelled.table.path

    first = counted()
    assert counted() == first
    monkeypatch.setattr(identity, "code", lambda: "of models that were changed")
    monkeypatch.setattr(simulation, "run", run := Mock(side_effect=simulation.run))
    assert counted() != first
    assert run.called


def test_what_another_machine_counted_is_refused(model, images, measured, tmp_path):
    plan(model, images, measured, "cycles=0.6x", "roofline", tmp_path)
    with pytest.raises(DataError, match="machine is"):
        plan(model, images, measured, "cycles=0.6x", "systolic", tmp_path)


def test_a_machine_that_cannot_run_a_layer_says_so(images):
    class Holes(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 8, 3, padding=2, dilation=2)

        def forward(self, x):
            return self.conv(x).mean((2, 3))

    program = lower(Holes().eval(), torch.from_numpy(images[:1]))
    with pytest.raises(MachineError, match="dilation"):
        Modelled.of(machine_named("scnn"), program, images, int8=False)


def test_a_budget_that_cannot_be_met_names_the_layer(model, images, measured, tmp_path):
    with pytest.raises(
        BudgetError, match=r"cycles of [\d.]+ k? ?\([\d.]+x\) cannot be met: the best that can is [\d.]+"
    ):
        plan(model, images, measured, "cycles=0.001x", "roofline", tmp_path)


def test_the_verb_counts_what_it_trained(model, images, measured, tmp_path, monkeypatch):
    monkeypatch.setattr("dovetail.fitting.fits.survey", lambda *_, **__: measured)
    pictures = torch.from_numpy(images)
    batches = [(pictures, pictures.mean((2, 3)).argmax(1))]
    done = fit(
        model,
        Budget(cycles="0.6x", accuracy_drop=100),
        machine="roofline",
        train=batches,
        validate=batches,
        options={"epochs": 1},
        peers=[],
        costs=tmp_path / "costs.json",
    )
    assert done.found.changed
    assert done.achieved["bounds"] == {"cycles": pytest.approx(0.6 * done.found.dense["cycles"])}
    assert done.achieved["cycles"] == pytest.approx(done.found.predicted["cycles"], rel=0.05)
    assert done.achieved["energy"] > 0
    assert done.met is True
