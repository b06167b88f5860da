"""Convolutions one after another, a block of rows at a time, so that what lies between them stays in a thread's cache.

A thread has a strip of rows of the output and goes down it block by block. Of the first convolution's rows a block
makes those that the one before has not made; the others are moved to the top of the thread's scratch. Only where strips
meet are rows made twice. The blocks' calls are those that the convolutions emit for images of so many rows: a kernel
knows nothing of the others, and there is a table of calls for each kind of block.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from dovetail.engine.builder import Builder, Step
from dovetail.engine.conv import Epilogue, Geometry, evenly, lying
from dovetail.engine.layout import Buffer, Planes, View, planar_view, round_up
from dovetail.engine.native import require_native

ROOM = 1 << 16  # elements, 256 KB: what lies between the convolutions, half of a usual L2
Emit = Callable[[Builder, View, View, Geometry, Epilogue], None]
X, Y, RESIDUAL = 1, 2, 3  # bases of pointers, as in native/kernels/conv_tucker.inl; 0 is scratch


@dataclass(frozen=True)
class Stage:
    """One of the convolutions.

    Attributes:
        outputs: channels, or words of them.
        emit: its kernel calls, given builder, input, output, geometry and epilogue.
        grain: rows of the output of which blocks are a multiple: those of a tile, so that tiles are the same however
            the rows are cut.
        across: outputs of a row in a group of tiles, four of which fill a vector; 0 where there are no tiles.
        word: what lies around the pixels of its output.
    """

    outputs: int
    emit: Emit
    grain: int = 1
    across: int = 0
    word: int = 0


@dataclass(frozen=True)
class Chain:
    """1x1, core and 1x1.

    Attributes:
        before, after: None where that factor is part of the core.
        kernel: rows and columns of the core's.
        native: the kernel that makes all calls.
    """

    before: Stage | None
    core: Stage
    after: Stage | None
    kernel: tuple[int, int]
    native: str = "conv2d_tucker_f32"


@dataclass(frozen=True)
class Block:
    """Some rows of the output, and what they read of the core's input.

    Attributes:
        rows: of the output.
        height: rows of the core's input.
        kept: the first of these, as the block before left them, at row `kept_from`.
        above, below: rows of padding.
        top, bottom: whether the output begins or ends there.
    """

    rows: int
    height: int
    kept: int
    kept_from: int
    above: int
    below: int
    top: bool
    bottom: bool


@dataclass(frozen=True)
class Placed:
    """A block, its first row of the output, and its first row of the core's input."""

    block: Block
    first: int
    low: int


def fits(kernel: Sequence[int], padding: Sequence[int], dilation: Sequence[int]) -> bool:
    """Whether each row of the output reads a row of the input: the padding above and below is less than the kernel."""
    return max(padding[:2]) <= (kernel[0] - 1) * dilation[0]


def conv_fused(b: Builder, x: View, chain: Chain, y: View, at: Geometry, epilogue: Epilogue) -> None:
    """The convolutions of `chain`, whose geometry is the core's and whose epilogue belongs to the last."""
    if chain.before is None:
        x = lying(b, x, (chain.core.outputs, x.shape[1], *chain.kernel), y, at).x
    else:
        x = lying(b, x, (chain.before.outputs, x.shape[1], 1, 1), x, Geometry()).x
    _Fused(b, x, chain, y, at, epilogue).emit()


@dataclass(frozen=True)
class _Pointer:
    """A field of a call's arguments that points into scratch (base 0) or to a tensor of the network."""

    field: int
    base: int
    buffer: Buffer
    offset: int


@dataclass(frozen=True)
class _Call:
    """A kernel with its arguments."""

    kernel: int
    arguments: bytes
    pointers: tuple[_Pointer, ...]
    work: int


