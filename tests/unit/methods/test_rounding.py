"""Rounding in the forward pass: to the grids that Programs use, with gradients straight through."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from dovetail.formats.values import INT8
from dovetail.methods.rounding import Rounding, on_grid, reach_of, round_operand, round_weight
from dovetail.program.integer import to_codes
from dovetail.program.quantize import grid


def rounding(*reaches):
    made = Rounding()
    made.reaches = list(reaches)
    return made


def run(mode, model, x):
    mode.begin()
    try:
        return model(x)
    finally:
        mode.finish()


@pytest.mark.parametrize("shape", [(5, 7), (6, 3, 3, 3), (4, 1, 5, 1)])
def test_weights_come_to_the_numbers_that_int8_stores(shape):
    weight = torch.randn(shape)
    weight[1] = 0
    np.testing.assert_array_equal(on_grid(weight).numpy(), INT8.round(weight.numpy()))
    assert torch.equal(on_grid(on_grid(weight)), on_grid(weight))


@pytest.mark.parametrize("reach", [(0.0, 3.0), (-1.0, 2.0), (-5.0, 0.0), (0.0, 0.0)])
def test_operands_come_to_what_codes_stand_for(reach):
    x = torch.randn(2, 3, 5, 5) * 2
    scale, zero = grid(*reach)
    codes = to_codes(x.numpy() * np.float32(1 / scale), zero)
    want = (codes.astype(np.float32) - zero) * np.float32(scale)
    np.testing.assert_allclose(round_operand(x, reach).numpy(), want, rtol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_gradients_pass_straight_through(dtype):
    x = torch.randn(4, 50).to(dtype).mul(2).requires_grad_()
    slope = torch.randn(4, 50).to(dtype)
    (round_weight(x) * slope).sum().backward()
    assert torch.equal(x.grad, slope)
    x.grad = None
    scale, zero = grid(-1.0, 2.0)
    (round_operand(x, (-1.0, 2.0)) * slope).sum().backward()
    inside = (x / scale).round().add(zero).clamp(0, 255) == (x / scale).round().add(zero)
    assert torch.equal(x.grad, slope * inside)
    assert 0 < inside.float().mean() < 1


def test_the_gradient_is_the_finite_difference_of_the_clamp():
    """What is rounded away, a clamp would give: gradcheck over the smooth function that rounding stands for."""
    torch.manual_seed(0)
    x = torch.randn(30, dtype=torch.float64).mul(2).requires_grad_()
    scale, zero = grid(-1.0, 2.0)
    low, high = -zero * scale, (255 - zero) * scale
    assert torch.autograd.gradcheck(lambda x: x.clamp(low, high), x)
    (smooth,) = torch.autograd.grad(x.clamp(low, high).square().sum(), x)
    rounded = round_operand(x, (-1.0, 2.0))
    (straight,) = torch.autograd.grad((rounded * x.clamp(low, high).detach() * 2).sum(), x)
    torch.testing.assert_close(straight, smooth)


def test_convolutions_and_linear_maps_read_rounded_numbers():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.fc = nn.Conv2d(2, 3, 3, padding=1), nn.Linear(3, 4)

        def forward(self, x):
            return self.fc(F.relu(self.conv(x)).mean((2, 3)))

    model, x = Net(), torch.randn(2, 2, 5, 5)
    reaches = [(-2.0, 2.0), (0.0, 1.5), (0.0, 1.0)]  # of what convolution, mean and classifier read
    image = round_operand(x, reaches[0])
    features = F.relu(F.conv2d(image, on_grid(model.conv.weight), model.conv.bias, padding=1))
    pooled = round_operand(round_operand(features, reaches[1]).mean((2, 3)), reaches[2])
    want = F.linear(pooled, on_grid(model.fc.weight), model.fc.bias)
    torch.testing.assert_close(run(rounding(*reaches), model, x), want)
    assert not torch.equal(model(x), want)  # and nothing stays behind


def test_a_residual_adds_what_the_convolution_has_read():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(4, 4, 3, padding=1)

        def forward(self, x):
            x = x.relu()
            y = self.conv(x)
            y += x
            part = x[torch.tensor([0]), :2]  # an index that is a tuple with a tensor in it
            return torch.cat([y, F.pad(input=part, pad=(0, 0, 0, 0, 1, 1))], 1)

    model, x = Net(), torch.randn(1, 4, 6, 6)
    read = round_operand(x.relu(), (0.0, 1.0))
    want = F.conv2d(read, on_grid(model.conv.weight), model.conv.bias, padding=1) + read
    got = run(rounding((0.0, 1.0)), model, x)
    torch.testing.assert_close(got[:, :4], want)
    torch.testing.assert_close(got[:, 5:7], read[:, :2])


def test_a_tensor_changed_in_place_is_read_anew():
    conv = nn.Conv2d(1, 1, 1, bias=False)

    def forward(x):
        x = x * 1
        y = conv(x)
        x.mul_(3)
        return y + conv(x)

    x = torch.rand(1, 1, 4, 4)
    weight, reaches = on_grid(conv.weight), [(0.0, 1.0), (0.0, 3.0)]
    want = F.conv2d(round_operand(x, reaches[0]), weight) + F.conv2d(round_operand(3 * x, reaches[1]), weight)
    torch.testing.assert_close(run(rounding(*reaches), forward, x), want)


def test_means_of_other_axes_and_of_rows_are_left_alone():
    def forward(x):
        return x.mean(1), x.mean((1, 2)), x.flatten(2).mean((1, 2)), torch.mean(x)

    x, mode, seen = torch.randn(2, 3, 4, 4), rounding((0.0, 0.1)), []
    mode.watch = lambda site, x: seen.append(site)
    for got, want in zip(run(mode, forward, x), forward(x), strict=True):
        assert torch.equal(got, want)
    assert not seen


def test_every_site_is_watched_before_it_is_rounded():
    model, x = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1)), torch.randn(3, 1, 5, 5)
    mode, seen = rounding((-1.0, 1.0)), {}
    mode.watch = lambda site, x: seen.update({site: x.detach().clone()})
    run(mode, model, x)
    assert list(seen) == [0, 1]
    assert torch.equal(seen[0], x)
    assert seen[1].shape == (3, 2, 3, 3)


def test_a_forward_pass_that_fails_leaves_nothing_behind():
    model, x = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Linear(7, 2)), torch.randn(1, 1, 5, 5)
    mode = rounding((-1.0, 1.0))
    model.register_forward_pre_hook(lambda *_: mode.begin())
    model.register_forward_hook(lambda *_: mode.finish(), always_call=True)
    with pytest.raises(RuntimeError):
        model(x)
    assert torch.overrides._get_current_function_mode() is None


def test_the_reach_of_a_batch_follows_the_rule():
    x = torch.cat([torch.randn(20_000), torch.tensor([40.0])]).view(1, -1)
    random = np.random.default_rng(0)
    assert reach_of(x, "minmax", random)[1] == 40.0
    assert reach_of(x, "percentile", random)[1] < 6.0
    assert reach_of(x.fill_(torch.nan), "mse", random) == (0.0, 0.0)
