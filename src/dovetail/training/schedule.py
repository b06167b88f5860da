"""Learning rate over a phase, as a factor of the peak, step by step."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Final

from dovetail.errors import TrainingError


def factor(schedule: str, step: int, steps: int, warmup: int = 0) -> float:
    """Factor of the peak rate at `step` (from 0) of `steps`, the first `warmup` of which rise in a straight line.

    Raises:
        TrainingError: there is no such schedule.
    """
    if schedule not in SCHEDULES:
        raise TrainingError(f"unknown schedule {schedule!r}; known are {', '.join(SCHEDULES)}")
    if step < warmup:
        return (step + 1) / (warmup + 1)
    return SCHEDULES[schedule]((step - warmup) / max(steps - warmup, 1))


def _constant(_: float) -> float:
    return 1.0


def _cosine(at: float) -> float:
    return 0.5 * (1.0 + math.cos(math.pi * min(at, 1.0)))


def _one_cycle(at: float, rise: float = 0.3, start: float = 1 / 25, finish: float = 1e-4) -> float:
    """Cosine up over the first `rise` of the phase, cosine down to nearly nothing over the rest (Smith 2018)."""
    if at < rise:
        return 1.0 - (1.0 - start) * _cosine(at / rise)
    return finish + (1.0 - finish) * _cosine((at - rise) / (1.0 - rise))


def _step(at: float) -> float:
    """Times 0.1 at half and again at three quarters."""
    return 0.1 ** ((at >= 0.5) + (at >= 0.75))


SCHEDULES: Final[Mapping[str, Callable[[float], float]]] = {
    "constant": _constant,
    "cosine": _cosine,
    "one-cycle": _one_cycle,
    "step": _step,
}
