"""Cambricon-X: weights that are zero are neither stored nor multiplied; inputs are dense.

An element has a filter and takes, for windows of 256 inputs, up to 16 of those that meet a weight in a cycle. Filters
go in groups of as many as there are elements, and a group takes as long as its slowest filter:

    cycles = N E F sum over groups of max over filters of sum over windows of ceil(weights that are not zero / 16)

Windows are cut from the vector of a filter in the order (r, s, c).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

import numpy as np

from dovetail.accelerators.encodings import run_length_entries
from dovetail.accelerators.machine import Machine, charge, register, sram_bits
from dovetail.accelerators.memory import KB, Traffic, refetch, with_memory
from dovetail.accelerators.parameters import whole
from dovetail.accelerators.trace import Charge, Trace
from dovetail.accelerators.workload import Workload


@dataclass(frozen=True, kw_only=True)
class CambriconX(Machine):
    """`elements` of `lanes` multipliers, which choose among `window` inputs."""

    elements: int = whole("elements, a filter each")
    lanes: int = whole("multipliers of an element")
    window: int = whole("inputs that an element chooses from")
    bits: int = whole("operands", "bits", default=16)
    accumulator_bits: int = whole("sums", "bits", default=32)
    step_bits: int = whole("distance to the next stored weight", "bits", default=8)
    input_kb: int = whole("buffer of inputs", "KB")
    output_kb: int = whole("buffer of outputs", "KB")
    weight_kb: int = whole("buffer of weights of an element", "KB")

    @property
    def units(self) -> int:
        """Multipliers."""
        return self.elements * self.lanes

    @property
    def kept_values(self) -> int:
        """Those that both buffers hold."""
        return 8 * KB * (self.input_kb + self.output_kb) // self.bits

    def simulate(self, layer: Workload) -> Trace:
        """Exactly, on the layer's own weights."""
        macs, traffic = self.macs(layer), self._traffic(layer)
        tile = (self.bits + self.step_bits) * self.elements * self.lanes + self.bits * self.window
        first_bits = min(tile, traffic.weights + traffic.inputs)
        cycles = with_memory(self.array_cycles(layer), traffic.bits, first_bits, self.dram_bytes_per_cycle)
        charges = self._charges(layer, macs, traffic)
        sram = sram_bits(charges, "inputs", "outputs", "weights")
        return self.trace(layer, cycles, {"dram": traffic.bits / 8, "sram": sram / 8}, charges, macs)

    def macs(self, layer: Workload) -> int:
        """Of the weights that are not zero, at every position, borders included."""
        return int(layer.weight_mask.sum()) * layer.positions

    def array_cycles(self, layer: Workload) -> dict[str, int]:
        """Cycles by cause as if off-chip memory never made the elements wait."""
        compute = math.ceil(self.macs(layer) / self.units)
        slowest = sum(int(group.max()) for group in self._groups(layer)) * layer.positions
        return {"compute": compute, "imbalance": slowest - compute}

    def _groups(self, layer: Workload) -> list[np.ndarray]:
        """Cycles of each filter at a position, by groups of filters that work at once."""
        weights = layer.weight_mask.transpose(0, 2, 3, 1).reshape(layer.outputs, -1)
        padded = np.pad(weights, ((0, 0), (0, -weights.shape[1] % self.window)))
        nonzeros = padded.reshape(layer.outputs, -1, self.window).sum(axis=2)
        cycles = -(-nonzeros // self.lanes)
        each, filters = cycles.sum(axis=1), layer.outputs // layer.groups
        return [
            each[start : min(start + self.elements, (g + 1) * filters)]
            for g in range(layer.groups)
            for start in range(g * filters, (g + 1) * filters, self.elements)
        ]

    def _traffic(self, layer: Workload) -> Traffic:
        weights = layer.weight_mask.transpose(0, 2, 3, 1).reshape(layer.outputs, -1)
        return refetch(
            (self.bits + self.step_bits) * int(run_length_entries(weights, self.step_bits).sum()),
            0 if layer.input_on_chip else self.bits * layer.input.size,
            0 if layer.output_on_chip else self.bits * math.prod(layer.out_shape),
            8 * KB * self.weight_kb * self.elements,
            8 * KB * self.input_kb,
        )

    def _charges(self, layer: Workload, macs: int, traffic: Traffic) -> list[Charge]:
        b, acc, node, costs = self.bits, self.accumulator_bits, self.node_nm, self.costs
        outputs = b * math.prod(layer.out_shape)
        groups = layer.groups * math.ceil(layer.outputs // layer.groups / self.elements)
        broadcast = b * layer.positions * math.prod(layer.weight.shape[1:]) * groups
        entry = b + self.step_bits
        return [
            charge("multipliers", f"{b}x{b} bit MAC", macs, costs.mac(b, b, acc, node)),
            charge("registers", "bit of a sum, read or written", 2 * acc * macs, costs.registers(1, 1, node)),
            *self.memory_charges("weights", self.weight_kb * KB, entry * macs, traffic.weights),
            *self.memory_charges("inputs", self.input_kb * KB, broadcast, traffic.inputs),
            *self.memory_charges("outputs", self.output_kb * KB, traffic.outputs, outputs),
            self.dram_charge(traffic.bits),
        ]


CAMBRICON_X: Final = register(
    CambriconX(
        name="cambricon-x",
        clock_hz=1e9,
        node_nm=65,
        dram_bytes_per_cycle=16,
        elements=16,
        lanes=16,
        window=256,
        input_kb=8,
        output_kb=8,
        weight_kb=2,
    ).sourced(
        ("elements lanes node_nm", "paper", "MICRO 2016"),
        ("clock_hz", "derived", "544 GOP/s of 16 (16 + 16 + 2) operations a cycle"),
        ("window bits", "recalled", "MICRO 2016"),
        ("input_kb output_kb weight_kb", "recalled", "MICRO 2016"),
        ("step_bits", "chosen", "4 to 8 are recalled"),
        ("accumulator_bits dram_bytes_per_cycle dram costs keep_maps", "chosen", ""),
    )
)
