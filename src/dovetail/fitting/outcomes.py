"""What came of a plan: the trained network raced, counted and scored, beside what was predicted and what is allowed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from dovetail.fitting.modelled import came_to as modelled_costs
from dovetail.fitting.surveys import against_peers, in_values, layer_seconds, stored_bytes
from dovetail.program.counts import count
from dovetail.program.lower import lower
from dovetail.search.budget import Budget

if TYPE_CHECKING:
    import numpy as np
    from torch import nn

    from dovetail.fitting.offers import Asked
    from dovetail.program.program import Program


@dataclass(frozen=True)
class Expected:
    """What a plan expects, as its notes have it, too.

    Attributes:
        predicted: cost → of the whole network.
        references: cost → what shares of the budget are of; that of latency is the rival's in the last race.
        layers: name → seconds of the dense layers when they were surveyed.
        scale: seconds in the race for each of these.
        threads: of the engine.
    """

    predicted: Mapping[str, float]
    references: Mapping[str, float]
    layers: Mapping[str, float]
    scale: float
    threads: int


def came_of(
    program: Program,
    dense: nn.Module,
    images: np.ndarray,
    asked: Asked,
    expected: Expected,
    accuracies: Mapping[str, float],
    *,
    peers: Sequence[str],
) -> dict[str, Any]:
    """A race in processes of its own, and all that follows from it.

    Args:
        program: the packed network.
        dense: the network as it was handed in, which peers run.
        images: as in `survey`.
        asked: what the plan was wanted for.
        expected: of the plan.
        accuracies: `accuracy` and `dense_accuracy`, on held-out images in percent.
        peers: other runtimes.

    Returns:
        `latency` in seconds, `rival_seconds` of the fastest dense network beside it, `bytes`, `macs`, and `cycles` and
        `energy` where a machine is named; of each limited cost what the budget allows, `bounds`, by what share of its
        prediction it differs, `off`, and its share of the bound, `used`; `layers`, the seconds of each in the plan's;
        whether limits and accuracy are `kept`; and the accuracies.
    """
    raced = against_peers(program, dense, images, threads=expected.threads, peers=peers)
    if asked.machine is not None:
        raced |= modelled_costs(program, asked.machine, images)
    came = {**came_to(asked.budget, expected.references, program, raced), **accuracies}
    layers = _layers(program, dense, images, expected, int8=asked.int8)
    told = {"layers": layers, "kept": kept(came, asked.budget.accuracy_drop)}
    return {**came, **_beside(came, expected.predicted), **told}


def _layers(
    program: Program, dense: nn.Module, images: np.ndarray, expected: Expected, *, int8: bool
) -> dict[str, float]:
    """Layer → seconds as the plan counts them.

    The dense network is profiled in the same minutes: what its layers take now is what the plan had for them.
    """
    import torch

    whole = in_values(lower(dense.eval(), torch.from_numpy(images[:1])), images, int8=int8)
    now, before = layer_seconds([program, whole], images[:1], set(expected.layers), expected.threads)
    scale = expected.scale * sum(expected.layers.values()) / sum(before.values())
    return {name: scale * seconds for name, seconds in now.items()}


def came_to(
    budget: Budget, references: Mapping[str, float], program: Program, raced: Mapping[str, Any]
) -> dict[str, Any]:
    """Costs of the packed network beside `bounds`, what the budget allows; shares are of the rival of the same race."""
    now = {**references, "latency": raced["rival_seconds"]}
    return {**raced, "bytes": stored_bytes(program), "macs": count(program).macs, "bounds": budget.bounds(now)}


def _beside(achieved: Mapping[str, Any], predicted: Mapping[str, float]) -> dict[str, dict[str, float]]:
    """Of each limited cost `off`, by what share of its prediction it differs, and `used`, its share of the bound."""
    bounds = achieved["bounds"]
    return {
        "off": {name: achieved[name] / predicted[name] - 1 for name in bounds},
        "used": {name: achieved[name] / bound for name, bound in bounds.items()},
    }


def kept(achieved: Mapping[str, Any], drop: float | None) -> dict[str, bool]:
    """Cost or "accuracy" → whether it keeps to the budget; those that it limits."""
    found = {name: achieved[name] <= bound for name, bound in achieved["bounds"].items()}
    lost = achieved["dense_accuracy"] - achieved["accuracy"]
    return found if drop is None else {"accuracy": lost <= drop + 1e-9, **found}
