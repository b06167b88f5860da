"""A plan's network before anything is trained: packed as the formats have its weights now, and raced.

Prices are of single layers. What layers do to each other's caches, and minutes in which a machine slows one format more
than another, show only where the whole network runs: so it runs once, and the prices are put right by what it took.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from dovetail.fitting.surveys import BLOCKS, Survey, against_peers, in_values, layer_seconds
from dovetail.formats import FORMATS
from dovetail.program.lower import lower

if TYPE_CHECKING:
    import numpy as np
    from torch import nn

    from dovetail.program.program import Program
    from dovetail.search.plan import Found

log = logging.getLogger("dovetail.fit")
OURS: Final = "dovetail-dense"


@dataclass(frozen=True)
class Rehearsal:
    """What the network of a plan took, untrained.

    Attributes:
        latency: seconds of a run in the survey's race: its share of the rival's time beside it, of the rival's there.
        ratios: layer → over the same layer of the dense network, in turns with it.
    """

    latency: float
    ratios: Mapping[str, float]


Rehearse = Callable[["Found"], Rehearsal]


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

    threads, rival = measured.threads, () if measured.rival == OURS else (measured.rival,)
    program = lower(model.eval(), torch.from_numpy(images[:1]))
    planned, dense = (in_values(one, images, int8=measured.int8) for one in (in_formats(program, plan), program))
    raced = against_peers(planned, model, images, threads=threads, peers=rival, blocks=blocks, report=report)
    names = set(measured.layers)
    own, theirs = layer_seconds([planned, dense], images[:1], names, threads)
    ratios = {name: own[name] / theirs[name] for name in names if theirs[name]}
    there = raced["rival"] == measured.rival
    now, before = ("rival_seconds", measured.rival_seconds) if there else ("dense", measured.raced)
    return Rehearsal(raced["latency"] / raced[now] * before, ratios)


def in_formats(program: Program, plan: Found) -> Program:
    """The dense network with the weights of a plan's layers brought to their formats, and not trained there."""
    weights = dict(program.weights)
    for decision in plan.changed:
        assert decision.spec is not None
        kind = FORMATS[decision.spec.format].packed
        weights[decision.name] = kind.from_dense(weights[decision.name].dense(), decision.spec)
    return replace(program, weights=weights)
