"""A plan's network before anything is trained: packed as the formats have its weights now, and raced.

Prices are of single layers. What layers do to each other's caches, and minutes in which a machine slows one format more
than another, show only where the whole network runs: so it runs once, and the prices are put right by what it took.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

import numpy as np

from dovetail.errors import BudgetError
from dovetail.fitting.surveys import BLOCKS, Survey, against_peers, in_formats, in_values, layer_seconds
from dovetail.formats.base import Spec
from dovetail.methods import Kept
from dovetail.program.layers import LayerShape
from dovetail.program.lower import lower
from dovetail.search.plan import Costs, Found

if TYPE_CHECKING:
    from torch import nn

    from dovetail.program.program import Program

log = logging.getLogger("dovetail.fit")
OURS: Final = "dovetail-dense"
ROUNDS: Final = 3
"""Networks that are rehearsed at most."""
NEAR: Final = 0.95
"""Share of the time allowed below which a rehearsed network has been pruned too far."""
Place = tuple[LayerShape, str]
"""A layer's shape and a format's name."""


@dataclass(frozen=True)
class Rehearsal:
    """What the network of a plan took, untrained.

    Attributes:
        latency: seconds of a run in the survey's race: its share of the rival's time beside it, of the rival's there.
        ratios: layer → over the same layer of the dense network, in turns with it.
    """

    latency: float
    ratios: Mapping[str, float]


Rehearse = Callable[[Found], Rehearsal]


def rehearse(
    model: nn.Module,
    images: np.ndarray,
    plan: Found,
    measured: Survey,
    *,
    blocks: int = BLOCKS,
    report: Callable[[str], None] = log.info,
) -> Rehearsal:
    """Run a plan's network as the dense weights make it, beside the dense one and its rival.

    Args:
        model: dense, on the CPU; it is not changed.
        images: normalised `(N, C, H, W)`: for calibration, and the first to time.
        plan: with the format of each layer.
        measured: of this network.
        blocks: of the race.
        report: called with one line per step.
    """
    import torch

    program = lower(model.eval(), torch.from_numpy(images[:1]))
    both = (in_formats(program, dict(plan.plan().specs())), program)
    planned, dense = (in_values(one, images, int8=measured.int8) for one in both)
    latency = raced_as_surveyed(planned, model, images, measured, blocks=blocks, report=report)
    names = set(measured.layers)
    own, theirs = layer_seconds([planned, dense], images[:1], names, measured.threads)
    return Rehearsal(latency, {name: own[name] / theirs[name] for name in names if theirs[name]})


def raced_as_surveyed(
    program: Program,
    model: nn.Module,
    images: np.ndarray,
    measured: Survey,
    *,
    blocks: int = BLOCKS,
    report: Callable[[str], None] = log.info,
) -> float:
    """Seconds of a run of a network in the survey's race: its share of its rival's time now, of the rival's time there.

    Args:
        program: packed.
        model: dense, which the rival runs.
        images: as in `rehearse`.
        measured: of the dense network.
        blocks: of the race.
        report: called with one line per step.
    """
    rival = () if measured.rival == OURS else (measured.rival,)
    raced = against_peers(program, model, images, threads=measured.threads, peers=rival, blocks=blocks, report=report)
    there = raced["rival"] == measured.rival
    now, before = ("rival_seconds", measured.rival_seconds) if there else ("dense", measured.raced)
    return float(raced["latency"] / raced[now] * before)


def rehearsed(
    plan: Found,
    rehearse: Rehearse,
    again: Callable[[Costs, Mapping[str, float]], Found],
    price: Costs,
    shapes: Sequence[LayerShape],
    candidates: Mapping[str, Sequence[Spec] | Kept],
    report: Callable[[str], None],
) -> tuple[Found, dict[Place, float]]:
    """Plan, rehearse and plan anew until what a network takes agrees with the limit on latency.

    Args:
        plan: the first, by the prices of single layers.
        rehearse: runs the network of a plan.
        again: plans by other prices, and other costs beyond the layers.
        price: of single layers.
        shapes: the network's distinct layers.
        candidates: of each layer, as `find` takes them.
        report: called with one line per step.

    Returns:
        Of the plans whose networks have run the one that spoils least within the limit, else the fastest, and what put
        its prices right.

    Raises:
        BudgetError: the limit cannot be met by the prices put right, and no network has kept to it.
    """
    limit, of = plan.limits["latency"], {name: shape for shape in shapes for name in shape.layers}
    factors, tried, ran = dict[Place, float](), list[tuple[Found, dict[Place, float]]](), list[tuple[float, float]]()
    while plan.changed and len(tried) < ROUNDS and plan.plan() not in [one.plan() for one, _ in tried]:
        report(f"rehearsing a plan that is predicted to take {1e3 * plan.predicted['latency']:.3f} ms")
        seen = rehearse(plan)
        ran.append((plan.predicted["latency"], seen.latency))
        report(f"its network takes {1e3 * seen.latency:.3f} ms untrained, of {1e3 * limit:.3f} ms allowed")
        factors = factors | _factors(plan, seen, price, of)
        right = _put_right(price, factors)
        plan = _as_run(plan, seen, right, of, candidates)
        tried.append((plan, factors))
        if NEAR * limit <= seen.latency <= limit:
            break
        try:
            plan = replace(again(right, plan.fixed), dense=plan.dense)
        except BudgetError:
            if not _held(tried, limit):
                raise
            break
    if not tried:
        return plan, factors
    held = _held(tried, limit)
    best = min(held, key=lambda one: one[0].damage) if held else min(tried, key=lambda one: one[0].predicted["latency"])
    return replace(best[0], rehearsals=tuple(ran)), best[1]


def _held(tried: Sequence[tuple[Found, dict[Place, float]]], limit: float) -> list[tuple[Found, dict[Place, float]]]:
    """Those whose networks have kept to the limit."""
    return [one for one in tried if one[0].predicted["latency"] <= limit]


def _factors(plan: Found, seen: Rehearsal, price: Costs, of: Mapping[str, LayerShape]) -> dict[Place, float]:
    """What layers took in a network over what they take by themselves; a mean for each shape and format."""
    found: dict[Place, list[float]] = {}
    for decision in plan.changed:
        shape, spec = of[decision.name], decision.spec
        if spec is not None and decision.name in seen.ratios:
            alone = price(shape, spec)["latency"] / price(shape, None)["latency"]
            found.setdefault((shape, spec.format), []).append(seen.ratios[decision.name] / alone)
    return {place: float(np.mean(some)) for place, some in found.items()}


def _put_right(price: Costs, factors: Mapping[Place, float]) -> Costs:
    """Prices of layers as they are in a network."""

    def right(shape: LayerShape, spec: Spec | None) -> dict[str, float]:
        found = dict(price(shape, spec))
        if spec is not None:
            found["latency"] *= factors.get((shape, spec.format), 1.0)
        return found

    return right


def _as_run(
    plan: Found,
    seen: Rehearsal,
    price: Costs,
    of: Mapping[str, LayerShape],
    candidates: Mapping[str, Sequence[Spec] | Kept],
) -> Found:
    """The plan with the time that its network took, and with prices put right; what these leave over is fixed."""
    first, decisions, layers = next(iter(plan.limits)), [], 0.0
    for decision in plan.decisions:
        shape, some = of[decision.name], candidates.get(decision.name, ())
        best = [price(shape, spec)[first] for spec in (() if isinstance(some, Kept) else some)]
        layers += price(shape, decision.spec)["latency"]
        chosen = price(shape, decision.spec)[first]
        decisions.append(replace(decision, chosen=chosen, best=min(best, default=None)))
    predicted = {**plan.predicted, "latency": seen.latency}
    fixed = {**plan.fixed, "latency": seen.latency - layers}
    return replace(plan, decisions=tuple(decisions), predicted=predicted, fixed=fixed)
