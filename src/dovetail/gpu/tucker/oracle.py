"""The fastest tiles by timing: "oracle" in TDC's words. Needs a GPU."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from dovetail.errors import GpuError
from dovetail.gpu.timing import Graph
from dovetail.gpu.tucker import launch
from dovetail.gpu.tucker.choice import Problem, Tiles, TuckerTiles
from dovetail.gpu.tucker.memory import crsn

REPEATS = 10
Plan = TypeVar("Plan", Tiles, TuckerTiles)
_log = logging.getLogger(__name__)


def fastest(
    problem: Problem, inputs: int, outputs: int, device: torch.device, plans: Sequence[TuckerTiles]
) -> TuckerTiles:
    """The plan of the least time for a layer with random weights; `GpuError` where none runs."""
    with torch.no_grad(), torch.random.fork_rng([device]):
        x, first, core, last = _tensors(problem, inputs, outputs, device)
        weights = (first, crsn(core), last)
        return _least(plans, lambda plan: launch.layer(x, weights, None, None, problem, plan, False))


def fastest_core(problem: Problem, device: torch.device, plans: Sequence[Tiles]) -> Tiles:
    """The tiles of the least time for a core alone; `GpuError` where none runs."""
    with torch.no_grad(), torch.random.fork_rng([device]):
        x, _, core, _ = _tensors(problem, problem.inputs, 1, device)
        weight = crsn(core)
        return _least(plans, lambda tiles: launch.core_alone(x, weight, problem, tiles))


def _tensors(problem: Problem, inputs: int, outputs: int, device: torch.device) -> tuple[Tensor, ...]:
    """Images and the three weights."""
    shapes = (
        (problem.batch, inputs, problem.height, problem.width),
        (problem.inputs, inputs),
        (problem.outputs, problem.inputs, *problem.kernel),
        (outputs, problem.outputs),
    )
    x, *weights = (torch.randn(shape, dtype=getattr(torch, problem.dtype), device=device) for shape in shapes)
    return launch.channels_last(x), *weights


def _least(plans: Sequence[Plan], work: Callable[[Plan], Any]) -> Plan:
    """Those that the card or the compiler refuses are left out."""
    times: dict[Plan, float] = {}
    for plan in plans:
        taken = _time(partial(work, plan))
        if taken is not None:
            times[plan] = taken
    if not times:
        raise GpuError(f"none of {len(plans)} plans runs here; say tiles='model', or give tiles")
    return min(times, key=lambda plan: times[plan])


def _time(work: Callable[[], Any]) -> float | None:
    """The median of some replays, or None where the launch fails for want of shared memory or registers."""
    try:
        return float(np.median(Graph(work, REPEATS).time(10)))
    except Exception as error:  # Triton's own exceptions differ between versions
        if isinstance(error, torch.cuda.OutOfMemoryError) or "illegal" in str(error).lower():
            raise
        _log.info("a plan is left out: %s: %s", type(error).__name__, error)
        return None
