"""Convolutions over codes: the calls of their kernels."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from dovetail.engine.builder import Builder
from dovetail.engine.codes import CodeCall, fill_outputs, sums, words, words_of
from dovetail.engine.columns import column_tables
from dovetail.engine.conv import (
    Geometry,
    Runs,
    allow_whole_vectors,
    entry_lists,
    lying,
    pack_blocks,
    plane_fields,
    prepare,
    runs_over,
)
from dovetail.engine.lanes import lane_blocks, lane_tables
from dovetail.engine.layout import View, round_up
from dovetail.program.integer import Product, product
from dovetail.program.program import Node


def conv2d(b: Builder, call: CodeCall) -> View:
    """A convolution by the chosen kernel."""
    y, found = call.result(b), product(call.program, call.graph, call.node)
    if call.residual is not None:
        call = replace(call, residual=b.as_planar(call.residual, y.planes))
    return call.run(b, call.inputs[0], found, y)


def conv_dense(b: Builder, call: CodeCall, x: View, found: Product, y: View) -> None:
    """Blocks of 8 or 4 outputs in registers."""
    at = geometry(call.node)
    outputs = found.weight.shape[0] // at.groups
    weight = fill_outputs(found.weight, 4) if at.groups == 1 else found.weight
    sizes = _blocks(len(weight) // at.groups, 8 if b.lanes == 16 else 4)
    blocks, packed = pack_blocks(words_of(weight), at.groups, sizes)
    taps = prepare(b, x, found.weight.shape, y, at)
    vectors = {(16, 8): 3, (16, 4): 6}.get((b.lanes, sizes[0]), 2)
    work = packed.size // sum(sizes) // at.groups * sizes[0] * vectors
    runs = runs_over(b, y, taps, vectors * max(1, -(-2000 // work)), len(blocks))
    b.emit(
        "conv2d_dense_int8",
        {"x": taps.x, **sums(b, call, found), **run_tables(b, call, runs), "weight": b.constant(packed),
         "blocks": b.constant(blocks), "taps": b.constant(taps.offsets.astype(np.int32).ravel())},
        {"y": y}, disjoint=True, **plane_fields(taps.x, y), **runs.fields, **residual_fields(call), **call.rounding(),
        tap_count=taps.offsets.size, channels=words(found.weight.shape[1]), out_channels=outputs * at.groups,
        block_count=len(blocks), blocks_outer=int(packed.size > math.prod(x.shape[1:])),
        work=packed.size * math.prod(y.shape[2:]) * y.shape[0],
    )  # fmt: skip


def conv_lanes(b: Builder, call: CodeCall, x: View, found: Product, y: View) -> None:
    """Outputs in lanes, for small maps."""
    at = geometry(call.node)
    taps = lying(b, x, found.weight.shape, y, at)
    outputs = len(found.weight)
    filled = words_of(fill_outputs(found.weight, b.lanes)).reshape(round_up(outputs, b.lanes), -1)
    tables, fields = lane_tables(b, y, taps, at.stride, outputs, call.residual)
    b.emit(
        "conv2d_lanes_int8",
        {"x": taps.x, **sums(b, call, found), "weight": b.constant(lane_blocks(b, filled)), **tables},
        {"y": y}, disjoint=True, **plane_fields(taps.x, y), **fields, **residual_fields(call), **call.rounding(),
        channels=words(found.weight.shape[1]), out_channels=outputs,
        work=filled.size * math.prod(y.shape[2:]) * y.shape[0],
    )  # fmt: skip


def conv_sparse(b: Builder, call: CodeCall, x: View, found: Product, y: View) -> None:
    """Lists of words of four weights that are not all zero."""
    taps = prepare(b, x, found.weight.shape, y, geometry(call.node))
    weight = words_of(found.weight)
    k, c, r, s = np.nonzero(weight)
    entries, starts = entry_lists(k, c * taps.channel + taps.offsets[r, s], weight[k, c, r, s], len(weight))
    quads = words(len(weight))
    runs = runs_over(b, y, taps, 6 if b.lanes == 16 else 3, quads)
    b.emit(
        "conv2d_sparse_int8",
        {"x": taps.x, **sums(b, call, found), **run_tables(b, call, runs), "entries": b.constant(entries),
         "starts": b.constant(starts)},
        {"y": y}, disjoint=True, **plane_fields(taps.x, y), **runs.fields, **residual_fields(call), **call.rounding(),
        out_channels=len(weight), blocks_outer=int(len(k) > math.prod(x.shape[1:])),
        work=2 * len(k) * math.prod(y.shape[2:]) * y.shape[0],
    )  # fmt: skip


def conv_sparse_columns(b: Builder, call: CodeCall, x: View, found: Product, y: View) -> None:
    """The same, each column of taps by itself."""
    taps, tables, fields = column_tables(
        b, x, words_of(found.weight), y, geometry(call.node), together=4, zeros=not call.tensor().zero
    )
    allow_whole_vectors(b, call.residual)
    b.emit(
        "conv2d_sparse_columns_int8", {"x": taps.x, **sums(b, call, found), **tables}, {"y": y}, disjoint=True,
        **plane_fields(taps.x, y), **residual_fields(call), **call.rounding(), **fields,
    )  # fmt: skip


def conv_grouped(b: Builder, call: CodeCall, x: View, found: Product, y: View) -> None:
    """Groups of any size, one channel at a time."""
    at = geometry(call.node)
    taps = prepare(b, x, found.weight.shape, y, at)
    runs = runs_over(b, y, taps, 4, words(len(found.weight)))
    b.emit(
        "conv2d_grouped_int8",
        {"x": taps.x, **sums(b, call, found), **run_tables(b, call, runs), "weight": b.constant(found.weight),
         "taps": b.constant(taps.offsets.astype(np.int32).ravel())},
        {"y": y}, disjoint=True, **plane_fields(taps.x, y), **runs.fields, **residual_fields(call), **call.rounding(),
        tap_count=taps.offsets.size, channels=found.weight.shape[1], out_channels=len(found.weight), groups=at.groups,
        work=4 * found.weight[0].size * math.prod(call.shape),
    )  # fmt: skip


def _blocks(outputs: int, most: int) -> list[int]:
    """Blocks of `most` (4 or 8) outputs, and one of 4 where that is left."""
    return [most] * (outputs // most) + ([4] if outputs % most else [])


def geometry(node: Node) -> Geometry:
    """Of a convolution."""
    return Geometry(*(node.attributes[name] for name in ("stride", "padding", "dilation", "groups")))


def run_tables(b: Builder, call: CodeCall, runs: Runs) -> dict[str, View]:
    """Pointers of DOVETAIL_RUNS."""
    allow_whole_vectors(b, call.residual)
    return {"runs": b.constant(runs.records), "masks": b.constant(runs.masks)}


def residual_fields(call: CodeCall) -> dict[str, int]:
    """Where DOVETAIL_ROUNDING finds the residual."""
    if call.residual is None:
        return {}
    return {"r_image": call.residual.strides[0], "r_channel": call.residual.strides[1]}
