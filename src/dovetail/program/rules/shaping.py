"""What moves numbers without computing: joins, slices, reshapes, pads; and what does nothing in evaluation."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from dovetail.program.attributes import LARGEST
from dovetail.program.build import Builder, Const, Var
from dovetail.program.rules.table import Value, axis_of, cut, rule, size

_WHOLE = 2**31


@rule("cat", "concat")
def concat(b: Builder, *, tensors: Sequence[Value], dim: int) -> Var:
    """One after another along an axis."""
    shown = [x for x in tensors if isinstance(x, Var)]
    axis = axis_of(shown[0], dim)
    if len(shown) < len(tensors):
        return _with_constants(b, tensors, axis)
    return shown[0] if len(shown) == 1 else b.emit("concat", *shown, axis=axis)


@rule("stack")
def stack(b: Builder, *, tensors: Sequence[Value], dim: int) -> Var:
    """Along a new axis."""
    axis = dim % len(b.call.shape)
    if any(isinstance(x, Const) for x in tensors):
        b.call.refuse("it stacks constants with computed tensors", "concatenate them instead")
    shown = [x for x in tensors if isinstance(x, Var)]
    return b.emit("concat", *(_reshape(b, x, (*x.shape[:axis], 1, *x.shape[axis:])) for x in shown), axis=axis)


@rule("slice")
def slice_(b: Builder, x: Var, *, dim: int = 0, start: Any = None, end: Any = None, step: int = 1) -> Var:
    """Any slice of a known axis; of the batch only the whole."""
    axis = axis_of(x, dim)
    if (
        start in (None, 0)
        and step == 1
        and (end is None or end == x.shape[axis] or (isinstance(end, int) and end >= _WHOLE))
    ):
        return x
    return cut(b, x, axis, *slice(start, end, step).indices(size(b, x, axis)))


@rule("narrow")
def narrow(b: Builder, x: Var, *, dim: int, start: int, length: int) -> Var:
    """`length` positions from `start`."""
    axis = axis_of(x, dim)
    return cut(b, x, axis, start % size(b, x, axis), start % size(b, x, axis) + length)


@rule("select")
def select(b: Builder, x: Var, *, dim: int, index: int) -> Var:
    """One position; the axis goes away."""
    axis = axis_of(x, dim)
    start = index % size(b, x, axis)
    return _reshape(b, cut(b, x, axis, start, start + 1), (*x.shape[:axis], *x.shape[axis + 1 :]))


@rule("split", "split_with_sizes", "chunk", "unsafe_split", "unsafe_split_with_sizes", "unsafe_chunk")
def split(b: Builder, x: Var, *, dim: int, **how: Any) -> tuple[Var, ...]:
    """Slices; those that nobody reads are removed later."""
    axis = axis_of(x, dim)
    edges = np.cumsum([0, *_sizes(size(b, x, axis), **how)]).tolist()
    return tuple(cut(b, x, axis, start, stop) for start, stop in pairwise(edges))


@rule("unbind")
def unbind(b: Builder, x: Var, *, dim: int) -> tuple[Var, ...]:
    """Every position of an axis on its own."""
    axis = axis_of(x, dim)
    return tuple(select(b, x, dim=axis, index=i) for i in range(size(b, x, axis)))


@rule("view", "reshape", "_unsafe_view", "view_copy", "flatten", "unflatten", "squeeze", "unsqueeze")
def reshape(b: Builder, x: Var, **_: Any) -> Var:
    """To the shape that the trace found."""
    return _reshape(b, x, b.call.shape)


@rule("expand", "expand_as", "broadcast_to")
def expand(b: Builder, x: Value, **_: Any) -> Value:
    """Of a tensor only where it changes nothing: arithmetic broadcasts by itself. A constant keeps a batch of one."""
    if isinstance(x, Const):
        return Const(x.name, np.broadcast_to(x.array, [1 if isinstance(d, str) else d for d in b.call.shape]))
    if x.shape != b.call.shape:
        b.call.refuse(f"it repeats {x.shape} to {b.call.shape}", "leave the repetition to the arithmetic that follows")
    return x


@rule("permute")
def permute(b: Builder, x: Var, *, dims: Sequence[int]) -> Var:
    """Axes in another order."""
    return b.emit("permute", x, order=tuple(axis_of(x, d) for d in dims))


@rule("transpose", "swapaxes")
def transpose(b: Builder, x: Var, *, dim0: int, dim1: int) -> Var:
    """Two axes exchanged."""
    order = list(range(len(x.shape)))
    i, j = axis_of(x, dim0), axis_of(x, dim1)
    order[i], order[j] = order[j], order[i]
    return b.emit("permute", x, order=tuple(order))


@rule("t")
def matrix_transpose(b: Builder, x: Var) -> Var:
    """Of a matrix."""
    return transpose(b, x, dim0=0, dim1=-1)


@rule("constant_pad_nd", "pad")
def pad(b: Builder, x: Var, *, pad: Sequence[int], value: float | None = None, mode: str = "constant") -> Var:
    """A constant border; negative pads crop."""
    if mode != "constant":
        b.call.refuse(f"{mode} padding is not known", "pad with zeros")
    pads = [(0, 0)] * len(x.shape)
    for i in range(len(pad) // 2):
        pads[-1 - i] = (pad[2 * i], pad[2 * i + 1])
    for axis, (before, after) in enumerate(pads):
        if min(before, after) < 0:
            x = cut(b, x, axis, max(-before, 0), size(b, x, axis) - max(-after, 0))
    grown = tuple((max(before, 0), max(after, 0)) for before, after in pads)
    fill = float(np.clip(value or 0.0, -LARGEST, LARGEST))
    return b.emit("pad", x, pads=grown, value=fill) if any(map(any, grown)) else x


@rule("dropout", "feature_dropout", "alpha_dropout", "alias", "clone", "contiguous", "detach", "lift_fresh_copy")
def nothing(b: Builder, x: Value, **_: Any) -> Value:
    """Does nothing in evaluation."""
    return x


@rule("native_dropout")
def native_dropout(b: Builder, x: Value, **_: Any) -> tuple[Value, None]:
    """Does nothing in evaluation; nobody reads the mask."""
    return x, None


@rule("to", "_to_copy")
def to(b: Builder, x: Value, *, dtype: Any = None, **_: Any) -> Value:
    """A copy; conversions are refused."""
    if dtype not in (None, "float32"):
        b.call.refuse(f"it converts to {dtype}", "compute in float32; precision belongs to the target")
    return x


def _reshape(b: Builder, x: Var, shape: tuple[Any, ...]) -> Var:
    return x if x.shape == shape else b.emit("reshape", x, shape=shape)


def _with_constants(b: Builder, parts: Sequence[Value], axis: int) -> Var:
    """Constants around one computed tensor (a class token): pad it with zeros, then add them."""
    place = [i for i, part in enumerate(parts) if isinstance(part, Var)]
    if len(place) > 1:
        b.call.refuse("it joins constants with several computed tensors", "join the computed tensors first")
    x = parts[place[0]]
    arrays = [part.array if isinstance(part, Const) else _zeros(part) for part in parts]
    sizes = [array.shape[axis] for array in arrays]
    pads = [(0, 0)] * arrays[0].ndim
    pads[axis] = (sum(sizes[: place[0]]), sum(sizes[place[0] + 1 :]))
    padded = b.emit("pad", x, pads=tuple(pads), value=0.0)
    return b.emit("add", padded, Const(f"{b.call.name}.constant", np.concatenate(arrays, axis)))


def _zeros(x: Var) -> np.ndarray:
    return np.zeros([1 if isinstance(d, str) else d for d in x.shape], np.float32)


def _sizes(total: int, **how: Any) -> list[int]:
    given = how.get("split_sizes", how.get("split_size", how.get("sections")))
    if "chunks" in how:
        given = -(-total // how["chunks"])
    if isinstance(given, int):
        return [min(given, total - start) for start in range(0, total, given)]
    return [int(n) for n in given or ()]
