"""What a dense network takes on this machine: in our engine, layer by layer, and in other runtimes."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from dovetail.engine.native import cores, require_native
from dovetail.engine.quantize import quantize
from dovetail.engine.session import Session
from dovetail.peers.peer import DEFAULT
from dovetail.peers.race import race
from dovetail.program.layers import LayerShape, layer_shapes
from dovetail.program.lower import lower

if TYPE_CHECKING:
    from torch import nn

    from dovetail.peers.results import Race
    from dovetail.program.program import Program

log = logging.getLogger("dovetail.fit")
CALIBRATION: Final = 300
"""Images."""
BLOCKS: Final = 12
"""Of the race that tells what a share of the budget is of."""


@dataclass(frozen=True)
class Survey:
    """What is measured of the dense network on this machine.

    Attributes:
        shapes: its distinct layers; `order`: all their names, as they run.
        rest: seconds of everything but the weight layers.
        raced: seconds of a run of ours, in the race.
        rival: the fastest dense network in another runtime; ours where there is none.
        rival_seconds: of a run, from the ratio within the race.
    """

    shapes: tuple[LayerShape, ...]
    order: tuple[str, ...]
    rest: float
    raced: float
    rival: str
    rival_seconds: float
    threads: int
    int8: bool


def survey(
    model: nn.Module,
    images: np.ndarray,
    *,
    int8: bool = True,
    threads: int | None = None,
    peers: Sequence[str] = DEFAULT,
    blocks: int = BLOCKS,
    report: Callable[[str], None] = log.info,
) -> Survey:
    """Measure the dense network here, in our engine and in other runtimes.

    Args:
        model: dense, on the CPU; it is not changed.
        images: normalised `(N, C, H, W)`: for calibration, and the first to time.
        int8: ours computes in whole numbers.
        threads: of our engine; all cores by default.
        peers: other runtimes.
        blocks: of the race.
        report: called with one line per step.

    Raises:
        EngineError: there is no native engine.
        PeerError: an unknown peer, or ours failed.
    """
    import torch

    require_native()
    count = cores() if threads is None else threads
    first = torch.from_numpy(images[:1])
    program = lower(model.eval(), first)
    own = quantize(program, [images[:CALIBRATION]]) if int8 else program
    raced = against_peers(own, model, images[:CALIBRATION], threads=count, peers=peers, blocks=blocks, report=report)
    session = Session(own, threads=count)
    times = session.profile(images[:1], runs=50)
    shapes = tuple(layer_shapes(program))
    named = {name for shape in shapes for name in shape.layers}
    rest = sum(step.seconds for step in times if layer_of(step.node, named) is None)
    order = tuple(node.name for node in program.graph.nodes if node.name in named)
    return Survey(shapes, order, rest, raced["latency"], raced["rival"], raced["rival_seconds"], count, int8)


def against_peers(
    program: Program,
    model: nn.Module,
    images: np.ndarray,
    *,
    threads: int,
    peers: Sequence[str] = DEFAULT,
    blocks: int = BLOCKS,
    report: Callable[[str], None] = log.info,
) -> dict[str, Any]:
    """What a packed network takes, `latency` in seconds, and the fastest dense rival beside it, `rival_seconds`."""
    import torch

    first = torch.from_numpy(images[:1])
    calibration = [(torch.from_numpy(images), torch.zeros(len(images), dtype=torch.long))]
    counts = (threads,) if threads == 1 else (1, threads)
    raced = race(
        program, model, peers=peers, data=calibration, example=first, threads=counts, blocks=blocks, network="fit",
        variant="fitted", report=report,
    )  # fmt: skip
    rival, seconds = _rival(raced)
    return {"latency": _seconds_of("dovetail", raced), "rival": rival, "rival_seconds": seconds}


def layer_of(node: str, named: set[str]) -> str | None:
    """The layer that a node of the engine is, or is a part of."""
    return max((name for name in named if node == name or node.startswith(f"{name}.")), key=len, default=None)


def _seconds_of(target: str, raced: Race) -> float:
    return next(row.median_ms for row in raced.rows if row.target == target) / 1e3


def _rival(raced: Race) -> tuple[str, float]:
    """The fastest dense network of any type elsewhere, and its time by the ratio within the race."""
    ratio = raced.ratio("vs_best")
    if ratio is None:
        log.warning("no other runtime is installed; shares of the budget are of our own dense network")
        return "dovetail-dense", _seconds_of("dovetail", raced)
    return ratio.peer, ratio.value * _seconds_of("dovetail", raced)
