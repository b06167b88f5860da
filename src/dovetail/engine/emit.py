"""One function per op of the table: how the engine runs it. Registered in `EMITTERS`, used by `compile`."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from dovetail.engine.builder import Builder, activation_fields, bits_of
from dovetail.engine.conv import Epilogue, Geometry
from dovetail.engine.expanded import Expansion
from dovetail.engine.kernels import Candidate, scaled
from dovetail.engine.layout import Shape, View, nest, nests
from dovetail.engine.linear import matmul
from dovetail.formats.base import Packed
from dovetail.program.program import Activation, Node


@dataclass(frozen=True)
class Call:
    """A node with everything it needs, sizes known.

    Attributes:
        inputs: its operands.
        shape: of the output.
        scale, bias: of the epilogue, as numbers.
        residual: of the epilogue.
        packed, candidate: of a weight op, and how to run it.
        planar: whether the output should lie in planes.
        place: where the output must lie (a part of a concatenation), if anywhere.
        before: the 1x1 convolution whose place the candidate takes, too; the inputs are then those of that one.
    """

    node: Node
    inputs: Sequence[View]
    shape: Shape
    scale: np.ndarray | None = None
    bias: np.ndarray | None = None
    residual: View | None = None
    packed: Packed | None = None
    candidate: Candidate | None = None
    planar: bool = False
    place: View | None = None
    before: Call | None = None

    @property
    def activation(self) -> Activation | None:
        """Of the epilogue."""
        return self.node.epilogue.activation

    def attribute(self, name: str) -> Any:
        """Of the node."""
        return self.node.attributes[name]


Emitter = Callable[[Builder, Call], View]


def output(b: Builder, call: Call) -> View:
    """Where the result goes: its place, or a new tensor in the wanted layout."""
    if call.place is not None:
        return call.place
    return b.planar(call.shape) if call.planar else b.rows(call.shape)


def conv2d(b: Builder, call: Call) -> View:
    """A convolution by the chosen candidate."""
    x, packed, candidate = call.inputs[0], call.packed, call.candidate
    assert packed is not None
    assert candidate is not None
    y = output(b, call)
    names = ("stride", "padding", "dilation", "groups")
    geometry = Geometry(*(call.attribute(name) for name in names))
    residual = None if call.residual is None else b.as_planar(call.residual, y.planes)
    before = () if call.before is None else (_expansion(call.before),)
    candidate.emit(b, x, packed, call.scale, y, geometry, Epilogue(call.bias, residual, call.activation), *before)
    return y


def _expansion(call: Call) -> Expansion:
    assert call.packed is not None
    return Expansion(scaled(call.packed.dense(), call.scale)[:, :, 0, 0], call.bias, call.activation)


def linear(b: Builder, call: Call) -> View:
    """A product over the last axis by the chosen candidate."""
    assert call.candidate is not None
    y = b.rows(call.shape)
    residual = None if call.residual is None else b.as_rows(call.residual)
    epilogue = Epilogue(call.bias, residual, call.activation)
    call.candidate.emit(b, b.as_rows(call.inputs[0]), call.packed, call.scale, y, epilogue)
    return y


def pointwise(b: Builder, call: Call, x: View, r: View | None = None, *, multiply: bool = False, axis: int = 0) -> View:
    """The tensor activation(scale x + bias + r), or activation(x r): any strides, one loop nest."""
    y = output(b, call)
    zero = (0,) * len(call.shape)
    channel = tuple(int(i == axis) for i in range(len(call.shape)))
    has_channel = call.scale is not None or call.bias is not None
    x, r = x.broadcast(call.shape), None if r is None else r.broadcast(call.shape)
    strides = (x.strides, r.strides if r else zero, channel if has_channel else zero, y.strides)
    scale, bias = (None if a is None else b.constant(a) for a in (call.scale, call.bias))
    b.clear_halo(y)
    for (at_x, at_r, at_c, at_y), size, (x_stride, r_stride, c_stride, y_stride) in nests(call.shape, *strides):
        reads = {"x": x.shifted(at_x), "r": r and r.shifted(at_r), "scale": scale and scale.shifted(at_c)}
        b.emit(
            "pointwise_f32", {**reads, "bias": bias and bias.shifted(at_c)}, {"y": y.shifted(at_y)}, disjoint=True,
            size=size, x_stride=x_stride, r_stride=r_stride, c_stride=c_stride, y_stride=y_stride,
            multiply=int(multiply), **activation_fields(call.activation),
        )  # fmt: skip
    return y


def affine(b: Builder, call: Call) -> View:
    """Scale and bias per channel."""
    return pointwise(b, call, call.inputs[0], call.residual, axis=call.attribute("axis"))


def activation(b: Builder, call: Call) -> View:
    """The function alone."""
    return pointwise(b, call, call.inputs[0])


def add(b: Builder, call: Call) -> View:
    """Sum with broadcasting."""
    return pointwise(b, call, *call.inputs)


def mul(b: Builder, call: Call) -> View:
    """Product with broadcasting."""
    return pointwise(b, call, *call.inputs, multiply=True)


def pool(b: Builder, call: Call, *, average: bool) -> View:
    """Max or average over clipped windows."""
    x, y = _in_rows_of_pixels(b, call.inputs[0]), output(b, call)
    kernel, stride, padding = (call.attribute(name) for name in ("kernel", "stride", "padding"))
    dilation = (1, 1) if average else call.attribute("dilation")
    b.clear_halo(y)
    b.emit(
        "pool2d_f32", {"x": x}, {"y": y}, disjoint=True, **_image_fields(x, y), average=int(average),
        kernel_h=kernel[0], kernel_w=kernel[1], stride_h=stride[0], stride_w=stride[1], dilation_h=dilation[0],
        dilation_w=dilation[1], pad_top=padding[0], pad_left=padding[2],
        include_pad=int(average and call.attribute("include_pad")),
    )  # fmt: skip
    return y


def max_pool2d(b: Builder, call: Call) -> View:
    """Largest of each window."""
    return pool(b, call, average=False)


def avg_pool2d(b: Builder, call: Call) -> View:
    """Mean of each window."""
    return pool(b, call, average=True)


def adaptive_pool2d(b: Builder, call: Call, *, average: bool) -> View:
    """Nearly equal windows."""
    x, y = _in_rows_of_pixels(b, call.inputs[0]), output(b, call)
    b.clear_halo(y)
    b.emit("adaptive_pool2d_f32", {"x": x}, {"y": y}, disjoint=True, **_image_fields(x, y), average=int(average))
    return y


def adaptive_avg_pool2d(b: Builder, call: Call) -> View:
    """Mean of each window."""
    return adaptive_pool2d(b, call, average=True)


def adaptive_max_pool2d(b: Builder, call: Call) -> View:
    """Largest of each window."""
    return adaptive_pool2d(b, call, average=False)


def mean(b: Builder, call: Call) -> View:
    """Mean over axes."""
    axes = sorted(call.attribute("axes"))
    kept = [i for i in range(len(call.inputs[0].shape)) if i not in axes]
    x, y = call.inputs[0].permuted(kept + axes), b.rows(call.shape)
    if max(len(kept), len(axes)) > 3:
        x = b.as_rows(x)
    count = len(kept)
    outer, (x_outer, y_outer) = nest(x.shape[:count], x.strides[:count], y.reshaped(x.shape[:count]).strides, depth=4)
    inner, (x_inner,) = nest(x.shape[count:], x.strides[count:], depth=3)
    b.emit(
        "mean_f32", {"x": x}, {"y": y}, disjoint=True, outer=outer, x_outer=x_outer, y_outer=y_outer, inner=inner,
        x_inner=x_inner,
    )  # fmt: skip
    return y


def concat(b: Builder, call: Call) -> View:
    """The parts one after another; parts that were computed in their place need no copy."""
    y, axis, start = output(b, call), call.attribute("axis"), 0
    parts = []
    for x in call.inputs:
        parts.append((x, y.sliced(axis, start, start + x.shape[axis], 1)))
        start += x.shape[axis]
    missing = [(x, part) for x, part in parts if (x.buffer, x.offset) != (part.buffer, part.offset)]
    for target in [part for _, part in missing] if axis == 1 else [y]:
        b.clear_halo(target, disjoint=True)
    for x, part in missing:
        b.copy(x, part, disjoint=True)
    return y


def slice_(b: Builder, call: Call) -> View:
    """A view."""
    return call.inputs[0].sliced(*(call.attribute(name) for name in ("axis", "start", "stop", "step")))


def reshape(b: Builder, call: Call) -> View:
    """A view of C-ordered elements."""
    return b.as_rows(call.inputs[0]).reshaped(call.shape)


def permute(b: Builder, call: Call) -> View:
    """A view."""
    return call.inputs[0].permuted(call.attribute("order"))


def pad(b: Builder, call: Call) -> View:
    """A constant border around a copy."""
    y = output(b, call)
    bordered(b, call.inputs[0], y, call.attribute("pads"), bits_of(call.attribute("value")))
    return y


def bordered(b: Builder, x: View, y: View, pads: Sequence[tuple[int, int]], word: int) -> None:
    """Copies `x` into the middle of `y`, and sets the border to the 32 bits of `word`."""
    b.clear_halo(y)
    inside = y
    for axis, (low, _) in enumerate(pads):
        size, outer = x.shape[axis], inside.shape[axis]
        for start, stop in ((0, low), (low + size, outer)):
            if start < stop:
                b.fill(inside.sliced(axis, start, stop, 1), word, disjoint=True)
        inside = inside.sliced(axis, low, low + size, 1)
    b.copy(x, inside, disjoint=True)


def matrix_product(b: Builder, call: Call) -> View:
    """Batched matrix product."""
    y = b.rows(call.shape)
    matmul(b, call.inputs[0], call.inputs[1], y)
    return y


def softmax(b: Builder, call: Call) -> View:
    """Along one axis, moved to the end where it is not there."""
    x, axis = call.inputs[0], call.attribute("axis") % len(call.shape)
    order = [i for i in range(len(call.shape)) if i != axis] + [axis]
    rows = b.as_rows(x.permuted(order))
    y = b.rows(rows.shape)
    b.emit("softmax_f32", {"x": rows}, {"y": y}, disjoint=True, rows=math.prod(rows.shape[:-1]), columns=rows.shape[-1])
    return y.permuted([order.index(i) for i in range(len(order))])


def layer_norm(b: Builder, call: Call) -> View:
    """Over the last axes."""
    x, y = b.as_rows(call.inputs[0]), b.rows(call.shape)
    axes = call.attribute("axes")
    norm = dict(zip(("weight", "bias"), (b.as_rows(operand) for operand in call.inputs[1:])))
    b.emit(
        "layer_norm_f32", {"x": x, **norm}, {"y": y}, disjoint=True, rows=math.prod(x.shape[:-axes]),
        columns=math.prod(x.shape[-axes:]), eps=call.attribute("eps"),
    )  # fmt: skip
    return y


def upsample_nearest(b: Builder, call: Call) -> View:
    """A copy in which every pixel is read several times."""
    x, y = call.inputs[0], output(b, call)
    (n, c, h, w), (sh, sw) = x.shape, call.attribute("scale")
    size = (n, c, h, sh, w, sw)
    from_ = (x.strides[0], x.strides[1], x.strides[2], 0, x.strides[3], 0)
    to = (y.strides[0], y.strides[1], y.strides[2] * sh, y.strides[2], y.strides[3] * sw, y.strides[3])
    b.clear_halo(y)
    b.copy(View(x.buffer, size, from_, x.offset), View(y.buffer, size, to, y.offset), disjoint=True)
    return y


def _in_rows_of_pixels(b: Builder, x: View) -> View:
    """`x` with neighbouring pixels side by side, as the pooling kernels read them."""
    return x if x.strides[3] == 1 or x.shape[3] == 1 else b.as_planar(x)


def _image_fields(x: View, y: View) -> dict[str, int]:
    (images, channels, height, width), (out_height, out_width) = x.shape, y.shape[2:]
    return {
        "images": images, "channels": channels, "height": height, "width": width, "out_height": out_height,
        "out_width": out_width, "x_image": x.strides[0], "x_channel": x.strides[1], "x_row": x.strides[2],
        "y_image": y.strides[0], "y_channel": y.strides[1], "y_row": y.strides[2],
    }  # fmt: skip


EMITTERS: dict[str, Emitter] = {
    "conv2d": conv2d,
    "linear": linear,
    "affine": affine,
    "activation": activation,
    "add": add,
    "mul": mul,
    "max_pool2d": max_pool2d,
    "avg_pool2d": avg_pool2d,
    "adaptive_avg_pool2d": adaptive_avg_pool2d,
    "adaptive_max_pool2d": adaptive_max_pool2d,
    "mean": mean,
    "concat": concat,
    "slice": slice_,
    "reshape": reshape,
    "permute": permute,
    "pad": pad,
    "matmul": matrix_product,
    "softmax": softmax,
    "layer_norm": layer_norm,
    "upsample_nearest": upsample_nearest,
}
IMAGE_OPS = frozenset(
    {"conv2d", "max_pool2d", "avg_pool2d", "adaptive_avg_pool2d", "adaptive_max_pool2d", "upsample_nearest"}
)
ANY_LAYOUT_OPS = frozenset({"affine", "activation", "add", "mul", "concat", "pad"})
