"""Shared kernel bases over codes, coefficients first: lists of channels, then the bases.

Over tiles of whole rows bases are met by columns, over runs of pixels by taps, over whole maps by moves of their rows.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from dovetail.engine.builder import Builder
from dovetail.engine.codes import CodeCall, sums, words
from dovetail.engine.codes_conv import geometry, residual_fields, run_tables
from dovetail.engine.columns import output_groups, strided_taps
from dovetail.engine.conv import (
    Runs,
    Taps,
    allow_reads,
    allow_whole_vectors,
    entry_lists,
    evenly,
    plane_fields,
    prepare,
    row_runs,
    runs_over,
)
from dovetail.engine.kernels import Place
from dovetail.engine.layout import View, round_up
from dovetail.formats.base import Packed
from dovetail.formats.kernel_basis import PackedKernelBasis
from dovetail.formats.values import INT8
from dovetail.program.integer import Product

MOST_HALVES = {16: 20, 8: 10}  # vectors of 16-bit sums in registers: as kMostHalves in conv_coefficients.inl
MOST_SUMS = {16: 20, 8: 12}  # vectors of sums of words in registers: as kMost of BlockPlaces
MOST_REACH = 8  # rows of the kernel: vectors of sums beyond those of a tile
FEW = 4  # vectors for which lists are filled up: as coefficient_turn in conv_coefficients.inl
FEW_SUMS = {16: 6, 8: 3}  # vectors whose lists of words are filled up: as kFew in conv_coefficients.inl
OUTPUTS = 4  # that may share their places: as SharedPlaces in conv_coefficients.inl
CLASSES = 8  # of the signs that the other outputs have where the first has plus
MOST_TERMS = 128  # codes of up to 255 that a number of 16 bits can be the sum of
LARGEST_MAP = 8  # rows and columns of an output: as kLargestMap in conv_map_coefficients.inl
NEAR = 28 * 1024  # bytes of the lines of a run that stay in L1


def adds_up(packed: Packed) -> bool:
    """Whether the coefficients are -1, 0 and 1."""
    if not isinstance(packed, PackedKernelBasis) or packed.spec.values != INT8:
        return False
    return int(np.abs(packed.codes()[1]).max()) <= 1


def shares_places(packed: Packed) -> bool:
    """Whether `OUTPUTS` neighbouring outputs have their coefficients at the same places."""
    return adds_up(packed) and isinstance(packed, PackedKernelBasis) and packed.spec.shared % OUTPUTS == 0


def conv_coefficients(b: Builder, call: CodeCall, x: View, found: Product, y: View) -> None:
    """Sums of channels for each output and basis, which then meet the bases."""
    _emit(b, call, x, found, y, "conv2d_coefficients_int8")


def conv_shared_coefficients(b: Builder, call: CodeCall, x: View, found: Product, y: View) -> None:
    """The same, where four outputs have their coefficients at the same places."""
    _emit(b, call, x, found, y, "conv2d_shared_coefficients_int8")


def conv_block_coefficients(b: Builder, call: CodeCall, x: View, found: Product, y: View) -> None:
    """The same by dot products of four channels' codes, which need not all have a coefficient."""
    _emit(b, call, x, found, y, "conv2d_block_coefficients_int8")


