"""PermDNN: permuted diagonals times a vector, column by column, without the zeros of the vector.

Of M rows, element u has N = ceil(M / elements), from row u N on, and an accumulator for each; where it has fewer, the
vector streams through several times, each time for the next rows of every element. An input that is not zero is given
to all elements. One that has n stored numbers in its column takes ceil(n / L) cycles on L multipliers, and the next
input waits for all of them, so that with permuted diagonals of size p, whole blocks in every element, and no waiting,

    cycles = inputs that are not zero x sum over passes of ceil(ceil(rows / p) / L) + fill,
    fill   = 5 + ceil(M / words that are written in a cycle).

Waiting is counted (see `fifo`), and so is what the edges of blocks within an element do. The engine is for linear
layers; a convolution runs as one product for each output position. A weight of another format is dense, p = 1.
`diagonal_engine` computes the same layer cycle by cycle.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

import numpy as np

from dovetail.accelerators.diagonals import Diagonals, diagonals_of
from dovetail.accelerators.fifo import Supply, finish
from dovetail.accelerators.machine import Machine, charge, register, sram_bits
from dovetail.accelerators.memory import KB, Traffic, refetch, with_memory
from dovetail.accelerators.parameters import flag, whole
from dovetail.accelerators.trace import Charge, Trace
from dovetail.accelerators.workload import Counts, Mask, Workload

BLOCK: Final = 1 << 20  # inputs of vectors that are held at once
INDEX_BITS: Final = 16  # of an input, beside its value in the queue: 32 bits together


@dataclass(frozen=True)
class Work:
    """Cycles of all products of a layer without their fill, and events.

    Attributes:
        cycles: with waiting for inputs.
        busy: without.
        products: of inputs that are not zero with numbers that are stored.
        broadcasts: inputs given to all elements.
        scanned: inputs read, zeros too.
    """

    cycles: int = 0
    busy: int = 0
    products: int = 0
    broadcasts: int = 0
    scanned: int = 0

    def __add__(self, other: Work) -> Work:
        return Work(
            self.cycles + other.cycles,
            self.busy + other.busy,
            self.products + other.products,
            self.broadcasts + other.broadcasts,
            self.scanned + other.scanned,
        )


@dataclass(frozen=True, kw_only=True)
class Permdnn(Machine):
    """`elements` of `multipliers` each, with all of their weights on the chip."""

    elements: int = whole("elements")
    multipliers: int = whole("multipliers of an element")
    accumulators: int = whole("accumulators of an element, a row each")
    multi_column: bool = flag("an element takes several inputs in a cycle where one leaves lanes idle", default=False)
    queue: int = whole("inputs waiting for the elements")
    fill: int = whole("pipeline", "cycles", least=0)
    banks: int = whole("banks of the memory of inputs and outputs")
    bank_bits: int = whole("word of a bank", "bits", default=64)
    code_bits: int = whole("index of a shared weight", "bits", default=4)
    bits: int = whole("inputs and decoded weights", "bits", default=16)
    accumulator_bits: int = whole("sums", "bits", default=24)
    weight_kb: int = whole("weights of an element", "KB")
    weight_banks: int = whole("banks of the weights of an element, of which one is read")
    permutation_kb: int = whole("shifts of the blocks of an element", "KB")
    activation_kb: int = whole("inputs and outputs of all elements", "KB")

    @property
    def units(self) -> int:
        """Multipliers."""
        return self.elements * self.multipliers

    @property
    def kept_values(self) -> int:
        """Those that the memory of inputs and outputs holds."""
        return 8 * KB * self.activation_kb // self.bits

    @property
    def words(self) -> int:
        """Inputs that are read, or outputs that are written, in a cycle."""
        return max(1, self.banks * self.bank_bits // self.bits)

    @property
    def supply(self) -> Supply:
        """Of inputs to the elements."""
        return Supply(self.words, self.queue)

    def simulate(self, layer: Workload) -> Trace:
        """Exactly, on the layer's own weights and inputs."""
        diagonals = diagonals_of(layer)
        work, traffic = self._work(layer, diagonals), self._traffic(layer, diagonals)
        first_bits = min(self.bits * self.words, traffic.inputs)
        cycles = with_memory(self._cycles(layer, work), traffic.bits, first_bits, self.dram_bytes_per_cycle)
        charges = self._charges(layer, diagonals, work, traffic)
        levels = {
            "dram": traffic.bits / 8,
            "sram": sram_bits(charges, "weights", "shifts", "activations") / 8,
        }
        return self.trace(layer, cycles, levels, charges, work.products)

    def array_cycles(self, layer: Workload) -> dict[str, int]:
        """Cycles by cause as if off-chip memory never made the elements wait."""
        return self._cycles(layer, self.work(layer))

    def work(self, layer: Workload) -> Work:
        """Every input of every vector of the layer."""
        return self._work(layer, diagonals_of(layer))

    def passes(self, rows: int) -> list[int]:
        """Rows of an element in each pass over the vectors of a product of so many rows."""
        own, most = math.ceil(rows / self.elements), self.accumulators
        return [min(most, own - start) for start in range(0, own, most)]

    def together(self, rows: int, size: int) -> int:
        """Inputs that an element takes at once, with so many rows of diagonals of a size."""
        if not self.multi_column:
            return 1
        return min(self.queue, max(1, self.multipliers // math.ceil(rows / size)))

    def stored(self, rows: Mask) -> list[Counts]:
        """Of each pass: numbers in each column in each element, `(columns, elements)`; `rows` is where they are."""
        own = math.ceil(len(rows) / self.elements)
        padded = np.pad(rows, ((0, own * self.elements - len(rows)), (0, 0)))
        by_element = padded.reshape(self.elements, own, rows.shape[1])
        starts = np.cumsum([0, *self.passes(len(rows))])
        return [by_element[:, start:stop].sum(axis=1, dtype=np.int64).T for start, stop in pairwise(starts)]

    def _work(self, layer: Workload, diagonals: Diagonals) -> Work:
        found = Work()
        for stored, vectors in self._products(layer, diagonals):
            found += self._product(stored, vectors, layer.outputs // layer.groups, diagonals.size)
        return found

    def _products(self, layer: Workload, diagonals: Diagonals) -> Iterator[tuple[list[Counts], Mask]]:
        """Of each group: numbers of each pass, and vectors `(positions, columns)`, a block of positions at a time."""
        mask, per_group, filters = diagonals.mask(), layer.weight.shape[1], layer.outputs // layer.groups
        taps = math.prod(layer.kernel)
        block = max(1, BLOCK // (per_group * taps))
        for g in range(layer.groups):
            stored = [np.repeat(each, taps, axis=0) for each in self.stored(mask[g * filters : (g + 1) * filters])]
            patches = layer.patches[:, g * per_group : (g + 1) * per_group].transpose(0, 2, 3, 1, 4, 5)
            vectors = patches.reshape(layer.positions, -1)
            for start in range(0, len(vectors), block):
                yield stored, vectors[start : start + block]

    def _product(self, stored: list[Counts], vectors: Mask, outputs: int, size: int) -> Work:
        found = Work()
        for rows, numbers in zip(self.passes(outputs), stored):
            met = vectors.sum(axis=0, dtype=np.int64)
            cycles, busy = finish(numbers, vectors, self.multipliers, self.together(rows, size), self.supply)
            products = int((met * numbers.sum(axis=1)).sum())
            found += Work(int(cycles.sum()), int(busy.sum()), products, int(met.sum()), vectors.size)
        return found

    def _cycles(self, layer: Workload, work: Work) -> dict[str, int]:
        compute = math.ceil(work.products / self.units)
        drain = math.ceil(layer.outputs // layer.groups / self.words)
        return {
            "compute": compute,
            "imbalance": work.busy - compute,
            "stalls": work.cycles - work.busy,
            "fill": (self.fill + drain) * layer.positions * layer.groups,
        }

    def _traffic(self, layer: Workload, diagonals: Diagonals) -> Traffic:
        """Where the weights of a layer do not fit their memory, they are fetched again."""
        book = self.bits << self.code_bits
        return refetch(
            self.code_bits * diagonals.stored + diagonals.index_bits + book,
            0 if layer.input_on_chip else self.bits * layer.input.size,
            0 if layer.output_on_chip else self.bits * math.prod(layer.out_shape),
            8 * KB * (self.weight_kb + self.permutation_kb) * self.elements,
            8 * KB * self.activation_kb,
        )

    def _charges(self, layer: Workload, diagonals: Diagonals, work: Work, traffic: Traffic) -> list[Charge]:
        b, acc, node, costs = self.bits, self.accumulator_bits, self.node_nm, self.costs
        queued = (b + INDEX_BITS) * work.broadcasts
        weights = (self.weight_kb * KB // self.weight_banks, self.code_bits * work.products)
        activations = max(1, self.activation_kb * KB // self.banks)
        outputs = b * math.prod(layer.out_shape)
        return [
            charge("multipliers", f"{b}x{b} bit MAC", work.products, costs.mac(b, b, acc, node)),
            charge("registers", "bit of a sum, read or written", 2 * acc * work.products, costs.registers(1, 1, node)),
            charge("queues", "bit of an input, read or written", 2 * queued, costs.registers(1, 1, node)),
            *self.memory_charges("weights", *weights, traffic.weights),
            *self.memory_charges(
                "shifts", self.permutation_kb * KB, diagonals.read_bits * work.products, diagonals.index_bits
            ),
            *self.memory_charges("activations", activations, b * work.scanned, outputs + traffic.inputs),
            self.dram_charge(traffic.bits),
        ]


PERMDNN: Final = register(
    Permdnn(
        name="permdnn",
        clock_hz=1.2e9,
        node_nm=28,
        dram_bytes_per_cycle=16,
        elements=32,
        multipliers=8,
        accumulators=128,
        queue=32,
        fill=5,
        banks=8,
        weight_kb=128,
        weight_banks=16,
        permutation_kb=12,
        activation_kb=128,
    ).sourced(
        ("elements node_nm", "paper", "MICRO 2018"),
        ("multipliers clock_hz", "recalled", "MICRO 2018, from notes of others"),
        ("accumulators", "recalled", "MICRO 2018; 4096 rows of 32 elements"),
        ("accumulator_bits bits code_bits queue fill banks bank_bits", "recalled", "MICRO 2018"),
        ("weight_kb weight_banks permutation_kb activation_kb", "recalled", "MICRO 2018"),
        ("multi_column", "chosen", "the paper has such a case; it needs adders before the accumulators"),
        ("dram_bytes_per_cycle dram costs keep_maps", "chosen", ""),
    )
)
