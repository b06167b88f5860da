"""What a dense network takes on this machine: in our engine, layer by layer, and in other runtimes."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from dovetail.engine.native import cores, require_native
from dovetail.engine.quantize import quantize
from dovetail.engine.session import Session
from dovetail.formats import FORMATS, BlockSparseSpec
from dovetail.formats.base import Spec
from dovetail.peers.peer import DEFAULT
from dovetail.peers.race import race
from dovetail.program.counts import count
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
LEFT: Final = 0.03
"""Of the blocks of the network that shows what a run takes beyond its layers."""
NEAR, LIKELY = 0.3, 2.0
BLOCKS: Final = 12
"""Of the race that tells what a share of the budget is of."""


@dataclass(frozen=True)
class Survey:
    """What is measured of the dense network on this machine.

    A run of a network with the same layers in formats is predicted to take `rest + scale * (sum of its layers)`.

    Attributes:
        shapes: its distinct layers.
        layers: name → seconds, as they run; of layers of one shape their mean.
        rest: seconds of a run in the race beyond its layers.
        scale: seconds in the race for each second of the layers.
        raced: seconds of a run of ours in the race, as `rest` and `scale` have it, too.
        rival: the fastest dense network in another runtime; ours where there is none.
        rival_seconds: of a run, from the ratio within the race.
        bytes: of all numbers that ours stores, dense; `float_bytes`: in float32.
        macs: of one image, with those of layers that have no shape here.
    """

    shapes: tuple[LayerShape, ...]
    layers: Mapping[str, float]
    rest: float
    scale: float
    raced: float
    rival: str
    rival_seconds: float
    threads: int
    int8: bool
    bytes: float
    float_bytes: float
    macs: float

    @property
    def references(self) -> dict[str, float]:
        """What shares of a budget are of."""
        return {"latency": self.rival_seconds, "bytes": self.float_bytes, "macs": self.macs}


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
    threads = cores() if threads is None else threads
    program = lower(model.eval(), torch.from_numpy(images[:1]))
    shapes = tuple(layer_shapes(program))
    named = {name for shape in shapes for name in shape.layers}
    dense, light = (in_values(one, images, int8=int8) for one in (program, anchor(program, named)))
    raced = against_peers(
        light, model, images[:CALIBRATION], threads=threads, peers=peers, blocks=blocks, report=report
    )
    heavy, least = layer_seconds([dense, light], images[:1], named, threads)
    means = {name: sum(heavy[n] for n in shape.layers) / shape.count for shape in shapes for name in shape.layers}
    nodes = [node.name for graph in program.run_by(program.graph) for node in graph.nodes]
    layers = {name: means[name] for name in nodes if name in named}
    rest, scale = line((sum(least.values()), raced["latency"]), (sum(heavy.values()), raced["dense"]))
    return Survey(
        shapes, layers, rest, scale, raced["dense"], raced["rival"], raced["rival_seconds"], threads, int8,
        stored_bytes(dense), stored_bytes(program), float(count(program).macs),
    )  # fmt: skip


def anchor(program: Program, named: Iterable[str]) -> Program:
    """The network with next to nothing left in those layers: beside the dense one the other end of what a run takes."""
    return in_formats(program, dict.fromkeys(named, BlockSparseSpec(density=LEFT)))


def in_formats(program: Program, specs: Mapping[str, Spec]) -> Program:
    """The network with some of its weights brought to formats, and not trained there."""
    formed = {name: FORMATS[s.format].packed.from_dense(program.weights[name].dense(), s) for name, s in specs.items()}
    return replace(program, weights={**program.weights, **formed})


def line(low: tuple[float, float], high: tuple[float, float]) -> tuple[float, float]:
    """Offset and slope of the line through two points, of layers' seconds and a run's.

    Points too near for that, or a slope that cannot be, give the layers themselves and whatever is beyond them. A run
    takes no less than its layers: where these were timed in a slower minute, so that it seemed to, the line is that
    from nothing to the dense network.
    """
    apart = high[0] - low[0]
    slope = (high[1] - low[1]) / apart if apart > NEAR * high[0] else math.nan
    if not 1 / LIKELY < slope < LIKELY:
        log.warning("two networks do not show what a run takes beyond its layers; is the machine busy, or theirs tiny?")
        slope = 1.0
    offset = high[1] - slope * high[0]
    return (offset, slope) if offset >= 0 else (0.0, high[1] / high[0])


def in_values(program: Program, images: np.ndarray, *, int8: bool) -> Program:
    """The dense network as it races: calibrated on the first images, or as it is."""
    return quantize(program, [images[:CALIBRATION]]) if int8 else program


def stored_bytes(program: Program) -> float:
    """Of all numbers in the file, as `count` has them."""
    return count(program).bits / 8


def layer_seconds(
    programs: Sequence[Program], image: np.ndarray, named: set[str], threads: int
) -> list[dict[str, float]]:
    """Seconds of each layer of each network: medians over turns, in which the network first runs freely.

    The networks take turns, so that all are of the same minutes.
    """
    sessions = [Session(program, threads=threads) for program in programs]
    profiles: list[list[dict[str, float]]] = [[] for _ in programs]
    for _ in range(TURNS):
        for session, found in zip(sessions, profiles):
            for _ in range(RUNS):
                session(image)
            layers = dict.fromkeys(named, 0.0)
            for step in session.profile(image, runs=RUNS):
                if (name := layer_of(step.node, named)) is not None:
                    layers[name] += step.seconds
            found.append(layers)
    return [{name: float(np.median([one[name] for one in found])) for name in named} for found in profiles]


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
    """What a packed network and the dense one take with so many threads, `latency` and `dense` in seconds.

    Beside them the fastest dense rival, `rival_seconds`.
    """
    import torch

    first = torch.from_numpy(images[:1])
    calibration = [(torch.from_numpy(images), torch.zeros(len(images), dtype=torch.long))]
    counts = (threads,) if threads == 1 else (1, threads)
    raced = race(
        program, model, peers=peers, data=calibration, example=first, threads=counts, blocks=blocks, network="fit",
        variant="fitted", report=report,
    )  # fmt: skip
    rival, seconds = _rival(raced, asked=bool(peers))
    ours, dense = (_seconds_of(name, raced, threads) for name in ("dovetail", "dovetail-dense"))
    return {"latency": ours, "dense": dense, "rival": rival, "rival_seconds": seconds}


def layer_of(node: str, named: set[str]) -> str | None:
    """The layer that a node of the engine is, or is a part of."""
    return max((name for name in named if node == name or node.startswith(f"{name}.")), key=len, default=None)


def _seconds_of(target: str, raced: Race, threads: int | None = None) -> float:
    """With so many threads, or with the better number."""
    return next(row.median_ms for row in raced.rows if row.target == target and threads in (None, row.threads)) / 1e3


def _rival(raced: Race, *, asked: bool) -> tuple[str, float]:
    """The fastest dense network of any type elsewhere, and its time by the ratio within the race; ours without one."""
    ratio = raced.ratio("vs_best")
    if ratio is None:
        if asked:
            log.warning("no other runtime has raced; shares of the latency are of our own dense network")
        return "dovetail-dense", _seconds_of("dovetail-dense", raced)
    return ratio.peer, ratio.value * _seconds_of("dovetail", raced)
