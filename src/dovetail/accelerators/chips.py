"""Chips as published, and what they would be at another node by the rule that the PermDNN paper compares with.

Facts about chips, beside the models: energy here is power times time, where the models count events. Figures are
recalled where nothing else is said. The rule is frequency linear, area quadratic, power constant; it gives the ratios
that the paper prints.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from types import MappingProxyType
from typing import Final, Self, TypeVar

from dovetail.accelerators.machine import Machine
from dovetail.errors import MachineError

AnyMachine = TypeVar("AnyMachine", bound=Machine)


@dataclass(frozen=True, kw_only=True)
class Chip:
    """A chip, or a design after synthesis; None where a figure is not known.

    Attributes:
        name: in tables.
        node_nm: process node.
        clock_hz: clock.
        watts: power, on the chip.
        area_mm2: of all of it.
        equivalent: operations per second of the dense layers that its work stands for; two for a multiply-accumulate.
    """

    name: str
    node_nm: float
    clock_hz: float
    watts: float
    area_mm2: float | None = None
    equivalent: float | None = None

    def __post_init__(self) -> None:
        _require_positive(self, f"chip {self.name!r}")

    def joules(self, seconds: float) -> float:
        """At its power, whatever it does."""
        return self.watts * seconds

    def projected(self, node_nm: float) -> Self:
        """At another node."""
        rate = _rate(self.node_nm, node_nm)
        return replace(
            self,
            name=f"{self.name} at {node_nm:g} nm",
            node_nm=node_nm,
            clock_hz=self.clock_hz * rate,
            area_mm2=None if self.area_mm2 is None else self.area_mm2 / rate**2,
            equivalent=None if self.equivalent is None else self.equivalent * rate,
        )


@dataclass(frozen=True, kw_only=True)
class Breakdown:
    """Power of a chip by kind, in watts; all but `rest` of each of its elements.

    Attributes:
        elements: of the chip.
        memory: memories.
        registers: registers.
        combinational: gates between registers.
        clock: network of the clock.
        rest: of the chip beside its elements.
    """

    elements: int
    memory: float
    registers: float
    combinational: float
    clock: float
    rest: float

    def __post_init__(self) -> None:
        _require_positive(self, "this breakdown of power")

    def watts(self, used: float = 1.0) -> float:
        """Where multipliers are used in a share of the cycles: memories and gates take that share of their power."""
        if not 0 <= used <= 1:
            raise MachineError(f"multipliers are used in a share of the cycles from 0 to 1, not {used!r}")
        each = self.registers + self.clock + used * (self.memory + self.combinational)
        return self.elements * each + self.rest


def projected(machine: AnyMachine, node_nm: float) -> AnyMachine:
    """The machine at another node: its clock rises as the node shrinks, and a cycle does what it did.

    Off-chip memory keeps its bytes per cycle; energies of events follow the cost set.
    """
    rate = _rate(machine.node_nm, node_nm)
    return replace(machine, name=f"{machine.name} at {node_nm:g} nm", node_nm=node_nm, clock_hz=machine.clock_hz * rate)


def _rate(node_nm: float, other_nm: float) -> float:
    if not (math.isfinite(other_nm) and other_nm > 0):
        raise MachineError(f"a process node is a finite number of nanometres above 0, not {other_nm!r}")
    return node_nm / other_nm


def _require_positive(described: Chip | Breakdown, what: str) -> None:
    for field in fields(described):
        value = getattr(described, field.name)
        if isinstance(value, int | float) and not (math.isfinite(value) and value > 0):
            raise MachineError(f"{what}: {field.name} is {value!r}; it must be a finite number above 0")


EIE_CHIP: Final = Chip(name="EIE", node_nm=45, clock_hz=800e6, watts=0.590, area_mm2=40.8)
CIRCNN_CHIP: Final = Chip(name="CirCNN", node_nm=45, clock_hz=200e6, watts=0.080, equivalent=0.8e12)
PERMDNN_CHIP: Final = Chip(name="PermDNN", node_nm=28, clock_hz=1.2e9, watts=0.7034, area_mm2=8.85, equivalent=14.74e12)
"""From notes of others, but for the equivalent rate."""
PERMDNN_SYNTHESISED: Final = Chip(
    name="PermDNN, synthesised", node_nm=28, clock_hz=1.2e9, watts=0.236, area_mm2=6.64, equivalent=14.74e12
)
"""What the paper holds against CirCNN, whose figures are of synthesis, too."""

PERMDNN_POWER: Final = Breakdown(
    elements=32, memory=3.575e-3, registers=4.755e-3, combinational=10.48e-3, clock=3.064e-3, rest=3.4e-3
)
"""The sum over 32 elements and the rest, 703.37 mW, is the published power."""
CHIPS: Final[Mapping[str, Chip]] = MappingProxyType({"eie": EIE_CHIP, "circnn": CIRCNN_CHIP, "permdnn": PERMDNN_CHIP})
"""Machine → the chip that it models."""
BREAKDOWNS: Final[Mapping[str, Breakdown]] = MappingProxyType({"permdnn": PERMDNN_POWER})
"""Machine → the power of its chip by kind, where that is known."""


@dataclass(frozen=True)
class Follows:
    """A figure that a paper prints, beside what follows from its other figures; no model has a part in it.

    Attributes:
        what: in words.
        published: the figure.
        computed: from the others.
        within: how far they may be apart, as a share.
    """

    what: str
    published: float
    computed: float
    within: float

    @property
    def off(self) -> float:
        """By which share the computed one is larger."""
        return self.computed / self.published - 1


def arithmetic(peak: float) -> tuple[Follows, ...]:
    """What the PermDNN paper compares, from figures of chips alone.

    Args:
        peak: operations per second of its engine, on numbers that are stored and inputs that are not zero.
    """
    eie, circnn = EIE_CHIP.projected(28), CIRCNN_CHIP.projected(28)
    area = (eie.area_mm2 or math.nan) / (PERMDNN_CHIP.area_mm2 or math.nan)
    power = eie.watts / PERMDNN_CHIP.watts
    rate, rival = PERMDNN_CHIP.equivalent or math.nan, circnn.equivalent or math.nan
    efficiency = (rate / PERMDNN_SYNTHESISED.watts) / (rival / circnn.watts)
    return (
        Follows("PermDNN, TOPS of dense layers: peak x 8 of weights x 3 of inputs", 14.74, peak * 24e-12, 0.001),
        Follows("EIE at 28 nm, MHz", 1285, eie.clock_hz / 1e6, 0.01),
        Follows("EIE at 28 nm, mm2", 15.7, eie.area_mm2 or math.nan, 0.01),
        Follows("area, EIE / PermDNN: 5.9 / 3.3 of the least gains", 5.9 / 3.3, area, 0.03),
        Follows("area, EIE / PermDNN: 8.5 / 4.8 of the largest gains", 8.5 / 4.8, area, 0.03),
        Follows("power, EIE / PermDNN: 2.8 / 3.3 of the least gains", 2.8 / 3.3, power, 0.03),
        Follows("power, EIE / PermDNN: 4.0 / 4.8 of the largest gains", 4.0 / 4.8, power, 0.03),
        Follows("CirCNN at 28 nm, TOPS of dense layers", 1.28, rival * 1e-12, 0.02),
        Follows("TOPS of dense layers, PermDNN / CirCNN", 11.51, rate / rival, 0.01),
        Follows("TOPS per watt, PermDNN / CirCNN, both synthesised", 3.89, efficiency, 0.01),
    )
