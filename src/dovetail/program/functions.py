# mypy: disable-error-code="no-any-return"
# (numpy types the result of arithmetic on arrays of unknown type as Any)
"""What each op computes, in plain numpy: clear before fast.

Operands come first (a weight op's dense weight last among them), attributes by keyword. Images are `(N, C, H, W)`;
paddings are `(top, bottom, left, right)`. Results keep the type of `x`, so the same lines serve float32 and float64.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

Array = np.ndarray
Reduce = Callable[..., Array]
Pair = tuple[int, int]
Pads = tuple[int, int, int, int]
Body = Callable[..., tuple[Array, ...]]


def conv2d(x: Array, weight: Array, *, stride: Pair, padding: Pads, dilation: Pair, groups: int) -> Array:
    """Cross-correlation of `(N, C, H, W)` with `(K, C/groups, R, S)`: `(N, K, H', W')`."""
    patches = windows(_padded(x, padding, 0.0), (weight.shape[2], weight.shape[3]), stride, dilation)
    n, c, h, w, r, s = patches.shape
    columns = patches.transpose(0, 1, 4, 5, 2, 3).reshape(n, groups, c // groups * r * s, h * w)
    kernels = weight.reshape(groups, weight.shape[0] // groups, -1)
    return (kernels @ columns).reshape(n, weight.shape[0], h, w)


def linear(x: Array, weight: Array) -> Array:
    """`(..., C)` with `(K, C)`: `(..., K)`."""
    return x @ weight.T


def identity(x: Array, **_: object) -> Array:
    """Ops whose work is all in the epilogue."""
    return x


def add(a: Array, b: Array) -> Array:
    """Sum, with broadcasting."""
    return a + b


def mul(a: Array, b: Array) -> Array:
    """Product, with broadcasting."""
    return a * b


def max_pool2d(x: Array, *, kernel: Pair, stride: Pair, padding: Pads, dilation: Pair) -> Array:
    """Largest of each window; padding never wins."""
    return windows(_padded(x, padding, -np.inf), kernel, stride, dilation).max(axis=(4, 5))


def avg_pool2d(x: Array, *, kernel: Pair, stride: Pair, padding: Pads, include_pad: bool) -> Array:
    """Mean of each window: over all of its positions, or over those that are no padding."""
    inside = np.ones((1, 1, *x.shape[2:]), x.dtype)
    return window_sums(x, kernel, stride, padding) / window_sums(inside, kernel, stride, padding, float(include_pad))


def adaptive_avg_pool2d(x: Array, *, output: Pair) -> Array:
    """Mean over `output` nearly equal windows."""
    return adaptive(x, output, np.mean)


def adaptive_max_pool2d(x: Array, *, output: Pair) -> Array:
    """Largest over `output` nearly equal windows."""
    return adaptive(x, output, np.max)


def mean(x: Array, *, axes: tuple[int, ...], keepdims: bool) -> Array:
    """Mean over the axes."""
    return x.mean(axis=axes, keepdims=keepdims)


def concat(*parts: Array, axis: int) -> Array:
    """The parts one after another."""
    return np.concatenate(parts, axis=axis)


def slice_(x: Array, *, axis: int, start: int, stop: int, step: int) -> Array:
    """Every `step`-th index of `axis` from `start` up to, not including, `stop`."""
    return x[(slice(None),) * axis + (slice(start, stop, step),)]


def reshape(x: Array, *, shape: tuple[int, ...]) -> Array:
    """The same numbers in another shape, row-major."""
    return x.reshape(shape)


def permute(x: Array, *, order: tuple[int, ...]) -> Array:
    """Axis `i` of the result is axis `order[i]` of `x`."""
    return x.transpose(order)


def pad(x: Array, *, pads: tuple[Pair, ...], value: float) -> Array:
    """A constant border, `(before, after)` for every axis."""
    return np.pad(x, pads, constant_values=value)


def matmul(a: Array, b: Array) -> Array:
    """Matrix products over the last two axes, the others broadcast."""
    return a @ b


def softmax(x: Array, *, axis: int) -> Array:
    """Exponentials divided by their sum; the largest is subtracted first."""
    powers = np.exp(x - x.max(axis=axis, keepdims=True))
    return powers / powers.sum(axis=axis, keepdims=True)


def layer_norm(x: Array, weight: Array | None = None, bias: Array | None = None, *, axes: int, eps: float) -> Array:
    """Zero mean and unit variance over the last `axes` axes, then `weight` and `bias` of their shape."""
    last = tuple(range(x.ndim - axes, x.ndim))
    centred = x - x.mean(axis=last, keepdims=True)
    y = centred / np.sqrt((centred**2).mean(axis=last, keepdims=True) + eps)
    y = y if weight is None else y * weight
    return y if bias is None else y + bias


def upsample_nearest(x: Array, *, scale: Pair) -> Array:
    """Every pixel becomes `scale` equal pixels."""
    return x.repeat(scale[0], axis=2).repeat(scale[1], axis=3)


def relu(x: Array) -> Array:
    """`max(x, 0)`."""
    return np.maximum(x, 0)


def clamp(x: Array, low: float, high: float) -> Array:
    """`x` between `low` and `high`; relu6 is `clamp(0, 6)`."""
    return x.clip(low, high)


def leaky_relu(x: Array, slope: float) -> Array:
    """`x`, or `slope * x` where it is negative."""
    return np.where(x >= 0, x, x * slope)


def sigmoid(x: Array) -> Array:
    """`1 / (1 + exp(-x))`, by tanh, which cannot overflow."""
    return 0.5 + 0.5 * np.tanh(0.5 * x)


def tanh(x: Array) -> Array:
    """Hyperbolic tangent."""
    return np.tanh(x)


def hardswish(x: Array) -> Array:
    """`x * clamp(x + 3, 0, 6) / 6`."""
    return x * (x + 3).clip(0, 6) / 6


def silu(x: Array) -> Array:
    """`x * sigmoid(x)`."""
    return x * sigmoid(x)


def gelu(x: Array) -> Array:
    """`x` times the normal distribution function of `x`."""
    erf = np.fromiter(map(math.erf, (x / math.sqrt(2)).ravel()), dtype=x.dtype, count=x.size).reshape(x.shape)
    return x * (1 + erf) / 2


def gelu_tanh(x: Array) -> Array:
    """The tanh approximation of `gelu`."""
    return x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))) / 2


def windows(x: Array, kernel: Pair, stride: Pair, dilation: Pair) -> Array:
    """All windows of an image, without a copy: `(N, C, H, W)` to `(N, C, H', W', R, S)`."""
    extent = [d * (k - 1) + 1 for k, d in zip(kernel, dilation)]
    every = np.lib.stride_tricks.sliding_window_view(x, extent, axis=(2, 3))
    return every[:, :, :: stride[0], :: stride[1], :: dilation[0], :: dilation[1]]


def window_sums(x: Array, kernel: Pair, stride: Pair, padding: Pads, border: float = 0.0) -> Array:
    """Sum of each window of an image with `border` around it."""
    return windows(_padded(x, padding, border), kernel, stride, (1, 1)).sum(axis=(4, 5))


def adaptive(x: Array, output: Pair, reduce: Reduce) -> Array:
    """`reduce` over each of `output` nearly equal windows of an image."""
    y = np.empty((*x.shape[:2], *output), x.dtype)
    for i in range(output[0]):
        for j in range(output[1]):
            rows, columns = _share(i, x.shape[2], output[0]), _share(j, x.shape[3], output[1])
            y[:, :, i, j] = reduce(x[:, :, rows, columns], axis=(2, 3))
    return y


def scan(*operands: Array, body: Body, sequences: int, last: bool) -> Array:
    """One time step after another: `body(*steps, *states)` gives the new states; the result is the first of them.

    The first `sequences` operands are `(N, T, ...)`, the others the states before the first step.
    """
    xs, states, made = operands[:sequences], operands[sequences:], []
    for t in range(xs[0].shape[1]):
        states = body(*(x[:, t] for x in xs), *states)
        made.append(states[0])
    return states[0] if last else np.stack(made, axis=1)


def _padded(x: Array, padding: Pads, value: float) -> Array:
    top, bottom, left, right = padding
    return np.pad(x, ((0, 0), (0, 0), (top, bottom), (left, right)), constant_values=value) if any(padding) else x


def _share(index: int, size: int, count: int) -> slice:
    """The `index`-th of `count` windows over `size`: from floor(i size / count) to ceil((i + 1) size / count)."""
    return slice(index * size // count, -(-(index + 1) * size // count))
