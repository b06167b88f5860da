"""Cnvlutin: inputs that are zero are skipped, by 16 lanes that each go through bricks of 16 channels.

The bricks of a window, in the order (r, s, brick), are dealt to the lanes in turn. A brick takes as many cycles as it
has inputs that are not zero, at least one; bricks outside of the map are skipped. All lanes finish a window together:

    cycles = sum over positions of max over lanes of sum over bricks of max(1, inputs), times ceil(K/256)

A layer of fewer channels than a brick runs dense, as on DaDianNao: N E F R S ceil(C/16) ceil(K/256) cycles.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Final

import numpy as np

from dovetail.accelerators.machine import Machine, charge, register, sram_bits
from dovetail.accelerators.memory import KB, Traffic, refetch, with_memory
from dovetail.accelerators.parameters import flag, whole
from dovetail.accelerators.trace import Charge, Trace
from dovetail.accelerators.workload import Workload
from dovetail.program.functions import windows


@dataclass(frozen=True, kw_only=True)
class Cnvlutin(Machine):
    """`filters` x `lanes` multipliers; the lanes of all filters read the same inputs."""

    filters: int = whole("filters at once")
    lanes: int = whole("lanes, each with its own bricks")
    brick: int = whole("channels of a brick")
    skipping: bool = flag("zeros are skipped; without, the machine is its dense peer")
    bits: int = whole("operands", "bits", default=16)
    accumulator_bits: int = whole("sums", "bits", default=32)
    offset_bits: int = whole("offset beside each stored input", "bits", default=4)
    weight_kb: int = whole("memory of weights", "KB")
    input_kb: int = whole("memory of inputs and outputs", "KB")

    @property
    def units(self) -> int:
        """Multipliers."""
        return self.filters * self.lanes

    @property
    def kept_values(self) -> int:
        """Those that the memory of inputs and outputs holds."""
        return 8 * KB * self.input_kb // self.bits

    def simulate(self, layer: Workload) -> Trace:
        """Exactly, on the layer's own inputs."""
        traffic, macs = self._traffic(layer), self.macs(layer)
        tile = self.bits * self.lanes * (min(self.filters, layer.outputs) + self.brick)
        first_bits = min(tile, traffic.weights + traffic.inputs)
        cycles = with_memory(self.array_cycles(layer), traffic.bits, first_bits, self.dram_bytes_per_cycle)
        charges = self._charges(layer, macs, traffic)
        sram = sram_bits(charges, "inputs", "weights")
        return self.trace(layer, cycles, {"dram": traffic.bits / 8, "sram": sram / 8}, charges, macs)

    def skips(self, layer: Workload) -> bool:
        """Whether zeros of this layer's input are skipped."""
        return self.skipping and layer.weight.shape[1] >= self.brick

    def macs(self, layer: Workload) -> int:
        """Of the inputs that are not zero, or of all."""
        return layer.input_macs if self.skips(layer) else layer.dense_macs

    def array_cycles(self, layer: Workload) -> dict[str, int]:
        """Cycles by cause as if off-chip memory never made the lanes wait."""
        rounds = math.ceil(layer.outputs // layer.groups / self.filters)
        if self.skips(layer):
            cycles = rounds * sum(self._sparse(layer, group) for group in range(layer.groups))
        else:
            bricks = math.ceil(layer.weight.shape[1] / self.lanes)
            cycles = rounds * layer.groups * layer.positions * math.prod(layer.kernel) * bricks
        compute = math.ceil(self.macs(layer) / self.units)
        return {"compute": compute, "imbalance": cycles - compute}

    def _sparse(self, layer: Workload, group: int) -> int:
        """Of a group, over all positions, for as many filters as go at once."""
        top, bottom, left, right = layer.padding
        channels = layer.weight.shape[1]
        mask = layer.mask[:, group * channels : (group + 1) * channels]
        n, _, *size = mask.shape
        filled = np.pad(mask, ((0, 0), (0, -channels % self.brick), (0, 0), (0, 0)))
        cost = np.maximum(filled.reshape(n, -1, self.brick, *size).sum(axis=2, dtype=np.int32), 1)
        cost = np.pad(cost, ((0, 0), (0, 0), (top, bottom), (left, right)))  # nothing outside of the map
        every = windows(cost, layer.kernel, layer.stride, layer.dilation).transpose(0, 2, 3, 4, 5, 1)
        dealt = every.reshape(layer.positions, -1)
        dealt = np.pad(dealt, ((0, 0), (0, -dealt.shape[1] % self.lanes)))
        return int(dealt.reshape(layer.positions, -1, self.lanes).sum(axis=1).max(axis=1).sum())

    def _traffic(self, layer: Workload) -> Traffic:
        each = self.bits + (self.offset_bits if self.skipping else 0)
        return refetch(
            self.bits * math.prod(layer.weight.shape),
            0 if layer.input_on_chip else each * layer.input.size,
            0 if layer.output_on_chip else each * math.prod(layer.out_shape),
            8 * KB * self.weight_kb,
            8 * KB * self.input_kb,
        )

    def _charges(self, layer: Workload, macs: int, traffic: Traffic) -> list[Charge]:
        b, acc, node, costs = self.bits, self.accumulator_bits, self.node_nm, self.costs
        filters = layer.outputs // layer.groups
        inputs = b * macs // filters * math.ceil(filters / self.filters)
        return [
            charge("multipliers", f"{b}x{b} bit MAC", macs, costs.mac(b, b, acc, node)),
            charge("registers", "bit of a sum, read or written", 2 * acc * macs, costs.registers(1, 1, node)),
            *self.memory_charges("weights", self.weight_kb * KB, b * macs, traffic.weights),
            *self.memory_charges(
                "inputs", self.input_kb * KB, inputs + traffic.outputs, traffic.inputs + traffic.outputs
            ),
            self.dram_charge(traffic.bits),
        ]


_NODE: Final = Cnvlutin(
    name="cnvlutin",
    clock_hz=1e9,
    node_nm=65,
    dram_bytes_per_cycle=16,
    filters=256,
    lanes=16,
    brick=16,
    skipping=True,
    weight_kb=32 * 1024,
    input_kb=4 * 1024,
)
_SOURCES: Final = (
    ("filters lanes brick bits offset_bits clock_hz node_nm weight_kb input_kb", "recalled", "ISCA 2016"),
    ("accumulator_bits dram_bytes_per_cycle dram costs keep_maps", "chosen", ""),
)
CNVLUTIN: Final = register(_NODE.sourced(*_SOURCES, ("skipping", "recalled", "ISCA 2016")))
DENSE_PEER: Final = register(
    replace(_NODE, name="dadiannao", skipping=False).sourced(*_SOURCES, ("skipping", "recalled", "the dense peer"))
)
