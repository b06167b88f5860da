"""Eyeriss: a dense row-stationary array with memories in every unit. Zero inputs save energy, never cycles."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Final

from dovetail.accelerators.encodings import Mask, packed_run_length_bits
from dovetail.accelerators.energy import Cost
from dovetail.accelerators.machine import ACCESS_BITS, Machine, charge, register
from dovetail.accelerators.memory import KB, Traffic, refetch, with_memory
from dovetail.accelerators.parameters import flag, one_of, whole
from dovetail.accelerators.row_stationary import Limits, Mapping, Passes, Shape, active_units, best, chip_depth, passes
from dovetail.accelerators.trace import Charge, Trace
from dovetail.accelerators.workload import Workload

MAPPERS: Final = ("chip", "free")
RUN_BITS: Final = 5  # of the zeros before a value off chip
SMALLEST_SRAM: Final = 64  # bytes; smaller memories are registers


@dataclass(frozen=True, kw_only=True)
class Eyeriss(Machine):
    """Units with spads for inputs, filters and partial sums, around a global buffer."""

    rows: int = whole("rows of the array")
    columns: int = whole("columns of the array")
    input_spad: int = whole("inputs in a unit", "words", default=12)
    filter_spad: int = whole("filter weights in a unit", "words", default=224)
    sum_spad: int = whole("partial sums in a unit", "words", default=24)
    buffer_kb: int = whole("global buffer of inputs and partial sums", "KB")
    filter_kb: int = whole("buffer of filters that are fetched ahead", "KB")
    port: int = whole("global buffer, each way", "words/cycle", default=4)
    bits: int = whole("inputs and weights", "bits", default=16)
    sum_bits: int = whole("partial sums", "bits", default=16)
    mapper: str = one_of("mappings: as deep in channels as the chip's own, or any", MAPPERS, default="chip")
    compressed: bool = flag("inputs and outputs are run-length coded in off-chip memory", default=True)

    @property
    def units(self) -> int:
        """Multipliers."""
        return self.rows * self.columns

    @property
    def kept_values(self) -> int:
        """Those that the global buffer holds."""
        return 8 * KB * self.buffer_kb // self.bits

    def require(self, layer: Workload) -> None:
        """It has no dilation, and needs a mapping."""
        self.require_undilated(layer)
        self.mapping(layer)

    def simulate(self, layer: Workload) -> Trace:
        """With the best mapping that the mapper allows."""
        self.require_undilated(layer)
        shape, mapping = Shape.of(layer), self.mapping(layer)
        found = passes(shape, self.limits(shape), mapping)
        traffic = self._traffic(layer)
        first_bits = min(self.bits * found.words, traffic.weights + traffic.inputs)
        cycles = with_memory(self._cycles(layer.dense_macs, found), traffic.bits, first_bits, self.dram_bytes_per_cycle)
        moved = self.bits * found.count * found.words + self.sum_bits * self._sum_words(shape, mapping)
        levels = {"dram": traffic.bits / 8, "buffer": (moved + traffic.bits) / 8}
        done = layer.input_macs
        gated = layer.dense_macs - done
        charges = self._charges(shape, mapping, found, traffic, done, gated)
        return self.trace(layer, cycles, levels, charges, done, gated)

    def array_cycles(self, layer: Workload) -> dict[str, int]:
        """Cycles by cause as if off-chip memory never made the array wait."""
        shape = Shape.of(layer)
        return self._cycles(layer.dense_macs, passes(shape, self.limits(shape), self.mapping(layer)))

    def mapping(self, layer: Workload) -> Mapping:
        """The mapping that the mapper finds."""
        shape = Shape.of(layer)
        return best(shape, self.limits(shape))

    def limits(self, shape: Shape) -> Limits:
        """What bounds the mappings of a layer."""
        return Limits(
            self.rows,
            self.columns,
            self.input_spad,
            self.filter_spad,
            self.sum_spad,
            8 * KB * self.buffer_kb,
            self.bits,
            self.sum_bits,
            self.port,
            chip_depth(shape) if self.mapper == "chip" else 0,
        )

    def _cycles(self, macs: int, found: Passes) -> dict[str, int]:
        compute = math.ceil(macs / self.units)
        return {
            "compute": compute,
            "imbalance": found.count * found.products - compute,
            "stalls": found.count * (found.busy - found.products),
            "fill": found.count * found.load,
        }

    def _traffic(self, layer: Workload) -> Traffic:
        outputs = math.prod(layer.out_shape)
        return refetch(
            self.bits * math.prod(layer.weight.shape),
            0 if layer.input_on_chip else self._map_bits(layer.input.size, layer.mask),
            0 if layer.output_on_chip else self._map_bits(outputs, layer.output_mask),
            8 * KB * self.filter_kb,
            8 * KB * self.buffer_kb,
        )

    def _map_bits(self, values: int, mask: Mask | None) -> int:
        """A map in off-chip memory: coded where that is smaller, and what is zero is known."""
        plain = self.bits * values
        if mask is None or not self.compressed:
            return plain
        per_word = (ACCESS_BITS - 1) // (RUN_BITS + self.bits)
        return min(plain, packed_run_length_bits(mask.reshape(len(mask), -1), RUN_BITS, per_word, ACCESS_BITS))

    @staticmethod
    def _sum_words(shape: Shape, mapping: Mapping) -> int:
        """Partial sums written to the buffer and read from it."""
        outputs = shape.groups * shape.filters * math.prod(shape.out_size) * shape.images
        return 2 * math.ceil(shape.channels / (mapping.q * mapping.r)) * outputs

    def _charges(
        self, shape: Shape, mapping: Mapping, found: Passes, traffic: Traffic, done: int, gated: int
    ) -> list[Charge]:
        b, acc, node, costs = self.bits, self.sum_bits, self.node_nm, self.costs
        filters = mapping.p * mapping.t * mapping.q * mapping.r * math.prod(shape.kernel) * mapping.e * found.count
        inputs = mapping.q * shape.width * active_units(shape, mapping) * found.count
        outputs = shape.groups * shape.filters * math.prod(shape.out_size) * shape.images
        hops = outputs * math.ceil(shape.channels / mapping.q) * (shape.kernel[0] - 1)
        input_spad, sum_spad = costs.registers(self.input_spad, b, node), costs.registers(self.sum_spad, acc, node)
        macs, name = done + gated, f"{b}x{b} bit MAC"
        return [
            charge("multipliers", name, done, costs.mac(b, b, acc, node)),
            charge("multipliers", f"gated {name}", gated, costs.gated_mac(b, b, acc, node)),
            charge("filter spads", "read", done, self._filter_spad("read")),
            charge("filter spads", "write", filters, self._filter_spad("write")),
            charge("input spads", "read or write", macs + inputs, input_spad),
            charge("sum spads", "read or write", 2 * macs, sum_spad),
            charge("array", "partial sum handed to the next unit", hops, costs.hop(acc, node)),
            *self._buffer(shape, mapping, found, traffic),
            self.dram_charge(traffic.bits),
        ]

    def _filter_spad(self, action: str) -> Cost:
        size = math.ceil(self.filter_spad * self.bits / 8)
        if size < SMALLEST_SRAM:
            return self.costs.registers(self.filter_spad, self.bits, self.node_nm)
        return self.costs.sram(size, self.bits, self.node_nm, action)  # type: ignore[arg-type]

    def _buffer(self, shape: Shape, mapping: Mapping, found: Passes, traffic: Traffic) -> Iterable[Charge]:
        sums = self.sum_bits * self._sum_words(shape, mapping) // 2
        read = self.bits * found.count * found.words + sums + traffic.outputs
        written = traffic.weights + traffic.inputs + sums
        return self.memory_charges("buffer", self.buffer_kb * KB, read, written)


_CHIP: Final = Eyeriss(
    name="eyeriss",
    clock_hz=200e6,
    node_nm=65,
    dram_bytes_per_cycle=2.4,
    rows=12,
    columns=14,
    buffer_kb=100,
    filter_kb=8,
)
_SOURCES: Final = (
    ("rows columns", "repo", "168 units: JSSC 2017"),
    ("input_spad filter_spad sum_spad", "repo", "Sparseloop's Eyeriss"),
    ("node_nm", "paper", "JSSC 2017"),
    ("buffer_kb filter_kb clock_hz bits sum_bits compressed", "recalled", "JSSC 2017"),
    ("port", "recalled", "a word of 64 bits each way"),
    ("dram_bytes_per_cycle", "recalled", "a link of 64 bits at 60 MHz"),
    ("dram costs keep_maps", "chosen", ""),
)
CHIP: Final = register(_CHIP.sourced(*_SOURCES, ("mapper", "derived", "from the chip's buffer traffic on VGG16")))
FREE: Final = register(
    replace(_CHIP, name="eyeriss-free", mapper="free").sourced(*_SOURCES, ("mapper", "chosen", "a strong baseline"))
)
LARGE: Final = register(
    Eyeriss(
        name="eyeriss-1024",
        clock_hz=800e6,
        node_nm=45,
        dram_bytes_per_cycle=16,
        rows=32,
        columns=32,
        buffer_kb=256,
        filter_kb=256,
        port=24,
        bits=8,
        sum_bits=24,
        mapper="free",
    ).sourced(
        ("clock_hz node_nm dram_bytes_per_cycle rows columns buffer_kb filter_kb bits", "chosen", "for comparisons"),
        ("input_spad filter_spad sum_spad", "repo", "as many words as in Sparseloop's Eyeriss"),
        ("port", "derived", "as many words per unit as the chip's 4 for 168"),
        ("sum_bits mapper dram costs keep_maps", "chosen", ""),
        ("compressed", "recalled", "JSSC 2017"),
    )
)
