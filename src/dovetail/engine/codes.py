"""Nodes over codes: tensors of uint8 as planes, or rows, of 32-bit words of four channels.

A word takes the place of a float32 number, so layouts, views, halos, phases and copies are those of floating point; the
halo holds four codes of zero. What a node means is in `program/integer.py`; here are its kernel calls.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from dovetail.engine import emit, kernels
from dovetail.engine.builder import Builder, activation_fields
from dovetail.engine.conv import Geometry, Runs, allow_whole_vectors, pack_blocks, plane_fields, prepare, runs_over
from dovetail.engine.kernels import Candidate, Place, candidates
from dovetail.engine.lanes import lane_blocks, lane_tables
from dovetail.engine.layout import Shape, View, round_up
from dovetail.errors import EngineError
from dovetail.formats.base import Packed
from dovetail.program.integer import Product, code_of, is_quantized, limits, product, ratio
from dovetail.program.program import Epilogue, Graph, Node, Program, Tensor

WORD_ENTRY = np.dtype([("offset", "<i4"), ("word", "<i4")])
_FILL = 64  # outputs to which biases and multipliers are filled up: whole vectors of any ISA


def words(count: int) -> int:
    """Words that hold so many channels."""
    return -(-count // 4)


def sparse_words(packed: Packed) -> int:
    """Words of four input channels that are not zero, of sparse whole numbers: what their kernel pays for."""
    found = packed.integers() if packed.spec.format in ("sparse", "block_sparse") else None
    if found is None:
        return 0
    flat = found[0].reshape(*packed.shape[:2], -1)
    filled = np.pad(flat, ((0, 0), (0, -flat.shape[1] % 4), (0, 0)))
    return int(filled.reshape(len(flat), -1, 4, flat.shape[2]).any(axis=2).sum())


def word_shape(shape: Shape) -> Shape:
    """Of a tensor of codes: its channels, axis 1 of images and the last axis of rows, in words."""
    if len(shape) == 4:
        return (shape[0], words(shape[1]), *shape[2:])
    return (*shape[:-1], words(shape[-1]))


def word_of(code: int) -> int:
    """Four times the same code, as a signed 32-bit number."""
    return int(np.uint32(code * 0x01010101).view(np.int32))


@dataclass(frozen=True)
class CodeCall:
    """A node that touches codes, with everything it needs; sizes are known.

    Attributes:
        inputs: its operands, in words where they are codes.
        shape: of the output, in channels.
        candidate: how to run a weight op.
    """

    program: Program
    graph: Graph
    node: Node
    inputs: list[View]
    residual: View | None
    shape: Shape
    shapes: Mapping[str, Shape]
    candidate: CodeCandidate | None = None

    def run(self, b: Builder, x: View, found: Product, y: View) -> View:
        """Emit a weight op by the chosen candidate."""
        if self.candidate is None:
            raise EngineError(f"node {self.node.name!r}: no kernel was chosen for it")
        self.candidate.emit(b, self, x, found, y)
        return y

    @property
    def output(self) -> Tensor:
        """The tensor that it writes."""
        return self.graph.tensors[self.node.output]

    def tensor(self, i: int = 0) -> Tensor:
        """The tensor of operand `i`, the residual last."""
        return self.graph.tensors[self.node.reads()[i]]

    def result(self, b: Builder) -> View:
        """Where the output goes."""
        shape, word = self.shape, 0
        if is_quantized(self.output):
            shape, word = word_shape(shape), word_of(self.output.zero or 0)
        return b.planar(shape, word=word) if len(shape) == 4 else replace(b.rows(shape), word=word)

    def rounding(self) -> dict[str, Any]:
        """Fields by which kernels end their sums, the residual's aside from its place."""
        fields: dict[str, Any] = {"real": 1, **activation_fields(self.node.epilogue.activation)}
        if is_quantized(self.output):
            low, high = limits(self.node, self.output)
            fields = {"real": 0, "zero": self.output.zero, "low": low, "high": high}
            if self.residual is not None:
                other = self.tensor(1)
                fields |= {"r_ratio": float(ratio(other, self.output)), "r_zero": other.zero}
        return fields


CodeKernel = Callable[[Builder, CodeCall, View, Product, View], None]
CodeEmitter = Callable[[Builder, CodeCall], View]


@dataclass(frozen=True)
class CodeCandidate:
    """A way to run a weight op over codes; fields as in `kernels.Candidate`."""

    name: str
    op: str
    runs: Callable[[Packed, Place], bool]
    emit: CodeKernel
    exact: bool = True


