"""The time of a layer against the rank or the density of its candidates, as SVG: latency climbs in steps."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from itertools import pairwise
from typing import Any, Final

from dovetail.report import loglog, numbers
from dovetail.report.fits import Candidate, Decision, Fitted, Priced, words
from dovetail.report.plot import LETTER, LINE, Box, around, free_place, mark
from dovetail.report.stacked import text

FORMATS: Final = {
    "tucker": ("rank_in", "rank_out"),
    "svd": ("rank", None),
    "block_sparse": ("density", None),
    "sparse": ("density", None),
    "kernel_basis": ("density", "bases"),
    "permuted_diagonal": ("size", None),
    "block_circulant": ("size", None),
}
"""Format → what is drawn from left to right, and what has a line for each of its values."""
PIECES: Final = 8  # of the line between two candidates, where words keep clear of it
AXES: Final = {
    "rank_in": "rank of the inputs, D1 (log)",
    "rank": "rank (log)",
    "density": "density (log)",
    "size": "size of a block (log)",
}


@dataclass(frozen=True)
class Step:
    """A candidate: `at` is its place from left to right, the others are seconds."""

    at: float
    seconds: float
    low: float
    high: float
    spec: Mapping[str, Any]
    told: str


@dataclass(frozen=True)
class Line:
    """Candidates that differ in one number only, by that number."""

    name: str
    steps: tuple[Step, ...]


@dataclass(frozen=True)
class Staircase:
    """A layer with its candidates.

    Attributes:
        decision: about the layer.
        field: what is drawn from left to right.
        dense: seconds.
        most: seconds that a candidate may take.
        lines: one for each value of what is not drawn from left to right.
        strong: the line of the chosen candidate, or of the fastest.
    """

    decision: Decision
    field: str
    dense: float
    most: float
    lines: tuple[Line, ...]
    strong: Line

    @property
    def steps(self) -> list[Step]:
        """Of all lines."""
        return [step for line in self.lines for step in line.steps]

    @property
    def chosen(self) -> Step | None:
        """The candidate that was taken."""
        return next((step for step in self.steps if step.spec == self.decision.spec), None)

    @property
    def told(self) -> str:
        """What is drawn, in sentences."""
        one = self.decision
        end = f"it stays dense: {one.reason}" if one.spec is None else f"{words(one.spec)} was chosen"
        return (
            f"{one.name} ({one.shape}), which takes {numbers.milliseconds(1e3 * self.dense)} dense: "
            f"{len(self.steps)} candidates; {end}. What is worth taking lies below the broken line; bars go from the "
            "least to the most of the single measurements."
        )


def staircases(fitted: Fitted) -> dict[str, Staircase]:
    """Layer → what can be drawn of it: layers with candidates whose times were measured, the slowest first."""
    found = [staircase for decision in fitted.decisions if (staircase := _of(fitted, decision)) is not None]
    found.sort(key=lambda one: (-one.dense, one.decision.spec is None))
    return {staircase.decision.name: staircase for staircase in found}


def picture(staircase: Staircase, width: int, height: int) -> str:
    """An SVG of the given size in pixels."""
    several = len(staircase.lines) > 1
    plane = _plane(staircase, width, height, several=several)
    taken = [around(plane.x(step.at), plane.y(step.seconds), 5, 5) for step in staircase.steps]
    weak = [line for line in staircase.lines if line is not staircase.strong]
    unit = loglog.unit([*(step.high for step in staircase.steps), staircase.dense])
    body = [
        *loglog.vertical(plane, unit, "time"),
        *loglog.horizontal(plane, _ticks(staircase), AXES[staircase.field]),
        *_levels(plane, staircase, unit, taken),
        *(part for line in weak for part in _drawn(plane, line, "stair")),
        *(_whisker(plane, step) for step in staircase.strong.steps),
        *_drawn(plane, staircase.strong, "stair strong"),
        *(_names(plane, staircase) if several else ()),
        *_chosen(plane, staircase, taken),
    ]
    return loglog.svg(width, height, f"Time of {staircase.decision.name} in {len(staircase.steps)} formats", body)


def _of(fitted: Fitted, decision: Decision) -> Staircase | None:
    """The staircase of a layer; None where it has no candidates, or none that can be drawn."""
    priced = fitted.priced_of(decision.name)
    if priced is None or decision.best is None or not fitted.timed or not priced.dense:
        return None
    known = Counter(format for one in priced.candidates if (format := one.spec.get("format")) in FORMATS)
    if not known:
        return None
    format = known.most_common(1)[0][0]
    across, other = FORMATS[format]
    found: dict[float, list[Step]] = {}
    for one in priced.candidates:
        at, beside = _number(one.spec, across), 0.0 if other is None else _number(one.spec, other)
        if one.spec.get("format") == format and at and beside is not None:
            found.setdefault(beside, []).append(_step(one, at, priced.dense))
    if not found:
        return None
    lines = tuple(
        Line(_named(other, beside, priced), tuple(sorted(found[beside], key=lambda step: step.at)))
        for beside in sorted(found)
    )
    return Staircase(
        decision, across, priced.dense, (1 - fitted.margin) * priced.dense, lines, _strong(lines, decision)
    )


def _strong(lines: Sequence[Line], decision: Decision) -> Line:
    """The line of the chosen candidate, else that of the fastest."""
    has_it = next((line for line in lines if any(step.spec == decision.spec for step in line.steps)), None)
    return has_it or min(lines, key=lambda line: min(step.seconds for step in line.steps))


def _step(one: Candidate, at: float, dense: float) -> Step:
    middle, low, high = (dense * ratio for ratio in (one.ratio, one.low, one.high))
    times = [numbers.milliseconds(1e3 * time) for time in (middle, low, high)]
    told = "{}: {:.0%} of dense, {}, from {} to {}".format(words(one.spec), one.ratio, *times)
    return Step(at, middle, low, high, one.spec, told)


def _number(spec: Mapping[str, Any], field: str) -> float | None:
    value = spec.get(field)
    return float(value) if isinstance(value, int | float) and value > 0 else None


def _named(field: str | None, value: float, priced: Priced) -> str:
    """A line in a few letters."""
    if field == "rank_out":
        return f"D2 {value:g}" + (", all" if priced.weight[:1] == (value,) else "")
    return "" if field is None else f"{value:g} {field}"


def _plane(staircase: Staircase, width: int, height: int, *, several: bool) -> loglog.Plane:
    """With room for the names of the lines at the right, where there are several."""
    names = LETTER * max(len(line.name) for line in staircase.lines) + 26 if several else loglog.EDGE
    ends = [end for step in staircase.steps for end in (step.low, step.seconds, step.high)]
    return loglog.Plane(
        loglog.LEFT,
        loglog.TOP,
        width - names,
        height - loglog.BOTTOM,
        loglog.spread((step.at for step in staircase.steps), 1.12),
        loglog.spread([*ends, staircase.dense, staircase.most], 1.2),
    )


def _ticks(staircase: Staircase) -> list[tuple[float, str]]:
    places = sorted({step.at for step in staircase.steps})
    return [(at, f"{100 * at:.3g} %" if staircase.field == "density" else f"{at:g}") for at in places]


def _levels(plane: loglog.Plane, staircase: Staircase, unit: loglog.Unit, taken: list[Box]) -> list[str]:
    """The dense layer, and what a candidate may take; their words stand where no candidate is, or at the left."""
    lines = []
    share = 1 - staircase.most / staircase.dense
    for css, seconds, told, above in (
        ("level", staircase.dense, f"dense, {unit.told(staircase.dense)}", True),
        ("level margin", staircase.most, f"{share:.0%} less", False),
    ):
        y = plane.y(seconds)
        lines.append(f'<line class="{css}" x1="{plane.left}" x2="{plane.right:.1f}" y1="{y:.1f}" y2="{y:.1f}"/>')
        wide, top = LETTER * len(told), y - LINE - 1 if above else y + 1
        lefts = [plane.left + 6 + part * (plane.right - plane.left - wide - 12) for part in (0.0, 1.0, 0.5, 0.25, 0.75)]
        boxes = [Box(left, top, left + wide, top + LINE) for left in lefts]
        box = next((box for box in boxes if not any(box.meets(other) for other in taken)), boxes[0])
        taken.append(box)
        lines.append(text("label", box.left, box.bottom - 4, told))
    return lines


def _drawn(plane: loglog.Plane, line: Line, css: str) -> list[str]:
    """The line through its candidates, and a dot for each."""
    dots = [
        f'<circle class="{css}" cx="{plane.x(step.at):.1f}" cy="{plane.y(step.seconds):.1f}" r="3">'
        f"<title>{escape(step.told)}</title></circle>"
        for step in line.steps
    ]
    return [plane.line(css, *((step.at, step.seconds) for step in line.steps)), *dots]


def _whisker(plane: loglog.Plane, step: Step) -> str:
    x, low, high = plane.x(step.at), plane.y(step.low), plane.y(step.high)
    return f'<line class="whisker" x1="{x:.1f}" x2="{x:.1f}" y1="{low:.1f}" y2="{high:.1f}"/>'


def _names(plane: loglog.Plane, staircase: Staircase) -> list[str]:
    """The names of the lines in a column at the right, each led to from the end of its line; only one without room."""
    shown = staircase.lines if len(staircase.lines) * LINE <= plane.bottom - plane.top else (staircase.strong,)
    ends = sorted(shown, key=lambda line: plane.y(line.steps[-1].seconds))
    places = apart([plane.y(line.steps[-1].seconds) for line in ends], LINE, plane.bottom - 4)
    lines = []
    for line, y in zip(ends, places, strict=True):
        last, x = line.steps[-1], plane.right + 14
        css = "label ours" if line is staircase.strong else "tick"
        lines.append(
            f'<line class="leader" x1="{plane.x(last.at) + 5:.1f}" x2="{x - 3:.1f}" '
            f'y1="{plane.y(last.seconds):.1f}" y2="{y:.1f}"/>'
        )
        lines.append(text(css, x, y + 4, line.name))
    return lines


def apart(places: Sequence[float], by: float, most: float) -> list[float]:
    """Ascending places moved as far as it takes to lie `by` apart, the last at most at `most`."""
    found: list[float] = []
    for place in places:
        found.append(max(place, found[-1] + by) if found else place)
    for number in range(len(found) - 1, -1, -1):
        found[number] = min(found[number], most - by * (len(found) - 1 - number))
    return found


def _chosen(plane: loglog.Plane, staircase: Staircase, taken: Sequence[Box]) -> list[str]:
    """The candidate that was taken, with a mark and a word."""
    step = staircase.chosen
    if step is None:
        return []
    x, y = plane.x(step.at), plane.y(step.seconds)
    told = f"chosen, {step.seconds / staircase.dense:.0%} of dense"
    lines = [mark("ours", x, y, step.told)]
    if (place := free_place(x, y, told, plane.box, [*taken, *_along(plane, staircase.strong)])) is not None:
        lines.append(text("label ours", place.left, place.bottom - 4, told))
    return lines


def _along(plane: loglog.Plane, line: Line) -> list[Box]:
    """What the line itself takes, in pieces."""
    ends = [(plane.x(step.at), plane.y(step.seconds)) for step in line.steps]
    pieces = [(a, b, part / PIECES) for a, b in pairwise(ends) for part in range(PIECES + 1)]
    return [around(x1 + t * (x2 - x1), y1 + t * (y2 - y1), 3, 3) for (x1, y1), (x2, y2), t in pieces]
