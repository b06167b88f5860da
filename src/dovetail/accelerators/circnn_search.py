"""CirCNN's search for the shape of its block of butterflies (Algorithm 3 of the paper [recalled]), and its power.

First the butterflies side by side, with one level of them, then the levels, each by a ternary search for the largest
merit: performance per power, or performance within a budget of power. A ternary search takes merit to rise and then to
fall; rounding up to whole cycles makes small steps in it, so that what is found may be next to the best.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Final

from dovetail.accelerators.chips import CIRCNN_CHIP
from dovetail.accelerators.circnn import Circnn
from dovetail.accelerators.workload import Workload
from dovetail.errors import MachineError

Range = tuple[int, int]
COMPUTE: Final = 0.1 / 16  # of the power of 16 butterflies in one level, of each: 16 more take 10 % more [derived]
REFERENCE: Final = 64  # butterflies in all, whose power is the published one [chosen]: computing is 31 % of it then


@dataclass(frozen=True)
class Point:
    """A shape of the block, the cycles of the layers one phase after another, and its power."""

    butterflies: int
    depth: int
    cycles: int
    watts: float

    @property
    def efficiency(self) -> float:
        """Performance per power."""
        return 1 / (self.cycles * self.watts)


def power(butterflies: int, depth: int) -> float:
    """Watts at 45 nm and 200 MHz: memory and control, and so much for each butterfly."""
    return CIRCNN_CHIP.watts * _relative(butterflies * depth) / _relative(REFERENCE)


def point(machine: Circnn, layers: Sequence[Workload], butterflies: int, depth: int) -> Point:
    """One shape; the lanes and the memory of spectra stay those of the machine."""
    shaped = replace(machine, butterflies=butterflies, depth=depth)
    cycles = sum(layer.images * (shaped.phases(layer).serial + shaped.fill) for layer in layers)
    return Point(butterflies, depth, cycles, power(butterflies, depth))


def search(
    machine: Circnn,
    layers: Sequence[Workload],
    butterflies: Range = (1, 64),
    depths: Range = (1, 8),
    most_watts: float | None = None,
) -> Point:
    """The shape of most performance per power, or of most performance within `most_watts`.

    Args:
        machine: whose lanes and memories it has.
        layers: that it is made for.
        butterflies: fewest and most side by side, as memory and area allow.
        depths: fewest and most levels in a row.
        most_watts: a budget.

    Raises:
        MachineError: a range or the budget is none, there are no layers, or no shape keeps to the budget.
    """
    for words, (low, high) in (("butterflies", butterflies), ("depths", depths)):
        if not 1 <= low <= high:
            raise MachineError(f"{words} from {low} to {high} are no range; give whole numbers from 1 on, least first")
    if not layers:
        raise MachineError("no layers to search for; give at least one")
    if most_watts is not None and not 0 < most_watts < math.inf:
        raise MachineError(f"a budget of {most_watts} W; give a finite number above 0")
    least = power(butterflies[0], depths[0])
    if most_watts is not None and least > most_watts:
        raise MachineError(f"the smallest block takes {least:.4g} W, more than {most_watts:g}; allow more power")

    def merit(count: int, depth: int) -> float:
        found = point(machine, layers, count, depth)
        if most_watts is None:
            return found.efficiency
        return 1 / found.cycles if found.watts <= most_watts else -found.watts

    count = ternary(lambda number: merit(number, depths[0]), *butterflies)
    return point(machine, layers, count, ternary(lambda depth: merit(count, depth), *depths))


def ternary(merit: Callable[[int], float], low: int, high: int) -> int:
    """Where a function that rises and then falls is largest, among whole numbers; of equals the smallest."""
    while high - low > 2:
        third = (high - low) // 3
        if merit(low + third) < merit(high - third):
            low += third
        else:
            high -= third
    return max(range(low, high + 1), key=lambda number: (merit(number), -number))


def _relative(butterflies: int) -> float:
    """Power over that of 16 butterflies in one level."""
    return 1 + COMPUTE * (butterflies - 16)
