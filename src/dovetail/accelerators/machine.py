"""A machine: a frozen description that says what a layer costs on it, and the registry of known ones."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Final, Self, TypeVar

from dovetail.accelerators import parameters
from dovetail.accelerators.energy import DRAM, ISSCC45, Cost, CostSet
from dovetail.accelerators.parameters import Row, Source, flag, instance, one_of, positive
from dovetail.accelerators.parts import DECOMPOSED
from dovetail.accelerators.trace import Charge, Number, Trace
from dovetail.accelerators.workload import Workload
from dovetail.errors import MachineError
from dovetail.formats.base import Packed

ACCESS_BITS: Final = 64  # of one access to a buffer [chosen]


@dataclass(frozen=True, kw_only=True)
class Machine(ABC):
    """What every machine has: a clock, a node, off-chip memory and a cost set.

    Attributes:
        name: in the registry and in reports.
        sources: where the values of the fields are known from.
    """

    name: str
    clock_hz: float = positive("clock", "Hz")
    node_nm: float = positive("process node", "nm")
    dram_bytes_per_cycle: float = positive("off-chip memory, read and written", "bytes/cycle")
    dram: str = one_of("kind of off-chip memory, for its energy", DRAM, default="lpddr4")
    costs: CostSet = instance("energies of events", CostSet, default=ISSCC45)  # noqa: RUF009 - makes a field
    keep_maps: bool = flag("what the next layer alone reads stays on the chip where it fits", default=False)
    sources: tuple[Source, ...] = ()

    def __post_init__(self) -> None:
        parameters.check(self, self.what)

    @property
    def what(self) -> str:
        """For messages."""
        return f"machine {self.name!r}"

    @property
    @abstractmethod
    def units(self) -> int:
        """Multipliers."""

    @property
    def kept_values(self) -> int:
        """Values of a layer's input and output that its memory holds together; what fits need not leave the chip."""
        return 0

    def takes(self, weight: Packed) -> bool:
        """Whether it runs such a weight as it is packed; a decomposed one else becomes plain convolutions."""
        return not isinstance(weight, DECOMPOSED)

    def require(self, layer: Workload) -> None:  # noqa: B027 - many machines run any shape
        """`MachineError` where the machine cannot run a layer of such a shape; by a look, without counting anything."""

    @abstractmethod
    def simulate(self, layer: Workload) -> Trace:
        """Cycles, bytes and energy of one layer, for all of its images.

        Raises:
            MachineError: the machine cannot run such a layer.
        """

    def sourced(self, *rows: tuple[str, str, str]) -> Self:
        """A copy whose fields are vouched for, by `(fields, mark, note)`; see `parameters.sources`."""
        return replace(self, sources=parameters.sources(self, self.what, rows))

    def provenance(self) -> tuple[Row, ...]:
        """A row per parameter: value, meaning, and where the value is known from."""
        return parameters.table(self, self.sources)

    def to_json(self) -> dict[str, Any]:
        """Plain data: what kind it is, and its parameters with where they are known from."""
        rows = [asdict(row) | {"value": plain(row.value)} for row in self.provenance()]
        return {"name": self.name, "kind": type(self).__name__, "units": self.units, "parameters": rows}

    def trace(
        self,
        layer: Workload,
        cycles_by: Mapping[str, int],
        bytes_by: Mapping[str, Number],
        charges: Iterable[Charge],
        macs: int,
        gated_macs: int = 0,
        additions: int = 0,
    ) -> Trace:
        """What `simulate` gives; leakage and control are added here where the cost set has them."""
        found = [one for one in charges if one.count]
        on_chip = sum(one.total for one in found if one.on_chip)
        for part, share in (("leakage", self.costs.leakage), ("control", self.costs.control)):
            if share:
                found.append(Charge(part, "pJ of dynamic energy on the chip", on_chip, share, "[chosen]"))
        return Trace(
            self.name,
            layer.name,
            self.units,
            self.clock_hz,
            dict(cycles_by),
            dict(bytes_by),
            tuple(found),
            macs,
            gated_macs,
            additions,
        )

    def dram_charge(self, bits: int) -> Charge:
        """For moving so many bits across the off-chip memory."""
        cost = self.costs.dram(self.dram)
        return Charge("dram", f"bit of {self.dram}", bits, cost.picojoules, cost.source, on_chip=False)

    def memory_charges(
        self, part: str, capacity: int, read_bits: int, written_bits: int, name: str = ""
    ) -> tuple[Charge, Charge]:
        """For so many bits read from and written to an SRAM of `capacity` bytes, 64 at a time; `name` tells which."""
        read = self.costs.sram(capacity, ACCESS_BITS, self.node_nm, "read")
        write = self.costs.sram(capacity, ACCESS_BITS, self.node_nm, "write")
        of = f" of {name}" if name else ""
        return (
            charge(part, f"read of {ACCESS_BITS} bits{of}", read_bits / ACCESS_BITS, read),
            charge(part, f"write of {ACCESS_BITS} bits{of}", written_bits / ACCESS_BITS, write),
        )

    def require_undilated(self, layer: Workload) -> None:
        """`MachineError` for a layer whose kernel has holes."""
        if layer.dilation != (1, 1):
            raise MachineError(
                f"layer {layer.name!r} has a dilation of {layer.dilation}; {self.what} is modelled without dilation"
            )


def charge(part: str, event: str, count: Number, cost: Cost) -> Charge:
    """So many events at a cost."""
    return Charge(part, event, count, cost.picojoules, cost.source)


def plain(value: Any) -> Any:
    """A parameter's value as plain data."""
    return value.to_json() if isinstance(value, CostSet) else value


def sram_bits(charges: Iterable[Charge], *parts: str) -> float:
    """Bits that `memory_charges` has charged to these parts."""
    return ACCESS_BITS * sum(one.count for one in charges if one.part in parts)


MACHINES: dict[str, Machine] = {}
Registered = TypeVar("Registered", bound=Machine)


def register(machine: Registered) -> Registered:
    """Enter a machine under its name, and return it."""
    if not isinstance(machine, Machine):
        raise MachineError(f"{machine!r} is no Machine; give an instance of a subclass")
    if machine.name in MACHINES:
        raise MachineError(f"machine {machine.name!r} is registered already; give it another name")
    MACHINES[machine.name] = machine
    return machine


def machine_named(name: str) -> Machine:
    """The machine called `name`; `MachineError` lists the known ones."""
    if name not in MACHINES:
        raise MachineError(f"unknown machine {name!r}; known are {', '.join(sorted(MACHINES))}")
    return MACHINES[name]
