"""The roofline: multipliers that wait for nothing but off-chip memory, for machines that skip no zeros of inputs.

    cycles = max((macs + additions) / multipliers, bytes / bandwidth)

A layer takes the multiply-accumulates of its format's cheapest order, or the additions of a format that multiplies
nothing there, and moves its weight as it is packed, its input and its output once. Zeros of the inputs are multiplied.

Source: Williams, Waterman and Patterson, "Roofline: an insightful visual performance model" (CACM 2009).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

from dovetail.accelerators.machine import Machine, charge, register
from dovetail.accelerators.memory import with_memory
from dovetail.accelerators.parameters import whole
from dovetail.accelerators.trace import Trace
from dovetail.accelerators.workload import Workload
from dovetail.formats.base import Geometry, Packed


@dataclass(frozen=True, kw_only=True)
class Roofline(Machine):
    """So many multipliers and so much bandwidth, and nothing else that takes time or energy."""

    multipliers: int = whole("multipliers")
    bits: int = whole("operands", "bits", default=8)
    accumulator_bits: int = whole("partial sums", "bits", default=32)

    @property
    def units(self) -> int:
        """Multipliers."""
        return self.multipliers

    def takes(self, weight: Packed) -> bool:
        """Any, in the order of its own that multiplies least."""
        return True

    def simulate(self, layer: Workload) -> Trace:
        """The longer of computing and moving."""
        at = Geometry(math.prod(layer.size), math.prod(layer.out_size), layer.groups)
        macs, additions = (layer.images * count for count in (layer.weight.macs(at), layer.weight.additions(at)))
        moved = layer.weight.bits()
        moved += 0 if layer.input_on_chip else self.bits * layer.input.size
        moved += 0 if layer.output_on_chip else self.bits * math.prod(layer.out_shape)
        compute = math.ceil((macs + additions) / self.units)
        cycles = with_memory({"compute": compute}, moved, 0, self.dram_bytes_per_cycle)
        mac = self.costs.mac(self.bits, self.bits, self.accumulator_bits, self.node_nm)
        charges = [
            charge("multipliers", f"{self.bits}x{self.bits} bit MAC", macs, mac),
            charge("adders", f"{self.bits} bit addition", additions, self.costs.add(self.bits, self.node_nm)),
            self.dram_charge(moved),
        ]
        return self.trace(layer, cycles, {"dram": moved / 8}, charges, macs, additions=additions)


ROOFLINE: Final = register(
    Roofline(name="roofline", clock_hz=800e6, node_nm=45, dram_bytes_per_cycle=16, multipliers=1024).sourced(
        ("clock_hz node_nm dram_bytes_per_cycle multipliers bits", "chosen", "those of `systolic`"),
        ("dram costs keep_maps accumulator_bits", "chosen", ""),
    )
)
