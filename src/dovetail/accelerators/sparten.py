"""SparTen: clusters of units that multiply only where neither operand is zero, found by joining two bit masks.

A cluster owns a contiguous part of the output positions. Its units hold a filter each, or two; a chunk of the input is
broadcast, and all units finish it before the next comes:

    cycles(position) = fill + sum over teams of filters, over chunks, of max over units of max(1, products)

The layer takes as long as its slowest cluster. Masks and weights are the real ones, so that imbalance is counted.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Final

import numpy as np

from dovetail.accelerators.bits import WORD
from dovetail.accelerators.inner_join import Cycles, groups, join, per_cluster, teams
from dovetail.accelerators.machine import Machine, charge, register, sram_bits
from dovetail.accelerators.memory import KB, Traffic, refetch, with_memory
from dovetail.accelerators.parameters import check, one_of, positive, whole
from dovetail.accelerators.trace import Charge, Trace
from dovetail.accelerators.workload import Workload
from dovetail.errors import MachineError

BALANCES: Final = ("none", "software", "hybrid")
SIDES: Final = ("two", "one", "none")


@dataclass(frozen=True, eq=False)
class Work:
    """What all clusters do for a layer.

    Attributes:
        cycles: of each position, without fill.
        products: multiply-accumulates.
        empty: joins of a unit that found nothing.
        visits: chunks of the input that were broadcast, once for each team of filters.
        joins: joins of all units.
    """

    cycles: Cycles
    products: int
    empty: int
    visits: int
    joins: int


@dataclass(frozen=True, kw_only=True)
class Sparten(Machine):
    """`clusters` x `cluster_units` units of one multiplier each."""

    clusters: int = whole("clusters")
    cluster_units: int = whole("units in a cluster")
    chunk: int = whole("places of a chunk", least=WORD, default=128)
    sides: str = one_of("zeros that are skipped: of both operands, of the inputs, none", SIDES, default="two")
    balance: str = one_of("filters that share a unit: none, by density, by density of each chunk", BALANCES)
    fill: int = whole("pipeline fill of an output position", "cycles", least=0)
    bits: int = whole("operands", "bits", default=8)
    accumulator_bits: int = whole("sums", "bits", default=32)
    pointer_bits: int = whole("pointer of a stored chunk", "bits", default=32)
    weight_kb: int = whole("buffer of weights", "KB")
    input_kb: int = whole("buffer of inputs and outputs", "KB")
    unit_kb: int = whole("buffer of a unit", "KB")
    join_picojoules: float = positive("AND, prefix sums and priority encoder at 45 nm", "pJ/cycle")

    def __post_init__(self) -> None:
        check(self, self.what)
        if self.chunk % WORD:
            raise MachineError(f"{self.what}: chunk is {self.chunk}; it must be a multiple of {WORD}")

    @property
    def units(self) -> int:
        """Multipliers."""
        return self.clusters * self.cluster_units

    @property
    def kept_values(self) -> int:
        """Those that the buffer of inputs and outputs holds."""
        return 8 * KB * self.input_kb // self.bits

    def simulate(self, layer: Workload) -> Trace:
        """Exactly, on the layer's own masks."""
        work, traffic = self.work(layer), self._traffic(layer)
        first_bits = min(
            (self.cluster_units + self.clusters) * self.chunk * (1 + self.bits), traffic.weights + traffic.inputs
        )
        cycles = with_memory(self._cycles(work), traffic.bits, first_bits, self.dram_bytes_per_cycle)
        charges = self._charges(layer, work, traffic)
        sram = sram_bits(charges, "sram")
        levels = {"dram": traffic.bits / 8, "sram": sram / 8}
        return self.trace(layer, cycles, levels, charges, work.products)

    def array_cycles(self, layer: Workload) -> dict[str, int]:
        """Cycles by cause as if off-chip memory never made the clusters wait."""
        return self._cycles(self.work(layer))

    def work(self, layer: Workload) -> Work:
        """Every join of the layer."""
        cycles = np.zeros(layer.positions, np.int64)
        products = empty = visits = joins = 0
        for group in groups(layer, self.chunk):
            chunks = group.weights.shape[1]
            for team in teams(group.weights, self.cluster_units, self.balance):  # type: ignore[arg-type]
                joined = join(team, group, self.sides)  # type: ignore[arg-type]
                cycles += joined.cycles
                products += joined.products
                empty += joined.empty
                visits += layer.positions * chunks
                joins += layer.positions * chunks * len(team.first)
        return Work(cycles, products, empty, visits, joins)

    def _cycles(self, work: Work) -> dict[str, int]:
        slowest = int(per_cluster(work.cycles, self.clusters).max())
        compute = math.ceil(work.products / self.units)
        positions = math.ceil(len(work.cycles) / self.clusters)
        return {"compute": compute, "imbalance": slowest - compute, "fill": self.fill * positions}

    def _traffic(self, layer: Workload) -> Traffic:
        weights = math.prod(layer.weight.shape)
        nonzeros, kernel = int(layer.weight_mask.sum()), math.prod(layer.kernel)
        rows = layer.outputs * kernel
        inputs, outputs = layer.input.size, math.prod(layer.out_shape)
        return refetch(
            self._stored_bits(weights, nonzeros if self.sides == "two" else None, rows),
            0 if layer.input_on_chip else self._map_bits(inputs, int(layer.mask.sum()), layer.channels),
            0 if layer.output_on_chip else self._map_bits(outputs, layer.output_nonzeros, layer.outputs),
            8 * KB * self.weight_kb,
            8 * KB * self.input_kb,
        )

    def _map_bits(self, values: int, nonzeros: int, channels: int) -> int:
        return self._stored_bits(values, None if self.sides == "none" else nonzeros, values // channels)

    def _stored_bits(self, values: int, nonzeros: int | None, rows: int) -> int:
        """Of `rows` vectors of equal length: masks, packed values and pointers; plain where `nonzeros` is None.

        A vector as long as a chunk or longer fills its last chunk up; shorter ones lie one after another.
        """
        if nonzeros is None:
            return self.bits * values
        length = values // rows
        chunks = rows * math.ceil(length / self.chunk) if length >= self.chunk else math.ceil(values / self.chunk)
        return chunks * (self.chunk + self.pointer_bits) + self.bits * nonzeros

    def _charges(self, layer: Workload, work: Work, traffic: Traffic) -> list[Charge]:
        b, acc, node, costs = self.bits, self.accumulator_bits, self.node_nm, self.costs
        logic = self.join_picojoules * costs.add(8, node).picojoules / costs.add(8).picojoules
        mask = self.chunk if self.sides == "two" else 0
        joins = 0 if self.sides == "none" else work.products + work.empty
        chunk_bits = traffic_per_value(layer, b) * self.chunk
        maps = math.ceil(work.visits * chunk_bits) + traffic.outputs, traffic.inputs + b * math.prod(layer.out_shape)
        return [
            charge("multipliers", f"{b}x{b} bit MAC", work.products, costs.mac(b, b, acc, node)),
            Charge("joins", "cycle of a unit's join", joins, logic, "[chosen]"),
            charge("registers", "bit of a sum, read or written", 2 * acc * work.products, costs.registers(1, 1, node)),
            *self.memory_charges("units", self.unit_kb * KB, work.joins * mask + 2 * b * work.products, 0),
            *self.memory_charges("sram", self.input_kb * KB, *maps, "inputs and outputs"),
            *self.memory_charges(
                "sram", self.weight_kb * KB, self.clusters * traffic.weights, traffic.weights, "weights"
            ),
            self.dram_charge(traffic.bits),
        ]


def traffic_per_value(layer: Workload, bits: int) -> float:
    """Bits of the input that a place of a chunk brings to the units: its mask and, if it is there, its value."""
    return 1 + bits * layer.input_density


_LARGE: Final = Sparten(
    name="sparten",
    clock_hz=800e6,
    node_nm=45,
    dram_bytes_per_cycle=16,
    clusters=32,
    cluster_units=32,
    balance="hybrid",
    fill=4,
    weight_kb=256,
    input_kb=256,
    unit_kb=1,
    join_picojoules=1.5,
)
_SOURCES: Final = (
    ("clusters cluster_units node_nm clock_hz", "recalled", "MICRO 2019"),
    ("chunk", "repo", ""),
    ("bits dram_bytes_per_cycle weight_kb input_kb dram costs keep_maps", "chosen", "for comparisons"),
    ("fill unit_kb pointer_bits accumulator_bits join_picojoules", "chosen", ""),
)
SPARTEN: Final = register(
    _LARGE.sourced(*_SOURCES, ("sides", "paper", "MICRO 2019"), ("balance", "recalled", "MICRO 2019: its best"))
)
ONE_SIDED: Final = register(
    replace(_LARGE, name="sparten-one-sided", sides="one").sourced(
        *_SOURCES, ("sides", "paper", "MICRO 2019"), ("balance", "chosen", "without effect")
    )
)
DENSE: Final = register(
    replace(_LARGE, name="sparten-dense", sides="none").sourced(
        *_SOURCES, ("sides", "paper", "MICRO 2019"), ("balance", "chosen", "without effect")
    )
)
