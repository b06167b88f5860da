"""From what a caller says of tiles to the tiles of a launch: by the model, by timing, from the cache, or as given."""

from __future__ import annotations

import logging
from functools import lru_cache
from typing import TypeVar

import torch

from dovetail.errors import GpuError
from dovetail.gpu import cache, support
from dovetail.gpu.cards import FALLBACK, Gpu, described
from dovetail.gpu.tucker import choice
from dovetail.gpu.tucker.choice import Problem, Tiles, TuckerTiles

WORDS = ("auto", "model", "oracle")
"""What may be said instead of tiles."""

TRIED = 16
"""Plans that "oracle" times: the most promising by the model."""

_log = logging.getLogger(__name__)
_known: dict[str, dict[str, str]] = {}  # card → what the file had, and what was timed since


def plan_of(problem: Problem, inputs: int, outputs: int, device: torch.device, tiles: str) -> TuckerTiles:
    """The plan of a layer from `inputs` to `outputs` channels around the core `problem`."""
    if tiles not in WORDS:
        return _parsed(tiles)
    gpu = card(device)
    if tiles != "model":
        work = work_of(problem, inputs, outputs)
        if (kept := _kept(gpu, device).get(work)) is not None:
            return _parsed(kept)
        if tiles == "oracle" and can_time(device):
            from dovetail.gpu.tucker.oracle import fastest

            plans = choice.plans(problem, inputs, outputs, gpu, TRIED)
            return _keep(gpu, device, work, fastest(problem, inputs, outputs, device, plans))
    return choice.choose(problem, inputs, outputs, gpu)


def core_tiles_of(problem: Problem, device: torch.device, tiles: str) -> Tiles:
    """Tiles of a core alone."""
    if tiles not in WORDS:
        return Tiles.parse(tiles)
    gpu = card(device)
    if tiles != "model":
        work = work_of(problem)
        if (kept := _kept(gpu, device).get(work)) is not None:
            return Tiles.parse(kept)
        if tiles == "oracle" and can_time(device):
            from dovetail.gpu.tucker.oracle import fastest_core

            return _keep(gpu, device, work, fastest_core(problem, device, choice.ranked(problem, gpu)[:TRIED]))
    return choice.best(problem, gpu)


@lru_cache(maxsize=1024)
def work_of(problem: Problem, inputs: int = 0, outputs: int = 0) -> str:
    """A layer's work in a line, or that of a core alone."""
    p = problem
    pairs = (p.kernel, p.stride, p.padding, p.dilation)
    geometry = " ".join("x".join(map(str, pair)) for pair in pairs)
    channels = "-".join(str(count) for count in (inputs, p.inputs, p.outputs, outputs) if count)
    op = "tucker" if inputs else "tucker_core"
    return f"{op} {p.batch}x{p.height}x{p.width} {channels} {geometry} {p.dtype} {p.precision}"


@lru_cache(maxsize=64)
def card(device: torch.device) -> Gpu:
    """The card of a device; without one, what the model is asked about."""
    if device.type != "cuda":
        return FALLBACK
    return described(torch.cuda.get_device_properties(device))


def can_time(device: torch.device) -> bool:
    """Not without a card, and not while its work is being recorded."""
    return device.type == "cuda" and not torch.cuda.is_current_stream_capturing()


def forget() -> None:
    """Read the cache anew."""
    _known.clear()


Chosen = TypeVar("Chosen", Tiles, TuckerTiles)


def _keep(gpu: Gpu, device: torch.device, work: str, found: Chosen) -> Chosen:
    """For later calls, and for later processes."""
    _kept(gpu, device)[work] = str(found)
    cache.save(_name(gpu), work, str(found))
    return found


def _kept(gpu: Gpu, device: torch.device) -> dict[str, str]:
    """What timing found on this card; nothing where there is none."""
    if device.type != "cuda":
        return {}
    name = _name(gpu)
    if name not in _known:
        _known[name] = cache.load(name)
    return _known[name]


def _name(gpu: Gpu) -> str:
    return f"{gpu.name}, Triton {_version()}"


def _version() -> str:
    support.require()
    import triton

    return str(triton.__version__)


@lru_cache(maxsize=4096)
def _parsed(tiles: str) -> TuckerTiles:
    try:
        return TuckerTiles.parse(tiles)
    except GpuError as error:
        raise GpuError(f"{error}, or say auto, model or oracle") from None
