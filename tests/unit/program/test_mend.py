"""Mending a quantised Program: layers give what they gave, on average and in spread."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from dovetail.errors import InputError, ProgramError
from dovetail.program import mend
from dovetail.program.calibrate import calibrate
from dovetail.program.check import check
from dovetail.program.integer import product
from dovetail.program.lower import lower
from dovetail.program.mend import reestimate
from dovetail.program.program import Program
from dovetail.program.quantize import quantize


class Net(nn.Module):
    """A residual, a shared layer and a grouped one."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.down = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, stride=2, groups=8)
        self.same, self.fc = nn.Conv2d(8, 8, 1), nn.Linear(8, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.relu(self.stem(x))
        x = F.relu(self.same(self.same(x)) + x)
        return self.fc(F.relu(self.down(x)).mean((2, 3)))


@pytest.fixture(scope="module")
def images() -> list[np.ndarray]:
    random = np.random.default_rng(0)
    return [random.standard_normal((6, 3, 8, 8)).astype(np.float32) for _ in range(3)]


@pytest.fixture(scope="module")
def program(images) -> Program:
    torch.manual_seed(0)
    return lower(Net().eval(), torch.from_numpy(images[0]))


@pytest.fixture(scope="module")
def coarse(program, images) -> Program:
    """Quantised, with ranges that clip a good deal."""
    ranges = {name: found.range("minmax") for name, found in calibrate(program, images).items()}
    return quantize(program, {name: (low * 0.6, high * 0.6) for name, (low, high) in ranges.items()})


def moments(program: Program, images: list[np.ndarray]) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Mean and deviation of what every weight layer gives before residual and activation."""
    names = [node.name for node in program.graph.nodes if node.weight is not None]
    found = mend._moments(program, names, images, mend.runner)
    return {name: (one.mean, one.deviation) for name, one in found.items()}


def test_layers_give_mean_and_deviation_that_they_had(program, coarse, images):
    made = reestimate(program, coarse, images)
    check(made)
    wanted, before, after = (moments(p, images) for p in (program, coarse, made))
    shared = {node.name for node in program.graph.nodes if node.weight == "same"}
    assert len(shared) == 2
    for name, (mean, deviation) in wanted.items():
        unit = product(made, made.graph, made.graph.node(name)).multiplier  # biases are whole numbers of it
        scale = made.graph.tensors[made.graph.node(name).output].scale or 1.0
        slack = unit * scale + 1e-5
        assert (np.abs(after[name][0] - mean) <= slack).all(), name
        assert np.abs(before[name][0] - mean).max() > 10 * slack.max()
        if name not in shared:
            np.testing.assert_allclose(after[name][1], deviation, rtol=1e-3)
        assert np.abs(before[name][1] / deviation - 1).max() > 0.01


def test_only_scales_and_biases_change(program, coarse, images):
    made = reestimate(program, coarse, images)
    assert made.graph.tensors == coarse.graph.tensors
    assert [node.weight for node in made.graph.nodes] == [node.weight for node in coarse.graph.nodes]
    for name, packed in coarse.weights.items():
        np.testing.assert_array_equal(made.weights[name].integers()[0], packed.integers()[0])
    np.testing.assert_array_equal(made.weights["same"].integers()[1], coarse.weights["same"].integers()[1])
    assert not np.array_equal(made.weights["stem"].integers()[1], coarse.weights["stem"].integers()[1])


def test_a_layer_behind_mended_ones_is_compared_with_what_they_give_then(program, coarse, images):
    """One layer after another: the program is run once as it was and once for each layer, and that as mended so far."""
    ran = []

    def spy(program: Program) -> mend.Runner:
        ran.append(program)
        return mend.runner(program)

    reestimate(program, coarse, images, spy)
    layers = [node.name for node in coarse.graph.nodes if node.weight is not None]
    assert len(ran) == 1 + len(layers)
    assert [len(p.graph.outputs) for p in ran] == [len(layers)] + [1] * len(layers)
    for position, probed in enumerate(ran[1:]):
        mended = {node.name for node in probed.graph.nodes if (node.epilogue.bias or "").endswith(".mended")}
        assert mended == set(layers[:position])


def test_channels_without_a_spread_are_only_shifted(images):
    conv = nn.Conv2d(3, 4, 1)
    with torch.no_grad():
        conv.weight[1] = 0
        conv.weight[2] = 1e-3
    program = lower(conv.eval(), torch.from_numpy(images[0]))
    ranges = {name: found.range("minmax") for name, found in calibrate(program, images).items()}
    quantized = quantize(program, ranges)
    ((name, weight),) = quantized.weights.items()
    loud = weight.cast(weight.spec.values, np.array([1, 1, 5, 1.5], np.float32))
    made = reestimate(program, replace(quantized, weights={name: loud}), images)
    gains = made.weights[name].integers()[1] / loud.integers()[1]
    assert gains[2] == 1  # five times is no slip of rounding
    assert gains[3] == pytest.approx(1 / 1.5, rel=0.02)
    assert not made.weights[name].integers()[0][1].any()
    (wanted,), (found,) = moments(program, images).values(), moments(made, images).values()
    np.testing.assert_allclose(found[0], wanted[0], atol=1e-3)


def test_what_cannot_be_compared(program, coarse, images):
    with pytest.raises(InputError, match="without images"):
        reestimate(program, coarse, [])
    with pytest.raises(InputError, match="'stem' gives NaN or Inf"):
        reestimate(program, coarse, [np.full_like(images[0], np.nan)])
    name = program.graph.nodes[0].epilogue.bias
    far = replace(program, arrays={**program.arrays, name: np.full_like(program.arrays[name], 1e12)})
    with pytest.raises(ProgramError, match="beyond 32 bits"):
        reestimate(far, coarse, images)
