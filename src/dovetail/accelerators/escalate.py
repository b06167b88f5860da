"""ESCALATE: kernels as shared bases and coefficients of -1, 0 and 1, in a stage that adds and one that multiplies.

Blocks work on an output each. A slice of a block has a strip of the image; its rows add up one sum for each basis,
which multipliers take through the taps of the basis while the next sums are added up (see `stages`). Zeros are the real
ones, so that waiting for additions, for the broadcast of inputs and for the slowest block is counted.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Final

from dovetail.accelerators.machine import Machine, charge, register, sram_bits
from dovetail.accelerators.memory import KB, Traffic, with_memory
from dovetail.accelerators.parameters import flag, one_of, positive, whole
from dovetail.accelerators.parts import ORDERS
from dovetail.accelerators.stages import Mapping, Pace, Work, coef_first, conv_first
from dovetail.accelerators.ternary_rows import Rows, rows_of
from dovetail.accelerators.trace import Charge, Trace
from dovetail.accelerators.workload import Workload
from dovetail.errors import MachineError
from dovetail.formats.base import Packed
from dovetail.formats.kernel_basis import PackedKernelBasis

PRODUCT_BITS: Final = 16  # a product of 8 x 20 bits takes the energy of one of 8 x 16 [chosen]


@dataclass(frozen=True, kw_only=True)
class Escalate(Machine):
    """`blocks` x `slices` x `rows` multipliers, each behind a unit that adds."""

    blocks: int = whole("blocks, an output each")
    slices: int = whole("slices of a block, a strip of the image each")
    rows: int = whole("rows of a slice, a basis each")
    window: int = whole("channels that an adding unit looks at in a cycle")
    adders: int = whole("inputs that an adding unit adds in a cycle")
    look_ahead: bool = flag("adders are filled from the next window", default=True)
    queue: int = whole("sums that wait for the multipliers of a slice")
    ahead: int = whole("positions that are broadcast before all blocks have added up")
    columns: int = whole("columns of a strip, at most")
    even_strips: bool = flag("narrower strips, so that every slice has one", default=True)
    rows_independent: bool = flag("rows of a slice do not wait for each other to add up", default=False)
    pointwise: bool = flag("1x1 layers give each row an output of its own", default=True)
    order: str = one_of("what comes first, the coefficients or the bases", ORDERS, default="coef_first")
    bits: int = whole("inputs, outputs and bases", "bits", default=8)
    sum_bits: int = whole("sums of the adding units", "bits", default=20)
    accumulator_bits: int = whole("partial sums of outputs", "bits", default=32)
    sums_bytes: int = whole("partial sums of a slice", "bytes", least=64)
    weight_kb: int = whole("double buffer of coefficients", "KB")
    input_kb: int = whole("buffer of inputs", "KB")
    output_kb: int = whole("buffer of outputs", "KB")
    window_picojoules: float = positive("AND, count and priorities of a window at 45 nm", "pJ")

    @property
    def units(self) -> int:
        """Multipliers."""
        return self.blocks * self.slices * self.rows

    @property
    def pace(self) -> Pace:
        """Of the two stages."""
        return Pace(self.adders, self.look_ahead, self.queue, self.ahead, self.rows_independent)

    @property
    def kept_values(self) -> int:
        """Those that the buffers of inputs and outputs hold."""
        return 8 * KB * (self.input_kb + self.output_kb) // self.bits

    def takes(self, weight: Packed) -> bool:
        """Shared bases with coefficients as they are; other decompositions become plain convolutions."""
        return isinstance(weight, PackedKernelBasis) or super().takes(weight)

    def require(self, layer: Workload) -> None:
        """It has no dilation."""
        self.require_undilated(layer)

    def simulate(self, layer: Workload) -> Trace:
        """Exactly, on the layer's own coefficients and inputs."""
        self.require_undilated(layer)
        rows = rows_of(layer, self.window)
        work = self._work(layer, rows)
        traffic = self._traffic(layer, rows, work)
        # To start: the coefficients of a group, of which half of the double buffer holds its part, and a position.
        held = min(math.ceil(rows.stored_bits / work.groups), 8 * KB * self.weight_kb // 2)
        first_bits = min(held + (1 + self.bits) * rows.places, traffic.weights + traffic.inputs)
        cycles = with_memory(self._cycles(work), traffic.bits, first_bits, self.dram_bytes_per_cycle)
        charges = self._charges(layer, work, traffic)
        levels = {"dram": traffic.bits / 8, "sram": sram_bits(charges, "sram", "partial sums") / 8}
        return self.trace(layer, cycles, levels, charges, work.macs, work.gated, work.additions)

    def array_cycles(self, layer: Workload) -> dict[str, int]:
        """Cycles by cause as if off-chip memory never made the blocks wait."""
        return self._cycles(self.work(layer))

    def work(self, layer: Workload) -> Work:
        """Both stages, at every position of the layer."""
        self.require_undilated(layer)
        return self._work(layer, rows_of(layer, self.window))

    def mapping(self, layer: Workload, rows: Rows) -> Mapping:
        """Which rows make a team, and how many strips they work on at once.

        Two strips share a slice where the bases of both have rows; a strip with more bases than rows takes several
        slices. The columns of a strip have R + 1 lines of partial sums.
        """
        if not rows.spatial and self.pointwise:
            return self._mapping(layer.out_size[1], self.rows, True, self.slices, self.columns)
        bases, (lines, stride) = rows.bases_count, (rows.bases.shape[1] + 1, layer.stride[1] if rows.spatial else 1)
        shared, joined = 2 if 2 * bases <= self.rows else 1, math.ceil(bases / self.rows)
        if joined > self.slices:
            raise MachineError(
                f"layer {layer.name!r} has {bases} bases; {self.what} has {self.slices * self.rows} rows in a block: "
                f"decompose it into fewer"
            )
        held = 8 * self.sums_bytes // (shared * lines * self.accumulator_bits)
        if not held:
            raise MachineError(
                f"layer {layer.name!r} has kernels of {lines - 1} rows; the partial sums of {lines} lines do not fit "
                f"the {self.sums_bytes} bytes that a slice of {self.what} has"
            )
        width = layer.size[1] if rows.spatial else layer.out_size[1]
        return self._mapping(width, bases, False, shared * (self.slices // joined), min(self.columns, stride * held))

    def _mapping(self, width: int, rows: int, pointwise: bool, strips: int, columns: int) -> Mapping:
        even = min(columns, math.ceil(width / strips)) if self.even_strips else columns
        return Mapping(self.blocks, rows, pointwise, strips, even)

    def _work(self, layer: Workload, rows: Rows) -> Work:
        if self.order == "conv_first" and rows.spatial:
            return conv_first(layer, rows, self.blocks, self.slices * self.rows, self.adders, self.columns)
        return coef_first(layer, rows, self.mapping(layer, rows), self.pace)

    def _cycles(self, work: Work) -> dict[str, int]:
        compute = math.ceil(work.macs / self.units)
        return {
            "compute": compute,
            "imbalance": work.regular - compute,
            "additions": work.unshared - work.regular,
            "broadcast": work.cycles - work.unshared,
            "fill": work.drain,
        }

    def _traffic(self, layer: Workload, rows: Rows, work: Work) -> Traffic:
        """Inputs that do not fit their buffer are read once for each group of outputs."""
        inputs = self._map_bits(layer.input.size, int(layer.mask.sum()))
        passes = work.passes if inputs > 8 * KB * self.input_kb else 1
        return Traffic(
            rows.stored_bits,
            0 if layer.input_on_chip else inputs * max(1, passes),
            0 if layer.output_on_chip else self._map_bits(math.prod(layer.out_shape), layer.output_nonzeros),
        )

    def _map_bits(self, values: int, nonzeros: int) -> int:
        """A bit for each value, and those that are not zero; all of them where that is smaller."""
        return min(values + self.bits * nonzeros, self.bits * values)

    def _charges(self, layer: Workload, work: Work, traffic: Traffic) -> list[Charge]:
        acc, node, costs = self.accumulator_bits, self.node_nm, self.costs
        logic = self.window_picojoules * costs.add(8, node).picojoules / costs.add(8).picojoules
        product, name = (self.bits, PRODUCT_BITS, acc, node), f"{self.bits}x{self.sum_bits} bit MAC"
        broadcast = work.passes * self._map_bits(work.values, work.nonzeros)
        outputs = self._map_bits(math.prod(layer.out_shape), layer.output_nonzeros)
        return [
            charge("adders", "input added to a sum", work.additions, costs.add(self.sum_bits, node)),
            Charge("joins", "window of a row", work.windows, logic, "[chosen]"),
            charge("multipliers", name, work.macs, costs.mac(*product)),
            charge("multipliers", f"gated {name}", work.gated, costs.gated_mac(*product)),
            *self.memory_charges("partial sums", self.sums_bytes, acc * work.updates, acc * work.updates),
            *self.memory_charges("sram", self.input_kb * KB, broadcast, traffic.inputs, "inputs"),
            *self.memory_charges("sram", self.weight_kb * KB, traffic.weights, traffic.weights, "coefficients"),
            *self.memory_charges("sram", self.output_kb * KB, traffic.outputs, outputs, "outputs"),
            self.dram_charge(traffic.bits),
        ]


_SOURCES: Final = (
    ("blocks slices rows", "recalled", "MICRO 2021, low confidence"),
    ("window adders look_ahead queue ahead columns", "chosen", "reconstructed"),
    ("sums_bytes weight_kb input_kb output_kb", "chosen", "reconstructed"),
    ("even_strips", "chosen", "CIFAR-10 would leave slices idle"),
    ("rows_independent pointwise", "chosen", "reconstructed"),
    ("bits", "recalled", "MICRO 2021: bases of 8 bits"),
    ("accumulator_bits", "derived", "31 bits hold the sums of 1024 channels"),
    ("sum_bits window_picojoules", "chosen", ""),
    ("clock_hz node_nm dram_bytes_per_cycle dram costs keep_maps", "chosen", "for comparisons"),
)
_LARGE: Final = Escalate(
    name="escalate",
    clock_hz=800e6,
    node_nm=45,
    dram_bytes_per_cycle=16,
    blocks=32,
    slices=6,
    rows=6,
    window=64,
    adders=16,
    queue=4,
    ahead=2,
    columns=32,
    sums_bytes=512,
    weight_kb=64,
    input_kb=64,
    output_kb=64,
    window_picojoules=1.3,
)
ESCALATE: Final = register(
    _LARGE.sourced(*_SOURCES, ("order", "chosen", 'reads "stream processing of the intermediate feature map" [paper]'))
)
CONV_FIRST: Final = register(
    replace(_LARGE, name="escalate-conv-first", order="conv_first").sourced(
        *_SOURCES, ("order", "chosen", "for comparison")
    )
)
