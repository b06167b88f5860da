"""Predicted against measured seconds of each layer of a fitted network, as SVG."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from dovetail.report import loglog, numbers
from dovetail.report.fits import NEAR, Fitted
from dovetail.report.plot import Box, around, free_place, mark, swatch
from dovetail.report.stacked import text

KINDS: Final = {"ours": "in a new format", "dense": "left dense"}


@dataclass(frozen=True)
class Prediction:
    """Seconds of one layer; `kind` is a key of `KINDS`."""

    name: str
    kind: str
    predicted: float
    measured: float

    @property
    def ratio(self) -> float:
        """Measured over predicted."""
        return self.measured / self.predicted

    @property
    def far(self) -> bool:
        """Whether it is off by more than `NEAR`."""
        return abs(self.ratio - 1) > NEAR

    @property
    def told(self) -> str:
        """In words."""
        predicted, measured = (numbers.milliseconds(1e3 * time) for time in (self.predicted, self.measured))
        return f"{self.name}: {predicted} predicted, {measured} measured, {self.ratio - 1:+.0%}"


def predictions(fitted: Fitted) -> list[Prediction]:
    """Of every layer with both times; nothing before training, or where no times were predicted."""
    if fitted.achieved is None or not fitted.timed:
        return []
    times = fitted.achieved.layers
    return [
        Prediction(d.name, "dense" if d.spec is None else "ours", d.chosen, times[d.name])
        for d in fitted.decisions
        if d.chosen > 0 and times.get(d.name, 0.0) > 0
    ]


def scatter(found: Sequence[Prediction], width: int, height: int) -> str:
    """An SVG of the given size in pixels: above the diagonal is slower than predicted. "" where there are none."""
    if not found:
        return ""
    times = [time for one in found for time in (one.predicted, one.measured)]
    ends = loglog.spread(times, max((max(times) / min(times)) ** 0.06, 1.3))
    plane = loglog.Plane(loglog.LEFT, loglog.TOP, width - loglog.EDGE, height - loglog.BOTTOM, ends, ends)
    unit = loglog.unit(times)
    ticks = loglog.ticks(ends, (plane.right - plane.left) / loglog.ACROSS, unit)
    body = [
        *_band(plane),
        *loglog.vertical(plane, unit, "measured"),
        *loglog.horizontal(plane, ticks, f"predicted, {unit.name} (log)"),
        *(mark(one.kind, plane.x(one.predicted), plane.y(one.measured), one.told) for one in found),
        *_labels(plane, found),
    ]
    return loglog.svg(width, height, f"Predicted against measured time of {len(found)} layers", body)


def legend(found: Sequence[Prediction]) -> list[tuple[str, str]]:
    """`(words, mark)` of the kinds that occur."""
    present = {one.kind for one in found}
    return [(words, swatch(kind)) for kind, words in KINDS.items() if kind in present]


def summary(fitted: Fitted, found: Sequence[Prediction]) -> str:
    """How well the predictions were kept, in sentences; "" where there are none."""
    if not found:
        return ""
    ordered = sorted(found, key=lambda one: one.ratio)
    near = sum(not one.far for one in found)
    middle = statistics.median(one.ratio for one in found)
    least, most = (f"{numbers.times(one.ratio)} ({one.name})" for one in (ordered[0], ordered[-1]))
    lines = [
        f"{near} of {len(found)} layers within {NEAR:.0%} of the prediction, the band; only the others are named.",
        f"Measured over predicted: {numbers.times(middle)} in the middle, from {least} to {most}.",
    ]
    shown = {one.name for one in found}
    if absent := [decision.name for decision in fitted.decisions if decision.name not in shown]:
        lines.append(f"Not timed by themselves: {', '.join(absent)}.")
    return " ".join(lines)


def _band(plane: loglog.Plane) -> list[str]:
    """Where predictions count as kept, and the diagonal in its middle."""
    low, high = plane.across
    over, under = 1 + NEAR, 1 - NEAR
    corners = (
        (low, low),
        (low, over * low),
        (high / over, high),
        (high, high),
        (high, under * high),
        (low / under, low),
    )
    return [plane.area("band", *corners), plane.line("diagonal", (low, low), (high, high))]


def _labels(plane: loglog.Plane, found: Sequence[Prediction]) -> list[str]:
    """Names of the layers that are far off, the furthest first, each at the first free place around its mark."""
    taken: list[Box] = [around(plane.x(one.predicted), plane.y(one.measured), 8, 8) for one in found]
    lines = []
    far = [one for one in found if one.far]
    for one in sorted(far, key=lambda one: -max(one.ratio, 1 / one.ratio)):
        place = free_place(plane.x(one.predicted), plane.y(one.measured), one.name, plane.box, taken)
        if place is not None:
            taken.append(place)
            lines.append(text(f"label {one.kind}", place.left, place.bottom - 4, one.name))
    return lines
