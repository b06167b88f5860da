"""Depthwise convolutions that compute their input themselves, from that of the 1x1 convolution before them.

The tensor between the two is never made: a band of its rows, for a few vectors of channels, lies in a thread's scratch.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from dovetail.engine.builder import Builder, activation_fields
from dovetail.engine.conv import Epilogue, Geometry, evenly, plane_fields
from dovetail.engine.lanes import blocks_of, lane_blocks
from dovetail.engine.layout import Planes, View
from dovetail.program.integer import touches_codes
from dovetail.program.ops import complete
from dovetail.program.program import Activation, Graph, Node, Program

RING = 5 << 12  # elements, 80 KB: the rows of a band, half of them in L1; maps of 14 x 14 are one band


@dataclass(frozen=True)
class Expansion:
    """The 1x1 convolution before a depthwise one: its weight, `(C, inputs)`, the scale in it, and what follows."""

    weight: np.ndarray
    bias: np.ndarray | None = None
    activation: Activation | None = None


def expansion_of(program: Program, graph: Graph, node: Node) -> Node | None:
    """The 1x1 convolution over real numbers whose output only this node reads, if that makes its input, completed."""
    maker = next((other for other in graph.nodes if other.output == node.inputs[0]), None)
    if maker is None or maker.op != "conv2d" or maker.epilogue.residual or node.epilogue.residual:
        return None
    if touches_codes(maker, graph):
        return None
    read = sum(other.reads().count(maker.output) for other in graph.nodes) + graph.outputs.count(maker.output)
    maker = complete(maker)
    plain = maker.attributes["stride"] == (1, 1) and not any(maker.attributes["padding"])
    pointwise = plain and maker.attributes["groups"] == 1 and program.weights[maker.weight or ""].shape[2:] == (1, 1)
    return maker if pointwise and read == 1 else None


def conv_expanded(
    b: Builder, x: View, weight: np.ndarray, y: View, at: Geometry, epilogue: Epilogue, before: Expansion
) -> None:
    """As `conv_depthwise` on what `before` makes of `x`, which is read as it lies."""
    channels, side, stride, (top, _, left, _) = weight.shape[0], weight.shape[2], at.stride[0], at.padding
    (height, width), out = x.shape[2:], y.planes
    assert out is not None
    blocks = blocks_of(b, channels)
    units, most = _units(blocks, y.shape[0], out.height, b.threads), int(blocks[:, 1].max()) * b.lanes
    ring_row = max((out.width - 1) * stride + side, left + width)
    band = _band(min(out.height, (RING // (ring_row * most) - side) // stride + 1), out, b.lanes)
    ring_rows = min(height, (band - 1) * stride + side)
    ring = ring_rows * ring_row * most
    b.scratch = max(b.scratch, ring + (band * out.width + b.lanes) * b.lanes)
    rows, columns = np.arange(height)[:, None], np.arange(width)
    pixels, places = rows * x.strides[2] + columns * x.strides[3], rows % ring_rows * ring_row + left + columns
    b.emit(
        "conv2d_expanded_depthwise_f32",
        {"x": x, "weight": b.constant(_in_vectors(_filled_rows(weight, b.lanes), b.lanes)),
         "bias": b.constant(_filled(epilogue.bias, channels, b.lanes)),
         "expand": b.constant(lane_blocks(b, _filled_rows(before.weight, b.lanes))),
         "expand_bias": b.constant(_filled(before.bias, channels, b.lanes)), "units": b.constant(units),
         "pixels": b.constant(pixels.astype(np.int32)), "places": b.constant(places.astype(np.int32))},
        {"y": y}, disjoint=True, **plane_fields(x, y), **activation_fields(epilogue.activation),
        **{f"expand_{name.removeprefix('act_')}": n for name, n in activation_fields(before.activation).items()},
        inputs=x.shape[1], channels=channels, side=side, stride=stride, pad_top=top, pad_left=left, x_height=height,
        x_width=width, height=out.height, width=out.width, y_row=out.pitch, room=out.body, ring_rows=ring_rows,
        ring_row=ring_row, unit_count=len(units), band=band, results=ring,
        work=y.shape[0] * channels * (x.shape[1] * height * width + side**2 * out.height * out.width),
    )  # fmt: skip


def _band(most: int, out: Planes, lanes: int) -> int:
    """At most so many rows of the output, but for the last ones a whole number of vectors where there are no gaps."""
    whole = lanes // math.gcd(out.width, lanes) if out.pitch == out.width else 1
    return max(1, most - most % whole if whole < most < out.height else most)


def _units(blocks: np.ndarray, images: int, height: int, threads: int) -> np.ndarray:
    """Records of blocks and rows of the output; a map is cut only where the threads would have too few units."""
    wanted = 1 if threads == 1 else -(-2 * threads // (images * len(blocks)))
    rows = evenly(height, -(-height // wanted))
    firsts = np.cumsum([0, *rows[:-1]])
    return np.array([(*block, *part) for block in blocks for part in zip(firsts, rows)], dtype=np.int32)


def _filled(values: np.ndarray | None, channels: int, lanes: int) -> np.ndarray:
    """One number for each channel, filled up to whole vectors."""
    values = np.zeros(channels) if values is None else values
    return np.pad(values, (0, -channels % lanes)).astype(np.float32)


def _filled_rows(weight: np.ndarray, lanes: int) -> np.ndarray:
    """The same of rows of channels."""
    return np.pad(weight.reshape(len(weight), -1), ((0, -len(weight) % lanes), (0, 0))).astype(np.float32)


def _in_vectors(rows: np.ndarray, lanes: int) -> np.ndarray:
    """Rows of channels as `[vectors][numbers of a channel][lanes]`."""
    return np.ascontiguousarray(rows.reshape(-1, lanes, rows.shape[1]).transpose(0, 2, 1))
