"""The fastest tiles by timing: "oracle" in TDC's words. Needs a GPU."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from dovetail.gpu.timing import least
from dovetail.gpu.tucker import launch
from dovetail.gpu.tucker.choice import Problem, Tiles, TuckerTiles
from dovetail.gpu.tucker.memory import crsn


def fastest(
    problem: Problem, inputs: int, outputs: int, device: torch.device, plans: Sequence[TuckerTiles]
) -> TuckerTiles:
    """The plan of the least time for a layer with random weights; `GpuError` where none runs."""
    with torch.no_grad(), torch.random.fork_rng([device]):
        x, first, core, last = _tensors(problem, inputs, outputs, device)
        weights = (first, crsn(core), last)
        return least(plans, lambda plan: launch.layer(x, weights, None, None, problem, plan, False))


def fastest_core(problem: Problem, device: torch.device, plans: Sequence[Tiles]) -> Tiles:
    """The tiles of the least time for a core alone; `GpuError` where none runs."""
    with torch.no_grad(), torch.random.fork_rng([device]):
        x, _, core, _ = _tensors(problem, problem.inputs, 1, device)
        weight = crsn(core)
        return least(plans, lambda tiles: launch.core_alone(x, weight, problem, tiles))


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
