"""Layers one by one as SVG: our time, the others', and the least that this machine could need."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

from dovetail.report.numbers import digits, milliseconds
from dovetail.report.plot import log_ticks

Json = Mapping[str, Any]
ROW, TOP, BOTTOM, LABELS, PANEL, SHARE, GAP = 22, 106, 48, 190, 330, 52, 26
PANELS = ("f32", "int8")
WORDS = {
    "roof": "roofline bound",
    "ours": "Dovetail",
    "inside": "the same between other layers",
    "winograd": "Dovetail, Winograd",
    "onnxruntime": "onnxruntime",
    "openvino": "OpenVINO",
    "ncnn": "ncnn",
    "mnn": "MNN",
}
STYLE = """
svg { --paper: #fbfaf7; --ink: #1f1d1a; --soft: #6b665e; --line: #e3dfd6; --ours: #b8470f; --onnx: #12659c;
  --vino: #0a7454; --other: #7a5aa6; background: var(--paper); }
@media (prefers-color-scheme: dark) { svg { --paper: #16171a; --ink: #ebe8e2; --soft: #a19c92; --line: #33353b;
  --ours: #ff9559; --onnx: #6cb6ee; --vino: #4fcf9f; --other: #b79be0; } }
text { font: 12px system-ui, "Segoe UI", Roboto, "DejaVu Sans", sans-serif; fill: var(--soft); }
.title { font-size: 15px; font-weight: 600; fill: var(--ink); } .label, .share { fill: var(--ink); }
.grid { stroke: var(--line); } .stripe { fill: var(--line); opacity: .35; }
.roof { stroke: var(--ink); stroke-width: 2.5; }
.span { stroke: var(--line); stroke-width: 2; } .ours { fill: var(--ours); stroke: var(--ours); }
.inside { fill: none; stroke: var(--ours); stroke-width: 1.5; }
.winograd { fill: none; stroke: var(--ours); stroke-width: 1.5; stroke-dasharray: 2 1.5; }
.onnxruntime { fill: var(--onnx); } .openvino { fill: var(--vino); } .ncnn, .mnn { fill: var(--other); }
"""


@dataclass(frozen=True)
class Mark:
    """One time of one layer: `kind` is a key of `WORDS`."""

    kind: str
    milliseconds: float
    title: str


@dataclass(frozen=True)
class _Panel:
    """The plotting area of one value type; time is logarithmic, and what lies below stands at the left edge."""

    dtype: str
    left: float
    times: tuple[float, float]

    def x(self, milliseconds: float) -> float:
        low, high = (math.log(t) for t in self.times)
        return self.left + max(math.log(milliseconds) - low, 0.0) / (high - low) * PANEL


def picture(result: Json) -> str:
    """A standalone SVG from the JSON of `dovetail shapes run`.

    Each way to run a layer counts with its better number of threads, and so does the bound. The share at the right is
    the bound over our own time between other layers, Winograd's filtering left out.
    """
    shapes = result["shapes"]
    found = {dtype: [marks(shape, dtype) for shape in shapes] for dtype in PANELS}
    width = LABELS + len(PANELS) * (PANEL + SHARE + GAP)
    height = TOP + ROW * len(shapes) + BOTTOM
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}"'
    words = f"Time of {len(shapes)} layers of {result['network']}"
    body = [f"<style>{STYLE}</style>", _text("title", 14, 26, f"{result['network']}, layer by layer", "start")]
    body.append(_text("", 14, 46, _machine(result), "start"))
    body += [*_legend(found), *_labels(shapes, width)]
    for number, dtype in enumerate(PANELS):
        left = LABELS + number * (PANEL + SHARE + GAP)
        body += _panel(_Panel(dtype, left, _range(found[dtype])), found[dtype], shapes)
    return "\n".join([f'{head} role="img" aria-label="{escape(words)}">', *body, "</svg>"]) + "\n"


def marks(shape: Json, dtype: str) -> list[Mark]:
    """What is drawn of one layer and type, the bound first; each at its better number of threads."""
    rows = [row for row in shape["rows"] if row["dtype"] == dtype]
    bounds = [bound[dtype] for bound in shape["bound_ms"].values()]
    least: dict[str, Mark] = {"roof": Mark("roof", min(bounds), f"at least {milliseconds(min(bounds))}")}
    for mark in (mark for row in rows for mark in _marks_of(row)):
        if mark.kind not in least or mark.milliseconds < least[mark.kind].milliseconds:
            least[mark.kind] = mark
    return list(least.values())


def share(found: Sequence[Mark]) -> float | None:
    """The bound over our own time between other layers; None where we did not run."""
    times = {mark.kind: mark.milliseconds for mark in found}
    return times["roof"] / times["inside"] if "inside" in times else None


def _marks_of(row: Json) -> Iterator[Mark]:
    told = f"{row['target']}, {row['threads']} thread{'s' * (row['threads'] > 1)}"
    if "kernel" not in row:
        yield Mark(row["target"].partition("-")[0], row["median_ms"], f"{told}: {milliseconds(row['median_ms'])}")
        return
    yield Mark("ours" if row["exact"] else "winograd", row["median_ms"], f"{told}: {milliseconds(row['median_ms'])}")
    if row["exact"]:
        yield Mark("inside", row["layer_ms"], f"{told}, between other layers: {milliseconds(row['layer_ms'])}")


def _range(found: Sequence[Sequence[Mark]]) -> tuple[float, float]:
    """From a third of the shortest time, so that bounds of tiny layers do not take the room of the others."""
    bounds = [mark.milliseconds for row in found for mark in row if mark.kind == "roof"]
    times = [mark.milliseconds for row in found for mark in row if mark.kind != "roof"] or bounds
    return min(times) / 3, 1.3 * max(*times, *bounds)


def _machine(result: Json) -> str:
    machine, peaks = result["machine"], result["peaks"]
    most = peaks[max(peaks, key=int)]["gmacs"]
    threads = " and ".join(peaks)
    roof = f"at most {digits(most['f32'])} (f32) and {digits(most['int8'])} (int8) G multiply-adds a second"
    return f"{machine['cpu']}, {machine['engine_isa']}; the better of {threads} threads; {roof}"


def _legend(found: Mapping[str, Sequence[Sequence[Mark]]]) -> list[str]:
    present = {mark.kind for rows in found.values() for row in rows for mark in row}
    lines, x = [], 20.0
    for kind, words in WORDS.items():
        if kind in present:
            lines += [_shape(kind, x, 64), _text("", x + 11, 68, words, "start")]
            x += 34 + 6.6 * len(words)
    return lines


def _labels(shapes: Sequence[Json], width: int) -> list[str]:
    lines = []
    for number, shape in enumerate(shapes):
        y = TOP + ROW * number
        if number % 2 == 0:
            lines.append(f'<rect class="stripe" x="0" y="{y}" width="{width}" height="{ROW}"/>')
        count = shape["layer"]["count"]
        lines.append(_text("label", 14, y + 15, shape["name"] + (f"  ×{count}" if count > 1 else ""), "start"))
    return lines


def _panel(panel: _Panel, found: Sequence[Sequence[Mark]], shapes: Sequence[Json]) -> list[str]:
    bottom = TOP + ROW * len(shapes)
    lines = [_text("label", panel.left, TOP - 8, f"{panel.dtype}, microseconds (log)", "start")]
    lines.append(_text("", panel.left + PANEL + SHARE, TOP - 8, "of the roof", "end"))
    for value in log_ticks(*panel.times, most=7):
        x = panel.x(value)
        lines.append(f'<line class="grid" x1="{x:.1f}" x2="{x:.1f}" y1="{TOP}" y2="{bottom}"/>')
        lines.append(_text("", x, bottom + 17, f"{1e3 * value:.9g}", "middle"))
    for number, row in enumerate(found):
        lines += _row(panel, row, TOP + ROW * number + ROW / 2)
    return lines


def _row(panel: _Panel, row: Sequence[Mark], y: float) -> list[str]:
    places = [panel.x(mark.milliseconds) for mark in row]
    lines = [f'<line class="span" x1="{min(places):.1f}" x2="{max(places):.1f}" y1="{y}" y2="{y}"/>']
    order = [*reversed(row[1:]), row[0]]  # the bound and ours lie above the others
    lines += [_shape(mark.kind, panel.x(mark.milliseconds), y, mark.title) for mark in order]
    if (reached := share(row)) is not None:
        lines.append(_text("share", panel.left + PANEL + SHARE, y + 4, f"{reached:.0%}", "end"))
    return lines


def _shape(kind: str, x: float, y: float, title: str = "") -> str:
    """Each kind has a shape of its own, so that colour is never the only difference. Ours is the dovetail."""
    told = f"<title>{escape(title)}</title>" if title else ""
    match kind:
        case "roof":
            drawn = f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{y - 8:.1f}" y2="{y + 8:.1f}"/>'
        case "ours" | "inside" | "winograd":
            drawn = f'<path d="M{x - 6:.1f} {y - 5:.1f} h12 l-3 10 h-6 z"/>'
        case "onnxruntime":
            drawn = f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4"/>'
        case "openvino":
            drawn = f'<rect x="{x - 4:.1f}" y="{y - 4:.1f}" width="8" height="8"/>'
        case "ncnn":
            drawn = f'<path d="M{x:.1f} {y - 5:.1f} l5 9 h-10 z"/>'
        case _:
            drawn = f'<path d="M{x:.1f} {y + 5:.1f} l5 -9 h-10 z"/>'
    return f'<g class="{kind}">{told}{drawn}</g>'


def _text(css: str, x: float, y: float, words: str, anchor: str) -> str:
    named = f'class="{css}" ' if css else ""
    return f'<text {named}x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(words)}</text>'
