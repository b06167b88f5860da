"""What the attributes of an op may be: one `Attribute` per name, made by the small functions below."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

_DIM: Final = re.compile(r"([1-9][0-9]{0,8}\*)?[A-Za-z_][A-Za-z0-9_]*")


LARGEST: Final = float(np.finfo(np.float32).max)
LONGEST: Final = 1 << 16


class _Required:
    """Marks an attribute that has no default."""


REQUIRED: Final = _Required()


@dataclass(frozen=True)
class Attribute:
    """One attribute.

    Attributes:
        means: what it may be, in words for messages.
        accepts: whether a value is that.
        default: taken where a node does not say; `REQUIRED` if it must.
    """

    means: str
    accepts: Callable[[Any], bool]
    default: Any = REQUIRED


def integer(low: int, default: Any = REQUIRED) -> Attribute:
    """An `int` of at least `low`."""
    return Attribute(f"an integer of at least {low}", lambda value: _is_int(value) and value >= low, default)


def integers(low: int, count: int | None = None, default: Any = REQUIRED) -> Attribute:
    """A tuple of `count` (any number but zero, if None) integers of at least `low`."""
    how_many = "one or more" if count is None else str(count)
    return Attribute(f"{how_many} integers of at least {low}", lambda value: _is_ints(value, low, count), default)


def lengths(low: int, count: int, default: Any = REQUIRED) -> Attribute:
    """A tuple of `count` integers from `low` to `LONGEST`, such as windows, strides and paddings."""

    def accepts(value: Any) -> bool:
        return _is_ints(value, low, count) and max(value) <= LONGEST

    return Attribute(f"{count} integers from {low} to {LONGEST}", accepts, default)


def pairs(low: int) -> Attribute:
    """A tuple of pairs of integers of at least `low`."""
    return Attribute(
        f"pairs of integers of at least {low}",
        lambda value: isinstance(value, tuple) and bool(value) and all(_is_ints(pair, low, 2) for pair in value),
    )


def number(default: Any = REQUIRED, *, positive: bool = False) -> Attribute:
    """A number that is finite in float32."""

    def accepts(value: Any) -> bool:
        plain = isinstance(value, (int, float)) and not isinstance(value, bool)
        return plain and abs(value) <= LARGEST and (value > 0 or not positive)

    return Attribute("a positive number" if positive else "a finite number", accepts, default)


def boolean(default: Any = REQUIRED) -> Attribute:
    """True or False."""
    return Attribute("true or false", lambda value: isinstance(value, bool), default)


def label() -> Attribute:
    """A text that names something of the program."""
    return Attribute("a name", lambda value: isinstance(value, str) and bool(value))


def dims() -> Attribute:
    """A shape: positive integers and names such as `"batch"`."""

    def accepts(value: Any) -> bool:
        return isinstance(value, tuple) and all(is_dim(d) for d in value)

    return Attribute("a shape of positive integers and names", accepts)


def is_dim(value: Any) -> bool:
    """Whether `value` can be a dimension: a positive `int`, a name, or a multiple of a name."""
    return (_is_int(value) and value >= 1) or (isinstance(value, str) and _DIM.fullmatch(value) is not None)


def _is_int(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**31


def _is_ints(value: Any, low: int, count: int | None) -> bool:
    sized = isinstance(value, tuple) and (len(value) == count if count is not None else bool(value))
    return sized and all(_is_int(item) and item >= low for item in value)
