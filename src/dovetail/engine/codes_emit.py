"""Everything else over codes: linear layers, sums, means and maxima, moves, and the way from and to real numbers.

`EMITTERS` has the function of every op, those of `codes_conv.py` included.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from dovetail.engine import emit
from dovetail.engine.builder import Builder
from dovetail.engine.codes import CodeCall, CodeEmitter, fill_outputs, sums, word_of, word_shape, words, words_of
from dovetail.engine.codes_conv import conv2d
from dovetail.engine.layout import View
from dovetail.errors import EngineError
from dovetail.program.integer import Product, code_of, is_quantized, limits, product, ratio
from dovetail.program.program import Epilogue, Graph, Node, Tensor


def linear(b: Builder, call: CodeCall) -> View:
    """A product over the last axis."""
    if call.residual is not None:
        call = replace(call, residual=b.as_rows(call.residual))
    y, found = call.result(b), product(call.program, call.graph, call.node)
    return call.run(b, b.as_rows(call.inputs[0]), found, y)


def linear_dense(b: Builder, call: CodeCall, x: View, found: Product, y: View) -> None:
    """Columns in lanes."""
    outputs, width = len(found.weight), 4 * b.lanes
    filled = words_of(fill_outputs(found.weight, width)[:, :, None, None])[:, :, 0, 0]
    packed = np.concatenate([filled[first : first + width].T.ravel() for first in range(0, len(filled), width)])
    rows, size = math.prod(x.shape[:-1]), words(outputs) * 4 if is_quantized(call.output) else outputs
    b.emit(
        "linear_dense_int8",
        {"x": x, "w": b.constant(packed), **sums(b, call, found, width)}, {"y": y}, disjoint=True, rows=rows,
        inner=x.shape[-1], columns=outputs, x_row=x.shape[-1], y_row=size, r_image=size, **call.rounding(),
        work=rows * packed.size,
    )  # fmt: skip


def quantize(b: Builder, call: CodeCall) -> View:
    """Codes of real numbers in any layout."""
    x, y = call.inputs[0], call.result(b)
    fields = _image_fields(x, y, float_side="x")
    b.clear_halo(y)
    inverse = float(np.float32(1 / float(call.output.scale or 1)))
    b.emit("quantize_int8", {"x": x}, {"y": y}, disjoint=True, **fields, inverse=inverse, zero=call.output.zero)
    return y


def dequantize(b: Builder, call: CodeCall) -> View:
    """Real numbers of codes."""
    x, y = _side_by_side(b, call.inputs[0]), call.result(b)
    fields, source = _image_fields(y, x, float_side="y"), call.tensor()
    b.clear_halo(y)
    b.emit(
        "dequantize_int8", {"x": x}, {"y": y}, disjoint=True, **fields, scale=float(np.float32(source.scale)),
        zero=source.zero,
    )  # fmt: skip
    return y


def add(b: Builder, call: CodeCall) -> View:
    """The sum of two tensors of one shape."""
    (x, r), y = (_side_by_side(b, view) for view in call.inputs), call.result(b)
    low, high = limits(call.node, call.output)
    b.clear_halo(y)
    images = [_as_image(view) for view in (x, r, y)]
    strides = {
        f"{name}_{part}": image.strides[i]
        for name, image in zip("xry", images)
        for i, part in enumerate(("image", "channel", "row"))
    }
    n, c, h, w = images[0].shape
    b.emit(
        "add_int8", {"x": x, "r": r}, {"y": y}, disjoint=True, images=n, channels=c, height=h, width=w, **strides,
        x_ratio=float(ratio(call.tensor(0), call.output)), x_zero=call.tensor(0).zero,
        r_ratio=float(ratio(call.tensor(1), call.output)), r_zero=call.tensor(1).zero, zero=call.output.zero,
        low=low, high=high,
    )  # fmt: skip
    return y


def mean(b: Builder, call: CodeCall) -> View:
    """Over the pixels of an image, or over its rows in between."""
    return _pooled(b, call, average=2)


def avg_pool2d(b: Builder, call: CodeCall) -> View:
    """Mean of each window."""
    return _pooled(b, call, average=1)


def adaptive_avg_pool2d(b: Builder, call: CodeCall) -> View:
    """Mean over nearly equal windows."""
    return _pooled(b, call, average=2)


def max_pool2d(b: Builder, call: CodeCall) -> View:
    """Greatest code of each window."""
    return _pooled(b, call, average=0)


def move(b: Builder, call: CodeCall) -> View:
    """Whatever puts numbers elsewhere: on whole words as in floating point, else by way of real numbers, exactly."""
    if not _moves_words(call):
        return _by_way_of_real(b, call)
    node, shape = call.node, word_shape(call.shape)
    attributes = dict(node.attributes)
    y = None if node.op in ("slice", "reshape", "pad") else call.result(b)
    if node.op == "slice" and attributes["axis"] == _channel_axis(call):
        attributes |= {"start": attributes["start"] // 4, "stop": words(attributes["stop"])}
    moved = emit.Call(replace(node, attributes=attributes), call.inputs, shape, planar=len(shape) == 4, place=y)
    if node.op == "pad":
        y, pads, axis = call.result(b), list(attributes["pads"]), _channel_axis(call)
        pads[axis] = (pads[axis][0] // 4, shape[axis] - pads[axis][0] // 4 - call.inputs[0].shape[axis])
        emit.bordered(b, call.inputs[0], y, pads, word_of(code_of(attributes["value"], call.output)))
        return y
    return emit.EMITTERS[node.op](b, moved)


EMITTERS: dict[str, CodeEmitter] = {
    "conv2d": conv2d,
    "linear": linear,
    "quantize": quantize,
    "dequantize": dequantize,
    "add": add,
    "mean": mean,
    "avg_pool2d": avg_pool2d,
    "adaptive_avg_pool2d": adaptive_avg_pool2d,
    "max_pool2d": max_pool2d,
    "adaptive_max_pool2d": move,
    "concat": move,
    "slice": move,
    "reshape": move,
    "permute": move,
    "pad": move,
    "upsample_nearest": move,
}


def _as_image(x: View) -> View:
    """Rows `(N, C)` and `(N, rows, C)` as images `(N, C, rows, 1)`; images as they are."""
    if len(x.shape) == 4:
        return x
    if len(x.shape) == 2:
        return View(x.buffer, (*x.shape, 1, 1), (*x.strides, 0, 1), x.offset)
    if len(x.shape) == 3:
        return View(
            x.buffer, (x.shape[0], x.shape[2], x.shape[1], 1), (x.strides[0], x.strides[2], x.strides[1], 1), x.offset
        )
    raise EngineError(f"tensors of codes have two to four dimensions, not {len(x.shape)}")


def _side_by_side(b: Builder, x: View) -> View:
    """`x` with neighbouring pixels side by side."""
    return b.as_planar(x) if len(x.shape) == 4 and x.shape[3] > 1 and x.strides[3] != 1 else x


def _image_fields(real: View, coded: View, float_side: str) -> dict[str, int]:
    """Sizes and strides of a tensor in real numbers and of its codes."""
    plain, packed = _as_image(real), _as_image(coded)
    other = "y" if float_side == "x" else "x"
    n, c, h, w = plain.shape
    fields = {"images": n, "channels": c, "height": h, "width": w, f"{float_side}_column": plain.strides[3]}
    for i, part in enumerate(("image", "channel", "row")):
        fields |= {f"{float_side}_{part}": plain.strides[i], f"{other}_{part}": packed.strides[i]}
    return fields


def _pooled(b: Builder, call: CodeCall, *, average: int) -> View:
    x = _side_by_side(b, call.inputs[0])
    y, image = call.result(b), _as_image(x)
    height, width = image.shape[2:]
    attributes = call.node.attributes
    windows = {} if average == 2 else _window_fields(attributes)
    out = y.shape[2:] if len(y.shape) == 4 else (1, 1)
    target = y.strides if len(y.shape) == 4 else (*y.strides[:1], y.strides[-1], 0)
    include = int(average == 1 and attributes["include_pad"])
    counts = _counts(call, height * width, average, include)
    ratios = np.array([ratio(call.tensor(), call.output, n) if n else 0.0 for n in counts], np.float32)
    b.clear_halo(y)
    b.emit(
        "pool2d_int8", {"x": x, "ratios": b.constant(ratios)}, {"y": y}, disjoint=True, images=image.shape[0],
        channels=image.shape[1], out_channels=call.shapes[call.node.inputs[0]][_channel_axis(call)], height=height,
        width=width, out_height=out[0], out_width=out[1], x_image=image.strides[0], x_channel=image.strides[1],
        x_row=image.strides[2], y_image=target[0], y_channel=target[1], y_row=target[2], **windows, average=average,
        include_pad=include, x_zero=call.tensor().zero, **_limits(call),
    )  # fmt: skip
    return y


def _counts(call: CodeCall, pixels: int, average: int, include: int) -> Sequence[int]:
    """How many codes a window may have, from 0 on; where all count as having the same, that alone."""
    if average == 0:
        return [0]
    window = math.prod(call.node.attributes.get("kernel", (pixels,)))
    return [window] if include else range(min(pixels, window) + 1)


def _limits(call: CodeCall) -> dict[str, Any]:
    if not is_quantized(call.output):
        return {"real": 1}
    return {"real": 0, "zero": call.output.zero, "low": 0, "high": 255}


def _window_fields(attributes: Mapping[str, Any]) -> dict[str, int]:
    kernel, stride, padding = (attributes[name] for name in ("kernel", "stride", "padding"))
    dilation = attributes.get("dilation", (1, 1))
    return {
        "kernel_h": kernel[0], "kernel_w": kernel[1], "stride_h": stride[0], "stride_w": stride[1],
        "dilation_h": dilation[0], "dilation_w": dilation[1], "pad_top": padding[0], "pad_left": padding[2],
    }  # fmt: skip


def _channel_axis(call: CodeCall) -> int:
    rank = len(call.shapes[call.node.inputs[0]])
    return 1 if rank == 4 else rank - 1


def _moves_words(call: CodeCall) -> bool:
    """Whether channels stay four to a word, in their places."""
    node, axis = call.node, _channel_axis(call)
    shapes = [call.shapes[name] for name in node.inputs]
    match node.op:
        case "upsample_nearest":
            return True
        case "concat":
            return len(call.shape) > 1 and (
                node.attributes["axis"] != axis or all(shape[axis] % 4 == 0 for shape in shapes[:-1])
            )
        case "pad":
            low, high = node.attributes["pads"][axis]
            return low == high == 0 or (low % 4 == 0 and shapes[0][axis] % 4 == 0)
        case "slice":
            start, stop, step = (node.attributes[name] for name in ("start", "stop", "step"))
            whole = start % 4 == 0 and (stop % 4 == 0 or stop == shapes[0][axis]) and step == 1
            return bool(node.attributes["axis"] != axis or whole)
        case "reshape":
            flat = len(shapes[0]) == 4 and shapes[0][2:] == (1, 1) and call.shape == shapes[0][:2]
            return bool(flat and call.inputs[0].contiguous)
    return False


def _by_way_of_real(b: Builder, call: CodeCall) -> View:
    """Real numbers of the operands, moved, and their codes: the way there and back changes none."""
    node, tensors, views = call.node, call.graph.tensors, []
    for name, view in zip(node.inputs, call.inputs):
        real = Tensor("real", tensors[name].shape)
        graph = Graph((), (), (), {"codes": tensors[name], "real": real})
        step = Node("dequantize", node.name, ("codes",), "real")
        shape = call.shapes[name]
        views.append(dequantize(b, replace(call, graph=graph, node=step, inputs=[view], shape=shape)))
    plain = emit.Call(replace(node, epilogue=Epilogue()), views, call.shape, planar=len(call.shape) == 4)
    moved = emit.EMITTERS[node.op](b, plain)
    graph = Graph((), (), (), {"real": Tensor("real", call.output.shape), "codes": call.output})
    step = Node("quantize", node.name, ("real",), "codes")
    return quantize(b, replace(call, graph=graph, node=step, inputs=[moved]))