def conv_run_coefficients(b: Builder, call: CodeCall, x: View, found: Product, y: View) -> None:
    """The same over runs of pixels, which lie as they do in the input."""
    packed = call.program.weights[call.node.weight or ""]
    assert isinstance(packed, PackedKernelBasis)
    bases, coefficients = _whole_pairs(*packed.codes())
    taps = prepare(b, x, packed.shape, y, geometry(call.node))
    within = taps.rows * taps.pitch + taps.columns
    phases, phase = np.unique(taps.offsets - within, return_inverse=True)
    first, halo = int(within.min()), int(np.ptp(within))
    outputs, channels = len(coefficients), words(coefficients.shape[1])
    near = (NEAR // (4 * channels * len(phases)) - halo) // b.lanes
    least = max(-(-2 * halo // b.lanes), 4)  # so that the halo is a third at most, and lists are worth their ends
    runs = runs_over(b, y, taps, max(near, least), words(outputs))
    stretch = round_up(runs.longest * b.lanes + halo, b.lanes)
    allow_reads(taps.x, int(runs.records[:, 0].max()) + first + stretch)
    used = {needed + stretch // b.lanes - runs.longest for needed in _needed(runs, b.lanes)}
    blocks = _blocks(coefficients.transpose(0, 2, 1), stretch, _turn_of(b, used))
    pairs = len(bases) // 2
    p, r, s = (axis.ravel() for axis in np.indices((pairs, *bases.shape[1:])))
    place = (phase.reshape(within.shape)[r, s] * pairs + p) * stretch + within[r, s] - first
    entries, starts = entry_lists(np.zeros_like(p), place, _words_of_pairs(bases)[p, r, s], 1)
    groups = 1 if b.threads == 1 else -(-4 * b.threads // (y.shape[0] * len(runs.records)))
    b.scratch = max(b.scratch, len(phases) * (channels + pairs) * stretch + 4 * runs.longest * b.lanes)
    b.emit(
        "conv2d_run_coefficients_int8",
        {"x": taps.x, **sums(b, call, found), **run_tables(b, call, runs), "entries": b.constant(entries),
         "basis_starts": b.constant(starts.astype(np.int32)), "phases": b.constant(phases.astype(np.int32)),
         "blocks": b.constant(blocks["places"]), "block_starts": b.constant(blocks["starts"])},
        {"y": y}, disjoint=True, **plane_fields(taps.x, y), **runs.fields, **residual_fields(call), **call.rounding(),
        phase_count=len(phases), first_tap=first, stretch=stretch, most_vectors=runs.longest, base_count=len(bases),
        channels=channels, out_channels=outputs, group_count=min(groups, words(outputs)),
        work=(len(blocks["places"]) + outputs * len(entries)) * y.shape[0] * y.shape[2] * y.shape[3],
    )  # fmt: skip


def fits_whole_map(packed: Packed, at: Place) -> bool:
    """Whether the output has at most `LARGEST_MAP` rows and columns, and kernels are 1x1, or 3x3 padded by one."""
    side, (top, bottom, left, right) = packed.shape[2], at.padding
    plain = packed.shape[2:] == (side, side) and at.stride in ((1, 1), (2, 2)) and at.dilation == (1, 1)
    within = at.stride == (2, 2) or min(bottom, right) >= 1  # else taps find pixels beyond the last ones of a map
    fits = not any(at.padding) if side == 1 else side == 3 and (top, left) == (1, 1) and within
    return plain and fits and max(at.size) <= LARGEST_MAP


def conv_map_coefficients(b: Builder, call: CodeCall, x: View, found: Product, y: View) -> None:
    """The same where a whole map fits into a few registers."""
    packed = call.program.weights[call.node.weight or ""]
    assert isinstance(packed, PackedKernelBasis)
    at, side = geometry(call.node), packed.shape[2]
    taps = strided_taps(b, x, packed.shape, y, at)
    phases = np.zeros(1, np.int32)
    if (side, at.stride[0]) == (3, 2):
        phases = np.array([0, 1, taps.pitch // 2, taps.pitch // 2 + 1], np.int32)
    row_lanes = 4 if y.shape[3] <= 4 else 8
    vectors = (4 if y.shape[2] <= 4 else 8) * row_lanes // b.lanes
    bases, coefficients = _whole_pairs(*packed.codes())
    if side == 1:  # of numbers none is needed to fill up
        real = bases[:, 0, 0] != 0
        bases, coefficients = bases[real], coefficients[..., real]
    masks: list[int] = []
    runs = row_runs(b.lanes, y, (0, y.shape[2]), (0, y.shape[3]), row_lanes, masks)
    outputs, channels = len(coefficients), words(coefficients.shape[1])
    line = len(phases) * vectors * b.lanes
    blocks = _blocks(coefficients.transpose(0, 2, 1), line, _sums_at_once(b.lanes, len(phases) * vectors))
    allow_reads(taps.x, int(phases.max()) + (vectors * b.lanes // row_lanes - 1) * taps.pitch + 2 * b.lanes)
    allow_whole_vectors(b, call.residual)
    groups = output_groups(y.shape[0], b.threads)
    longest = round_up(max(pixels for _, _, pixels, _ in runs), b.lanes)
    b.scratch = max(b.scratch, (channels * len(phases) + 4) * vectors * b.lanes + longest)
    weights = bases[:, 0, 0].astype(np.int32) if side == 1 else _words_of_pairs(bases)
    turns = np.array([_turn(b.lanes, row_lanes, n)[: b.lanes + 1] for n in (-1, 1)], np.int32)
    zero_sums, zero = None, call.tensor().zero
    if side > 1 and zero:  # taken from the sums of channels, so that what lies outside adds nothing to them
        zero_sums = b.constant((-zero * coefficients.sum(axis=1, dtype=np.int32)).astype(np.int32))
    b.emit(
        "conv2d_map_coefficients_int8",
        {"x": taps.x, **sums(b, call, found, zero=zero_sums is None), "zero_sums": zero_sums,
         "phases": b.constant(phases),
         "runs": b.constant(np.array(runs, np.int32)), "masks": b.constant(np.array(masks, np.uint32)),
         "blocks": b.constant(blocks["places"]), "block_starts": b.constant(blocks["starts"]),
         "bases": b.constant(weights), "turns": b.constant(turns) if side > 1 else None},
        {"y": y}, disjoint=True, **plane_fields(taps.x, y), **residual_fields(call), **call.rounding(),
        run_count=len(runs), phase_count=len(phases), row_lanes=row_lanes, x_row=taps.pitch, step=taps.step,
        side=side, vectors=vectors, base_count=len(bases), channels=channels, out_channels=outputs,
        group_count=min(groups, words(outputs)),
        work=(len(blocks["places"]) + outputs * weights.size) * y.shape[0] * y.shape[2] * y.shape[3],
    )  # fmt: skip


def _needed(runs: Runs, lanes: int) -> list[int]:
    """Vectors of each run up to the last that has a pixel."""
    masks = [runs.masks[mask : mask - (-pixels // lanes)] for _, _, pixels, mask in runs.records.tolist()]
    return [max(1, int(np.flatnonzero(part).max(initial=0)) + 1) for part in masks]


def _emit(b: Builder, call: CodeCall, x: View, found: Product, y: View, kernel: str) -> None:
    packed = call.program.weights[call.node.weight or ""]
    assert isinstance(packed, PackedKernelBasis)
    shared = kernel == "conv2d_shared_coefficients_int8"
    bases, coefficients = _whole_pairs(*packed.codes(), OUTPUTS if shared else 1)
    taps = strided_taps(b, x, packed.shape, y, geometry(call.node))
    rows = rows_of(b.lanes, taps, y, zeros=not call.tensor().zero)
    tiles, fields = _tiles(b, taps, rows, y)
    outputs, channels = len(coefficients), words(coefficients.shape[1])
    line = fields["most_halves"] * b.lanes
    flat = coefficients.transpose(0, 2, 1)  # (K, d, C)
    if shared:
        places = _shared_places(flat, line)
    elif kernel == "conv2d_block_coefficients_int8":
        places = _blocks(flat, 2 * line, _turn_of(b, {2 * halves for halves in tiles["tiles"][:, 3].tolist()}))
    else:
        zeros, vectors = 4 * channels * line, int(tiles["tiles"][:, 3].min())
        places = _places(flat, line, zeros, vectors)
    lists = {**places, **_basis_lists(b.lanes, bases, rows, fields)}
    groups = output_groups(y.shape[0] * fields["tile_count"], b.threads)
    _reserve(b, rows, fields, channels, len(bases), int(tiles["runs"][:, 2].max()), OUTPUTS if shared else 1)
    allow_whole_vectors(b, call.residual)
    b.emit(
        kernel,
        {"x": taps.x, **sums(b, call, found),
         **{name: b.constant(table) for name, table in {**tiles, **lists, "phases": rows.phases}.items()}},
        {"y": y}, disjoint=True, **plane_fields(taps.x, y), **residual_fields(call), **call.rounding(), **fields,
        phase_count=len(rows.phases), base_count=len(bases), column_count=len(lists["turns"]) + 1,
        channels=channels, out_channels=outputs, group_count=min(groups, words(outputs)),
        work=(places["places"].size // 2 + outputs * len(lists["entries"])) * y.shape[0] * y.shape[2] * y.shape[3],
    )  # fmt: skip


def _whole_pairs(bases: np.ndarray, coefficients: np.ndarray, together: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """Bases `(d, R, S)` and coefficients `(K, C, d)` that stand for the same weight, d even and no sum beyond 16 bits.

    Where too many channels meet a basis in an output, those that are left over meet a copy of it. `together`: outputs
    that go over at the same channel. Bases with few coefficients come last: pairs without any cost little.
    """
    piece = _pieces(coefficients, together)
    copies = [(basis, part) for basis in range(len(bases)) for part in range(int(piece[..., basis].max()) + 1)]
    there = {(basis, part): ((piece == part) & (coefficients != 0))[..., basis].sum() for basis, part in copies}
    copies.sort(key=lambda copy: -there[copy])
    of = [basis for basis, _ in copies]
    cut = [np.where(piece[..., basis] == part, coefficients[..., basis], 0) for basis, part in copies]
    more = len(copies) % 2
    return np.pad(bases[of], ((0, more), (0, 0), (0, 0))), np.pad(np.stack(cut, axis=2), ((0, 0), (0, 0), (0, more)))


def _pieces(coefficients: np.ndarray, together: int) -> np.ndarray:
    """`(K, C, d)`: the copy of its basis that each coefficient meets, where sums have to be cut."""
    outputs, channels, count = coefficients.shape
    quads = np.pad(coefficients, ((0, -outputs % together), (0, -channels % 4), (0, 0)))
    quads = quads.reshape(-1, together, words(channels), 4, count)
    there = np.stack([(quads == sign).sum(axis=3) for sign in (1, -1)])  # (signs, quads, together, words, d)
    so_far = np.zeros((2, len(quads), together, count), np.int64)
    piece = np.zeros((len(quads), words(channels), count), np.int64)
    for word in range(1, words(channels)):
        so_far += there[:, :, :, word - 1]
        cut = (so_far + there[:, :, :, word] > MOST_TERMS).any(axis=(0, 2))  # (quads, d)
        so_far = np.where(cut[:, None], 0, so_far)
        piece[:, word] = piece[:, word - 1] + cut
    return piece.repeat(4, axis=1)[:, :channels].repeat(together, axis=0)[:outputs]


@dataclass(frozen=True)
class Rows:
    """How pixels lie in the sums of channels.

    Attributes:
        lanes: of a row, those of a vector of words or twice, a half or a quarter as many.
        first_column: that the first lane of a row holds, relative to a tile's first pixel.
        width: pixels of a tile's row at most.
        reach: rows that a tile needs beyond its own.
        phases: x offset of the first row of each phase of the input.
        phase, row, column: `(R, S)`: where each tap finds its pixels, from there and from `first_column`.
    """

    lanes: int
    first_column: int
    width: int
    reach: int
    phases: np.ndarray
    phase: np.ndarray
    row: np.ndarray
    column: np.ndarray


def rows_of(lanes: int, taps: Taps, y: View, *, zeros: bool) -> Rows:
    """Whole rows where one fits into two vectors of words, else as many pixels as leave lanes for their neighbours."""
    assert taps.x.planes is not None
    width, columns = y.shape[3], taps.columns
    furthest = max(width, min(width + int(columns.max()), -(-taps.x.planes.width // taps.step)))
    fitting = [n for n in (lanes // 4, lanes // 2, lanes, 2 * lanes) if furthest <= n] if zeros else []
    first_column = 0 if fitting else int(columns.min())
    row_lanes = fitting[0] if fitting else 2 * lanes
    places, phase = np.unique(taps.offsets - taps.rows * taps.pitch - columns * taps.step, return_inverse=True)
    phase = phase.reshape(columns.shape)
    first = np.array([taps.rows[phase == i].min() for i in range(len(places))])
    row = taps.rows - first[phase]
    return Rows(
        row_lanes, first_column, width if fitting else evenly(width, row_lanes - int(np.ptp(columns)))[0],
        int(row.max()), (places + first * taps.pitch).astype(np.int32), phase, row, columns - first_column,
    )  # fmt: skip


def _tiles(b: Builder, taps: Taps, rows: Rows, y: View) -> tuple[dict[str, np.ndarray], dict[str, int]]:
    """Tables of the tiles and of their rows, and numbers."""
    assert y.planes is not None
    height, width = y.shape[2:]
    most = (2 * MOST_HALVES[b.lanes] * b.lanes - round_up(rows.reach * rows.lanes, b.lanes)) // rows.lanes
    tiles: list[tuple[int, ...]] = []
    runs: list[tuple[int, int, int, int]] = []
    masks: list[int] = []
    top = 0
    for high in evenly(height, most):
        left = 0
        for wide in evenly(width, rows.width):
            first = len(runs)
            runs += row_runs(b.lanes, y, (top, high), (left, wide), rows.lanes, masks)
            vectors = round_up(high * rows.lanes, max(b.lanes, rows.lanes)) // b.lanes
            halves = -(-(rows.reach * rows.lanes + vectors * b.lanes) // (2 * b.lanes))
            start = top * taps.pitch + (left + rows.first_column) * taps.step
            tiles.append((start, first, high, halves, vectors))
            left += wide
        top += high
    halves, vectors = (max(tile[i] for tile in tiles) for i in (3, 4))
    read = 2 * halves * b.lanes // rows.lanes * taps.pitch + rows.lanes * taps.step + b.lanes
    allow_reads(taps.x, max(tile[0] for tile in tiles) + taps.furthest + read)
    return (
        {"tiles": np.array(tiles, np.int32), "runs": np.array(runs, np.int32), "masks": np.array(masks, np.uint32)},
        {"tile_count": len(tiles), "most_halves": halves, "most_vectors": vectors, "row_lanes": rows.lanes,
         "x_row": taps.pitch, "step": taps.step},
    )  # fmt: skip


def _sums_at_once(lanes: int, vectors: int) -> int:
    """As sums_at_once in conv_map_coefficients.inl."""
    return 4 if vectors == 1 else 2 if 2 * vectors <= lanes else 1


def _places(flat: np.ndarray, line: int, zeros: int, vectors: int) -> dict[str, np.ndarray]:
    """Lines of the channels that are added, then of those taken away, for each output and basis of `(K, d, C)`.

    Lists are filled up with a line of `zeros`, where `vectors` are so few that the ends of loops are dear.
    """
    signs = np.stack([flat == 1, flat == -1], axis=2).reshape(-1, flat.shape[2])
    row, channel = np.nonzero(signs)
    counts = signs.sum(axis=1)
    multiple = 4 if vectors <= FEW else 1
    starts = np.concatenate([[0], np.cumsum(-(-counts // multiple) * multiple)])
    places = np.full(starts[-1], zeros, np.int32)
    places[np.arange(len(row)) + np.repeat(starts[:-1] - (np.cumsum(counts) - counts), counts)] = channel * line
    return {"places": places, "starts": starts.astype(np.int32)}


def _shared_places(flat: np.ndarray, line: int) -> dict[str, np.ndarray]:
    """The same for each four outputs and basis: two lists of every class of the signs that the last three have there.

    Bit i of a class tells that output i + 1 has not the sign of output 0, and a channel is in its first list where that
    is plus. Outputs that the last four lack would have the sign of the first.
    """
    outputs, bases, channels = flat.shape
    filled = np.pad(flat, ((0, -outputs % OUTPUTS), (0, 0), (0, 0)))
    quads = filled.reshape(-1, OUTPUTS, bases, channels)
    first = quads[:, 0]
    classes = sum(((quads[:, i] * first < 0) << (i - 1) for i in range(1, OUTPUTS)), np.zeros(first.shape, np.int64))
    quad, basis, channel = np.nonzero(first)
    which = 2 * classes[quad, basis, channel] + (first[quad, basis, channel] < 0)
    row = (quad * bases + basis) * 2 * CLASSES + which
    order = np.argsort(row, kind="stable")
    counts = np.bincount(row, minlength=len(quads) * bases * 2 * CLASSES)
    starts = np.concatenate([[0], np.cumsum(counts)])
    return {"places": (channel[order] * line).astype(np.int32), "starts": starts.astype(np.int32)}


def _turn_of(b: Builder, vectors: set[int]) -> int:
    """What lists of words are filled up to a multiple of, where so many vectors are cut into pieces; as BlockPlaces."""
    fewest = min(size for count in vectors for size in evenly(count, MOST_SUMS[b.lanes]))
    return 4 if fewest <= FEW_SUMS[b.lanes] else 1


def _blocks(flat: np.ndarray, line: int, multiple: int) -> dict[str, np.ndarray]:
    """Lines of the words of channels that have a coefficient, with the four of each, for each output and basis.

    Lists are filled up with words of zeros to a `multiple`.
    """
    outputs, bases, channels = flat.shape
    filled = np.pad(flat, ((0, 0), (0, 0), (0, -channels % 4)))
    word = np.ascontiguousarray(filled, np.int8).view(np.int32).reshape(outputs * bases, words(channels))
    row, at = np.nonzero(word)
    counts = np.bincount(row, minlength=len(word))
    starts = np.concatenate([[0], np.cumsum(-(-counts // multiple) * multiple)])
    places = np.zeros((starts[-1], 2), np.int32)
    into = np.arange(len(row)) + np.repeat(starts[:-1] - (np.cumsum(counts) - counts), counts)
    places[into] = np.stack([at * line, word[row, at]], axis=1)
    return {"places": places, "starts": starts.astype(np.int32)}


def _words_of_pairs(bases: np.ndarray) -> np.ndarray:
    """`(d/2, R, S)`: the weights of two bases in a word."""
    pair = bases.astype(np.int16).reshape(len(bases) // 2, 2, *bases.shape[1:]).transpose(0, 2, 3, 1)
    return np.ascontiguousarray(pair).view(np.int32)[..., 0]


def _basis_lists(lanes: int, bases: np.ndarray, rows: Rows, fields: dict[str, int]) -> dict[str, np.ndarray]:
    """For each column, the places in the pairs of sums and their two weights; and how a column's sums are turned."""
    word = _words_of_pairs(bases)
    columns = [*(n for n in np.unique(rows.column).tolist() if n != 0), 0]
    column = np.array([columns.index(n) for n in rows.column.ravel().tolist()]).reshape(rows.column.shape)
    p, r, s = (axis.ravel() for axis in np.indices(word.shape))
    order = np.argsort(column[r, s], kind="stable")
    p, r, s = p[order], r[order], s[order]
    line = 2 * fields["most_halves"] * lanes
    offset = (rows.phase[r, s] * len(word) + p) * line + rows.row[r, s] * rows.lanes
    entries, starts = entry_lists(
        column[r, s],
        offset,
        word[p, r, s],
        len(columns),
        multiple=8 if fields["most_vectors"] == 1 and (len(columns) != 3 or len(rows.phases) > 1) else 1,
    )
    turns = np.array([_turn(lanes, rows.lanes, n) for n in columns[:-1]], np.int32).reshape(-1, lanes + 4)
    return {"entries": entries, "basis_starts": starts.astype(np.int32), "turns": turns}


def _turn(lanes: int, row_lanes: int, column: int) -> list[int]:
    """The lane that each lane gets, and masks: of own lanes in even and odd vectors, of the other vector's."""
    lane = np.arange(max(lanes, row_lanes))
    within = lane % row_lanes + column
    real = (within >= 0) & (within < row_lanes)
    source = lane - lane % row_lanes + within
    own = real & (source // lanes == lane // lanes)
    if row_lanes <= lanes:
        return [*np.where(real, source, 0).tolist(), _bits(own), 0, 0, 0]
    other = real & ~own
    masks = (_bits(part) for part in (own[:lanes], own[lanes:], other[lanes:], other[:lanes]))
    return [*(source[:lanes] % lanes).tolist(), *masks]


def _bits(lanes: np.ndarray) -> int:
    return int(np.sum(1 << np.arange(len(lanes))[lanes]))


def _reserve(
    b: Builder, rows: Rows, fields: dict[str, int], channels: int, bases: int, longest: int, together: int
) -> None:
    """Scratch: lines of all channels, a basis' sums, the pairs, and the sums of four outputs.

    Sums and pairs are those of as many outputs as are added up `together`.
    """
    line, vectors = fields["most_halves"] * b.lanes, fields["most_vectors"] * b.lanes
    phases = len(rows.phases)
    need = phases * (4 * channels + 1) * line + together * (line + phases * bases * line) + 4 * vectors
    b.scratch = max(b.scratch, need + round_up(longest, b.lanes))
