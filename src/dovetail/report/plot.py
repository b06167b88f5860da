"""Accuracy against latency as SVG: the thin-network curves, and our points with their names beside them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape

from dovetail.report.data import Point
from dovetail.report.numbers import digits

CURVES = {"thin": ("thin", "dense"), "int8": ("int8",)}
"""Groups that form a curve, and whose points it runs through: thin networks lead up to the dense original.

A point that another one of these beats in time and in accuracy is marked, but the curve passes it by.
"""
LEGEND = {
    "ours": "Dovetail, packed",
    "dense": "dense, best f32 runtime",
    "thin": "thinner dense networks, best f32 runtime",
    "int8": "dense or thinner, best int8 runtime",
}
LETTER, LINE = 7.4, 15.0
TICK_SPACE = 70


@dataclass(frozen=True)
class Axes:
    """The plotting area in pixels and what its edges stand for; time is logarithmic."""

    left: float
    top: float
    right: float
    bottom: float
    times: tuple[float, float]
    accuracies: tuple[float, float]

    def x(self, milliseconds: float) -> float:
        """Pixel of a latency."""
        low, high = (math.log(t) for t in self.times)
        return self.left + (math.log(milliseconds) - low) / (high - low) * (self.right - self.left)

    def y(self, accuracy: float) -> float:
        """Pixel of an accuracy."""
        low, high = self.accuracies
        return self.bottom - (accuracy - low) / (high - low) * (self.bottom - self.top)


def scatter(points: Sequence[Point], width: int, height: int) -> str:
    """An SVG of the given size in pixels; "" where there are no points."""
    if not points:
        return ""
    axes = _axes(points, width, height)
    body = [*_grid(axes), *_curves(points, axes), *_marks(points, axes), *_labels(points, axes)]
    words = f"Accuracy against latency of {len(points)} networks"
    head = f'<svg viewBox="0 0 {width} {height}" width="{width}" height="{height}" role="img" aria-label="{words}">'
    return "\n".join([head, *body, "</svg>"])


def legend(points: Iterable[Point]) -> list[tuple[str, str, str]]:
    """`(group, words, mark)` of the groups that occur, ours first; the mark is a small SVG."""
    present = {point.group for point in points}
    return [(group, words, swatch(group)) for group, words in LEGEND.items() if group in present]


def _axes(points: Sequence[Point], width: int, height: int) -> Axes:
    times, accuracies = [p.latency_ms for p in points], [p.accuracy for p in points]
    margin = max(0.12 * (max(accuracies) - min(accuracies)), 0.2)
    low, high = min(accuracies) - margin, min(max(accuracies) + margin, 100.0)
    spread = max((max(times) / min(times)) ** 0.1, 1.15)
    return Axes(46, 16, width - 16, height - 44, (min(times) / spread, max(times) * spread), (low, high))


def _grid(axes: Axes) -> list[str]:
    lines = []
    for value in _linear_ticks(*axes.accuracies):
        y = axes.y(value)
        lines.append(f'<line class="grid" x1="{axes.left}" x2="{axes.right}" y1="{y:.1f}" y2="{y:.1f}"/>')
        lines.append(_text("tick", axes.left - 8, y + 4, f"{value:g}", "end"))
    for value in log_ticks(*axes.times, most=int((axes.right - axes.left) / TICK_SPACE)):
        x = axes.x(value)
        lines.append(f'<line class="grid" x1="{x:.1f}" x2="{x:.1f}" y1="{axes.bottom}" y2="{axes.bottom + 5}"/>')
        lines.append(_text("tick", x, axes.bottom + 19, f"{value:g}", "middle"))
    middle = (axes.left + axes.right) / 2
    lines.append(f'<line class="axis" x1="{axes.left}" x2="{axes.right}" y1="{axes.bottom}" y2="{axes.bottom}"/>')
    lines.append(_text("tick", middle, axes.bottom + 38, "milliseconds per image (log)", "middle"))
    return lines


def _text(css: str, x: float, y: float, words: str, anchor: str) -> str:
    return f'<text class="{css}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(words)}</text>'


def _linear_ticks(low: float, high: float) -> list[float]:
    step = next(s for s in (0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0) if (high - low) / s <= 7)
    first = math.ceil(low / step)
    return [round(i * step, 6) for i in range(first, math.floor(high / step) + 1)]


def log_ticks(low: float, high: float, most: int) -> list[float]:
    """Round numbers between two positive ones, as many as `most` allows."""
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for factors in ((1, 1.5, 2, 3, 4, 5, 7), (1, 2, 3, 5), (1, 2, 5), (1, 3), (1,)):
        ticks = [f * 10.0**d for d in decades for f in factors if low <= f * 10.0**d <= high]
        if len(ticks) <= most:
            return ticks
    return ticks


def _curves(points: Sequence[Point], axes: Axes) -> list[str]:
    lines = []
    present = {point.group for point in points}
    for group, through in CURVES.items():
        members = _best([p for p in points if p.group in through])
        path = " ".join(f"{axes.x(p.latency_ms):.1f},{axes.y(p.accuracy):.1f}" for p in members)
        if group in present and len(members) > 1:
            lines.append(f'<polyline class="curve {group}" points="{path}"/>')
    return lines


def _best(points: Iterable[Point]) -> list[Point]:
    """From the fastest on those that are more accurate than all faster ones."""
    best: list[Point] = []
    for point in sorted(points, key=lambda p: (p.latency_ms, -p.accuracy)):
        if not best or point.accuracy > best[-1].accuracy:
            best.append(point)
    return best


def _marks(points: Sequence[Point], axes: Axes) -> list[str]:
    return [
        mark(
            p.group,
            axes.x(p.latency_ms),
            axes.y(p.accuracy),
            f"{p.label}: {digits(p.latency_ms)} ms, {p.accuracy:.2f} %",
        )
        for p in points
    ]


def mark(group: str, x: float, y: float, words: str = "") -> str:
    """Each group has a shape of its own, so that colour is never the only difference. Ours is the dovetail."""
    title = f"<title>{escape(words)}</title>" if words else ""
    match group:
        case "ours":
            shape = f'<path d="M{x - 8:.1f} {y - 6:.1f} h16 l-4 12 h-8 z"/>'
        case "int8":
            shape = f'<path d="M{x:.1f} {y - 6:.1f} l6 6 l-6 6 l-6 -6 z"/>'
        case "thin":
            shape = f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4.5"/>'
        case _:
            shape = f'<rect x="{x - 5:.1f}" y="{y - 5:.1f}" width="10" height="10"/>'
    return f'<g class="mark {group}">{title}{shape}</g>'


def swatch(group: str) -> str:
    """The mark of a group, for a legend."""
    return f'<svg width="20" height="16" aria-hidden="true">{mark(group, 10, 8)}</svg>'


@dataclass(frozen=True)
class Box:
    """A rectangle in pixels."""

    left: float
    top: float
    right: float
    bottom: float

    def meets(self, other: Box) -> bool:
        """Whether they share more than an edge."""
        return (
            self.left < other.right and other.left < self.right and self.top < other.bottom and other.top < self.bottom
        )

    def holds(self, other: Box) -> bool:
        """Whether the other lies inside."""
        return (
            self.left <= other.left
            and other.right <= self.right
            and self.top <= other.top
            and other.bottom <= self.bottom
        )


def _labels(points: Sequence[Point], axes: Axes) -> list[str]:
    """Names beside the marks, ours first; a name takes the first free place around its mark."""
    taken = [around(axes.x(p.latency_ms), axes.y(p.accuracy), 8, 8) for p in points]
    lines = []
    for point in sorted(points, key=lambda p: list(LEGEND).index(p.group)):
        place = _free_place(point, axes, taken)
        if place is not None:
            taken.append(place)
            lines.append(_text(f"label {point.group}", place.left, place.bottom - 4, point.label, "start"))
    return lines


def _free_place(point: Point, axes: Axes, taken: Sequence[Box]) -> Box | None:
    within = Box(2, 0, axes.right + 12, axes.bottom - 1)
    return free_place(axes.x(point.latency_ms), axes.y(point.accuracy), point.label, within, taken)


def free_place(x: float, y: float, words: str, within: Box, taken: Sequence[Box]) -> Box | None:
    """Beside, above or below a mark; None where everything is full (the mark's title still names it)."""
    wide = LETTER * len(words)
    corners = [
        (x + 12, y - LINE / 2),
        (x - wide - 12, y - LINE / 2),
        *((x + dx, y + dy) for dy in (9, -9 - LINE, 22, -22 - LINE) for dx in (-wide / 2, 4, -wide - 4)),
    ]
    for left, top in corners:
        box = Box(left, top, left + wide, top + LINE)
        if within.holds(box) and not any(box.meets(other) for other in taken):
            return box
    return None


def around(x: float, y: float, dx: float, dy: float) -> Box:
    """What a mark takes."""
    return Box(x - dx, y - dy, x + dx, y + dy)
