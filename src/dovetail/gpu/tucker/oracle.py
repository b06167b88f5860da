"""The fastest tiles by timing: "oracle" in TDC's words. Needs a GPU."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import numpy as np
import torch

from dovetail.errors import GpuError
from dovetail.gpu.timing import Graph
from dovetail.gpu.tucker import launch
from dovetail.gpu.tucker.choice import Problem, TuckerTiles
from dovetail.gpu.tucker.memory import crsn

REPEATS = 10
_log = logging.getLogger(__name__)


def times(
    problem: Problem, inputs: int, outputs: int, device: torch.device, plans: Sequence[TuckerTiles]
) -> dict[TuckerTiles, float]:
    """Milliseconds of a layer, with random weights, by plan; those that the card or compiler refuses are left out."""
    dtype = getattr(torch, problem.dtype)
    with torch.no_grad(), torch.random.fork_rng([device]):
        x, *weights = (
            torch.randn(shape, dtype=dtype, device=device)
            for shape in (
                (problem.batch, inputs, problem.height, problem.width),
                (problem.inputs, inputs),
                (problem.outputs, problem.inputs, *problem.kernel),
                (outputs, problem.outputs),
            )
        )
        first, core, last = weights
        x, core = launch.channels_last(x), crsn(core)
        found = {}
        for plan in plans:
            taken = _time(lambda plan=plan: launch.layer(x, (first, core, last), None, None, problem, plan, False))
            if taken is not None:
                found[plan] = taken
    return found


def fastest(
    problem: Problem, inputs: int, outputs: int, device: torch.device, plans: Sequence[TuckerTiles]
) -> TuckerTiles:
    """The plan of the least time; `GpuError` where none runs."""
    found = times(problem, inputs, outputs, device, plans)
    if not found:
        raise GpuError(f"none of {len(plans)} plans runs for {problem}; say tiles='model' or give tiles")
    return min(found, key=lambda plan: found[plan])


def _time(work: object) -> float | None:
    """The median of some replays, or None where the launch fails for want of shared memory or registers."""
    try:
        return float(np.median(Graph(work, REPEATS).time(10)))  # type: ignore[arg-type]
    except Exception as error:  # Triton's own exceptions differ between versions
        if isinstance(error, torch.cuda.OutOfMemoryError) or "illegal" in str(error).lower():
            raise
        _log.info("a plan is left out: %s: %s", type(error).__name__, error)
        return None
