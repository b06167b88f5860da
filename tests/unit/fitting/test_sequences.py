"""Budgets of a network that walks along time: layers in the body of a scan, and layers that read all steps at once.

Such networks stay in floating point.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch

from dovetail import zoo
from dovetail.engine import native_status
from dovetail.fitting import Survey, survey
from dovetail.fitting.surveys import in_formats, stored_bytes
from dovetail.methods import METHODS, Kept
from dovetail.program.counts import count
from dovetail.program.layers import layer_shapes
from dovetail.program.lower import lower
from dovetail.search.candidates import work
from fitted import PER_MAC, REST, plan_of, stage

pytestmark = pytest.mark.skipif(not native_status().available, reason="needs the native engine")
STEPS, BANDS, HIDDEN = 6, 8, 32
AT_ONCE = [f"lstm.x_{gate}" for gate in "ifgo"]
EVERY_STEP = [f"lstm.h_{gate}" for gate in "ifgo"]


@pytest.fixture
def model():
    torch.manual_seed(0)
    return zoo.build("lstm_digits", hidden=HIDDEN, size=BANDS, classes=4).eval()


@pytest.fixture
def images():
    return np.random.default_rng(0).standard_normal((8, 1, STEPS, BANDS), dtype=np.float32)


@pytest.fixture
def program(model, images):
    return lower(model, torch.from_numpy(images[:1]))


@pytest.fixture
def measured(program):
    shapes = tuple(layer_shapes(program))
    layers = {name: PER_MAC * shape.macs for shape in shapes for name in shape.layers}
    raced = REST + 2 * sum(layers.values())
    size = stored_bytes(program)
    return Survey(
        shapes, layers, REST, 2.0, raced, "somebody", 1.25 * raced, 1, False, size, size, float(count(program).macs)
    )


def test_layers_in_a_scan_are_timed_and_those_over_rows_are_not(model, images, program):
    found = survey(model, images, int8=False, peers=[], threads=1, blocks=2)
    assert list(found.layers) == ["linear", *EVERY_STEP]
    assert all(seconds > 0 for seconds in found.layers.values())
    assert found.macs == count(program).macs


def test_multiplications_are_of_all_steps(program, measured):
    step = next(shape for shape in measured.shapes if "lstm.h_i" in shape.layers)
    rows = {row.name: row for row in count(program).rows}
    assert (step.layers, step.steps) == (tuple(EVERY_STEP), STEPS)
    assert step.macs == STEPS * HIDDEN * HIDDEN == rows["lstm.h_i"].macs
    assert step.from_json(step.to_json()).macs == HIDDEN * HIDDEN  # a shape by itself is of one step


@pytest.mark.parametrize("budget", ["latency=0.6x", "bytes=0.8x", "macs=0.8x"])
@pytest.mark.parametrize(
    ("method", "options"), [("block", {"everything": True}), ("tucker", {"ratio": 0.25, "svd": True}), ("permdnn", {})]
)
def test_a_plan_changes_layers_in_the_scan_and_keeps_the_others_dense(
    model, images, machine, measured, program, tmp_path, budget, method, options
):
    found = plan_of(model, images, budget, measured, tmp_path, method, options=options, rehearse=stage(measured)[0])
    assert set(EVERY_STEP) & {decision.name for decision in found.changed}
    assert list(found.unpriced) == AT_ONCE
    taken = METHODS[method](**options).plan(model, torch.from_numpy(images[:1]), found.plan()).layers
    assert {name for name, what in taken.items() if not isinstance(what, Kept)} == {d.name for d in found.changed}
    assert "over several rows" in taken["lstm.x_i"].reason
    cost = next(iter(found.limits))
    assert found.predicted[cost] <= found.limits[cost]
    packed = in_formats(program, dict(found.plan().specs()))
    if cost == "macs":
        assert found.dense["macs"] == count(program).macs
        assert found.fixed["macs"] == 4 * STEPS * BANDS * HIDDEN
        assert found.predicted["macs"] == pytest.approx(count(packed).macs)
    if cost == "bytes":
        assert found.predicted["bytes"] == pytest.approx(stored_bytes(packed))


def test_work_is_of_all_steps(measured, images, model, machine, tmp_path):
    found = plan_of(model, images, "macs=0.8x", measured, tmp_path, "permdnn")
    for decision in found.changed:
        shape = next(shape for shape in measured.shapes if decision.name in shape.layers)
        assert decision.chosen == work(decision.spec, shape) == shape.macs / decision.spec.size
