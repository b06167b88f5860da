"""Off-chip memory: how often each operand of a layer crosses it, and how long that takes beside computing."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

KB: Final = 1024


@dataclass(frozen=True)
class Traffic:
    """Bits that cross the off-chip memory for one layer."""

    weights: int
    inputs: int
    outputs: int

    @property
    def bits(self) -> int:
        """All of them."""
        return self.weights + self.inputs + self.outputs


def refetch(weights: int, inputs: int, outputs: int, weight_buffer: int, input_buffer: int) -> Traffic:
    """The cheapest way to move operands of these sizes through these buffers (all in bits).

    Where either operand fits its buffer, both are read once. Otherwise one is held part by part and the other read
    again for every part, whichever is cheaper.
    """
    held_weights = weights + inputs * max(1, math.ceil(weights / weight_buffer))
    held_inputs = inputs + weights * max(1, math.ceil(inputs / input_buffer))
    if held_weights <= held_inputs:
        return Traffic(weights, held_weights - weights, outputs)
    return Traffic(held_inputs - inputs, inputs, outputs)


def with_memory(on_chip: Mapping[str, int], bits: int, first_bits: int, bytes_per_cycle: float) -> dict[str, int]:
    """Cycles by cause once off-chip memory has its say.

    Computing and moving overlap, so a layer takes the longer of both, after its first tile has come.

    Args:
        on_chip: cycles by cause without memory.
        bits: all that crosses the memory.
        first_bits: of that, what must be there before the first unit can start.
        bytes_per_cycle: of the memory.
    """
    moving = math.ceil(bits / (8 * bytes_per_cycle))
    first = math.ceil(first_bits / (8 * bytes_per_cycle))
    return {**on_chip, "memory": max(0, moving - sum(on_chip.values())), "first load": first}
