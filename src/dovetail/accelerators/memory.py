"""Off-chip memory: how often each operand of a layer crosses it, and how long that takes beside computing."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Final

from dovetail.accelerators.workload import Workload
from dovetail.errors import MachineError

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


def chained(layers: Sequence[Workload], buffer: int, bits: int) -> tuple[Workload, ...]:
    """Layers of which each reads what the one before gives; where input and output fit the buffer, the output stays.

    Args:
        layers: of a plain chain, in order.
        buffer: for inputs and outputs, in bits.
        bits: of a value; zeros count.

    Returns:
        The same layers; those at a kept output know that it is on the chip.

    Raises:
        MachineError: a layer does not read as many values per image as the one before gives, or a part of them.
    """
    made = list(layers)
    for i, (layer, following) in enumerate(pairwise(layers)):
        given = math.prod(layer.out_shape)
        if following.input.size > given:
            raise MachineError(
                f"layer {following.name!r} reads {following.input.size} values, but {layer.name!r} gives {given}; "
                f"keep on the chip only what one layer hands to the next"
            )
        if bits * (layer.input.size + given) <= buffer:
            made[i] = replace(made[i], output_on_chip=True)
            made[i + 1] = replace(made[i + 1], input_on_chip=True)
    return tuple(made)
