"""A thinner network as the answer to a budget, on a machine where time goes with multiplications."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from dovetail.engine import native_status
from dovetail.errors import BudgetError, SpecError
from dovetail.fitting import Asked, choose_width, fit, width_within
from dovetail.fitting.surveys import in_values, stored_bytes
from dovetail.fitting.widths import WIDTHS
from dovetail.program.counts import count
from dovetail.program.layers import layer_shapes
from dovetail.program.lower import lower
from dovetail.search import Budget
from fitted import PER_MAC, REST

pytestmark = pytest.mark.skipif(not native_status().available, reason="needs the native engine")


class Narrow(nn.Module):
    """The network of `fitted` with a share of its channels; the last convolution falls away where it is narrowest."""

    def __init__(self, width):
        super().__init__()
        c16, c32, c48 = (max(1, round(width * channels)) for channels in (16, 32, 48))
        self.stem = nn.Conv2d(3, c16, 3, padding=1)
        self.one = nn.Conv2d(c16, c16, 3, padding=1)
        self.two = nn.Conv2d(c16, c16, 3, padding=1)
        self.down = nn.Conv2d(c16, c32, 3, stride=2, padding=1)
        self.point = nn.Conv2d(c32, c48, 1) if width > 0.125 else nn.Identity()
        self.fc = nn.Linear(c48 if width > 0.125 else c32, 4)

    def forward(self, x):
        for layer in (self.stem, self.one, self.two, self.down, self.point):
            x = torch.relu(layer(x))
        return self.fc(x.mean((2, 3)))


@pytest.fixture
def clock(monkeypatch):
    """Layers take as long as they have multiplications."""

    def seconds(programs, image, named, threads):
        found = []
        for program in programs:
            shapes = layer_shapes(program)
            found.append({name: PER_MAC * shape.macs for shape in shapes for name in shape.layers})
        return found

    monkeypatch.setattr("dovetail.fitting.widths.layer_seconds", seconds)


def chosen(images, measured, budget, race=None, **asking):
    raced = []

    def as_predicted(program):
        raced.append(program)
        return measured.rest + measured.scale * PER_MAC * count(program).macs

    asked = Asked(Budget.parse(budget, 1.0), "thin", **asking, int8=measured.int8)
    return choose_width(Narrow, images, asked, measured, race=race or as_predicted), raced


def width_macs(width, images):
    return count(lower(Narrow(width).eval(), torch.from_numpy(images[:1]))).macs


TIMES = [("latency", 0.7), ("latency", 0.35), ("latency", 0.2)]  # the network takes 0.8 of its rival's
SIZES = [("bytes", 0.2), ("bytes", 0.05)]  # and in whole numbers 0.26 of its bytes in float32


@pytest.mark.parametrize(("cost", "share"), [*TIMES, *SIZES, ("macs", 0.9), ("macs", 0.3)])
def test_the_widest_within_the_budget_is_chosen(images, measured, clock, cost, share):
    found, raced = chosen(images, measured, f"{cost}={share}x")
    assert found.gains
    assert not found.changed
    assert found.damage is None
    assert found.predicted[cost] <= found.limits[cost]
    wider = [width for width in WIDTHS if width > found.width]
    if wider:
        costs = costs_of(min(wider), images, measured)
        assert costs[cost] > found.limits[cost]
    assert found.predicted[cost] == pytest.approx(costs_of(found.width, images, measured)[cost])
    assert sum(d.chosen for d in found.decisions) + found.fixed[cost] == pytest.approx(found.predicted[cost])
    assert len(raced) <= 3 * (cost == "latency")


def costs_of(width, images, measured):
    program = lower(Narrow(width).eval(), torch.from_numpy(images[:1]))
    macs = count(program).macs
    return {
        "latency": REST + measured.scale * PER_MAC * macs,
        "bytes": stored_bytes(in_values(program, images, int8=measured.int8)),
        "macs": macs,
    }


def test_the_race_decides_and_not_the_sum_of_the_layers(images, measured, clock):
    by_layers = chosen(images, measured, "latency=0.5x")[0]

    def slower(program):
        return REST + 1.5 * measured.scale * PER_MAC * count(program).macs

    def faster(program):
        return REST + 0.6 * measured.scale * PER_MAC * count(program).macs

    assert chosen(images, measured, "latency=0.5x", slower)[0].width < by_layers.width
    assert chosen(images, measured, "latency=0.5x", faster)[0].width > by_layers.width


def test_all_limits_hold_at_once(images, measured, clock):
    alone, both = (chosen(images, measured, budget)[0] for budget in ("latency=0.6x", "latency=0.6x,bytes=0.08x"))
    assert both.width < alone.width
    assert both.predicted.keys() == {"latency", "bytes"}
    assert all(both.predicted[name] <= limit for name, limit in both.limits.items())


def test_layers_are_told_as_they_are_and_as_they_become(images, measured, clock):
    found, _ = chosen(images, measured, "macs=0.5x")
    one = next(d for d in found.decisions if d.name == "one")
    thin = round(found.width * 16)
    assert one.shape == "16→16 3x3 8x8"
    assert one.reason == f"{thin}→{thin} 3x3 8x8"
    assert one.dense == 16 * 16 * 9 * 64
    assert one.chosen == thin * thin * 9 * 64
    assert [d.name for d in found.decisions] == list(measured.layers)


def test_a_layer_that_falls_away_costs_nothing(images, measured, clock):
    found, _ = chosen(images, measured, f"macs={width_macs(0.125, images)}")
    point = next(d for d in found.decisions if d.name == "point")
    assert found.width == 0.125
    assert (point.reason, point.chosen) == ("left out", 0.0)


def test_a_network_within_the_budget_stays(images, measured, clock):
    found, raced = chosen(images, measured, "latency=1x")
    assert found.width is None
    assert not found.gains
    assert not raced
    assert found.predicted == found.dense == {"latency": measured.raced}
    assert {d.reason for d in found.decisions} == {"not needed: dense is within the budget"}


@pytest.mark.parametrize("budget", ["latency=21us", "bytes=100", "macs=0.001x", "macs=0.9x,bytes=100"])
def test_what_the_narrowest_cannot_keep_is_refused(images, measured, clock, budget):
    cost = "bytes" if "bytes" in budget else budget.partition("=")[0]
    with pytest.raises(BudgetError, match=f"{cost} of .* cannot be met by any width: with 0.125 of its channels"):
        chosen(images, measured, budget)


@pytest.mark.parametrize(
    ("budget", "asking", "told"),
    [
        ("cycles=0.5x", {"machine": "sparten"}, "macs, and not by cycles"),
        ("latency=0.5x,energy=0.5x", {"machine": "sparten"}, "macs, and not by energy"),
        ("latency=0.5x", {"rule": "tdc"}, "without a rule or a margin"),
        ("latency=0.5x", {"margin": 0.2}, "without a rule or a margin"),
    ],
)
def test_what_a_width_is_not_chosen_by_is_refused(budget, asking, told):
    with pytest.raises(BudgetError, match=told):
        Asked(Budget.parse(budget, 1.0), "thin", **asking)


def test_options_that_thin_does_not_take_are_refused():
    with pytest.raises(SpecError, match=r"thin: .*density"):
        Asked(Budget.parse("latency=0.5x", 1.0), "thin", {"density": 0.5})


def test_the_widest_network_within_the_time_is_found(images, measured, monkeypatch):
    built = []

    def layers_of(programs, image, named, threads):
        return [{"all": 1e-3 * built[-1]}]  # as if time went with the width

    def build(width):
        built.append(width)
        return nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU())

    monkeypatch.setattr("dovetail.fitting.widths.layer_seconds", layers_of)
    known = replace(measured, rest=1e-4, scale=2.0)
    width, seconds = width_within(build, images, 1e-4 + 2 * 0.7e-3, known)
    assert width == 0.625
    assert seconds == pytest.approx(1e-4 + 2 * 0.625e-3)
    assert len(built) <= 3
    assert width_within(build, images, 1e-4, known) is None
    assert width_within(build, images, 1.0, known)[0] == 0.875


def test_another_network_is_trained_and_the_first_is_left(model, measured, clock, tmp_path, monkeypatch):
    monkeypatch.setattr("dovetail.fitting.fits.survey", lambda *_, **__: measured)
    monkeypatch.setattr("dovetail.fitting.fits.raced_as_surveyed", lambda *_, **__: 0.3 * measured.rival_seconds)
    pictures = torch.randn(48, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    labels = pictures.mean((2, 3)).argmax(1)
    batches = [(pictures[i : i + 16], labels[i : i + 16]) for i in (0, 16, 32)]
    before = {name: value.clone() for name, value in model.state_dict().items()}
    common = {"train": batches, "validate": batches[:1], "peers": [], "costs": tmp_path / "costs.json"}
    budget = Budget(latency="0.5x", accuracy_drop=100)
    for wrong in ({"method": "thin"}, {"build": Narrow}):
        with pytest.raises(SpecError, match="method thin needs it, and no other takes it"):
            fit(model, budget, **common, **wrong)
    done = fit(model, budget, method="thin", build=Narrow, options={"epochs": 1}, **common)
    assert done.found.width == 0.875  # all that race take 0.3x
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert done.model.one.weight.shape == (14, 14, 3, 3)
    assert done.program.weights["one"].shape == (14, 14, 3, 3)
    assert done.achieved["bounds"] == {"latency": 0.5 * done.achieved["rival_seconds"]}
    assert np.isfinite(done.achieved["off"]["latency"])