class _Fused:
    """The calls of all blocks, and the memory that they share."""

    def __init__(self, b: Builder, x: View, chain: Chain, y: View, at: Geometry, epilogue: Epilogue) -> None:
        self.b, self.x, self.y, self.at, self.epilogue = b, x, y, at, epilogue
        self.before, self.core, self.after, self.native = chain.before, chain.core, chain.after, chain.native
        self.inner = Builder(b.lanes, threads=1, node=b.node)
        self.proxies = {base: Buffer(0) for base in (X, Y, RESIDUAL)}  # two of the tensors may lie in one buffer
        self.constants: dict[bytes, np.ndarray] = {}
        self.kinds: dict[Block, list[_Call]] = {}
        self.reach = (chain.kernel[0] - 1) * at.dilation[0] + 1
        self.halo = at.own_halo(chain.kernel, x.shape[2:], y.shape[2:])
        grain = math.lcm(*(stage.grain for stage in (self.before, self.core, self.after) if stage))
        self.strips = self._strips(round_up(at.padding[1] // at.stride[0] + 1, grain))
        blocks = [placed.block for strip in self.strips for placed in strip]
        height, rows = max(block.height for block in blocks), max(block.rows for block in blocks)
        self.made = None if self.before is None else self._room(self.before, self._input_planes(height))
        self.met = None if self.after is None else self._room(self.core, self._output_planes(rows))

    def emit(self) -> None:
        """The kernel call of the layer."""
        images, calls, strips = self.y.shape[0], list[tuple[_Call, Placed]](), list[tuple[int, int]]()
        for strip in self.strips:
            found = [(call, placed) for placed in strip for call in self._calls(placed.block)]
            strips.append((len(calls), len(found)))
            calls += found
        for base, view in ((X, self.x), (Y, self.y), (RESIDUAL, self.epilogue.residual)):
            if view is not None:
                view.buffer.allow(self.proxies[base].overrun)
        places, scratch = self._places()
        blob, records, pointers = self._tables(calls, places)
        self.b.scratch = max(self.b.scratch, scratch + self.inner.scratch)
        self.b.constants += self.constants.values()
        residual = self.epilogue.residual
        self.b.emit(
            self.native,
            {"x": self.x, "residual": residual, "strips": self.b.constant(np.array(strips, np.int64)),
             "calls": self.b.constant(records), "pointers": self.b.constant(pointers),
             "arguments": self.b.constant(blob)},
            {"y": self.y}, disjoint=True, images=images, x_image=self.x.strides[0], y_image=self.y.strides[0],
            r_image=0 if residual is None else residual.strides[0], strip_count=len(strips), scratch=scratch,
            work=images * sum(call.work for call, _ in calls),
        )  # fmt: skip

    # --- rows -----------------------------------------------------------------------------------------------------

    def _strips(self, grain: int) -> list[list[Placed]]:
        height, images = self.y.shape[2], self.y.shape[0]
        pieces = max(1, height // grain)  # what is left of the last one belongs to it
        wanted = 1 if self.b.threads == 1 else -(-2 * self.b.threads // images)
        strips = evenly(pieces, -(-pieces // min(wanted, pieces)))
        most, whole, found, first = self._most(grain), self._whole(grain), list[list[Placed]](), 0
        for count in strips:
            rows = [grain * n for n in (evenly if whole == 1 or most % whole else _full)(count, most)]
            if first + sum(rows) + grain > height:
                rows[-1] = height - first - sum(rows[:-1])
            found.append(self._blocks(first, rows))
            first += sum(rows)
        return found

    def _most(self, grain: int) -> int:
        """Pieces of `grain` rows of a block whose tensors fit the room: at least one, whole vectors of tiles if so."""
        most = 1
        while most * grain < self.y.shape[2]:
            rows = (most + 1) * grain
            size = 0
            if self.before:
                height = (rows - 1) * self.at.stride[0] + self.reach
                size += self.before.outputs * self._input_planes(height).plane
            if self.after:
                size += self.core.outputs * self._output_planes(rows).plane
            if size > ROOM:
                break
            most += 1
        whole = self._whole(grain)
        return most - most % whole if whole < most else most

    def _whole(self, grain: int) -> int:
        """Pieces of `grain` rows whose tiles fill whole vectors."""
        if not self.core.across:
            return 1
        groups = grain // self.core.grain * -(-self.y.shape[3] // self.core.across)
        return 4 // math.gcd(groups, 4)

    def _blocks(self, first: int, rows: Sequence[int]) -> list[Placed]:
        """Those of a strip that begins at row `first`."""
        height, stride, top = self.x.shape[2], self.at.stride[0], self.at.padding[0]
        found: list[Placed] = []
        there = low_before = 0  # rows of the input below this one have been made
        for count in rows:
            low, high = first * stride - top, (first + count - 1) * stride - top + self.reach
            above, below = max(0, -low), max(0, high - height)
            low, high = max(low, 0), min(high, height)
            kept = max(0, there - low) if found else 0
            block = Block(
                count, high - low, kept, low - low_before if kept else 0, above, below,
                top=first == 0, bottom=first + count == self.y.shape[2],
            )  # fmt: skip
            found.append(Placed(block, first, low))
            there, low_before, first = high, low, first + count
        return found

    # --- tensors --------------------------------------------------------------------------------------------------

    def _input_planes(self, height: int) -> Planes:
        """Of the core's input: as wide as the rows of x where these leave room for the zeros between rows."""
        return Planes.of(height, self.x.shape[3], *self.halo, pitch=self.x.strides[2])

    def _output_planes(self, height: int) -> Planes:
        return Planes.of(height, self.y.shape[3], pitch=self.y.strides[2])

    def _room(self, maker: Stage, planes: Planes) -> View:
        """A tensor in scratch."""
        return planar_view((1, maker.outputs, planes.height, planes.width), planes, self.b.node, maker.word)

    def _outer(self, base: int, view: View, rows: int, planes: Planes) -> View:
        """Rows of a tensor of the network, of one image; which rows is up to the call."""
        shape, planes = (1, view.shape[1], rows, view.shape[3]), replace(planes, height=rows)
        return View(self.proxies[base], shape, view.strides, 0, planes, view.word)

    def _results(self, base: int, view: View, block: Block) -> View:
        """Of the output or what lies like it: with all zeros around it that the whole has there."""
        whole = self.y.planes
        assert whole is not None
        rest = whole.body - whole.height * whole.pitch if block.bottom else 0
        lead = whole.lead if block.top else 0
        return self._outer(base, view, block.rows, replace(whole, lead=lead, body=block.rows * whole.pitch + rest))

    def _source(self, rows: int) -> View:
        whole = self.x.planes
        assert whole is not None
        return self._outer(X, self.x, rows, replace(whole, body=rows * whole.pitch))

    # --- calls ----------------------------------------------------------------------------------------------------

    def _calls(self, block: Block) -> list[_Call]:
        """Of a block. Weights and tables that another block has too are kept once."""
        if block not in self.kinds:
            self._emit_block(block)
            kept = {}
            for array in self.inner.constants:
                kept[array.ctypes.data] = self.constants.setdefault(_digest(array), array).ctypes.data
            self.kinds[block] = [self._call(step, kept) for step in self.inner.steps]
            self.inner.steps.clear()
            self.inner.constants.clear()
        return self.kinds[block]

    def _emit_block(self, block: Block) -> None:
        into = self._source(block.height)
        if self.made is not None:
            assert self.before is not None
            into = _rows(self.made, 0, block.height)
            if block.kept:
                self.inner.copy(_flat(self.made, block.kept_from, block.kept), _flat(self.made, 0, block.kept))
            new = self._new_rows(block)
            self.before.emit(self.inner, self._source(new.shape[2]), new, Geometry(), Epilogue())
        core = replace(self.at, padding=(block.above, block.below, *self.at.padding[2:]))
        y, residual = self._results(Y, self.y, block), self.epilogue.residual
        residual = None if residual is None else self._results(RESIDUAL, residual, block)
        epilogue = replace(self.epilogue, residual=residual)
        if self.after is None or self.met is None:
            self.core.emit(self.inner, into, y, core, epilogue)
            return
        met = _rows(self.met, 0, block.rows)
        self.core.emit(self.inner, into, met, core, Epilogue())
        self.after.emit(self.inner, met, y, Geometry(), epilogue)

    def _new_rows(self, block: Block) -> View:
        """What the first convolution has to make, with the zeros that a block at the bottom reads below."""
        assert self.made is not None
        whole = self.made.planes
        assert whole is not None
        rows, room = block.height - block.kept, whole.body - block.kept * whole.pitch
        body = min(round_up((rows + block.below) * whole.pitch), room) if block.below else rows * whole.pitch
        planes = replace(whole, height=rows, lead=0 if block.kept else whole.lead, body=body)
        return replace(_rows(self.made, block.kept, rows), planes=planes)

    def _call(self, step: Step, kept: Mapping[int, int]) -> _Call:
        native, name = require_native(), f"dovetail_{step.kernel}"
        offsets, fields, pointers = native.offsets(name), dict(step.fields), list[_Pointer]()
        for field, view in step.pointers.items():
            if view.buffer.address is not None:
                fields[field] = kept[view.buffer.address] + 4 * view.offset
                continue
            base = next((base for base, proxy in self.proxies.items() if proxy is view.buffer), 0)
            pointers.append(_Pointer(offsets[field], base, view.buffer, view.offset))
        return _Call(native.kernels().index(name), native.arguments(name, fields), tuple(pointers), step.work)

    def _places(self) -> tuple[dict[Buffer, int], int]:
        """Where the tensors in scratch lie, and where its rest begins. What only one block has shares a place."""
        shared = [view.buffer for view in (self.made, self.met) if view is not None]
        places, at, end = dict[Buffer, int](), 0, 0
        for buffer in shared:
            places[buffer], at = at, round_up(at + buffer.size + buffer.overrun)
        for block in self.kinds.values():
            next_ = at
            for buffer in dict.fromkeys(p.buffer for call in block for p in call.pointers if p.base == 0):
                if buffer not in shared:
                    places[buffer], next_ = next_, round_up(next_ + buffer.size + buffer.overrun)
            end = max(end, next_)
        return places, max(at, end)

    def _tables(
        self, calls: Sequence[tuple[_Call, Placed]], places: Mapping[Buffer, int]
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The arguments of all calls, and the records of calls and pointers."""
        known, blob, records, pointers = dict[bytes, int](), bytearray(), [], list[tuple[int, int, int]]()
        for call, placed in calls:
            if call.arguments not in known:
                known[call.arguments] = len(blob)
                blob += call.arguments
            size = len(call.arguments)
            records.append((call.kernel, known[call.arguments], size, len(pointers), len(call.pointers)))
            pointers += [(p.field, p.base, p.offset + self._origin(p, placed, places)) for p in call.pointers]
        return np.frombuffer(bytes(blob), np.uint8), np.array(records, np.int64), np.array(pointers, np.int64)

    def _origin(self, pointer: _Pointer, placed: Placed, places: Mapping[Buffer, int]) -> int:
        """Where the rows that a block's call sees as the first ones lie."""
        if pointer.base == 0:
            return places[pointer.buffer]
        if pointer.base == X:
            return (placed.low + (placed.block.kept if self.before else 0)) * self.x.strides[2]
        return placed.first * self.y.strides[2]


def _full(total: int, most: int) -> list[int]:
    """Pieces of `most`, and what is left."""
    return [min(most, total - first) for first in range(0, total, most)]


def _rows(view: View, first: int, rows: int) -> View:
    """Rows of a planar tensor, in as much room."""
    assert view.planes is not None
    shape, planes = (*view.shape[:2], rows, view.shape[3]), replace(view.planes, height=rows)
    return replace(view, shape=shape, planes=planes, offset=view.offset + first * view.strides[2])


def _flat(view: View, first: int, rows: int) -> View:
    """Rows with the zeros behind them, channel by channel."""
    pitch = view.strides[2]
    return View(view.buffer, (view.shape[1], rows * pitch), (view.strides[1], 1), view.offset + first * pitch)


def _digest(array: np.ndarray) -> bytes:
    return hashlib.blake2b(array.tobytes(), digest_size=16).digest() + str((array.dtype, array.shape)).encode()
