"""What a machine says of a layer: cycles by cause, bytes by level, energy by part. Plain data that adds up."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, Final, Self

from dovetail.errors import MachineError

Number = int | float
CAUSES: Final = {
    "compute": "multiply-accumulates over the number of units, rounded up",
    "imbalance": "units that have nothing to do while others compute",
    "fill": "operands on their way into the units and results on their way out",
    "stalls": "units that wait for a conflict, a buffer or a neighbour",
    "additions": "multipliers that wait for sums that are still being added up",
    "broadcast": "units that wait for inputs that all of them share",
    "halo": "sums handed to a neighbour's part of the image",
    "memory": "waiting for off-chip memory, beyond what computing hides",
    "first load": "off-chip memory before the first unit can start",
}


@dataclass(frozen=True)
class Charge:
    """So many events of one kind and what each costs.

    Attributes:
        part: of the machine, e.g. "multipliers".
        event: what is counted, e.g. "8x8 bit MAC".
        count: how many.
        picojoules: of one event.
        source: where that is known from.
        on_chip: false for off-chip memory, which neither leaks nor takes a clock here.
    """

    part: str
    event: str
    count: Number
    picojoules: float
    source: str
    on_chip: bool = True

    @property
    def total(self) -> float:
        """Picojoules of all events."""
        return self.count * self.picojoules


@dataclass(frozen=True)
class Trace:
    """One layer, or several added up, on one machine.

    Attributes:
        machine: its name.
        layer: its name.
        units: multipliers of the machine.
        clock_hz: its clock.
        cycles_by: cause → cycles, names of `CAUSES`; their sum is `cycles`.
        bytes_by: level of memory → bytes read and written.
        charges: the events that cost energy.
        macs: multiply-accumulates that were computed.
        gated_macs: those that took a unit's cycle but were switched off, as an operand is zero.
        additions: those that no multiplier took part in.
    """

    machine: str
    layer: str
    units: int
    clock_hz: float
    cycles_by: Mapping[str, int]
    bytes_by: Mapping[str, Number]
    charges: tuple[Charge, ...]
    macs: int
    gated_macs: int = 0
    additions: int = 0

    def __post_init__(self) -> None:
        if unknown := sorted(set(self.cycles_by) - set(CAUSES)):
            raise MachineError(f"unknown cause of cycles {', '.join(unknown)}; known are {', '.join(CAUSES)}")
        if bad := [cause for cause, cycles in self.cycles_by.items() if not isinstance(cycles, int) or cycles < 0]:
            raise MachineError(f"cycles of {', '.join(bad)} must be whole numbers of at least 0, not {self.cycles_by}")

    @property
    def cycles(self) -> int:
        """All of them."""
        return sum(self.cycles_by.values())

    @property
    def seconds(self) -> float:
        """At the machine's clock."""
        return self.cycles / self.clock_hz

    @property
    def utilisation(self) -> float:
        """Share of the units' cycles that held a multiply-accumulate, computed or switched off."""
        return (self.macs + self.gated_macs) / (self.units * self.cycles) if self.cycles else 0.0

    @property
    def energy_by(self) -> dict[str, float]:
        """Part → picojoules."""
        parts: defaultdict[str, float] = defaultdict(float)
        for charge in self.charges:
            parts[charge.part] += charge.total
        return dict(parts)

    @property
    def joules(self) -> float:
        """Of all parts, in joules."""
        return sum(charge.total for charge in self.charges) * 1e-12

    def to_json(self) -> dict[str, Any]:
        """Plain data, the inverse of `from_json`."""
        return {**asdict(self), "cycles_by": dict(self.cycles_by), "bytes_by": dict(self.bytes_by)} | {
            "charges": [asdict(charge) for charge in self.charges]
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """The trace that `to_json` wrote; unknown or missing fields are a `MachineError`."""
        known = {f.name for f in fields(cls)}
        if not isinstance(data, Mapping) or set(data) != known:
            has = ", ".join(map(str, data)) if isinstance(data, Mapping) else repr(data)
            raise MachineError(f"a trace has the fields {', '.join(sorted(known))}; this is {has}")
        try:
            return cls(**{**data, "charges": tuple(Charge(**charge) for charge in data["charges"])})
        except (TypeError, AttributeError) as error:
            raise MachineError(f"this is no trace: {error}") from None


def total(traces: Iterable[Trace], layer: str = "total") -> Trace:
    """Traces of one machine added up, under the name `layer`.

    Raises:
        MachineError: there are none, or they are of machines that differ.
    """
    found = list(traces)
    if not found:
        raise MachineError("no traces to add up; give at least one layer")
    first = found[0]
    for trace in found:
        if (trace.machine, trace.units, trace.clock_hz) != (first.machine, first.units, first.clock_hz):
            raise MachineError(
                f"traces of {first.machine!r} and {trace.machine!r} are of machines that differ; add up one's only"
            )
    return replace(
        first,
        layer=layer,
        cycles_by=_sum(trace.cycles_by for trace in found),
        bytes_by=_sum(trace.bytes_by for trace in found),
        charges=_merge(charge for trace in found for charge in trace.charges),
        macs=sum(trace.macs for trace in found),
        gated_macs=sum(trace.gated_macs for trace in found),
        additions=sum(trace.additions for trace in found),
    )


def _sum(mappings: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    sums: dict[str, Any] = {}
    for mapping in mappings:
        for name, value in mapping.items():
            sums[name] = sums.get(name, 0) + value
    return sums


def _merge(charges: Iterable[Charge]) -> tuple[Charge, ...]:
    """Charges of the same event at the same price as one."""
    merged: dict[Charge, Number] = {}
    for charge in charges:
        kind = replace(charge, count=0)
        merged[kind] = merged.get(kind, 0) + charge.count
    return tuple(replace(kind, count=count) for kind, count in merged.items())
