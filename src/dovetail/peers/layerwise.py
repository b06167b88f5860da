"""The shape suite: single layers on our engine, by every kernel that can run them, and in other runtimes.

A layer is timed as networks are: a process for each target and thread count, in turn, copies and conversions at its
ends inside the timer. Ours is timed once more without them, between other layers as it would be in a network.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from dovetail.engine import Schedule, Session, codes_kernels
from dovetail.engine.kernels import place
from dovetail.errors import PeerError
from dovetail.peers import engine
from dovetail.peers.compare import AGAIN, Outcome, Questions, Truth, compare
from dovetail.peers.peer import Images, Peer, Source, Target
from dovetail.peers.ratios import paired, summarise
from dovetail.peers.schedule import Pace, Report
from dovetail.peers.shapes import module_of
from dovetail.program.layers import LayerShape
from dovetail.program.ops import complete
from dovetail.program.program import BATCH, Node, Program

if TYPE_CHECKING:
    from torch import nn

IMAGES = 8
PROFILED = 30
WARM = 0.05  # seconds until the system has put the threads of a new session on cores of their own
PACE = Pace(blocks=8)
NAMES = {"f32": "dovetail", "int8": "dovetail-int8"}


@dataclass(frozen=True)
class Row:
    """One way to run a layer, with one number of threads.

    Attributes:
        target: a peer, or `dovetail-<kernel>` and `dovetail-int8-<kernel>`.
        kernel: the candidate of ours, else "".
        exact: whether ours adds up the products of the convolution itself; Winograd's filtering does not.
        layer_ms: ours between other layers, without the copies at the network's ends.
    """

    target: str
    dtype: str
    threads: int
    median_ms: float
    p10_ms: float
    p90_ms: float
    runs: int
    max_error: float
    kernel: str = ""
    exact: bool = True
    layer_ms: float | None = None

    def to_json(self) -> dict[str, Any]:
        """Plain data; what only ours have is left out of the others."""
        data = asdict(self)
        return data if self.kernel else {n: v for n, v in data.items() if n not in ("kernel", "exact", "layer_ms")}


@dataclass(frozen=True)
class Timed:
    """All that was measured of one shape.

    Attributes:
        noise: a target against itself, as a ratio of medians.
        absent: who did not take part, and why.
    """

    shape: LayerShape
    rows: tuple[Row, ...]
    noise: float | None
    absent: Mapping[str, str]


@dataclass(frozen=True)
class _Ours:
    """One candidate as a target, and what is needed to time it alone."""

    target: Target
    program: Program
    kernels: Mapping[str, str]
    kernel: str
    exact: bool


def time_layer(
    shape: LayerShape,
    peers: Sequence[Peer],
    *,
    threads: Sequence[int],
    pace: Pace = PACE,
    timeout: float = 300.0,
    report: Report = lambda _: None,
) -> Timed:
    """Time one shape, with seeded random weights, one image at a time.

    Raises:
        PeerError: our own engine failed.
    """
    import torch

    torch.manual_seed(0)
    layer = module_of(shape)
    images = np.random.default_rng(0).standard_normal((IMAGES, *shape.input), dtype=np.float32)
    with tempfile.TemporaryDirectory(prefix="dovetail-shape-") as folder:
        ours, truth = _candidates(layer, images, Path(folder))
        others, absent = _others(layer, images, peers, Path(folder))
        targets = [*(one.target for one in ours), *others]
        questions = Questions(images[:1], images[:1], truth)
        outcome = compare(targets, questions, threads=threads, pace=pace, timeout=timeout, report=report)
        rows = tuple(_rows(outcome, {one.target.name: one for one in ours}, images[:1]))
    return Timed(shape, rows, _noise(outcome, targets[0].name), {**absent, **outcome.absent})


def _candidates(layer: nn.Module, images: Images, folder: Path) -> tuple[list[_Ours], Truth]:
    """Every kernel for the layer in f32 and in int8, and what each network computes on the first image."""
    from dovetail.program.reference import run

    found: list[_Ours] = []
    plain, between = _programs([layer], images), _programs(_between(layer), images)
    for dtype, program in plain.items():
        path = folder / f"{NAMES[dtype]}.dovetail"
        program.save(path)
        node, inside = _weighted(program), _weighted(between[dtype])
        for candidate in _all_kernels(program, node):
            arguments = {"path": str(path), "kernels": {node.name: candidate.name}}
            reference = "original" if dtype == "f32" else "compressed"
            target = Target(f"{NAMES[dtype]}-{candidate.name}", dtype, engine.MODULE, arguments, reference)
            kernels = {inside.name: candidate.name}
            found.append(_Ours(target, between[dtype], kernels, candidate.name, candidate.exact))
    truth = {name: (run(plain[dtype], images[:1]),) for name, dtype in (("original", "f32"), ("compressed", "int8"))}
    return found, truth


def _between(layer: nn.Module) -> list[nn.Module]:
    """The layer with one before it that writes its input in its layout, and one after it that reads what it wrote."""
    from torch import nn

    return [nn.ReLU(), layer, *([nn.AdaptiveAvgPool2d(1)] if isinstance(layer, nn.Conv2d) else [])]


def _programs(layers: Sequence[nn.Module], images: Images) -> dict[str, Program]:
    import torch
    from torch import nn

    from dovetail.engine.quantize import quantize
    from dovetail.program.lower import lower

    program = lower(nn.Sequential(*layers).eval(), torch.from_numpy(images[:1]))
    return {"f32": program, "int8": quantize(program, [images], rule="minmax")}


def _weighted(program: Program) -> Node:
    (node,) = (complete(node) for node in program.graph.nodes if node.weight is not None)
    return node


def _all_kernels(program: Program, node: Node) -> Sequence[codes_kernels.AnyCandidate]:
    graph = program.graph
    where = place(node, program.shapes(graph, {BATCH: 1}))
    return codes_kernels.candidates_of(node, graph, program.weights[node.weight or ""], where)


def _others(
    layer: nn.Module, images: Images, peers: Sequence[Peer], folder: Path
) -> tuple[list[Target], dict[str, str]]:
    import torch
    from torch import nn

    source = Source(nn.Sequential(layer).eval(), torch.from_numpy(images[:1]), images)
    found, absent = [], {}
    for peer in peers:
        try:
            found.append(peer.target(source, folder))
        except PeerError as error:
            absent[peer.name] = str(error).removeprefix(f"{peer.name}: ")
    return found, absent


def _rows(outcome: Outcome, ours: Mapping[str, _Ours], image: Images) -> list[Row]:
    rows = []
    for (name, threads), blocks in outcome.times.items():
        if name == AGAIN:
            continue
        times, error = summarise(blocks), outcome.answers[name, threads].max_error
        took = (round(ms, 6) for ms in (times.median, times.p10, times.p90))
        row = Row(name, outcome.targets[name].dtype, threads, *took, times.runs, error)
        rows.append(row if name not in ours else _with_layer(row, ours[name], image))
    return rows


def _with_layer(row: Row, own: _Ours, image: Images) -> Row:
    """The row with the time of the layer between others."""
    session = Session(own.program, threads=row.threads, schedule=Schedule(own.kernels))
    (name,) = own.kernels
    end = time.perf_counter() + WARM
    while time.perf_counter() < end:
        session(image)
    times = {step.node: step.seconds for step in session.profile(image, runs=PROFILED)}
    return replace(row, kernel=own.kernel, exact=own.exact, layer_ms=round(1e3 * times[name], 6))


def _noise(outcome: Outcome, ours: str) -> float | None:
    """Our first target against its twin, at the thread count at which it is faster."""
    key = outcome.best(ours)
    if key is None or (twin := (AGAIN, key[1])) not in outcome.times:
        return None
    return round(paired(outcome.times[twin], outcome.times[key]).median, 4)
