"""Bars of what networks cost on machines, stacked by cause: cycles by what they were spent on, energy by part."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from importlib import resources
from typing import Any, Final

from dovetail.report import numbers

Json = Mapping[str, Any]
WIDTH, LABELS, END = 720, 214, 86
TOP, ROW, BAR, MARGIN = 46, 36, 20, 16
LETTER = 6.4
CAUSES: Final = (
    "compute",
    "imbalance",
    "fill",
    "stalls",
    "additions",
    "broadcast",
    "halo",
    "memory",
    "first load",
)
COLOURS: Final[Mapping[str, str]] = {
    "arithmetic": "compute",
    "registers": "imbalance",
    "memory on the chip": "fill",
    "logic and wires": "stalls",
    "leakage and clock": "halo",
    "memory off the chip": "memory",
    "other": "load",
    "first load": "load",
}
"""What has the colour of another, as the style names it; every other cause has its own."""
FAMILIES: Final[Mapping[str, tuple[str, ...]]] = {
    "arithmetic": ("multipliers", "accumulators", "adders"),
    "registers": ("registers", "filter spads", "input spads", "sum spads"),
    "memory on the chip": (
        "sram",
        "buffer",
        "inputs",
        "outputs",
        "weights",
        "units",
        "pointers",
        "shifts",
        "activations",
        "queues",
        "partial sums",
    ),
    "logic and wires": ("joins", "crossbar", "halo", "array"),
    "leakage and clock": ("leakage", "control"),
    "memory off the chip": ("dram",),
    "other": (),
}
"""Kinds of parts, in the order in which they are stacked; parts that are not listed are of the last kind."""
STANDALONE: Final = """
svg { --paper: #fbfaf7; --ink: #1f1d1a; --soft: #6b665e; --line: #e3dfd6; background: var(--paper); }
@media (prefers-color-scheme: dark) { svg { --paper: #16171a; --ink: #ebe8e2; --soft: #a19c92; --line: #33353b; } }
text { font-family: system-ui, "Segoe UI", Roboto, "DejaVu Sans", sans-serif; }
"""


@dataclass(frozen=True)
class Bar:
    """One bar: what it is of, and its parts in the order of the legend, each a sum of named amounts."""

    label: str
    under: str
    parts: Mapping[str, Mapping[str, float]]

    @property
    def total(self) -> float:
        """Of all parts."""
        return sum(amount for part in self.parts.values() for amount in part.values())


def cycles(pairs: Sequence[Json]) -> str:
    """Of each pair of a comparison, its cycles by cause."""
    bars = [Bar(p["network"], f"on {p['machine']}", {c: {c: p["cycles_by"].get(c, 0)} for c in CAUSES}) for p in pairs]
    return picture(bars, CAUSES, "Cycles by cause", numbers.count)


def energy(pairs: Sequence[Json]) -> str:
    """Of each pair of a comparison, its energy by kind of part."""
    bars = [Bar(p["network"], f"on {p['machine']}", by_family(p["picojoules_by"])) for p in pairs]
    return picture(bars, tuple(FAMILIES), "Energy by part", lambda picojoules: numbers.joules(picojoules * 1e-12))


def by_family(parts: Mapping[str, float]) -> dict[str, dict[str, float]]:
    """Kind of part → part → picojoules."""
    known = {name: family for family, names in FAMILIES.items() for name in names}
    found: dict[str, dict[str, float]] = {family: {} for family in FAMILIES}
    for name, picojoules in parts.items():
        found[known.get(name, "other")][name] = picojoules
    return found


def picture(bars: Sequence[Bar], legend: Sequence[str], title: str, told: Callable[[float], str]) -> str:
    """An SVG; "" where there are no bars. All share one linear scale; `told` puts an amount into words."""
    if not bars:
        return ""
    present = [name for name in legend if any(sum(bar.parts[name].values()) for bar in bars)]
    most = max(bar.total for bar in bars) or 1.0
    height = TOP + ROW * len(bars) + 6
    body = [text("strong", 0, 14, title), *_legend(present)]
    for number, bar in enumerate(bars):
        body += _bar(bar, legend, TOP + ROW * number, most, told)
    return svg(WIDTH, height, f"{title} of {len(bars)} pairs of network and machine", body)


def svg(width: int, height: int, words: str, body: Sequence[str]) -> str:
    """The element around a drawing, to stand in a page that has the style already."""
    head = f'<svg xmlns="http://www.w3.org/2000/svg" class="sim" {_box(width, height)}'
    return "\n".join([f'{head} role="img" aria-label="{escape(words)}">', *body, "</svg>"])


def standalone(drawing: str) -> str:
    """The same drawing as a file of its own, with its style and a margin."""
    head, rest = drawing.split(">", 1)
    width, height = (int(size) for size in re.findall(r' (?:width|height)="(\d+)"', head))
    framed = head.replace(_box(width, height), _box(width, height, MARGIN))
    return f"{framed}>\n<style>{STANDALONE}{style()}</style>{rest}\n"


def style() -> str:
    """The rules that a page with these drawings needs."""
    return resources.files("dovetail.report").joinpath("simulations.css").read_text(encoding="utf-8")


def _box(width: int, height: int, margin: int = 0) -> str:
    wide, high = width + 2 * margin, height + 2 * margin
    return f'viewBox="{-margin} {-margin} {wide} {high}" width="{wide}" height="{high}"'


def _legend(present: Sequence[str]) -> list[str]:
    lines, x = [], 0.0
    for name in present:
        lines.append(f'<rect class="{_colour(name)}" x="{x:.1f}" y="24" width="11" height="11" rx="1"/>')
        lines.append(text("", x + 16, 34, name))
        x += 34 + LETTER * len(name)
    return lines


def _bar(bar: Bar, legend: Sequence[str], y: float, most: float, told: Callable[[float], str]) -> list[str]:
    lines = [text("ink", 0, y + 14, _short(bar.label)), text("", 0, y + 28, bar.under)]
    x, scale = float(LABELS), (WIDTH - LABELS - END) / most
    for name in legend:
        amount = sum(bar.parts[name].values())
        if not amount:
            continue
        width = scale * amount
        part = f'<rect class="part {_colour(name)}" x="{x:.2f}" y="{y + 4}" width="{width:.2f}" height="{BAR}"/>'
        lines.append(f"<g><title>{escape(_title(name, bar, told))}</title>{part}</g>")
        share = f"{amount / bar.total:.0%}"
        if width > LETTER * len(share) + 8:
            lines.append(text("inside", x + width / 2, y + BAR - 2, share, "middle"))
        x += width
    lines.append(text("strong", x + 7, y + 18, told(bar.total)))
    return lines


def _title(name: str, bar: Bar, told: Callable[[float], str]) -> str:
    """The amount of a part; of a kind of several, each of them."""
    parts = bar.parts[name]
    amount = sum(parts.values())
    several = "" if set(parts) == {name} else " = " + " + ".join(f"{each} {told(parts[each])}" for each in parts)
    return f"{bar.label} {bar.under}, {name}: {told(amount)}, {amount / bar.total:.1%}{several}"


def _colour(name: str) -> str:
    return COLOURS.get(name, name)


def _short(label: str) -> str:
    most = int((LABELS - 12) / LETTER)
    return label if len(label) <= most else label[: most - 1] + "…"


def text(css: str, x: float, y: float, words: str, anchor: str = "start") -> str:
    """A line of words."""
    named = f'class="{css}" ' if css else ""
    return f'<text {named}x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(words)}</text>'
