"""From what a caller says of tiles to the plan of a layer in blocks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache, partial
from typing import Any, Protocol

import torch

from dovetail.gpu import tuning
from dovetail.gpu.blocks.plan import Plan, Ways
from dovetail.gpu.cards import Gpu
from dovetail.gpu.timing import least


class Problem(Protocol):
    """A linear layer at one batch size."""

    def __hash__(self) -> int:
        """Plans are ranked once."""

    @property
    def ways(self) -> Ways:
        """In which it can run."""

    @property
    def work(self) -> str:
        """What it does, in a line: under this name the cache keeps its plan."""

    def plans(self, gpu: Gpu) -> Sequence[Plan]:
        """The most promising by the model, and some of each way; the best first."""


def require_plan(tiles: str, ways: Ways) -> None:
    """`GpuError` unless `tiles` says how a layer with these ways may run, on whatever device."""
    if tiles not in tuning.WORDS:
        Plan.parse(tiles, ways)


def plan_of(problem: Problem, device: torch.device, tiles: str, trial: Callable[[], Callable[[Plan], Any]]) -> Plan:
    """The plan of a layer; `trial` makes what runs a plan on random numbers, and is asked where plans are timed."""
    if tiles not in tuning.WORDS:
        return Plan.parse(tiles, problem.ways)
    gpu = tuning.card(device)

    def fastest(tried: int | None) -> Plan:
        with torch.no_grad(), torch.random.fork_rng([device]):
            return least(_ranked(problem, gpu)[:tried], trial())

    read = partial(Plan.parse, ways=problem.ways)
    found = tuning.tuned(gpu, device, problem.work, tiles, read=read, fastest=fastest)
    return _ranked(problem, gpu)[0] if found is None else found


@lru_cache(maxsize=4096)
def _ranked(problem: Problem, gpu: Gpu) -> tuple[Plan, ...]:
    return tuple(problem.plans(gpu))
