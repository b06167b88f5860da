"""The parameters of a machine: what each may be, what it means, and where its value is known from.

A machine is a dataclass whose fields are made by the functions below. The same declaration checks the value, names it
in messages, and heads the row of the table that documentation and reports print.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, fields
from typing import Any, Final

from dovetail.errors import MachineError

MARKS: Final = {
    "paper": "read in the paper",
    "repo": "read in public code",
    "recalled": "from memory, not verified",
    "derived": "computed from the others",
    "chosen": "decided here",
    "given": "set by the caller",
}


@dataclass(frozen=True)
class Parameter:
    """What a field means and may be.

    Attributes:
        means: the quantity, in words.
        unit: of the value; empty for counts and names.
        allowed: what it may be, in words for messages.
        accepts: whether a value is that.
        choices: all that it may be, where that is one of a few.
    """

    means: str
    unit: str
    allowed: str
    accepts: Callable[[Any], bool]
    choices: tuple[Any, ...] = ()


@dataclass(frozen=True)
class Source:
    """Where the value of one field is known from: one of `MARKS`, and a note such as the paper or the reason."""

    field: str
    mark: str
    note: str
    value: Any


@dataclass(frozen=True)
class Row:
    """One line of the table: a field, its value, and where that is known from."""

    field: str
    value: Any
    unit: str
    means: str
    mark: str
    note: str


def whole(means: str, unit: str = "", *, least: int = 1, **default: Any) -> Any:
    """A field that is a whole number of at least `least`."""
    return _field(means, unit, f"a whole number of at least {least}", lambda v: _is_whole(v) and v >= least, default)


def positive(means: str, unit: str = "", **default: Any) -> Any:
    """A field that is a finite number above zero."""
    return _field(means, unit, "a finite number above 0", lambda v: _is_number(v) and v > 0, default)


def share(means: str, unit: str = "", **default: Any) -> Any:
    """A field from 0 to 1."""
    return _field(means, unit, "a number from 0 to 1", lambda v: _is_number(v) and 0 <= v <= 1, default)


def one_of(means: str, choices: Iterable[Any], **default: Any) -> Any:
    """A field that is one of `choices`."""
    known = tuple(choices)
    names = ", ".join(str(choice) for choice in known)

    def accepts(value: Any) -> bool:
        return any(type(value) is type(choice) and value == choice for choice in known)

    return _field(means, "", f"one of {names}", accepts, default, known)


def instance(means: str, kind: type, **default: Any) -> Any:
    """A field that is an instance of a class."""
    return _field(means, "", f"a {kind.__name__}", lambda v: isinstance(v, kind), default)


def flag(means: str, **default: Any) -> Any:
    """A field that is true or false."""
    return _field(means, "", "True or False", lambda v: isinstance(v, bool), default, (False, True))


def parameters(described: Any) -> dict[str, Parameter]:
    """Field name → parameter, for every field of a machine that the functions above have made."""
    return {f.name: f.metadata["parameter"] for f in fields(described) if "parameter" in f.metadata}


def check(described: Any, what: str) -> None:
    """`MachineError` unless every parameter of a dataclass holds a value it may hold; `what` names the object."""
    for name, parameter in parameters(described).items():
        value = getattr(described, name)
        if not parameter.accepts(value):
            raise MachineError(f"{what}: {name} is {value!r}; it must be {parameter.allowed} ({parameter.means})")


def sources(described: Any, what: str, rows: Iterable[tuple[str, str, str]]) -> tuple[Source, ...]:
    """A source for each named field of a dataclass.

    Args:
        described: the object.
        what: its name, for messages.
        rows: `(fields, mark, note)`, the fields separated by spaces.
    """
    known, found = parameters(described), []
    for names, mark, note in rows:
        if mark not in MARKS:
            raise MachineError(f"{what}: unknown mark {mark!r}; known are {', '.join(MARKS)}")
        for name in names.split():
            if name not in known:
                raise MachineError(f"{what} has no parameter {name!r}; it has {', '.join(known)}")
            found.append(Source(name, mark, note, getattr(described, name)))
    return tuple(found)


def table(described: Any, known: Iterable[Source]) -> tuple[Row, ...]:
    """A row per parameter; a value that differs from the one that its source vouches for is marked as given."""
    by_field = {source.field: source for source in known}
    return tuple(
        _row(name, p, getattr(described, name), by_field.get(name)) for name, p in parameters(described).items()
    )


def markdown(rows: Iterable[Row]) -> str:
    """The table as Markdown."""
    lines = ["| parameter | value | meaning | known from |", "|---|---|---|---|"]
    for row in rows:
        value = _shown(row.value)
        note = f", {row.note}" if row.note else ""
        lines.append(f"| `{row.field}` | {value} {row.unit}".rstrip() + f" | {row.means} | {row.mark}{note} |")
    return "\n".join(lines)


def _shown(value: Any) -> str:
    if _is_number(value):
        return f"{int(value):,}" if value == int(value) else f"{value:.6g}"
    return str(getattr(value, "name", value))


def _row(name: str, parameter: Parameter, value: Any, source: Source | None) -> Row:
    vouched = source is not None and source.value == value
    mark, note = (source.mark, source.note) if source is not None and vouched else ("given", "")
    return Row(name, value, parameter.unit, parameter.means, mark, note)


def _field(
    means: str,
    unit: str,
    allowed: str,
    accepts: Callable[[Any], bool],
    default: dict[str, Any],
    choices: tuple[Any, ...] = (),
) -> Any:
    return field(metadata={"parameter": Parameter(means, unit, allowed, accepts, choices)}, **default)


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
