"""Every op and activation against torch in float64, at odd sizes."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from dovetail.program.ops import ACTIVATIONS, OPS

CONV = {"stride": (1, 1), "padding": (0, 0, 0, 0), "dilation": (1, 1), "groups": 1}


def random(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).normal(size=shape)


def check(op: str, torch_result, *operands: np.ndarray, **attributes) -> None:
    got = OPS[op].reference(*operands, **attributes)
    want = torch_result(*(torch.from_numpy(x) for x in operands)).numpy()
    assert got.shape == want.shape
    assert got.shape == OPS[op].shape(*(x.shape for x in operands), **attributes)
    np.testing.assert_allclose(got, want, rtol=1e-10, atol=1e-10)


def padded(x: torch.Tensor, padding: tuple[int, int, int, int], value: float = 0.0) -> torch.Tensor:
    top, bottom, left, right = padding
    return F.pad(x, (left, right, top, bottom), value=value)


@pytest.mark.parametrize("stride", [(1, 1), (2, 3)])
@pytest.mark.parametrize("padding", [(0, 0, 0, 0), (1, 2, 0, 3)])
@pytest.mark.parametrize("dilation", [(1, 1), (2, 1)])
@pytest.mark.parametrize("groups", [1, 3, 6])
def test_conv2d(stride, padding, dilation, groups):
    weight = random(12, 6 // groups, 3, 2)
    check(
        "conv2d",
        lambda x, w: F.conv2d(padded(x, padding), w, None, stride, 0, dilation, groups),
        random(2, 6, 9, 11), weight, stride=stride, padding=padding, dilation=dilation, groups=groups,
    )  # fmt: skip


@pytest.mark.parametrize("shape", [(3, 5), (2, 7, 5), (2, 3, 4, 5)])
def test_linear_acts_on_the_last_axis(shape):
    check("linear", F.linear, random(*shape), random(4, 5))


@pytest.mark.parametrize("op", ["add", "mul"])
@pytest.mark.parametrize("other", [(2, 3, 5), (3, 1), (1,)])
def test_pointwise_operands_broadcast(op, other):
    check(op, getattr(torch, op), random(2, 3, 5), random(*other))


@pytest.mark.parametrize("padding", [(0, 0, 0, 0), (1, 0, 1, 2)])
@pytest.mark.parametrize("dilation", [(1, 1), (1, 2)])
def test_max_pool2d(padding, dilation):
    check(
        "max_pool2d",
        lambda x: F.max_pool2d(padded(x, padding, -torch.inf), (2, 3), (2, 1), 0, dilation),
        random(2, 3, 7, 9) - 10, kernel=(2, 3), stride=(2, 1), padding=padding, dilation=dilation,
    )  # fmt: skip


@pytest.mark.parametrize("include_pad", [True, False])
def test_avg_pool2d(include_pad):
    check(
        "avg_pool2d",
        lambda x: F.avg_pool2d(x, (2, 3), (2, 1), (1, 1), count_include_pad=include_pad),
        random(2, 3, 7, 9), kernel=(2, 3), stride=(2, 1), padding=(1, 1, 1, 1), include_pad=include_pad,
    )  # fmt: skip


def test_avg_pool2d_with_uneven_padding_divides_by_what_is_inside():
    got = OPS["avg_pool2d"].reference(
        np.ones((1, 1, 3, 3)), kernel=(2, 2), stride=(2, 2), padding=(0, 1, 0, 1), include_pad=False
    )
    np.testing.assert_array_equal(got, np.ones((1, 1, 2, 2)))


@pytest.mark.parametrize("output", [(1, 1), (3, 2), (7, 9), (5, 9)])
@pytest.mark.parametrize("kind", ["avg", "max"])
def test_adaptive_pools(output, kind):
    function = getattr(F, f"adaptive_{kind}_pool2d")
    check(f"adaptive_{kind}_pool2d", lambda x: function(x, output), random(2, 3, 7, 9), output=output)


@pytest.mark.parametrize("keepdims", [True, False])
def test_mean(keepdims):
    check("mean", lambda x: x.mean((1, 3), keepdim=keepdims), random(2, 3, 4, 5), axes=(1, 3), keepdims=keepdims)


def test_concat():
    check("concat", lambda *parts: torch.cat(parts, 1), random(2, 3, 5), random(2, 1, 5), random(2, 4, 5), axis=1)


def test_slice_with_a_step():
    check("slice", lambda x: x[:, 1:8:3], random(2, 9, 4), axis=1, start=1, stop=8, step=3)


def test_reshape_and_permute():
    check("reshape", lambda x: x.reshape(6, 10), random(2, 3, 10), shape=(6, 10))
    check("permute", lambda x: x.permute(2, 0, 1), random(2, 3, 5), order=(2, 0, 1))


def test_pad():
    check("pad", lambda x: F.pad(x, (1, 2, 0, 3), value=1.5), random(2, 3, 5), pads=((0, 0), (0, 3), (1, 2)), value=1.5)


@pytest.mark.parametrize(("a", "b"), [((2, 3, 4, 5), (2, 3, 5, 6)), ((7, 4, 5), (5, 3)), ((1, 4, 5), (6, 5, 2))])
def test_matmul(a, b):
    check("matmul", torch.matmul, random(*a), random(*b))


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_softmax_of_large_numbers(axis):
    check("softmax", lambda x: x.softmax(axis), random(2, 3, 5) * 500, axis=axis)


@pytest.mark.parametrize("axes", [1, 2])
@pytest.mark.parametrize("parameters", [0, 1, 2])
def test_layer_norm(axes, parameters):
    x = random(4, 3, 5)
    given = [random(*x.shape[-axes:]) + i for i in range(parameters)]
    check("layer_norm", lambda x, *p: F.layer_norm(x, x.shape[-axes:], *p, eps=1e-3), x, *given, axes=axes, eps=1e-3)


def test_upsample_nearest():
    check("upsample_nearest", lambda x: F.interpolate(x, scale_factor=(2, 3)), random(2, 3, 4, 5), scale=(2, 3))


TORCH_ACTIVATIONS = {
    "relu": F.relu,
    "clamp": lambda x: x.clamp(-0.5, 1.25),
    "leaky_relu": lambda x: F.leaky_relu(x, 0.3),
    "sigmoid": torch.sigmoid,
    "tanh": torch.tanh,
    "hardswish": F.hardswish,
    "silu": F.silu,
    "gelu": F.gelu,
    "gelu_tanh": lambda x: F.gelu(x, approximate="tanh"),
}


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activations(name):
    args = {"clamp": (-0.5, 1.25), "leaky_relu": (0.3,)}.get(name, ())
    x = np.concatenate([random(50) * 3, [-1000.0, 0.0, 1000.0]])
    got = ACTIVATIONS[name].reference(x, *args)
    np.testing.assert_allclose(got, TORCH_ACTIVATIONS[name](torch.from_numpy(x)).numpy(), rtol=1e-12, atol=1e-12)


def test_every_op_keeps_float32():
    x = random(1, 3, 6, 6).astype(np.float32)
    weight = random(3, 3, 3, 3).astype(np.float32)
    assert OPS["conv2d"].reference(x, weight, **CONV).dtype == np.float32
    pool = {"kernel": (2, 2), "stride": (2, 2), "padding": (1, 1, 1, 1)}
    assert OPS["avg_pool2d"].reference(x, **pool, include_pad=False).dtype == np.float32
    assert OPS["layer_norm"].reference(x, axes=1, eps=1e-5).dtype == np.float32
    assert OPS["softmax"].reference(x, axis=1).dtype == np.float32
    for name, row in ACTIVATIONS.items():
        args = {"clamp": (0.0, 6.0), "leaky_relu": (0.1,)}.get(name, ())
        assert row.reference(x, *args).dtype == np.float32, name
