"""A tornado: what half and twice each parameter, or another choice, does to cycles and energy, the strongest on top."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any, Final

from dovetail.report import numbers
from dovetail.report.stacked import svg, text

Json = Mapping[str, Any]
WIDTH, LABELS, GAP, EDGE = 720, 236, 30, 34
TOP, ROW, BAR = 64, 24, 12
LEAST: Final = 0.0005
"""Changes below this share of the whole count as none."""
SIDES: Final = ((0, "imbalance", "½"), (1, "compute", "2×"))


@dataclass(frozen=True)
class Swing:
    """A parameter and, for cycles and for energy, the changes by half and by twice its value, as shares."""

    name: str
    value: str
    means: str
    cycles: tuple[float | None, float | None]
    energy: tuple[float | None, float | None]

    @property
    def most(self) -> float:
        """The largest change of all."""
        return max((abs(change) for change in (*self.cycles, *self.energy) if change is not None), default=0.0)


def swings(effects: Iterable[Json], whole: Json) -> list[Swing]:
    """From the effects of a simulation and its sum, the strongest first."""
    found = [
        Swing(
            effect["field"],
            numbers.setting(effect["value"]),
            effect["means"],
            _changes(effect["cycles"], whole["cycles"]),
            _changes(effect["joules"], whole["joules"]),
        )
        for effect in effects
    ]
    return sorted(found, key=lambda swing: -swing.most)


def tornado(effects: Iterable[Json], whole: Json, title: str) -> str:
    """An SVG of two panels; "" where there is nothing to draw."""
    found = swings(effects, whole)
    if not found:
        return ""
    drawn = [swing for swing in found if swing.most >= LEAST]
    without = [swing.name for swing in found if swing.most < LEAST]
    height = TOP + ROW * len(drawn) + 34 + (18 * len(_lines(without)))
    body = [text("strong", 0, 14, title), *_legend()]
    body += [line for row, swing in enumerate(drawn) for line in _label(swing, TOP + ROW * row)]
    for panel, words in enumerate(("cycles", "energy")):
        changes = [swing.cycles if words == "cycles" else swing.energy for swing in drawn]
        body += _panel(panel, words, changes)
    for number, line in enumerate(_lines(without)):
        body.append(text("", 0, TOP + ROW * len(drawn) + 44 + 18 * number, line))
    return svg(WIDTH, height, f"{title}: {len(found)} parameters halved and doubled", body)


def _changes(amounts: Sequence[float | None], whole: float) -> tuple[float | None, float | None]:
    low, high = (None if amount is None or not whole else amount / whole - 1 for amount in amounts)
    return low, high


def _legend() -> list[str]:
    words = ("half the value, or else", "twice the value")
    lines, x = [], 0.0
    for (_, css, _), told in zip(SIDES, words, strict=True):
        lines += [f'<rect class="{css}" x="{x}" y="24" width="11" height="11" rx="1"/>', text("", x + 16, 34, told)]
        x += 160
    return lines


def _label(swing: Swing, y: float) -> list[str]:
    title = f"<title>{escape(swing.means)}</title>"
    name = f'<text class="ink" x="0" y="{y + 16:.1f}">{title}{escape(swing.name)}</text>'
    return [name, text("", LABELS - 8, y + 16, swing.value, "end")]


def _panel(panel: int, words: str, rows: Sequence[tuple[float | None, float | None]]) -> list[str]:
    wide = (WIDTH - LABELS - GAP) / 2
    left, bottom = LABELS + panel * (wide + GAP) + EDGE, TOP + ROW * len(rows)
    every = [change for row in rows for change in row if change is not None]
    low, high = min(0.0, *every, -LEAST), max(0.0, *every, LEAST)
    scale = (wide - 2 * EDGE) / (high - low)
    zero = left - low * scale
    lines = [text("ink", zero, TOP - 10, words, "middle")]
    for tick in _ticks(low, high):
        x = zero + tick * scale
        lines.append(f'<line class="scale" x1="{x:.1f}" x2="{x:.1f}" y1="{TOP}" y2="{bottom}"/>')
        lines.append(text("", x, bottom + 16, f"{tick:+.0%}" if tick else "0", "middle"))
    for number, row in enumerate(rows):
        lines += _row(row, TOP + ROW * number, zero, scale)
    return [*lines, f'<line class="zero" x1="{zero:.1f}" x2="{zero:.1f}" y1="{TOP}" y2="{bottom}"/>']


def _row(changes: tuple[float | None, float | None], y: float, zero: float, scale: float) -> list[str]:
    """Both bars; where both lie on one side, the longer one is behind, and alone has its mark at the end."""
    lines: list[str] = []
    marked: set[bool] = set()
    for side, css, mark in sorted(SIDES, key=lambda each: -abs(changes[each[0]] or 0.0)):
        change = changes[side]
        if change is None or abs(change) < LEAST:
            continue
        x, width = zero + min(change, 0.0) * scale, abs(change) * scale
        title = f"<title>{mark}: {change:+.1%}</title>"
        bar = f'<rect class="part {css}" x="{x:.1f}" y="{y + 6}" width="{width:.1f}" height="{BAR}"/>'
        lines.append(f"<g>{title}{bar}</g>")
        if (grows := change > 0) not in marked:
            end, anchor = (x - 4, "end") if change < 0 else (x + width + 4, "start")
            lines.append(text("", end, y + 16, mark, anchor))
            marked.add(grows)
    return lines


def _ticks(low: float, high: float) -> list[float]:
    """Round shares from `low` to `high`, at most five, zero among them."""
    step = 10.0 ** math.floor(math.log10(high - low))
    step = next(step * factor for factor in (0.2, 0.5, 1.0, 2.0, 5.0) if (high - low) / (step * factor) <= 4)
    return [number * step for number in range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)]


def _lines(names: Sequence[str], most: int = 100) -> list[str]:
    """The parameters that change nothing, in lines of a readable length."""
    lines: list[str] = []
    for number, name in enumerate(names):
        word = name + ("," if number + 1 < len(names) else "")
        if lines and len(lines[-1]) + len(word) < most:
            lines[-1] += f" {word}"
        else:
            lines.append(word if lines else f"without effect: {word}")
    return lines
