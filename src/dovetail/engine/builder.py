"""Turns ops into kernel calls over buffers: what runs, where it reads and writes, and where threads must meet."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from dovetail.engine.arena import aligned_copy, aligned_zeros
from dovetail.engine.layout import Buffer, Planes, Shape, View, contiguous_strides, nests, planar_view, rows_view
from dovetail.program.program import Activation

# In the order of `enum class Activation` in native/engine/arguments.h.
ACTIVATION_CODES = {
    name: code
    for code, name in enumerate(
        ("none", "relu", "clamp", "leaky_relu", "hardswish", "sigmoid", "tanh", "silu", "gelu", "gelu_tanh")
    )
}


@dataclass
class Step:
    """One kernel call.

    Attributes:
        kernel: without the ISA.
        node: name of the Program's node that it belongs to ("" for copies at the border of the network).
        pointers: field → view whose element (0, …, 0) it points at.
        fields: field → number or numbers.
        barrier: all threads meet before it.
        stage: how many barriers lie before it.
        work: roughly, in multiply-adds.
    """

    kernel: str
    node: str
    pointers: dict[str, View]
    fields: dict[str, Any]
    barrier: bool
    stage: int
    work: int


@dataclass
class Builder:
    """Collects steps.

    Attributes:
        lanes: floats in a vector of the chosen ISA.
        threads: how many will run the plan (only to cut work finely enough; results do not depend on it).
        halos: (height, width) → rows and columns of zeros that planes of that size need.
    """

    lanes: int
    threads: int
    halos: Mapping[tuple[int, int], tuple[int, int]] = field(default_factory=dict)
    steps: list[Step] = field(default_factory=list)
    constants: list[np.ndarray] = field(default_factory=list)
    scratch: int = 0
    node: str = ""
    _stage: int = 0
    _read: set[Buffer] = field(default_factory=set)
    _written: set[Buffer] = field(default_factory=set)

    # --- memory ---------------------------------------------------------------------------------------------------

    def planes(self, height: int, width: int) -> Planes:
        """The one geometry of all planar tensors of this size, so that they can be visited side by side."""
        return Planes.of(height, width, *self.halos.get((height, width), (0, 0)))

    def planar(self, shape: Shape, planes: Planes | None = None, word: int = 0) -> View:
        """A new planar tensor `(N, C, H, W)`; `word` is what its halo holds."""
        return planar_view(shape, planes or self.planes(shape[2], shape[3]), self.node, word)

    def rows(self, shape: Shape) -> View:
        """A new C-ordered tensor."""
        return rows_view(shape, self.node)

    def constant(self, array: np.ndarray) -> View:
        """A constant operand; float32 unless it already is a table of another type. Kept alive with the plan."""
        return self._kept(aligned_copy(array))

    def room(self, size: int) -> tuple[View, np.ndarray]:
        """A constant operand of float32 zeros, and its memory, to be filled: large ones are not there twice."""
        memory = aligned_zeros(size, np.float32)
        return self._kept(memory), memory

    def _kept(self, array: np.ndarray) -> View:
        self.constants.append(array)
        buffer = Buffer(array.size, address=array.ctypes.data)
        return View(buffer, array.shape, contiguous_strides(array.shape))

    # --- steps ----------------------------------------------------------------------------------------------------

    def emit(
        self,
        kernel: str,
        reads: Mapping[str, View | None],
        writes: Mapping[str, View],
        *,
        disjoint: bool = False,
        work: int | None = None,
        **fields: Any,
    ) -> None:
        """Append a kernel call.

        Args:
            kernel: name without the ISA.
            reads: pointer field → view; None stays a null pointer.
            writes: pointer field → view.
            disjoint: it writes other elements than the steps since the last barrier did.
            work: multiply-adds; None takes the elements written, eight for each.
            **fields: numbers.
        """
        reading = {v.buffer for v in reads.values() if v is not None}
        writing = {v.buffer for v in writes.values()}
        clash = writing & self._read or (not disjoint and writing & self._written)
        barrier = bool(reading & self._written or clash)
        if barrier:
            self._stage += 1
            self._read, self._written = set(), set()
        self._read |= reading
        self._written |= writing
        for buffer in reading | writing:
            buffer.touch(self._stage)
        pointers = {name: view for name, view in {**reads, **writes}.items() if view is not None}
        work = 8 * sum(math.prod(v.shape) for v in writes.values()) if work is None else work
        self.steps.append(Step(kernel, self.node, pointers, fields, barrier, self._stage, work))

    def copy(self, x: View, y: View, *, disjoint: bool = False) -> None:
        """Copy `x` to `y` of the same shape."""
        for (at_x, at_y), size, (x_stride, y_stride) in nests(x.shape, x.strides, y.strides):
            views = {"x": x.shifted(at_x)}, {"y": y.shifted(at_y)}
            self.emit("copy_f32", *views, disjoint=disjoint, size=size, x_stride=x_stride, y_stride=y_stride)
            disjoint = True

    def fill(self, y: View, word: int, *, disjoint: bool = False) -> None:
        """Set every element of `y` to the 32 bits of `word` (see `bits_of`)."""
        for (at,), size, (y_stride,) in nests(y.shape, y.strides):
            self.emit("fill_f32", {}, {"y": y.shifted(at)}, disjoint=disjoint, size=size, y_stride=y_stride, word=word)
            disjoint = True

    def clear_halo(self, y: View, *, disjoint: bool = False) -> None:
        """What belongs around the pixels of a planar tensor, for ops that write only these; call before them."""
        planes = y.planes
        if planes is None or planes.plane == 1:
            return
        images, channels, height, width = y.shape
        self.emit(
            "halo_f32", {}, {"y": y}, disjoint=disjoint, images=images, channels=channels, height=height, width=width,
            y_image=y.strides[0], y_channel=y.strides[1], pitch=planes.pitch, lead=planes.lead,
            rest=planes.body - height * planes.pitch, word=y.word,
        )  # fmt: skip

    def as_rows(self, x: View) -> View:
        """`x` itself if it is C-ordered, else a copy that is."""
        if x.contiguous:
            return x
        y = self.rows(x.shape)
        self.copy(x, y)
        return y

    def as_planar(self, x: View, planes: Planes | None = None) -> View:
        """`x` itself if it is planar with the wanted zeros around it, else a copy that is."""
        wanted = planes or self.planes(x.shape[2], x.shape[3])
        if x.planes == wanted:
            return x
        y = self.planar(x.shape, wanted, x.word)
        self.clear_halo(y)
        self.copy(x, y, disjoint=True)
        return y


def bits_of(value: float) -> int:
    """The 32 bits of a float32 number."""
    return int(np.float32(value).view(np.int32))


def activation_fields(activation: Activation | None) -> dict[str, Any]:
    """The three fields by which kernels know the activation."""
    if activation is None:
        return {"activation": ACTIVATION_CODES["none"]}
    a, b = (*activation.args, 0.0, 0.0)[:2]
    return {"activation": ACTIVATION_CODES[activation.name], "act_a": a, "act_b": b}
