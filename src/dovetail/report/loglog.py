"""A plane with two logarithmic axes, for drawings of times."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape
from typing import Final

from dovetail.report import numbers
from dovetail.report.plot import Box, log_ticks
from dovetail.report.stacked import text

ACROSS, UP = 46, 30
"""Pixels that a tick and its number take, beside and above each other."""
LEFT, TOP, BOTTOM, EDGE = 52, 30, 44, 16


@dataclass(frozen=True)
class Unit:
    """A unit of time, and how many of it a second has."""

    name: str
    symbol: str
    per_second: float

    def told(self, seconds: float) -> str:
        """A time in words."""
        return f"{numbers.digits(self.per_second * seconds)} {self.symbol}"


MICROSECONDS: Final = Unit("microseconds", "µs", 1e6)
MILLISECONDS: Final = Unit("milliseconds", "ms", 1e3)


@dataclass(frozen=True)
class Plane:
    """The plotting area in pixels, and what its edges stand for."""

    left: float
    top: float
    right: float
    bottom: float
    across: tuple[float, float]
    up: tuple[float, float]

    def x(self, value: float) -> float:
        """Pixel of a value on the horizontal axis."""
        return self.left + _share(value, self.across) * (self.right - self.left)

    def y(self, value: float) -> float:
        """Pixel of a value on the vertical axis."""
        return self.bottom - _share(value, self.up) * (self.bottom - self.top)

    @property
    def box(self) -> Box:
        """Where marks and labels may be."""
        return Box(self.left + 2, self.top, self.right + EDGE - 4, self.bottom - 2)

    def line(self, css: str, *ends: tuple[float, float]) -> str:
        """Through points given by their values."""
        points = " ".join(f"{self.x(x):.1f},{self.y(y):.1f}" for x, y in ends)
        return f'<polyline class="{css}" points="{points}"/>'

    def area(self, css: str, *corners: tuple[float, float]) -> str:
        """A polygon, given by values."""
        return self.line(css, *corners).replace("polyline", "polygon", 1)


def spread(values: Iterable[float], by: float) -> tuple[float, float]:
    """From the least to the most, a factor further on either side."""
    known = list(values)
    return min(known) / by, max(known) * by


def unit(seconds: Iterable[float]) -> Unit:
    """That suits the longest of some times."""
    return MILLISECONDS if max(seconds) >= 1e-3 else MICROSECONDS


def ticks(ends: tuple[float, float], most: float, unit: Unit) -> list[tuple[float, str]]:
    """Round times between two, in seconds and in words, at most so many."""
    low, high = (unit.per_second * end for end in ends)
    return [(t / unit.per_second, f"{t:.6g}") for t in log_ticks(low, high, most=max(int(most), 2))]


def vertical(plane: Plane, unit: Unit, words: str) -> list[str]:
    """Ticks of times in seconds on the vertical axis, and its words above."""
    lines = [text("tick", 2, 13, f"{words}, {unit.name} (log)")]
    for value, told in ticks(plane.up, (plane.bottom - plane.top) / UP, unit):
        y = plane.y(value)
        lines.append(f'<line class="grid" x1="{plane.left}" x2="{plane.right}" y1="{y:.1f}" y2="{y:.1f}"/>')
        lines.append(text("tick", plane.left - 7, y + 4, told, "end"))
    return lines


def horizontal(plane: Plane, marks: Iterable[tuple[float, str]], words: str) -> list[str]:
    """Ticks with their words on the horizontal axis, those with room, and what it shows below."""
    lines, free = [], -math.inf
    for value, told in marks:
        x = plane.x(value)
        lines.append(f'<line class="grid" x1="{x:.1f}" x2="{x:.1f}" y1="{plane.bottom}" y2="{plane.bottom + 5}"/>')
        if x - 4 * len(told) >= free:
            lines.append(text("tick", x, plane.bottom + 19, told, "middle"))
            free = x + 4 * len(told) + 6
    middle = (plane.left + plane.right) / 2
    lines.append(f'<line class="axis" x1="{plane.left}" x2="{plane.right}" y1="{plane.bottom}" y2="{plane.bottom}"/>')
    lines.append(text("tick", middle, plane.bottom + 38, words, "middle"))
    return lines


def svg(width: int, height: int, words: str, body: Sequence[str]) -> str:
    """The element around a drawing, to stand in a page that has the style."""
    size = f'viewBox="0 0 {width} {height}" width="{width}" height="{height}"'
    return "\n".join([f'<svg {size} role="img" aria-label="{escape(words)}">', *body, "</svg>"])


def _share(value: float, ends: tuple[float, float]) -> float:
    low, high = (math.log(end) for end in ends)
    return (math.log(value) - low) / (high - low)
