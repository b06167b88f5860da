"""Convolutions: inputs as padded planes, one phase per residue of the stride; weights packed for the kernels.

Every convolution becomes one of unit stride: where the stride is larger, the input is dealt into phase planes, and a
tap is then an address offset into one of them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from dovetail.engine.builder import Builder, activation_fields
from dovetail.engine.layout import Planes, View, round_up
from dovetail.engine.phases import deal
from dovetail.errors import EngineError
from dovetail.program.program import Activation

ENTRY = np.dtype([("offset", "<i4"), ("weight", "<f4")])
WORD_ENTRY = np.dtype([("offset", "<i4"), ("weight", "<i4")])


@dataclass(frozen=True)
class Geometry:
    """Attributes of a convolution; padding is (top, bottom, left, right)."""

    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int, int, int] = (0, 0, 0, 0)
    dilation: tuple[int, int] = (1, 1)
    groups: int = 1

    def taps(self, kernel: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
        """Row and column of each tap relative to the stride's grid, both `(R, S)`."""
        rows = np.arange(kernel[0]) * self.dilation[0] - self.padding[0]
        columns = np.arange(kernel[1]) * self.dilation[1] - self.padding[2]
        row, column = np.meshgrid(rows, columns, indexing="ij")
        return row, column

    def halo(self, kernel: Sequence[int], size: Sequence[int], out: Sequence[int]) -> tuple[int, int]:
        """Rows and columns of zeros that the input of `size` needs around it, per phase."""
        rows, columns = self.taps(kernel)
        return (
            _reach(rows // self.stride[0], out[0], -(-size[0] // self.stride[0])),
            _reach(columns // self.stride[1], out[1], -(-size[1] // self.stride[1])),
        )

    def own_halo(self, kernel: Sequence[int], size: Sequence[int], out: Sequence[int]) -> tuple[int, int]:
        """The same where the input is read as it lies, not dealt into phases."""
        rows, columns = self.taps(kernel)
        return (
            _reach(rows, (out[0] - 1) * self.stride[0] + 1, size[0]),
            _reach(columns, (out[1] - 1) * self.stride[1] + 1, size[1]),
        )


@dataclass(frozen=True)
class Epilogue:
    """What follows the product; scales are folded into the weights before."""

    bias: np.ndarray | None = None
    residual: View | None = None
    activation: Activation | None = None


@dataclass(frozen=True)
class Taps:
    """An input made ready: where taps lie, relative to an output pixel's place in the same pitch.

    Attributes:
        offsets: `(R, S)`, int64.
        furthest: the largest offset within one plane.
        rows, columns: `(R, S)`, of the taps, in units of `pitch` and `step`.
    """

    x: View
    pitch: int
    offsets: np.ndarray
    furthest: int
    rows: np.ndarray
    columns: np.ndarray
    step: int = 1

    @property
    def channel(self) -> int:
        """Distance of two channels."""
        return self.x.strides[1]


def conv_dense(b: Builder, x: View, weight: np.ndarray, y: View, at: Geometry, epilogue: Epilogue) -> None:
    """Writes activation(conv(x, weight) + bias + residual) to `y`; the weight is `(K, C/groups, R, S)`."""
    weights = weight.reshape(at.groups, -1, *weight.shape[1:])
    inputs = np.arange(at.groups * weight.shape[1]).reshape(at.groups, -1)
    outputs = np.arange(len(weight)).reshape(at.groups, -1)
    conv_groups(b, x, [Group(*group) for group in zip(weights, inputs, outputs)], y, at, epilogue)


@dataclass(frozen=True)
class Group:
    """A part of a convolution: `(K, C, R, S)`, over the channels `inputs` (C,), for the channels `outputs` (K,)."""

    weight: np.ndarray
    inputs: np.ndarray
    outputs: np.ndarray


def conv_groups(b: Builder, x: View, groups: Sequence[Group], y: View, at: Geometry, epilogue: Epilogue) -> None:
    """The same by groups of as many inputs each; every channel of `y` is an output of one of them."""
    kernel = groups[0].weight.shape[1:]
    taps = prepare(b, x, (len(groups[0].weight), *kernel), y, at)
    cut = [evenly(len(group.weight), 8 if b.lanes == 16 else 6) for group in groups]
    blocks, packed = pack_groups([group.weight.astype(np.float32) for group in groups], cut)
    most = _vectors_for(b.lanes, cut[0][0])
    runs = runs_over(b, y, taps, most * max(1, -(-2000 // (math.prod(kernel) * cut[0][0] * most))), len(blocks))
    places = np.concatenate([group.outputs for group in groups]).astype(np.int32)
    in_order = replace(epilogue, bias=None if epilogue.bias is None else epilogue.bias[places])
    inputs = np.stack([group.inputs for group in groups]).astype(np.int64)
    planes = None if np.array_equal(inputs.ravel(), np.arange(inputs.size)) else b.constant(inputs * taps.channel)
    b.emit(
        "conv2d_dense_f32",
        {"x": taps.x, **_constants(b, in_order, runs), "weight": b.constant(packed), "blocks": b.constant(blocks),
         "taps": b.constant(taps.offsets.astype(np.int32).ravel()), "planes": planes,
         "places": b.constant(places)},
        {"y": y}, disjoint=True, **plane_fields(taps.x, y), **runs.fields, **epilogue_fields(epilogue),
        tap_count=taps.offsets.size, channels=kernel[0], out_channels=len(places),
        block_count=len(blocks), blocks_outer=int(packed.size > math.prod(x.shape[1:])),
        work=math.prod(kernel) * math.prod(y.shape),
    )  # fmt: skip


def conv_sparse(b: Builder, x: View, weight: np.ndarray, y: View, at: Geometry, epilogue: Epilogue) -> None:
    """The same with a list of non-zeros per output channel."""
    taps = prepare(b, x, weight.shape, y, at)
    k, c, r, s = np.nonzero(weight)
    channel = k // (weight.shape[0] // at.groups) * weight.shape[1] + c
    entries, starts = entry_lists(k, channel * taps.channel + taps.offsets[r, s], weight[k, c, r, s], weight.shape[0])
    runs = runs_over(b, y, taps, 12, weight.shape[0])
    b.emit(
        "conv2d_sparse_f32",
        {"x": taps.x, **_constants(b, epilogue, runs), "entries": b.constant(entries), "starts": b.constant(starts)},
        {"y": y}, disjoint=True, **plane_fields(taps.x, y), **runs.fields, **epilogue_fields(epilogue),
        work=2 * len(k) * math.prod(y.shape[2:]) * y.shape[0],
        out_channels=weight.shape[0], blocks_outer=int(len(k) > np.prod(x.shape[1:])), chains=runs.chains(b.lanes),
    )  # fmt: skip


def conv_kernel_basis(
    b: Builder, x: View, bases: np.ndarray, coefficients: np.ndarray, y: View, at: Geometry, epilogue: Epilogue
) -> None:
    """Conv-first: every used channel meets the bases `(d, R, S)`, then sparse combinations by `(K, C/groups, d)`."""
    taps = prepare(b, x, (*coefficients.shape[:2], *bases.shape[1:]), y, at)
    k, c, basis = np.nonzero(coefficients)
    channel = k // (coefficients.shape[0] // at.groups) * coefficients.shape[1] + c
    used, index = np.unique(channel, return_inverse=True)
    maps = max(len(used) * len(bases), 1)
    vectors = max(1, min(12, 65536 // (maps * b.lanes)))
    by_rows = _fits_two_rows(b, y, epilogue)
    runs = _runs_of_two_rows(b, y, taps, vectors) if by_rows else runs_over(b, y, taps, vectors, 1, pieces=1)
    map_stride = runs.longest * b.lanes
    b.scratch = max(b.scratch, maps * map_stride)
    entries, starts = entry_lists(
        k, (index * len(bases) + basis) * map_stride, coefficients[k, c, basis], coefficients.shape[0]
    )
    b.emit(
        "conv2d_kernel_basis_f32",
        {"x": taps.x, **_constants(b, epilogue, runs), "entries": b.constant(entries), "starts": b.constant(starts),
         "bases": b.constant(bases.reshape(len(bases), -1).T.astype(np.float32)),
         "used": b.constant((used * taps.channel).astype(np.int64)),
         "taps": b.constant(taps.offsets.astype(np.int32).ravel())},
        {"y": y}, disjoint=True, **plane_fields(taps.x, y), **runs.fields, **epilogue_fields(epilogue),
        base_count=len(bases), tap_count=taps.offsets.size, used_count=len(used), map_stride=map_stride,
        x_row=taps.pitch * by_rows, y_row=out_pitch(y) * by_rows,
        out_channels=coefficients.shape[0], chains=runs.chains(b.lanes),
        work=(maps * taps.offsets.size + 2 * len(k)) * math.prod(y.shape[2:]) * y.shape[0],
    )  # fmt: skip


def prepare(b: Builder, x: View, weight_shape: Sequence[int], y: View, at: Geometry) -> Taps:
    """`x` with the zeros that the convolution reads, dealt into phases where it is strided."""
    if at.stride == (1, 1):
        return lying(b, x, weight_shape, y, at)
    halo = at.halo(weight_shape[2:], x.shape[2:], y.shape[2:])
    _check_offsets(b, x, halo, at.stride)
    rows, columns = at.taps(weight_shape[2:])
    dealt, offsets = deal(b, x, rows, columns, halo, at.stride, y.planes.pitch if y.planes is not None else 0)
    pitch, rows, columns = dealt.strides[2], rows // at.stride[0], columns // at.stride[1]
    return Taps(dealt, pitch, offsets, int((rows * pitch + columns).max()), rows, columns)


def lying(b: Builder, x: View, weight_shape: Sequence[int], y: View, at: Geometry) -> Taps:
    """`x` as it lies, with the zeros that the convolution reads; the stride is left to the kernel."""
    halo = at.own_halo(weight_shape[2:], x.shape[2:], y.shape[2:])
    _check_offsets(b, x, halo, (1, 1))
    x, planes = _with_halo(b, x, halo)
    rows, columns = at.taps(weight_shape[2:])
    offsets = rows * planes.pitch + columns
    return Taps(x, planes.pitch, offsets, int(offsets.max()), rows, columns)


def _check_offsets(b: Builder, x: View, halo: tuple[int, int], stride: tuple[int, int]) -> None:
    """`EngineError` where an image, dealt by the stride, is too large for the kernels' tables."""
    height, width = x.shape[2:]
    if x.shape[1] * (height + 2 * halo[0]) * (width + halo[1] + 32) * math.prod(stride) >= 1 << 31:
        raise EngineError(
            f"layer {b.node!r}: an image of shape {x.shape[1:]} is beyond the 32-bit offsets of the kernels; "
            "give smaller ones"
        )


def _with_halo(b: Builder, x: View, halo: tuple[int, int]) -> tuple[View, Planes]:
    """`x` itself where there are zeros enough around its planes, else a copy; and its planes."""
    planes = x.planes
    if planes is None or not planes.holds(*halo):
        planes = Planes.of(x.shape[2], x.shape[3], *halo)
    return b.as_planar(x, planes), planes


def pack_blocks(weight: np.ndarray, groups: int, sizes: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """Records (group, first output, outputs, weight offset) and weights, per block `[C/groups][taps][outputs]`."""
    return pack_groups(list(weight.reshape(groups, -1, *weight.shape[1:])), [sizes] * groups)


def pack_groups(weights: Sequence[np.ndarray], cut: Sequence[Sequence[int]]) -> tuple[np.ndarray, np.ndarray]:
    """The same of groups that are each cut in their own way."""
    records, pieces, output, offset = [], [], 0, 0
    for group, (weight, sizes) in enumerate(zip(weights, cut)):
        first = 0
        for size in sizes:
            piece = weight[first : first + size].reshape(size, weight.shape[1], -1).transpose(1, 2, 0)
            records.append((group, output + first, size, offset))
            pieces.append(piece.ravel())
            first, offset = first + size, offset + piece.size
        output += first
    return np.array(records, dtype=np.int32), np.concatenate(pieces)


@dataclass(frozen=True)
class Runs:
    """The visit of an output's pixels."""

    records: np.ndarray
    masks: np.ndarray
    longest: int  # vectors
    total: int  # vectors of a plane

    @property
    def fields(self) -> dict[str, int]:
        """Fields of the kernels."""
        return {"run_count": len(self.records)}

    def chains(self, lanes: int) -> int:
        """Sums that a sparse output keeps in turn: small planes give too few vectors to fill the time of an addition.

        It depends on the plane alone, so that results are the same however it is cut. 32 registers hold twice of 16.
        """
        return next((n for n, most in ((4, lanes // 4), (2, lanes // 2)) if self.total <= most), 1)


def runs_over(b: Builder, y: View, taps: Taps, vectors: int, blocks: int, pieces: int = 4) -> Runs:
    """Runs of at most `vectors` vectors, shorter where there would not be `pieces` units of work for each thread.

    Where input and output have the same pitch the pixels are visited straight on; otherwise row by row.
    """
    out = y.planes
    assert out is not None
    height, width = y.shape[2:]
    flat = taps.pitch == out.pitch
    spans = [(0, 0, out.body)] if flat else [(h * taps.pitch, h * out.pitch, out.pitch) for h in range(height)]
    if not flat:
        spans[-1] = (*spans[-1][:2], out.body - (height - 1) * out.pitch)
    total = sum(-(-pixels // b.lanes) for _, _, pixels in spans)
    wanted = 1 if b.threads == 1 else -(-pieces * b.threads // (y.shape[0] * blocks))
    vectors = max(1, min(vectors, -(-total // wanted)))
    if y.shape[0] * blocks < b.threads:  # as many runs for each thread as for the others
        vectors = -(-total // round_up(-(-total // vectors), b.threads))
    records: list[tuple[int, int, int, int]] = []
    masks: list[int] = []
    for from_, to, pixels in spans:
        first = len(masks)
        masks.extend(lane_masks(to, pixels, out.pitch, height, width, b.lanes))
        for at, count in _pieces(-(-pixels // b.lanes), vectors):
            start = at * b.lanes
            records.append((from_ + start, to + start, min(pixels - start, count * b.lanes), first + at))
    longest = max(-(-r[2] // b.lanes) for r in records)
    allow_reads(taps.x, max(r[0] + -(-r[2] // b.lanes) * b.lanes for r in records) + taps.furthest)
    return Runs(np.array(records, dtype=np.int32), np.array(masks, dtype=np.uint32), longest, total)


def row_runs(
    lanes: int, y: View, rows: tuple[int, int], columns: tuple[int, int], row_lanes: int, masks: list[int]
) -> list[tuple[int, int, int, int]]:
    """Runs of the rows (first, how many) of a tile, whose sums lie `row_lanes` apart; appends to the `masks`."""
    assert y.planes is not None
    (height, width), pitch = y.shape[2:], y.planes.pitch
    runs = []
    for row in range(rows[0], sum(rows)):
        to, end = row * pitch + columns[0], row * pitch + sum(columns)
        if sum(columns) == width:  # with the zeros behind
            end = (row + 1) * pitch if row + 1 < height else y.planes.body
        runs.append(((row - rows[0]) * row_lanes, to, end - to, len(masks)))
        masks += lane_masks(to, end - to, pitch, height, width, lanes)
    return runs


def _fits_two_rows(b: Builder, y: View, epilogue: Epilogue) -> bool:
    """Whether two rows of the output fill a vector exactly, and nothing has to be done to them afterwards."""
    height, width = y.shape[2:]
    exact = epilogue.activation is None or epilogue.activation.name in ("relu", "clamp")
    return exact and 2 * width == b.lanes and height % 2 == 0


def _runs_of_two_rows(b: Builder, y: View, taps: Taps, vectors: int) -> Runs:
    """Runs of vectors that are two rows each; the last row's halo reaches to the end of the plane."""
    total = y.shape[2] // 2
    pieces = _pieces(total, max(1, min(vectors, -(-total * y.shape[0] // b.threads))))
    records = [(2 * at * taps.pitch, 2 * at * out_pitch(y), n * b.lanes, 0) for at, n in pieces]
    longest = max(n for _, n in pieces)
    return Runs(np.array(records, dtype=np.int32), np.zeros(1, dtype=np.uint32), longest, total)


def out_pitch(y: View) -> int:
    """Distance of two rows."""
    return y.strides[2]


def lane_masks(start: int, pixels: int, pitch: int, height: int, width: int, lanes: int) -> list[int]:
    """One word per vector: bit i is set where lane i is a pixel of the run and not a zero beside it, or beyond it."""
    lane = np.arange(-(-pixels // lanes) * lanes)
    at = start + lane
    real = (lane < pixels) & (at % pitch < width) & (at // pitch < height)
    return [int(word) for word in real.reshape(-1, lanes) @ (1 << np.arange(lanes))]


def _pieces(total: int, most: int) -> list[tuple[int, int]]:
    sizes = evenly(total, most)
    return list(zip(np.cumsum([0, *sizes[:-1]]).tolist(), sizes))


def evenly(total: int, most: int) -> list[int]:
    """`total` cut into as few and as even pieces of at most `most` as possible, the larger first."""
    count = -(-total // most)
    return [total // count + (i < total % count) for i in range(count)]


def _vectors_for(lanes: int, outputs: int) -> int:
    """As `vectors_for` in native/kernels/conv_dense.inl."""
    registers = 32 if lanes == 16 else 16
    return min(max((registers - 1) // (outputs + 1), 1), 12)


def entry_lists(
    row: np.ndarray, offset: np.ndarray, weight: np.ndarray, rows: int, multiple: int = 1
) -> tuple[np.ndarray, np.ndarray]:
    """(offset, weight) records of the non-zeros, whose rows rise, and where each row's begin; weights may be words.

    Every row is filled up with zeros to a `multiple` of records.
    """
    counts = np.bincount(row, minlength=rows)
    starts = np.concatenate([[0], np.cumsum(-(-counts // multiple) * multiple)])
    place = np.arange(len(row)) + np.repeat(starts[:-1] - (np.cumsum(counts) - counts), counts)
    entries = np.zeros(starts[-1], dtype=ENTRY if weight.dtype.kind == "f" else WORD_ENTRY)
    entries["offset"][place], entries["weight"][place] = offset, weight
    return entries, starts.astype(np.int64)


def allow_reads(x: View, last: int) -> None:
    """Note that a plane of `x` may be read up to `last` elements (not included) after its first pixel."""
    assert x.planes is not None
    x.buffer.allow(last - x.planes.body - x.planes.lead)


def plane_fields(x: View, y: View) -> dict[str, int]:
    """The fields of DOVETAIL_PLANES."""
    assert y.planes is not None
    return {
        "images": y.shape[0], "x_image": x.strides[0], "x_channel": x.strides[1],
        "y_image": y.strides[0], "y_channel": y.strides[1], "lead": y.planes.lead,
    }  # fmt: skip


def _constants(b: Builder, epilogue: Epilogue, runs: Runs) -> dict[str, View | None]:
    bias = None if epilogue.bias is None else b.constant(epilogue.bias.astype(np.float32))
    allow_whole_vectors(b, epilogue.residual)
    return {
        "bias": bias,
        "residual": epilogue.residual,
        "runs": b.constant(runs.records),
        "masks": b.constant(runs.masks),
    }


def allow_whole_vectors(b: Builder, residual: View | None) -> None:
    """Kernels that write a part of a vector, or of two, read all of them from the residual."""
    if residual is not None:
        residual.buffer.allow(2 * b.lanes)


def epilogue_fields(epilogue: Epilogue) -> dict[str, Any]:
    """The fields of DOVETAIL_EPILOGUE but for the bias and the residual's address."""
    residual = epilogue.residual
    strides = {} if residual is None else {"r_image": residual.strides[0], "r_channel": residual.strides[1]}
    return {**strides, **activation_fields(epilogue.activation)}


def _reach(taps: np.ndarray, out: int, size: int) -> int:
    """How far taps go beyond `size` pixels on either side, for `out` outputs."""
    return max(0, -int(taps.min()), out - 1 + int(taps.max()) - (size - 1))
