"""What a dense network takes on this machine: in our engine, layer by layer, and in other runtimes."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
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
TURNS, RUNS = 10, 20
BLOCKS: Final = 12
"""Of the race that tells what a share of the budget is of."""


@dataclass(frozen=True)
class Survey:
    """What is measured of the dense network on this machine.

    Attributes:
        shapes: its distinct layers.
        layers: name → seconds, as they run; of layers of one shape their mean.
        rest: seconds of a run beyond those of its layers.
        raced: seconds of a run of ours, in the race.
        rival: the fastest dense network in another runtime; ours where there is none.
        rival_seconds: of a run, from the ratio within the race.
    """

    shapes: tuple[LayerShape, ...]
    layers: Mapping[str, float]
    rest: float
    raced: float
    rival: str
    rival_seconds: float
    threads: int
    int8: bool

    @property
    def scale(self) -> float:
        """What of a run's seconds here is raced there: machines have faster and slower minutes."""
        return self.raced / (self.rest + sum(self.layers.values()))


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
    shapes = tuple(layer_shapes(program))
    named = {name for shape in shapes for name in shape.layers}
    run, steps = _timed(Session(own, threads=count), images[:1])
    each = dict.fromkeys((node.name for node in program.graph.nodes if node.name in named), 0.0)
    for node, seconds in steps.items():
        if (name := layer_of(node, named)) is not None:
            each[name] += seconds
    means = {name: sum(each[n] for n in shape.layers) / shape.count for shape in shapes for name in shape.layers}
    layers = {name: means[name] for name in each}
    rest = run - sum(layers.values())
    return Survey(shapes, layers, rest, raced["latency"], raced["rival"], raced["rival_seconds"], count, int8)


def _timed(session: Session, image: np.ndarray) -> tuple[float, dict[str, float]]:
    """Seconds of a run, and of each node; measured in turns, so that both are of the same minutes."""
    runs, profiles = [], []
    for _ in range(TURNS):
        for _ in range(RUNS):
            session(image)
        began = [time.perf_counter()]
        for _ in range(RUNS):
            session(image)
            began.append(time.perf_counter())
        runs.append(float(np.median(np.diff(began))))
        profiles.append({step.node: step.seconds for step in session.profile(image, runs=RUNS)})
    return float(np.median(runs)), {n: float(np.median([profile[n] for profile in profiles])) for n in profiles[0]}


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
