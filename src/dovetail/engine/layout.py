"""Where tensors lie in memory: planes with halos for images, plain rows for the rest, views of both.

All offsets, sizes and strides count float32 elements. `docs/engine.md` draws the layouts.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

from dovetail.errors import EngineError

ALIGN = 16  # elements: one cache line, one AVX-512 vector
MOST_NESTS = 1 << 12

Shape = tuple[int, ...]


def round_up(n: int, multiple: int = ALIGN) -> int:
    """The least multiple that is not below `n`."""
    return -(-n // multiple) * multiple


@dataclass(frozen=True)
class Planes:
    """One channel's pixels: `height` rows of `pitch`, zeros between and around them.

    Rows share their padding: the `pitch - width` zeros after a row are also those before the next one, and the `lead`
    zeros before a plane are also those below the plane before it. So a tap of a padded convolution is an address
    offset, and pixels can be visited straight on across row ends.
    """

    height: int
    width: int
    pitch: int
    lead: int
    body: int

    @classmethod
    def of(cls, height: int, width: int, rows: int = 0, columns: int = 0, pitch: int = 0) -> Planes:
        """Planes with a halo of `rows` above and below and `columns` at the sides, of at least the given pitch.

        The distance of two planes is an odd multiple of a cache line, so that neighbouring channels do not compete for
        the same lines of the cache; a single pixel is stored compactly.
        """
        if height == width == 1 and not (rows or columns or pitch):
            return cls(1, 1, 1, 0, 1)
        pitch = max(width + columns, pitch)
        lead = round_up(rows * pitch + columns)
        body = round_up(height * pitch)
        lead += 0 if (lead + body) // ALIGN % 2 else ALIGN
        return cls(height, width, pitch, lead, body)

    @property
    def plane(self) -> int:
        """Distance of two channels."""
        return self.lead + self.body

    def image(self, channels: int) -> int:
        """Distance of two images: the zeros below the last plane included."""
        return channels * self.plane + self.lead

    def holds(self, rows: int, columns: int) -> bool:
        """Whether the zeros around the pixels suffice for a halo of `rows` and `columns`."""
        return self.pitch - self.width >= columns and self.lead >= rows * self.pitch + columns


@dataclass(eq=False)
class Buffer:
    """Memory of a tensor: part of the arena, a constant, or a slot that the caller fills at each run.

    Attributes:
        size: elements, zeros around the pixels included.
        overrun: elements beyond its end that kernels may read, and leave out of what they write.
        first, last: stages between which the arena must keep it; a stage ends where all threads meet.
        offset: place in the arena, once planned.
        address: of a constant.
        slot: index of the caller's array.
    """

    size: int
    name: str = ""
    overrun: int = 0
    first: int | None = None
    last: int = -1
    offset: int = 0
    address: int | None = None
    slot: int | None = None

    def touch(self, stage: int) -> None:
        """Note a read or write."""
        self.first = stage if self.first is None else self.first
        self.last = max(self.last, stage)

    def allow(self, overrun: int) -> None:
        """Note that a kernel may read so far beyond the end."""
        self.overrun = max(self.overrun, overrun)


@dataclass(frozen=True)
class View:
    """A tensor in a buffer: its element (0, …, 0) at `offset`, and a stride for each dimension.

    `planes` is set where the view is a whole planar tensor `(N, C, H, W)`; its halo holds the 32 bits of `word`.
    """

    buffer: Buffer
    shape: Shape
    strides: Shape
    offset: int = 0
    planes: Planes | None = field(default=None)
    word: int = 0

    @property
    def contiguous(self) -> bool:
        """Whether the elements follow one another in C order."""
        return all(n == 1 or s == c for n, s, c in zip(self.shape, self.strides, contiguous_strides(self.shape)))

    def shifted(self, offset: int) -> View:
        """The view beginning `offset` elements later; for nests that walk a part of it."""
        return replace(self, offset=self.offset + offset) if offset else self

    def permuted(self, order: Sequence[int]) -> View:
        """The view with its dimensions in another order."""
        return View(
            self.buffer, tuple(self.shape[i] for i in order), tuple(self.strides[i] for i in order), self.offset
        )

    def sliced(self, axis: int, start: int, stop: int, step: int) -> View:
        """Elements start, start + step, … below stop of one dimension."""
        shape, strides = list(self.shape), list(self.strides)
        shape[axis] = max(0, -(-(min(stop, self.shape[axis]) - start) // step))
        strides[axis] *= step
        planes = self.planes if axis == 1 and step == 1 else None
        at = self.offset + start * self.strides[axis]
        return View(self.buffer, tuple(shape), tuple(strides), at, planes, self.word)

    def reshaped(self, shape: Shape) -> View:
        """Another shape over the same elements; only for contiguous views."""
        if not self.contiguous:
            raise EngineError(f"a view of shape {self.shape} and strides {self.strides} cannot be reshaped in place")
        return View(self.buffer, shape, contiguous_strides(shape), self.offset)

    def broadcast(self, shape: Shape) -> View:
        """Repeated along dimensions of size one, and along new leading ones, as numpy does."""
        missing = len(shape) - len(self.shape)
        own, strides = (1,) * missing + self.shape, (0,) * missing + self.strides
        return View(
            self.buffer,
            shape,
            tuple(0 if n == 1 and m != 1 else s for n, m, s in zip(own, shape, strides)),
            self.offset,
        )


def contiguous_strides(shape: Shape) -> Shape:
    """Strides of a C-ordered array."""
    return tuple(math.prod(shape[i + 1 :]) for i in range(len(shape)))


def rows_view(shape: Shape, name: str = "") -> View:
    """A new buffer of plain C-ordered elements."""
    return View(Buffer(math.prod(shape), name), shape, contiguous_strides(shape))


def planar_view(shape: Shape, planes: Planes, name: str = "", word: int = 0) -> View:
    """A new buffer of `(N, C, H, W)` in planes; `word` is what their halo holds.

    `ALIGN` elements before the first plane belong to it, so that kernels may load beyond the left edge and mask.
    """
    images, channels = shape[:2]
    buffer, first = Buffer(ALIGN + images * planes.image(channels), name), ALIGN + planes.lead
    return View(buffer, shape, (planes.image(channels), planes.plane, planes.pitch, 1), first, planes, word)


def nest(shape: Shape, *strides: Shape, depth: int = 6) -> tuple[list[int], list[list[int]]]:
    """Sizes and strides of the same visit in `depth` nested loops: neighbours merged, filled up with ones.

    A visit that needs more loops comes back with more.
    """
    kept = [i for i, n in enumerate(shape) if n != 1]
    size, steps = [shape[i] for i in kept], [[s[i] for i in kept] for s in strides]
    i = len(size) - 1
    while i > 0:
        if all(s[i - 1] == s[i] * size[i] for s in steps):
            size[i - 1 : i + 1] = [size[i - 1] * size[i]]
            for s in steps:
                s[i - 1 : i + 1] = [s[i]]
        i -= 1
    pad = max(depth - len(size), 0)
    return [1] * pad + size, [[0] * pad + s for s in steps]


def nests(shape: Shape, *strides: Shape) -> Iterator[tuple[list[int], list[int], list[list[int]]]]:
    """The same visit as a few nests of exactly six loops: the offset of each operand, sizes, and strides."""
    size, steps = nest(shape, *strides)
    extra = len(size) - 6
    if extra > 0 and math.prod(size[:extra]) > MOST_NESTS:
        raise EngineError(f"a tensor of shape {shape} in that order of its axes takes more than {MOST_NESTS} copies")
    for index in itertools.product(*(range(n) for n in size[:extra])) if extra > 0 else [()]:
        offsets = [sum(i * s for i, s in zip(index, step)) for step in steps]
        yield offsets, size[max(extra, 0) :], [step[max(extra, 0) :] for step in steps]


def plan_arena(buffers: Sequence[Buffer]) -> int:
    """Give every buffer its place, first fit by falling size; returns the elements needed.

    Buffers may share memory when one is last used in an earlier stage than the other's first use.
    """
    placed: list[Buffer] = []
    for buffer in sorted(buffers, key=lambda b: (-b.size, b.first or 0)):
        busy = sorted((b.offset, b.offset + b.size) for b in placed if _overlap(b, buffer))
        at = 0
        for start, end in busy:
            if start - at >= buffer.size:
                break
            at = max(at, round_up(end))
        buffer.offset = at
        placed.append(buffer)
    return max((b.offset + b.size for b in placed), default=0)


def _overlap(a: Buffer, b: Buffer) -> bool:
    return (a.first or 0) <= b.last and (b.first or 0) <= a.last
