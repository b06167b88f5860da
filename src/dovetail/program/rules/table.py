"""The table of rules, and what they share.

A rule is called `rule(builder, x, **arguments)` with the arguments of the operation's schema by name (`input` and
`self` are both `x`): tensors as `Var`, parameters and what follows from them as `Const`, dimensions as numbers or
names.
It returns a `Var`, or a tuple where the operation has several results.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, TypeVar

import numpy as np

from dovetail.program.build import Builder, Const, Var
from dovetail.program.program import Epilogue

Value = Var | Const
Pair = tuple[int, int]
Pads = tuple[int, int, int, int]
Rule = Callable[..., Any]
Named = TypeVar("Named", bound=Rule)
RULES: Final[dict[str, Rule]] = {}


def rule(*names: str) -> Callable[[Named], Named]:
    """Enter a rule under the names of the operations that it lowers."""

    def enter(function: Named) -> Named:
        RULES.update(dict.fromkeys(names, function))
        return function

    return enter


def affine(b: Builder, x: Var, axis: int, scale: Any, shift: Any) -> Var:
    """`scale * x + shift` along an axis; None leaves a part out."""
    count, stem = size(b, x, axis), b.call.layer or b.call.name
    names = [_vector(b, f"{stem}.{part}", v, count) for part, v in (("scale", scale), ("shift", shift))]
    return b.emit("affine", x, epilogue=Epilogue(scale=names[0], bias=names[1]), axis=axis)


def cut(b: Builder, x: Var, axis: int, start: int, stop: int, step: int = 1) -> Var:
    """A slice, unless it is the whole."""
    whole = (start, stop, step) == (0, x.shape[axis], 1)
    return x if whole else b.emit("slice", x, axis=axis, start=start, stop=stop, step=step)


def size(b: Builder, x: Var, axis: int) -> int:
    """The size of an axis that must not depend on the batch."""
    found = x.shape[axis]
    if isinstance(found, str):
        b.call.refuse("it works along the batch", "treat all images alike")
    return found


def pair(value: Any) -> Pair:
    """`n`, `[n]` or `[n, m]` as two numbers."""
    return (value, value) if isinstance(value, int) else (int(value[0]), int(value[-1]))


def axis_of(x: Var, dim: int) -> int:
    """An axis counted from the front."""
    return dim % len(x.shape)


def channel_axis(x: Var) -> int:
    """Axis 1 of images, else the last."""
    return 1 if len(x.shape) == 4 else len(x.shape) - 1


def _vector(b: Builder, name: str, values: Any, count: int) -> str | None:
    if values is None:
        return None
    return b.array(name, np.broadcast_to(np.asarray(values, np.float32).reshape(-1), (count,)))
