"""A small network, its images, and a machine on which every multiply-add takes the same time."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from dovetail.engine.layer_times import Ratio
from dovetail.fitting import Survey
from dovetail.program.counts import count
from dovetail.program.layers import layer_shapes
from dovetail.program.lower import lower
from dovetail.search.candidates import work
from fitted import DENSE, NUMBERS, OUTPUTS, PER_MAC, REST, Net


@pytest.fixture
def model():
    torch.manual_seed(0)
    return Net().eval()


@pytest.fixture
def images():
    return np.random.default_rng(0).standard_normal((8, 3, 8, 8), dtype=np.float32)


@pytest.fixture
def machine(monkeypatch):
    """Every multiply-add takes as long as any other; what was timed is listed."""
    timed = []

    class Timer:
        def __init__(self, shape, **_):
            self.shape = shape

        def ratio(self, spec):
            timed.append((self.shape, spec))
            value = work(spec, self.shape) / self.shape.macs
            return Ratio(value, value, value, ("a kernel",))

    monkeypatch.setattr("dovetail.fitting.prices.LayerTimer", Timer)
    return timed


@pytest.fixture(autouse=True)
def eight_lanes(monkeypatch):
    """Ranks are multiples of a vector's lanes: the layers here are too narrow for those of sixteen."""
    monkeypatch.setattr("dovetail.fitting.choices.choose_isa", lambda: "portable")


@pytest.fixture
def measured(model, images):
    program = lower(model, torch.from_numpy(images[:1]))
    shapes = tuple(layer_shapes(program))
    layers = {name: PER_MAC * shape.macs for shape in shapes for name in shape.layers}
    raced = REST + 2 * sum(layers.values())  # a slower minute
    floats = 4.0 * (NUMBERS + OUTPUTS)
    return Survey(
        shapes, layers, REST, 2.0, raced, "somebody", 1.25 * raced, 1, True, DENSE, floats, float(count(program).macs)
    )
