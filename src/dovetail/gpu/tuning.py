"""What all choices of tiles share: which card it is, whether it can be timed, and what timing has found on it."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import lru_cache
from typing import TypeVar

import torch

from dovetail.errors import GpuError
from dovetail.gpu import cache, support
from dovetail.gpu.cards import FALLBACK, Gpu, described

WORDS = ("auto", "model", "oracle", "exhaustive")
"""What may be said instead of tiles."""

SAID = f"{', '.join(WORDS[:-1])} or {WORDS[-1]}"
"""The same, in a sentence."""

TRIED = 16
"""Plans that "oracle" times: the most promising by the model. "exhaustive" times all that it ranks."""

_known: dict[str, dict[str, str]] = {}  # card → what the file had, and what was timed since
Chosen = TypeVar("Chosen")
_log = logging.getLogger(__name__)


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


def tuned(
    gpu: Gpu,
    device: torch.device,
    work: str,
    tiles: str,
    *,
    read: Callable[[str], Chosen],
    fastest: Callable[[int | None], Chosen],
) -> Chosen | None:
    """What timing found for this work, now or before; None where nothing is kept, and nothing is to be timed or can be.

    Args:
        gpu: of the device.
        device: where it is timed.
        work: the layer's, in a line; what "exhaustive" found is kept beside what "oracle" did, and goes before it.
        tiles: one of `WORDS`; all but "model" are "auto" where nothing can be timed.
        read: makes of text what was kept.
        fastest: times so many of the most promising plans, None for all, and gives the fastest.
    """
    if tiles == "model":
        return None
    timing, thorough = tiles != "auto" and can_time(device), f"{work} exhaustive"
    asked = {"oracle": (work,), "exhaustive": (thorough,)}[tiles] if timing else (thorough, work)
    for name in asked:
        if (found := recalled(gpu, device, name, read)) is not None:
            return found
    return keep(gpu, device, asked[0], fastest(TRIED if tiles == "oracle" else None)) if timing else None


def keep(gpu: Gpu, device: torch.device, work: str, found: Chosen) -> Chosen:
    """For later calls, and for later processes; `found` is kept as its `str`."""
    kept(gpu, device)[work] = str(found)
    cache.save(name_of(gpu), work, str(found))
    return found


def recalled(gpu: Gpu, device: torch.device, work: str, read: Callable[[str], Chosen]) -> Chosen | None:
    """What was kept for this work, as `read` makes it of text; None where there is nothing, or nothing sound."""
    known = kept(gpu, device)
    if work not in known:
        return None
    try:
        return read(known[work])
    except GpuError as error:
        _log.warning("ignoring what the cache of tiles says of %s: %s", work, error)
        del known[work]
        return None


def kept(gpu: Gpu, device: torch.device) -> dict[str, str]:
    """What timing found on this card, by work; nothing where there is none."""
    if device.type != "cuda":
        return {}
    name = name_of(gpu)
    if name not in _known:
        _known[name] = cache.load(name)
    return _known[name]


def name_of(gpu: Gpu) -> str:
    """What the cache calls a card: times change with the compiler."""
    return f"{gpu.name}, Triton {_version()}"


def _version() -> str:
    support.require()
    import triton

    return str(triton.__version__)
