"""From what a caller says of tiles to the tiles of a launch: by the model, by timing, from the cache, or as given."""

from __future__ import annotations

from functools import lru_cache, partial
from typing import TypeVar

import torch

from dovetail.errors import GpuError
from dovetail.gpu import tuning
from dovetail.gpu.tucker import choice
from dovetail.gpu.tucker.choice import Problem, Tiles, TuckerTiles
from dovetail.gpu.tuning import WORDS

Read = TypeVar("Read", Tiles, TuckerTiles)


def require_plan(tiles: str) -> None:
    """`GpuError` unless `tiles` says how a layer may run, on whatever device."""
    if tiles not in WORDS:
        _read(TuckerTiles, tiles)


def require_core_tiles(tiles: str) -> None:
    """`GpuError` unless `tiles` says how a core alone may run, on whatever device."""
    if tiles not in WORDS:
        _read(Tiles, tiles)


def plan_of(problem: Problem, inputs: int, outputs: int, device: torch.device, tiles: str) -> TuckerTiles:
    """The plan of a layer from `inputs` to `outputs` channels around the core `problem`."""
    if tiles not in WORDS:
        return _fitting(problem, tiles)
    gpu = tuning.card(device)

    def fastest(tried: int | None) -> TuckerTiles:
        from dovetail.gpu.tucker import oracle

        return oracle.fastest(problem, inputs, outputs, device, choice.plans(problem, inputs, outputs, gpu, tried))

    work, read = work_of(problem, inputs, outputs), partial(_fitting, problem)
    found = tuning.tuned(gpu, device, work, tiles, read=read, fastest=fastest)
    return choice.choose(problem, inputs, outputs, gpu) if found is None else found


def core_tiles_of(problem: Problem, device: torch.device, tiles: str) -> Tiles:
    """Tiles of a core alone."""
    if tiles not in WORDS:
        return _read(Tiles, tiles)
    gpu = tuning.card(device)

    def fastest(tried: int | None) -> Tiles:
        from dovetail.gpu.tucker import oracle

        return oracle.fastest_core(problem, device, choice.ranked(problem, gpu)[:tried])

    found = tuning.tuned(gpu, device, work_of(problem), tiles, read=Tiles.parse, fastest=fastest)
    return choice.best(problem, gpu) if found is None else found


@lru_cache(maxsize=1024)
def work_of(problem: Problem, inputs: int = 0, outputs: int = 0) -> str:
    """A layer's work in a line, or that of a core alone."""
    p = problem
    pairs = (p.kernel, p.stride, p.padding, p.dilation)
    geometry = " ".join("x".join(map(str, pair)) for pair in pairs)
    channels = "-".join(str(count) for count in (inputs, p.inputs, p.outputs, outputs) if count)
    op = "tucker" if inputs else "tucker_core"
    return f"{op} {p.batch}x{p.height}x{p.width} {channels} {geometry} {p.dtype} {p.precision}"


def _fitting(problem: Problem, tiles: str) -> TuckerTiles:
    plan = _parsed(tiles)
    if plan.fused and plan.core.outputs < problem.outputs:
        raise GpuError(f"tiles {plan}: a fused core of {problem.outputs} channels needs as many outputs in one tile")
    return plan


@lru_cache(maxsize=4096)
def _parsed(tiles: str) -> TuckerTiles:
    return _read(TuckerTiles, tiles)


def _read(kind: type[Read], tiles: str) -> Read:
    try:
        return kind.parse(tiles)
    except GpuError as error:
        raise GpuError(f"{error}, or say {tuning.SAID}") from None
