"""How much hangs on what was decided rather than known: each such parameter halved and doubled, one at a time.

Of a flag, and of what is one of a few choices, the others take the place of half and twice the value.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from operator import attrgetter
from typing import Any, Final, TypeVar

from dovetail.accelerators.energy import CostSet
from dovetail.accelerators.machine import Machine
from dovetail.accelerators.parameters import MARKS, parameters
from dovetail.accelerators.simulation import Recorded, run
from dovetail.accelerators.trace import Trace, total
from dovetail.errors import MachineError

CHOSEN: Final = ("chosen",)
Value = bool | int | float | str
Described = TypeVar("Described", Machine, CostSet)
FACTORS: Final = ("sram_factor", "dram_factor", "gated")


@dataclass(frozen=True)
class Variation:
    """A parameter of a machine, and the machine with half and with twice its value; None where there is none such.

    Attributes:
        field: of the machine; `costs.…` for a field of its cost set.
        value: as the machine has it.
        halved: with half the value, whole numbers rounded down; or with another choice.
        doubled: with twice the value; or with a third choice.
        means: the quantity, in words.
    """

    field: str
    value: Value
    halved: Machine | None
    doubled: Machine | None
    means: str = ""


@dataclass(frozen=True)
class Effect:
    """What a variation does to the sum over all layers; `(halved, doubled)`, None where no machine can run them so."""

    field: str
    value: Value
    means: str
    values: tuple[Value | None, Value | None]
    cycles: tuple[int | None, int | None]
    joules: tuple[float | None, float | None]

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}


def sensitivity(
    machine: Machine,
    layers: Sequence[Recorded],
    marks: Sequence[str] = CHOSEN,
    report: Callable[[str], None] | None = None,
) -> tuple[Effect, ...]:
    """The effect of every parameter of these marks on the cycles and the energy of a network.

    Args:
        machine: whose parameters are varied.
        layers: as `recorded` gives them.
        marks: of the parameters, keys of `parameters.MARKS`.
        report: is told of every parameter that is done.
    """
    found = []
    for variation in variations(machine, marks):
        found.append(effect(variation, layers))
        if report is not None:
            report(f"{machine.name}: {variation.field} halved and doubled")
    return tuple(found)


def variations(machine: Machine, marks: Sequence[str] = CHOSEN) -> Iterator[Variation]:
    """Every number and choice among the parameters of these marks; of a cost set, its factors.

    Raises:
        MachineError: a mark is not known.
    """
    if unknown := [mark for mark in marks if mark not in MARKS]:
        raise MachineError(f"unknown mark {unknown[0]!r}; known are {', '.join(MARKS)}")
    known = parameters(machine)
    for row in machine.provenance():
        if row.mark not in marks:
            continue
        choices = known[row.field].choices
        if isinstance(row.value, CostSet):
            yield from _of_costs(machine, row.value)
        elif choices:
            others = [_changed(machine, row.field, choice) for choice in choices if choice != row.value]
            first, second, *_ = (*others, None, None)
            yield Variation(row.field, row.value, first, second, row.means)
        elif _is_number(row.value) and row.value:
            half = _changed(machine, row.field, row.value / 2)
            half = _changed(machine, row.field, row.value // 2) if half is None else half
            yield Variation(row.field, row.value, half, _changed(machine, row.field, 2 * row.value), row.means)


def effect(variation: Variation, layers: Sequence[Recorded]) -> Effect:
    """Of one variation."""
    machines = (variation.halved, variation.doubled)
    low, high = (None if machine is None else _total(machine, layers) for machine in machines)
    read = attrgetter(variation.field)
    values = [
        None if machine is None or done is None else read(machine) for machine, done in zip(machines, (low, high))
    ]
    return Effect(
        variation.field,
        variation.value,
        variation.means,
        (values[0], values[1]),
        (None if low is None else low.cycles, None if high is None else high.cycles),
        (None if low is None else low.joules, None if high is None else high.joules),
    )


def _total(machine: Machine, layers: Sequence[Recorded]) -> Trace | None:
    """None where a layer does not fit the machine, or no energy is known for it."""
    try:
        return total(run(machine, layer).trace for layer in layers)
    except MachineError:
        return None


def _of_costs(machine: Machine, costs: CostSet) -> Iterator[Variation]:
    means = parameters(costs)
    for name in FACTORS:
        value = getattr(costs, name)
        changed = [_changed(costs, name, other) for other in (value / 2, value * 2)]
        both = [None if one is None else replace(machine, costs=one) for one in changed]
        yield Variation(f"costs.{name}", value, both[0], both[1], means[name].means)


def _changed(described: Described, field: str, value: Value) -> Described | None:
    """With another value of a field; None where it may not have that."""
    changes: dict[str, Any] = {field: value}
    try:
        return replace(described, **changes)
    except MachineError:
        return None


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