def conv2d(b: Builder, call: CodeCall) -> View:
    """A convolution by the chosen kernel."""
    y, found = call.result(b), product(call.program, call.graph, call.node)
    if np.abs(found.weight).max(initial=0) > 127:
        raise EngineError(
            f"node {call.node.name!r}: the kernels multiply bytes, and its weight stands for larger numbers; "
            f"`quantize` recomposes it"
        )
    if call.residual is not None:
        call = replace(call, residual=b.as_planar(call.residual, y.planes))
    return call.run(b, call.inputs[0], found, y)


def conv_dense(b: Builder, call: CodeCall, x: View, found: Product, y: View) -> None:
    """Blocks of 8 or 4 outputs in registers."""
    at = _geometry(call.node)
    outputs = found.weight.shape[0] // at.groups
    weight = _filled(found.weight, 4) if at.groups == 1 else found.weight
    sizes = _blocks(len(weight) // at.groups, 8 if b.lanes == 16 else 4)
    blocks, packed = pack_blocks(words_of(weight), at.groups, sizes)
    taps = prepare(b, x, found.weight.shape, y, at)
    vectors = {(16, 8): 3, (16, 4): 6}.get((b.lanes, sizes[0]), 2)
    work = packed.size // sum(sizes) // at.groups * sizes[0] * vectors
    runs = runs_over(b, y, taps, vectors * max(1, -(-2000 // work)), len(blocks))
    b.emit(
        "conv2d_dense_int8",
        {"x": taps.x, **_sums(b, call, found), **_tables(b, call, runs), "weight": b.constant(packed),
         "blocks": b.constant(blocks), "taps": b.constant(taps.offsets.astype(np.int32).ravel())},
        {"y": y}, disjoint=True, **plane_fields(taps.x, y), **runs.fields, **_residual(call), **call.rounding(),
        tap_count=taps.offsets.size, channels=words(found.weight.shape[1]), out_channels=outputs * at.groups,
        block_count=len(blocks), blocks_outer=int(packed.size > math.prod(x.shape[1:])),
        work=packed.size * math.prod(y.shape[2:]) * y.shape[0],
    )  # fmt: skip


def conv_lanes(b: Builder, call: CodeCall, x: View, found: Product, y: View) -> None:
    """Outputs in lanes, for small maps."""
    taps = prepare(b, x, found.weight.shape, y, _geometry(call.node))
    outputs = len(found.weight)
    filled = words_of(_filled(found.weight, b.lanes)).reshape(round_up(outputs, b.lanes), -1)
    tables, fields = lane_tables(b, y, taps, outputs, call.residual)
    b.emit(
        "conv2d_lanes_int8",
        {"x": taps.x, **_sums(b, call, found), "weight": b.constant(lane_blocks(b, filled)), **tables},
        {"y": y}, disjoint=True, **plane_fields(taps.x, y), **fields, **_residual(call), **call.rounding(),
        channels=words(found.weight.shape[1]), out_channels=outputs,
        work=filled.size * math.prod(y.shape[2:]) * y.shape[0],
    )  # fmt: skip


def conv_sparse(b: Builder, call: CodeCall, x: View, found: Product, y: View) -> None:
    """Lists of words of four weights that are not all zero."""
    taps = prepare(b, x, found.weight.shape, y, _geometry(call.node))
    weight = words_of(found.weight)
    k, c, r, s = np.nonzero(weight)
    entries = np.empty(len(k), dtype=WORD_ENTRY)
    entries["offset"], entries["word"] = c * taps.channel + taps.offsets[r, s], weight[k, c, r, s]
    starts = np.searchsorted(k, np.arange(len(weight) + 1)).astype(np.int64)
    quads = words(len(weight))
    runs = runs_over(b, y, taps, 6 if b.lanes == 16 else 3, quads)
    b.emit(
        "conv2d_sparse_int8",
        {"x": taps.x, **_sums(b, call, found), **_tables(b, call, runs), "entries": b.constant(entries),
         "starts": b.constant(starts)},
        {"y": y}, disjoint=True, **plane_fields(taps.x, y), **runs.fields, **_residual(call), **call.rounding(),
        out_channels=len(weight), blocks_outer=int(len(k) > math.prod(x.shape[1:])),
        work=2 * len(k) * math.prod(y.shape[2:]) * y.shape[0],
    )  # fmt: skip


def conv_grouped(b: Builder, call: CodeCall, x: View, found: Product, y: View) -> None:
    """Groups of any size, one channel at a time."""
    at = _geometry(call.node)
    taps = prepare(b, x, found.weight.shape, y, at)
    runs = runs_over(b, y, taps, 4, words(len(found.weight)))
    b.emit(
        "conv2d_grouped_int8",
        {"x": taps.x, **_sums(b, call, found), **_tables(b, call, runs), "weight": b.constant(found.weight),
         "taps": b.constant(taps.offsets.astype(np.int32).ravel())},
        {"y": y}, disjoint=True, **plane_fields(taps.x, y), **runs.fields, **_residual(call), **call.rounding(),
        tap_count=taps.offsets.size, channels=found.weight.shape[1], out_channels=len(found.weight), groups=at.groups,
        work=4 * found.weight[0].size * math.prod(call.shape),
    )  # fmt: skip


def linear(b: Builder, call: CodeCall) -> View:
    """A product over the last axis."""
    if call.residual is not None:
        call = replace(call, residual=b.as_rows(call.residual))
    y, found = call.result(b), product(call.program, call.graph, call.node)
    return call.run(b, b.as_rows(call.inputs[0]), found, y)


def linear_dense(b: Builder, call: CodeCall, x: View, found: Product, y: View) -> None:
    """Columns in lanes."""
    outputs, width = len(found.weight), 4 * b.lanes
    filled = words_of(_filled(found.weight, width)[:, :, None, None])[:, :, 0, 0]
    packed = np.concatenate([filled[first : first + width].T.ravel() for first in range(0, len(filled), width)])
    rows, size = math.prod(x.shape[:-1]), words(outputs) * 4 if is_quantized(call.output) else outputs
    b.emit(
        "linear_dense_int8",
        {"x": x, "w": b.constant(packed), **_sums(b, call, found, width)}, {"y": y}, disjoint=True, rows=rows,
        inner=x.shape[-1], columns=outputs, x_row=x.shape[-1], y_row=size, r_image=size, **call.rounding(),
        work=rows * packed.size,
    )  # fmt: skip


def quantize(b: Builder, call: CodeCall) -> View:
    """Codes of real numbers in any layout."""
    x, y = call.inputs[0], call.result(b)
    fields = _image_fields(x, y, call.shape, float_side="x")
    b.clear_halo(y)
    inverse = float(np.float32(1 / float(call.output.scale or 1)))
    b.emit("quantize_int8", {"x": x}, {"y": y}, disjoint=True, **fields, inverse=inverse, zero=call.output.zero)
    return y


def dequantize(b: Builder, call: CodeCall) -> View:
    """Real numbers of codes."""
    x, y = _side_by_side(b, call.inputs[0]), call.result(b)
    fields, source = _image_fields(y, x, call.shape, float_side="y"), call.tensor()
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


def words_of(weight: np.ndarray) -> np.ndarray:
    """Whole numbers `(K, C, R, S)` as words `(K, ceil(C / 4), R, S)`, zeros for the channels that are not there."""
    k, c, r, s = weight.shape
    filled = np.pad(weight, ((0, 0), (0, -c % 4), (0, 0), (0, 0))).astype(np.int8).view(np.uint8)
    codes = filled.reshape(k, -1, 4, r, s).astype(np.uint32)
    packed: np.ndarray = (codes << np.arange(0, 32, 8, dtype=np.uint32).reshape(4, 1, 1)).sum(axis=2, dtype=np.uint32)
    return packed.view(np.int32)


def _filled(weight: np.ndarray, multiple: int) -> np.ndarray:
    """Rows of zeros up to a multiple."""
    return np.pad(weight, ((0, -len(weight) % multiple), *((0, 0),) * (weight.ndim - 1)))


def _blocks(outputs: int, most: int) -> list[int]:
    """Blocks of `most` (4 or 8) outputs, and one of 4 where that is left."""
    return [most] * (outputs // most) + ([4] if outputs % most else [])


def _geometry(node: Node) -> Geometry:
    return Geometry(*(node.attributes[name] for name in ("stride", "padding", "dilation", "groups")))


def _sums(b: Builder, call: CodeCall, found: Product, multiple: int = _FILL) -> dict[str, View | None]:
    """Bias (with what the zero of the input adds), multiplier and residual."""
    outputs = len(found.weight)
    lost = found.weight.reshape(outputs, -1).sum(axis=1, dtype=np.int64) * (call.tensor().zero or 0)
    fill = (0, -outputs % multiple + multiple)
    return {
        "bias": b.constant(np.pad(found.bias - lost, fill).astype(np.int32)),
        "multiplier": b.constant(np.pad(found.multiplier, fill)),
        "residual": call.residual,
    }


def _tables(b: Builder, call: CodeCall, runs: Runs) -> dict[str, View]:
    allow_whole_vectors(b, call.residual)
    return {"runs": b.constant(runs.records), "masks": b.constant(runs.masks)}


def _residual(call: CodeCall) -> dict[str, int]:
    if call.residual is None:
        return {}
    return {"r_image": call.residual.strides[0], "r_channel": call.residual.strides[1]}


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


def _image_fields(real: View, coded: View, shape: Shape, float_side: str) -> dict[str, int]:
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
    kernel = attributes.get("kernel", (height, width))
    windows = {} if average == 2 else _window_fields(attributes)
    out = y.shape[2:] if len(y.shape) == 4 else (1, 1)
    target = y.strides if len(y.shape) == 4 else (*y.strides[:1], y.strides[-1], 0)
    count = max(height * width, math.prod(kernel))
    ratios = np.array([0.0, *(ratio(call.tensor(), call.output, n) for n in range(1, count + 1))], np.float32)
    include = int(average == 1 and attributes["include_pad"])
    b.clear_halo(y)
    b.emit(
        "pool2d_int8", {"x": x, "ratios": b.constant(ratios)}, {"y": y}, disjoint=True, images=image.shape[0],
        channels=image.shape[1], out_channels=call.shapes[call.node.inputs[0]][_channel_axis(call)], height=height,
        width=width, out_height=out[0], out_width=out[1], x_image=image.strides[0], x_channel=image.strides[1],
        x_row=image.strides[2], y_image=target[0], y_channel=target[1], y_row=target[2], **windows, average=average,
        include_pad=include, x_zero=call.tensor().zero, **_limits(call),
    )  # fmt: skip
    return y


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


def _dense_blocks(packed: Packed, at: Place) -> bool:
    return at.groups == 1 or (packed.shape[1] % 4 == 0 and packed.shape[0] // at.groups % 4 == 0)


def _few_pixels(packed: Packed, at: Place) -> bool:
    return at.groups == 1 and at.outputs <= 256


def _sparse(packed: Packed, at: Place) -> bool:
    return at.groups == 1 and packed.spec.format in ("sparse", "block_sparse")


CANDIDATES = (
    CodeCandidate("conv2d_dense", "conv2d", _dense_blocks, conv_dense),
    CodeCandidate("conv2d_lanes", "conv2d", _few_pixels, conv_lanes),
    CodeCandidate("conv2d_sparse", "conv2d", _sparse, conv_sparse),
    CodeCandidate("conv2d_grouped", "conv2d", lambda packed, at: not _dense_blocks(packed, at), conv_grouped),
    CodeCandidate("linear_dense", "linear", lambda packed, at: True, linear_dense),
)
AnyCandidate = Candidate | CodeCandidate


def candidates_of(node: Node, graph: Graph, packed: Packed, at: Place, *, exact: bool = False) -> list[AnyCandidate]:
    """All ways to run a weight op there (or the `exact` ones), over codes or real numbers as its input is."""
    if not _reads_codes(node, graph):
        return list(candidates(node.op, packed, at, exact=exact))
    return [c for c in CANDIDATES if c.op == node.op and c.runs(packed, at)]


def candidate_named(name: str, node: Node, graph: Graph, packed: Packed, at: Place) -> AnyCandidate:
    """The candidate called `name`; `EngineError` where it cannot run this weight there."""
    known: tuple[AnyCandidate, ...] = CANDIDATES if _reads_codes(node, graph) else kernels.CANDIDATES
    for candidate in known:
        if (candidate.name, candidate.op) == (name, node.op) and candidate.runs(packed, at):
            return candidate
    possible = ", ".join(c.name for c in candidates_of(node, graph, packed, at))
    raise EngineError(
        f"node {node.name!r}: kernel {name!r} cannot run a {packed.spec.format} weight of shape {packed.shape}; "
        f"possible are {possible}"
    )


def _reads_codes(node: Node, graph: Graph) -> bool:
    source = graph.tensors.get(node.inputs[0])
    return source is not None and is_quantized(source)
