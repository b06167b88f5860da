"""A dense network with fewer channels within a budget: the rival of every format, and planned like one."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from typing import TYPE_CHECKING, Final, Self

import numpy as np

from dovetail.errors import BudgetError
from dovetail.fitting.offers import Asked
from dovetail.fitting.prices import weight_bytes
from dovetail.fitting.surveys import Survey, in_values, layer_seconds, stored_bytes
from dovetail.program.counts import count
from dovetail.program.layers import LayerShape, layer_shapes
from dovetail.program.lower import lower
from dovetail.search.budget import told
from dovetail.search.plan import Decision, Found

if TYPE_CHECKING:
    from torch import nn

    from dovetail.program.program import Program

log = logging.getLogger("dovetail.fit")
WIDTHS: Final = (0.125, 0.25, 0.375, 0.5, 0.625, 0.75, 0.875)
"""Shares of the channels of the dense networks that formats must beat."""
Build = Callable[[float], "nn.Module"]
"""Makes the network with a share of its channels; random weights do."""
Race = Callable[["Program"], float]
"""What a run of a network takes in the survey's race, in seconds."""


def width_within(build: Build, images: np.ndarray, seconds: float, measured: Survey) -> tuple[float, float] | None:
    """The widest dense network that is predicted to run in so much time, and what it takes; None where none is.

    Args:
        build: makes the network.
        images: as in `survey`.
        seconds: of a run in the race.
        measured: of the whole network.
    """
    found, widths = None, list(WIDTHS)
    while widths:
        width = widths[len(widths) // 2]
        layers = _Thinner.of(build, width, images, measured).seconds(images[:1], measured)
        takes = measured.rest + measured.scale * sum(layers.values())
        if takes <= seconds:
            found = (width, takes)
        widths = [w for w in widths if (w > width if takes <= seconds else w < width)]
    return found


def choose_width(
    build: Build,
    images: np.ndarray,
    asked: Asked,
    measured: Survey,
    *,
    race: Race,
    report: Callable[[str], None] = log.info,
) -> Found:
    """The widest dense network that keeps to the budget; nothing is trained.

    Bytes and multiplications are counted. Where latency is limited, networks run in the race with the weights that they
    begin with, first the one that the sum of its layers speaks for.

    Args:
        build: makes the network.
        images: normalised `(N, C, H, W)`.
        asked: the budget.
        measured: of the whole network.
        race: of a network in the values that are asked for.
        report: called with one line per step.

    Returns:
        A plan with its `width`; without one where the whole network keeps to the budget.

    Raises:
        BudgetError: the narrowest network does not keep to the budget.
    """
    limits = asked.budget.bounds(measured.references)

    @cache
    def tried(width: float) -> tuple[_Thinner, dict[str, float]]:
        thinner = _Thinner.of(build, width, images, measured)
        costs = thinner.costs(limits, race)
        report(f"{width:g} of the channels: {', '.join(told(name, value) for name, value in costs.items())}")
        return thinner, costs

    def holds(width: float) -> bool:
        return all(tried(width)[1][name] <= limit for name, limit in limits.items())

    dense = {"latency": measured.raced, "bytes": measured.bytes, "macs": measured.references["macs"]}
    layers = _costs(measured.shapes, measured.layers, measured, limits)
    plan = partial(_plan, layers, {name: dense[name] for name in limits}, limits, tuple(measured.layers))
    if all(dense[name] <= limit for name, limit in limits.items()):
        return plan(None, layers, dense)
    width = _widest(holds, _likely(build, images, measured, limits))
    thinner, costs = tried(width)
    if over := [name for name, limit in limits.items() if costs[name] > limit]:
        least, most = (told(over[0], value[over[0]], measured.references) for value in (costs, limits))
        raise BudgetError(
            f"{over[0]} of {most} cannot be met by any width: with {width:g} of its channels the network comes to "
            f"{least}"
        )
    seconds = thinner.seconds(images[:1], measured) if "latency" in limits else {}
    return plan(width, _costs(thinner.shapes, seconds, measured, limits), costs)


@dataclass(frozen=True)
class _Thinner:
    """A network with a share of its channels: its layers, and how it runs in the values that are asked for."""

    shapes: tuple[LayerShape, ...]
    program: Program

    @classmethod
    def of(cls, build: Build, width: float, images: np.ndarray, measured: Survey) -> Self:
        import torch

        plain = lower(build(width).eval(), torch.from_numpy(images[:1]))
        return cls(tuple(layer_shapes(plain)), in_values(plain, images, int8=measured.int8))

    def seconds(self, image: np.ndarray, measured: Survey) -> dict[str, float]:
        """Layer → what it takes, by our clock and not the race's."""
        named = {name for shape in self.shapes for name in shape.layers}
        (layers,) = layer_seconds([self.program], image, named, measured.threads)
        return layers

    def costs(self, limits: Mapping[str, float], race: Race) -> dict[str, float]:
        """Limited cost → of the whole network."""
        price: Mapping[str, Callable[[], float]] = {
            "latency": lambda: race(self.program),
            "bytes": lambda: stored_bytes(self.program),
            "macs": lambda: float(count(self.program).macs),
        }
        return {name: price[name]() for name in limits}


def _likely(build: Build, images: np.ndarray, measured: Survey, limits: Mapping[str, float]) -> int:
    """Where among the widths to begin."""
    if "latency" not in limits:
        return len(WIDTHS) // 2
    found = width_within(build, images, limits["latency"], measured)
    return 0 if found is None else WIDTHS.index(found[0])


def _widest(holds: Callable[[float], bool], place: int) -> float:
    """The widest that holds, from a place among the widths; the narrowest where none does."""
    while place + 1 < len(WIDTHS) and holds(WIDTHS[place]):
        place += 1
    while place and not holds(WIDTHS[place]):
        place -= 1
    return WIDTHS[place]


def _costs(
    shapes: tuple[LayerShape, ...], seconds: Mapping[str, float], measured: Survey, limits: Mapping[str, float]
) -> dict[str, tuple[str, float]]:
    """Layer → its shape in words and its first limited cost."""
    price: Mapping[str, Callable[[str, LayerShape], float]] = {
        "latency": lambda name, _: measured.scale * seconds[name],
        "bytes": lambda _, shape: weight_bytes(shape, None, int8=measured.int8),
        "macs": lambda _, shape: float(shape.macs),
    }
    first = next(iter(limits))
    return {name: (str(shape), price[first](name, shape)) for shape in shapes for name in shape.layers}


def _plan(
    dense: Mapping[str, tuple[str, float]],
    dense_costs: Mapping[str, float],
    limits: Mapping[str, float],
    order: Sequence[str],
    width: float | None,
    then: Mapping[str, tuple[str, float]],
    costs: Mapping[str, float],
) -> Found:
    """No layer has a format: each is told with what it is and costs, and with what that becomes."""
    decisions = []
    for name in order:
        shape, before = dense[name]
        thin, after = then.get(name, ("left out", 0.0))
        reason = "not needed: dense is within the budget" if width is None else thin
        decisions.append(Decision(name, shape, None, reason, before, after, None, 0.0))
    first, predicted = next(iter(limits)), {name: costs[name] for name in limits}
    return Found(
        tuple(decisions),
        predicted,
        dict(dense_costs),
        {first: predicted[first] - sum(one.chosen for one in decisions)},
        dict(limits),
        damage=0.0 if width is None else None,
        rule="widest",
        margin=0.0,
        width=width,
    )
