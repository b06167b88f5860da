"""What one event costs: arithmetic, registers, memories, wires. Every number names its source.

A `CostSet` is one consistent set of numbers at 45 nm and 0.9 V, brought to another node by published factors. Use one
set in one comparison. It changes joules only, never cycles.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from dovetail.accelerators import sram
from dovetail.accelerators.parameters import check, positive, share
from dovetail.errors import MachineError

Anchors = tuple[tuple[float, float], ...]
ISSCC: Final = "ISSCC 2014, Computing's energy problem [recalled]"
ALADDIN: Final = "Accelergy's Aladdin table, at 5 ns and more [repo]"
NODES: Final = (7, 14, 16, 22, 28, 32, 40, 45, 65)
ENERGY_FACTORS: Final = tuple(zip(NODES, (0.094, 0.139, 0.174, 0.294, 0.513, 0.659, 0.869, 1.0, 1.241)))
REGISTER: Final = 0.009  # pJ per bit
DECODER: Final = 0.029  # pJ per 32-bit comparator
HOP: Final = 0.325 / 2  # pJ per bit: half a millimetre of wire at 0.33 pJ per bit and mm
MOST_WIDTH: Final = 64


@dataclass(frozen=True)
class Cost:
    """Picojoules of one event, and where that is known from."""

    picojoules: float
    source: str

    def __add__(self, other: Cost) -> Cost:
        both = self.source if self.source == other.source else f"{self.source}; {other.source}"
        return Cost(self.picojoules + other.picojoules, both)


DRAM: Final[Mapping[str, Cost]] = MappingProxyType(
    {
        "ddr3": Cost(70, "CACTI's table of hwcomponents [repo]"),
        "ddr4": Cost(15, "near 12.45 of a model based on DRAMsim3 [repo]; rounded up [chosen]"),
        "lpddr4": Cost(8, "CACTI's table of hwcomponents [repo]"),
        "hbm2": Cost(6.25, "CACTI's table of hwcomponents [repo]"),
        "hbm3": Cost(4.05, "CACTI's table of hwcomponents [repo]"),
    }
)
"""Off-chip memory → what a bit costs."""


@dataclass(frozen=True, kw_only=True)
class CostSet:
    """Energies of events; the fields of factors serve studies of sensitivity.

    Attributes:
        name: in reports.
        arithmetic: source of the numbers for adders and multipliers.
        adders: (bits, pJ) of integer adders at 45 nm; a power law between them, proportional below and above.
        multipliers: (product of both widths, pJ), read in the same way.
    """

    name: str
    arithmetic: str
    adders: Anchors
    multipliers: Anchors
    gated: float = share("energy of a multiply-accumulate that is switched off, of one that is not", default=0.03)
    leakage: float = share("leakage, of the dynamic energy on the chip", default=0.0)
    control: float = share("clock and control, of the dynamic energy on the chip", default=0.0)
    sram_factor: float = positive("multiplies all SRAM energies", default=1.0)
    dram_factor: float = positive("multiplies all off-chip energies", default=1.0)

    def __post_init__(self) -> None:
        check(self, f"cost set {self.name!r}")

    def add(self, bits: int, node: float = 45) -> Cost:
        """An integer addition."""
        return Cost(_through(self.adders, _width(bits)) * energy_factor(node), self.arithmetic)

    def multiply(self, bits: int, other: int, node: float = 45) -> Cost:
        """An integer product of two widths."""
        product = _width(bits) * _width(other)
        return Cost(_through(self.multipliers, product) * energy_factor(node), self.arithmetic)

    def mac(self, bits: int, other: int, accumulate: int, node: float = 45) -> Cost:
        """A product, added to a sum of `accumulate` bits."""
        return self.multiply(bits, other, node) + self.add(accumulate, node)

    def gated_mac(self, bits: int, other: int, accumulate: int, node: float = 45) -> Cost:
        """A multiply-accumulate that is switched off because an operand is zero."""
        whole = self.mac(bits, other, accumulate, node)
        return Cost(
            whole.picojoules * self.gated, f"{self.gated:.0%} of a whole one, as in Sparseloop's Eyeriss [repo]"
        )

    def registers(self, depth: int, bits: int, node: float = 45) -> Cost:
        """An access to a register file of `depth` words; depth 1 is a single register."""
        if depth < 1 or bits < 1:
            raise MachineError(f"a register file of {depth} words of {bits} bits is none; both must be at least 1")
        decoder = DECODER * math.ceil(math.log2(depth)) / 32 * depth
        return Cost((REGISTER * bits + decoder) * energy_factor(node), ALADDIN)

    def sram(self, capacity: int, bits: int, node: float = 45, action: sram.Action = "read") -> Cost:
        """An access of `bits` bits to a memory of `capacity` bytes."""
        return Cost(sram.access(capacity, bits, node, action) * self.sram_factor, sram.SOURCE)

    def dram(self, kind: str) -> Cost:
        """One bit read from or written to off-chip memory."""
        if kind not in DRAM:
            raise MachineError(f"unknown DRAM {kind!r}; known are {', '.join(DRAM)}")
        return Cost(DRAM[kind].picojoules * self.dram_factor, DRAM[kind].source)

    def hop(self, bits: int, node: float = 45) -> Cost:
        """A word handed to the next unit of an array, half a millimetre away."""
        return Cost(HOP * bits * energy_factor(node), "wire of Sparseloop's Eyeriss [repo], 0.5 mm [derived]")

    def to_json(self) -> dict[str, object]:
        """Plain data, for reports."""
        return {
            "name": self.name,
            "arithmetic": self.arithmetic,
            "adders": [list(anchor) for anchor in self.adders],
            "multipliers": [list(anchor) for anchor in self.multipliers],
            "gated": self.gated,
            "leakage": self.leakage,
            "control": self.control,
            "sram_factor": self.sram_factor,
            "dram_factor": self.dram_factor,
        }


ISSCC45: Final = CostSet(
    name="isscc45",
    arithmetic=ISSCC,
    adders=((8, 0.03), (16, 0.05), (32, 0.1)),
    multipliers=((64, 0.2), (1024, 3.1)),
)
ACCELERGY45: Final = CostSet(
    name="accelergy45", arithmetic=ALADDIN, adders=((32, 0.0857),), multipliers=((1024, 8.63),)
)
COSTS: Final[Mapping[str, CostSet]] = MappingProxyType({costs.name: costs for costs in (ISSCC45, ACCELERGY45)})


def costs_named(name: str) -> CostSet:
    """The set called `name`; `MachineError` lists the known ones."""
    if name not in COSTS:
        raise MachineError(f"unknown cost set {name!r}; known are {', '.join(COSTS)}")
    return COSTS[name]


def energy_factor(node: float) -> float:
    """Energy of logic at `node` nanometres over that at 45 (Stillmaker and Baas, nominal voltage) [run]."""
    if not NODES[0] <= node <= NODES[-1]:
        raise MachineError(f"no factor is known for {node} nm; known are {NODES[0]} to {NODES[-1]} nm")
    return _through(ENERGY_FACTORS, node)


def _through(anchors: Anchors, x: float) -> float:
    """Exact at the anchors, a power law between two, proportional beyond."""
    for at, value in anchors:
        if at == x:
            return value
    below = [anchor for anchor in anchors if anchor[0] < x]
    above = [anchor for anchor in anchors if anchor[0] > x]
    if not below or not above:
        at, value = below[-1] if below else above[0]
        return value * x / at
    (a, low), (b, high) = below[-1], above[0]
    return float(low * (high / low) ** (math.log(x / a) / math.log(b / a)))


def _width(bits: int) -> int:
    if not 1 <= bits <= MOST_WIDTH:
        raise MachineError(f"arithmetic of {bits} bits has no cost here; from 1 to {MOST_WIDTH} bits it has")
    return bits
