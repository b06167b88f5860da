"""What half and twice each parameter of two machines do to the ratio between them."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from dovetail.report import numbers

Json = Mapping[str, Any]
Factors = tuple[float | None, float | None]
SWAYS = ("parameter", "of", "value", "known from", "time, ½", "time, 2×", "energy, ½", "energy, 2×")
RECONSTRUCTED: Final = ("chosen", "recalled")
LEAST: Final = 0.05
"""Parameters of the other machines that change a ratio by less are only named."""
UNKNOWN: Final[Factors] = (None, None)


@dataclass(frozen=True)
class Sway:
    """A parameter, and by which factors half and twice its value change ratios; None where no machine can have it.

    Attributes:
        field: its name.
        of: whose, in words.
        value: as the machine has it, in words.
        known: where it is known from.
        own: it is one of the first machine's.
        time, energy: the factors.
    """

    field: str
    of: str
    value: str
    known: str
    own: bool
    time: Factors = UNKNOWN
    energy: Factors = UNKNOWN

    @property
    def most(self) -> float:
        """The largest change, as a share: 0.1 of factors 1.1 and 1 / 1.1."""
        found = [abs(math.log(factor)) for factor in (*self.time, *self.energy) if factor]
        return math.exp(max(found, default=0.0)) - 1

    @property
    def shown(self) -> bool:
        """Every parameter of the first machine, and what matters of the others."""
        return self.own or self.most >= LEAST

    def cells(self) -> tuple[str, ...]:
        """In the order of `SWAYS`."""
        factors = map(numbers.times, (*self.time, *self.energy))
        return (f"`{self.field}`{' †' if self.own else ''}", self.of, self.value, self.known, *factors)


def swayed(pairs: Sequence[Json], machines: Json, shared: Collection[str]) -> list[Sway]:
    """The reconstructed parameters of the first pair's machine, then those of others and of all; strongest first.

    Args:
        pairs: of a comparison, with the effects of parameters.
        machines: name → description, as JSON.
        shared: parameters that all machines have in common, changed on both sides of a ratio.
    """
    first = pairs[0]
    others = [pair for pair in pairs if pair["machine"] != first["machine"] and pair["network"] != first["network"]]
    found = [*_own(first, machines, shared)]
    for other in others:
        found += _others(first, other, machines, shared)
    return sorted(found, key=lambda sway: (not sway.own, -sway.most))


def little(found: Sequence[Sway]) -> str:
    """The parameters that are not shown, in a sentence; "" where all are."""
    names = [f"`{sway.field}` of {sway.of}" for sway in found if not sway.shown]
    return f"Less than {LEAST:.0%}: {', '.join(names)}.\n" if names else ""


def _own(first: Json, machines: Json, shared: Collection[str]) -> Iterator[Sway]:
    effects = {effect["field"]: effect for effect in first["sensitivity"]}
    for row in machines[first["machine"]]["parameters"]:
        if row["mark"] not in RECONSTRUCTED or row["field"] in shared:
            continue
        effect = effects.get(row["field"])
        factors = [] if effect is None else [_over((1.0, 1.0), change) for change in _changes(first, effect)]
        yield Sway(row["field"], first["machine"], numbers.setting(row["value"]), _known(row), True, *factors)


def _others(first: Json, other: Json, machines: Json, shared: Collection[str]) -> Iterator[Sway]:
    ours = {effect["field"]: effect for effect in first["sensitivity"]}
    rows = {row["field"]: row for row in machines[other["machine"]]["parameters"]}
    for effect in other["sensitivity"]:
        name, changes, of = effect["field"], _changes(other, effect), other["machine"]
        common = name.partition(".")[0]
        if common in shared:
            if name not in ours:  # it is known on one side only, and means nothing there
                continue
            changes = [_over(change, before) for change, before in zip(changes, _changes(first, ours[name]))]
            of = f"{first['machine']} and {of}"
        yield Sway(name, of, numbers.setting(effect["value"]), _known(rows[common]), False, *changes)


def _changes(pair: Json, effect: Json) -> list[Factors]:
    """Of time and of energy, by half and by twice the value."""
    return [_over(tuple(effect[key]), (pair[key],) * 2) for key in ("cycles", "joules")]


def _over(above: Sequence[float | None], below: Sequence[float | None]) -> Factors:
    low, high = (numbers.quotient(over, under) for over, under in zip(above, below, strict=True))
    return low, high


def _known(row: Json) -> str:
    return f"{row['mark']}, {row['note']}" if row["note"] else row["mark"]
