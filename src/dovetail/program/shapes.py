"""The shape of each op's result: the functions of `functions.py`, on shapes.

Operands come first (a weight op's weight shape last among them), attributes by keyword. A dimension is an `int` or a
name such as `"batch"`. What does not fit is a `ProgramError`; `ops.check_node` adds which node it was.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from dovetail.errors import ProgramError
from dovetail.program.program import Dim, Graph, Shape, format_shape, split_dim

Pair = tuple[int, int]
Pads = tuple[int, int, int, int]


def conv2d(x: Shape, weight: Shape, *, stride: Pair, padding: Pads, dilation: Pair, groups: int) -> Shape:
    """`(N, K, H', W')`."""
    n, c, *size = image(x)
    k, inner, *kernel = weight
    if c != inner * groups:
        raise ProgramError(
            f"the input has {c} channels, weight {format_shape(weight)} in {groups} groups takes {inner * groups}"
        )
    if k % groups:
        raise ProgramError(f"{k} outputs cannot be shared among {groups} groups")
    return (n, k, *_slide(size, kernel, stride, padding, dilation))


def linear(x: Shape, weight: Shape) -> Shape:
    """`(..., K)`."""
    if len(x) < 2 or x[-1] != weight[1]:
        raise ProgramError(f"an input of shape {format_shape(x)} does not fit a weight of shape {format_shape(weight)}")
    return (*x[:-1], weight[0])


def same(x: Shape) -> Shape:
    """As the input."""
    return x


def affine(x: Shape, *, axis: int) -> Shape:
    """As the input, whose channel axis must exist and be known."""
    known(x, axis)
    return x


def broadcast(a: Shape, b: Shape) -> Shape:
    """As numpy broadcasts; a named dimension fits itself and 1."""
    short, long = sorted((a, b), key=len)
    pairs = zip((1,) * (len(long) - len(short)) + short, long)
    return tuple(_joint(p, q, a, b) for p, q in pairs)


def max_pool2d(x: Shape, *, kernel: Pair, stride: Pair, padding: Pads, dilation: Pair) -> Shape:
    """`(N, C, H', W')`; no window may lie wholly in the padding."""
    n, c, *size = image(x)
    out = _slide(size, kernel, stride, padding, dilation)
    for i, axis in enumerate(("height", "width")):
        if not _all_meet(int(size[i]), out[i], kernel[i], stride[i], dilation[i], padding[2 * i]):
            raise ProgramError(f"a pooling window lies wholly in the padding {padding} of the {axis}")
    return (n, c, *out)


def _all_meet(size: int, out: int, kernel: int, stride: int, dilation: int, before: int) -> bool:
    """Whether each of `out` windows, the first of which begins `before` pixels too early, has a tap on a pixel."""
    early = min(out, -(-before // stride))  # windows that begin before the pixels; the others meet where they begin
    if early < out and (out - 1) * stride - before >= size:
        return False
    first = np.arange(early) * stride - before
    missed = -(first // dilation)  # taps before the pixels
    return bool(((missed < kernel) & (first + missed * dilation < size)).all())


def avg_pool2d(x: Shape, *, kernel: Pair, stride: Pair, padding: Pads, include_pad: bool) -> Shape:
    """`(N, C, H', W')`; no window may lie wholly in the padding."""
    return max_pool2d(x, kernel=kernel, stride=stride, padding=padding, dilation=(1, 1))


def adaptive_pool2d(x: Shape, *, output: Pair) -> Shape:
    """`(N, C, *output)`."""
    n, c, *_ = image(x)
    return (n, c, *output)


def mean(x: Shape, *, axes: tuple[int, ...], keepdims: bool) -> Shape:
    """Without the axes, or with 1 in their place."""
    for axis in axes:
        known(x, axis)
    if len(set(axes)) < len(axes):
        raise ProgramError(f"axes {axes} name one twice")
    return tuple(1 if i in axes else d for i, d in enumerate(x) if keepdims or i not in axes)


def concat(*parts: Shape, axis: int) -> Shape:
    """The sizes along `axis` add up; the others must agree."""
    first = parts[0]
    total = sum(known(part, axis) for part in parts)
    for part in parts[1:]:
        if len(part) != len(first) or any(p != q for i, (p, q) in enumerate(zip(part, first)) if i != axis):
            raise ProgramError(f"cannot join {format_shape(first)} and {format_shape(part)} along axis {axis}")
    return (*first[:axis], total, *first[axis + 1 :])


def slice_(x: Shape, *, axis: int, start: int, stop: int, step: int) -> Shape:
    """`ceil((stop - start) / step)` along `axis`."""
    size = known(x, axis)
    if not start < stop <= size:
        raise ProgramError(f"slice {start}:{stop} of axis {axis} does not lie within its {size} positions")
    return (*x[:axis], -(-(stop - start) // step), *x[axis + 1 :])


def reshape(x: Shape, *, shape: Shape) -> Shape:
    """`shape`, which must hold as many numbers."""
    if _count(x) != _count(shape):
        raise ProgramError(f"{format_shape(x)} cannot be reshaped to {format_shape(shape)}")
    return tuple(shape)


def permute(x: Shape, *, order: tuple[int, ...]) -> Shape:
    """The axes in another order."""
    if sorted(order) != list(range(len(x))):
        raise ProgramError(f"{order} is no order of the {len(x)} axes of {format_shape(x)}")
    return tuple(x[i] for i in order)


def pad(x: Shape, *, pads: tuple[Pair, ...], value: float) -> Shape:
    """Every axis grows by its pads; a named one takes none."""
    if len(pads) != len(x):
        raise ProgramError(f"{len(pads)} pairs of pads for the {len(x)} axes of {format_shape(x)}")
    return tuple(known(x, i) + sum(p) if any(p) else x[i] for i, p in enumerate(pads))


def matmul(a: Shape, b: Shape) -> Shape:
    """`(..., M, K)` times `(..., K, N)`."""
    if min(len(a), len(b)) < 2 or a[-1] != b[-2]:
        raise ProgramError(f"{format_shape(a)} and {format_shape(b)} cannot be multiplied as matrices")
    return (*broadcast(a[:-2], b[:-2]), a[-2], b[-1])


def softmax(x: Shape, *, axis: int) -> Shape:
    """As the input."""
    known(x, axis)
    return x


def layer_norm(x: Shape, *parameters: Shape, axes: int, eps: float) -> Shape:
    """As the input; weight and bias have the shape of its last `axes` axes."""
    if axes >= len(x):
        raise ProgramError(f"{format_shape(x)} has no {axes} axes to normalise after the batch")
    last = tuple(known(x, i) for i in range(len(x) - axes, len(x)))
    for parameter in parameters:
        if parameter != last:
            raise ProgramError(f"weight and bias must have shape {format_shape(last)}, not {format_shape(parameter)}")
    return x


def upsample_nearest(x: Shape, *, scale: Pair) -> Shape:
    """`(N, C, H * scale[0], W * scale[1])`."""
    n, c, h, w = image(x)
    return (n, c, h * scale[0], w * scale[1])


def scan(*operands: Shape, body: Graph, sequences: int, last: bool) -> Shape:
    """`(N, T, ...)` of the body's first state, or that state alone.

    The body's inputs are a step of each sequence and the states, its outputs the new states. Initial states are there
    all or not at all, and then they are zero.
    """
    if len(operands) < sequences:
        raise ProgramError(f"{len(operands)} operands, of which {sequences} should be sequences")
    steps, states = body.inputs[:sequences], body.inputs[sequences:]
    if not states or len(body.outputs) != len(states):
        raise ProgramError(
            f"its body takes {sequences} steps and {len(states)} states, and gives {len(body.outputs)}; it must have a "
            "state, and give a new one for each"
        )
    for before, after in zip(states, body.outputs):
        if body.tensors[before].shape != body.tensors[after].shape:
            was, now = (format_shape(body.tensors[name].shape) for name in (before, after))
            raise ProgramError(f"its body takes the state {before!r} as {was} and gives it as {now}")
    lead = operands[0][:2]
    for name, x in zip(steps, operands):
        if len(x) < 2 or x[:2] != lead or (x[0], *x[2:]) != body.tensors[name].shape:
            takes = format_shape(body.tensors[name].shape)
            raise ProgramError(f"a sequence of shape {format_shape(x)} has no steps {name!r} of shape {takes}")
    given = operands[sequences:]
    if given and tuple(given) != tuple(body.tensors[name].shape for name in states):
        takes = ", ".join(format_shape(body.tensors[name].shape) for name in states)
        raise ProgramError(f"initial states {', '.join(map(format_shape, given))}; its body takes {takes}")
    named = {split_dim(d)[1] for x in operands for d in (x[0], *x[2:])}
    if unknown := {split_dim(d)[1] for name in states for d in body.tensors[name].shape} - named:
        raise ProgramError(f"the size {unknown.pop()!r} of a state that starts at zero is not one of the sequences")
    first = body.tensors[states[0]].shape
    return first if last else (first[0], lead[1], *first[1:])


def image(x: Shape) -> Shape:
    """`x`, if it is a batch of images whose channels and size are known."""
    if len(x) != 4 or any(isinstance(d, str) for d in x[1:]):
        raise ProgramError(f"takes images (N, C, H, W) of known size, not {format_shape(x)}")
    return x


def known(x: Shape, axis: int) -> int:
    """The size of an axis that must exist and have no name."""
    if not 0 <= axis < len(x):
        raise ProgramError(f"{format_shape(x)} has no axis {axis}")
    size = x[axis]
    if isinstance(size, str):
        raise ProgramError(
            f"axis {axis} of {format_shape(x)} is known only when the network runs; this op needs a fixed size"
        )
    return size


def _slide(size: Sequence[Dim], kernel: Sequence[Dim], stride: Pair, padding: Pads, dilation: Pair) -> tuple[int, int]:
    h, w = (
        (n + before + after - d * (k - 1) - 1) // s + 1
        for n, k, s, d, before, after in zip(size, kernel, stride, dilation, padding[::2], padding[1::2])
    )
    if h < 1 or w < 1:
        raise ProgramError(
            f"a window of {kernel[0]}x{kernel[1]} with dilation {dilation} does not fit "
            f"in {size[0]}x{size[1]} with padding {padding}"
        )
    return (h, w)


def _joint(p: Dim, q: Dim, a: Shape, b: Shape) -> Dim:
    if q in (p, 1):
        return p
    if p == 1:
        return q
    raise ProgramError(f"shapes {format_shape(a)} and {format_shape(b)} do not fit together")


def _count(shape: Shape) -> tuple[int, list[str]]:
    parts = [split_dim(d) for d in shape]
    return math.prod(factor for factor, _ in parts), sorted(name for _, name in parts if name)
