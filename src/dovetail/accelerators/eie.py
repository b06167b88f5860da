"""EIE: a sparse matrix times a sparse vector, column by column, for linear layers.

Row i of the weight is in element i mod P. For each input that is not zero, in order, every element goes through the
stored entries of that column, queues in between. With n[p, t] entries of element p in the column of the t-th such
input, and queues of depth D:

    broadcast[t] = max(broadcast[t-1] + 1, max over p of start[p, t-D])
    start[p, t]  = max(broadcast[t], finish[p, t-1])
    finish[p, t] = start[p, t] + max(1, n[p, t])
    cycles       = max over p of finish[p, T] + 4

A convolution runs as one product for each output position, which the machine was not made for.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from dovetail.accelerators.encodings import Mask, run_length_entries
from dovetail.accelerators.machine import Machine, charge, register, sram_bits
from dovetail.accelerators.memory import KB, Traffic, refetch, with_memory
from dovetail.accelerators.parameters import whole
from dovetail.accelerators.trace import Charge, Trace
from dovetail.accelerators.workload import Workload

Counts = NDArray[np.int64]
BLOCK: Final = 1 << 18  # entries of vectors and elements stepped at once


@dataclass(frozen=True)
class Work:
    """Cycles without the fill of the pipeline, and events: entries gone through, products, columns read."""

    cycles: int
    entries: int
    products: int
    columns: int


@dataclass(frozen=True, kw_only=True)
class Eie(Machine):
    """`elements` of one multiplier each, with all of their weights on the chip."""

    elements: int = whole("elements")
    queue: int = whole("inputs waiting at an element")
    fill: int = whole("pipeline", "cycles", least=0)
    index_bits: int = whole("index of a shared weight", "bits", default=4)
    run_bits: int = whole("zeros before a stored entry", "bits", default=4)
    bits: int = whole("inputs and decoded weights", "bits", default=16)
    pointer_bits: int = whole("pointer to a column", "bits", default=16)
    weight_kb: int = whole("weights of an element", "KB")
    pointer_kb: int = whole("pointers of an element", "KB")
    input_kb: int = whole("inputs of an element", "KB")

    @property
    def units(self) -> int:
        """Multipliers."""
        return self.elements

    @property
    def kept_values(self) -> int:
        """Those that the elements' memories hold."""
        return 8 * KB * self.input_kb * self.elements // self.bits

    def simulate(self, layer: Workload) -> Trace:
        """Exactly, on the layer's own weights and inputs."""
        work, traffic = self.work(layer), self._traffic(layer)
        first_bits = min(self.bits * self.elements, traffic.inputs)
        cycles = with_memory(self._cycles(layer, work), traffic.bits, first_bits, self.dram_bytes_per_cycle)
        charges = self._charges(work, traffic)
        levels = {"dram": traffic.bits / 8, "sram": sram_bits(charges, "weights", "pointers", "inputs") / 8}
        return self.trace(layer, cycles, levels, charges, work.products)

    def array_cycles(self, layer: Workload) -> dict[str, int]:
        """Cycles by cause as if off-chip memory never made the elements wait."""
        return self._cycles(layer, self.work(layer))

    def work(self, layer: Workload) -> Work:
        """Every column of every vector of the layer."""
        cycles = entries = columns = 0
        for stored, vectors in self._products(layer):
            per_column = stored.sum(axis=1)
            block = max(1, BLOCK // self.elements)
            for start in range(0, len(vectors), block):
                cycles += int(finish(stored, vectors[start : start + block], self.queue).sum())
            met = vectors.sum(axis=0, dtype=np.int64)
            entries += int((met * per_column).sum())
            columns += int(met.sum())
        return Work(cycles, entries, layer.effective_macs, columns)

    def _products(self, layer: Workload) -> Iterator[tuple[Counts, Mask]]:
        """Of each group: entries `(columns, elements)` and vectors `(positions, columns)`."""
        per_group, filters = layer.weight.shape[1], layer.outputs // layer.groups
        for g in range(layer.groups):
            weights = layer.weight_mask[g * filters : (g + 1) * filters].reshape(filters, -1)
            patches = layer.patches[:, g * per_group : (g + 1) * per_group].transpose(0, 2, 3, 1, 4, 5)
            yield self.stored(weights), patches.reshape(layer.positions, -1)

    def stored(self, weights: Mask) -> Counts:
        """Entries of each column in each element, those of value zero included, `(columns, elements)`."""
        padded = np.pad(weights, ((0, -len(weights) % self.elements), (0, 0)))
        streams = padded.reshape(-1, self.elements, weights.shape[1]).transpose(2, 1, 0)
        entries = run_length_entries(streams.reshape(-1, streams.shape[2]), self.run_bits)
        return entries.reshape(weights.shape[1], self.elements)

    def _cycles(self, layer: Workload, work: Work) -> dict[str, int]:
        compute = math.ceil(work.products / self.units)
        fill = self.fill * layer.positions * layer.groups
        return {"compute": compute, "imbalance": work.cycles - compute, "fill": fill}

    def _traffic(self, layer: Workload) -> Traffic:
        filters, entries, pointers = layer.outputs // layer.groups, 0, 0
        for g in range(layer.groups):
            weights = layer.weight_mask[g * filters : (g + 1) * filters].reshape(filters, -1)
            entries += int(self.stored(weights).sum())
            pointers += (weights.shape[1] + 1) * self.elements
        codes = self.bits << self.index_bits
        return refetch(
            (self.index_bits + self.run_bits) * entries + self.pointer_bits * pointers + codes,
            0 if layer.input_on_chip else self.bits * layer.input.size,
            0 if layer.output_on_chip else self.bits * math.prod(layer.out_shape),
            8 * KB * (self.weight_kb + self.pointer_kb) * self.elements,
            8 * KB * self.input_kb * self.elements,
        )

    def _charges(self, work: Work, traffic: Traffic) -> list[Charge]:
        b, node, costs = self.bits, self.node_nm, self.costs
        read = work.columns * self.elements
        entry = (self.index_bits + self.run_bits) * work.entries
        return [
            charge("multipliers", f"{b}x{b} bit MAC", work.entries, costs.mac(b, b, b, node)),
            charge("registers", "bit of a sum, read or written", 2 * b * work.entries, costs.registers(1, 1, node)),
            *self.memory_charges("weights", self.weight_kb * KB, entry, traffic.weights),
            *self.memory_charges("pointers", self.pointer_kb * KB, 2 * self.pointer_bits * read, 0),
            *self.memory_charges("inputs", self.input_kb * KB, b * work.columns + traffic.outputs, traffic.inputs),
            self.dram_charge(traffic.bits),
        ]


def finish(stored: Counts, vectors: Mask, queue: int) -> Counts:
    """When the last element is done with each vector, by the recurrence above."""
    count = vectors.sum(axis=1)
    order = np.argsort(~vectors, axis=1, kind="stable")  # columns of inputs that are there come first
    done = np.zeros((len(vectors), stored.shape[1]), np.int64)
    broadcast = np.full(len(vectors), -1, np.int64)
    started: list[Counts] = []
    for t in range(int(count.max(initial=0))):
        active = t < count
        broadcast = broadcast + 1
        if t >= queue:
            broadcast = np.maximum(broadcast, started[t - queue])
        start = np.maximum(broadcast[:, None], done)
        after = start + np.maximum(1, stored[order[:, t]])
        done = np.where(active[:, None], after, done)
        started.append(start.max(axis=1))
    last: Counts = done.max(axis=1)
    return last


EIE: Final = register(
    Eie(
        name="eie",
        clock_hz=800e6,
        node_nm=45,
        dram_bytes_per_cycle=16,
        elements=64,
        queue=8,
        fill=4,
        weight_kb=128,
        pointer_kb=32,
        input_kb=2,
    ).sourced(
        ("elements clock_hz node_nm queue index_bits run_bits bits", "recalled", "ISCA 2016"),
        ("weight_kb pointer_kb input_kb pointer_bits", "recalled", "ISCA 2016"),
        ("fill dram_bytes_per_cycle dram costs keep_maps", "chosen", ""),
    )
)
