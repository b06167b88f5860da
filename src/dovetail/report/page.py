"""The page: a jinja2 template over `Page`, style and drawings inlined."""

from __future__ import annotations

import os
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dovetail import files
from dovetail.errors import DovetailError
from dovetail.report import comparison, fits, numbers, plot, predictions, stacked, staircase
from dovetail.report.data import Layer, Page, Section, Variant
from dovetail.report.tornado import tornado

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from jinja2 import Environment

WIDE, NARROW = (720, 400), (350, 330)
LITTLE = 1.0  # points of accuracy
CLAIMS = {
    "vs_f32": "best dense f32 runtime",
    "vs_best": "best dense runtime of any type",
    "vs_own_dense": "our own engine, dense",
    "vs_beside": "our own engine, another format",
    "vs_int8": "OpenVINO int8 over our dense int8",
    "vs_same": "best runtime given our network",
}


def render(page: Page) -> str:
    """The page as one HTML document that needs nothing else."""
    if not page.variants:
        raise DovetailError("a report needs at least one network; run a recipe or the demo first")
    return (
        _environment()
        .get_template("page.html.j2")
        .render(
            page=page,
            style=_style(page),
            fitted=[fitted(one, page.layer) for one in page.fits],
            simulated=[simulated(one) for one in page.simulations],
            dense=page.variants[0],
            leading=leading(page),
            lead=lead(page),
            claims=CLAIMS,
            wide=plot.scatter(page.points, *WIDE),
            narrow=plot.scatter(page.points, *NARROW),
            legend=plot.legend(page.points),
        )
    )


def write(page: Page, path: str | os.PathLike[str]) -> Path:
    """Render to `path`, whole or not at all; returns it."""
    return files.write(path, render(page))


def leading(page: Page) -> Variant | None:
    """The network that the page speaks of first: the fastest of those that lose little, else the first."""
    dense, *others = page.variants
    near = {
        ours.name: ours
        for ours in others
        if dense.accuracy is not None and ours.accuracy is not None and dense.accuracy - ours.accuracy <= LITTLE
    }
    raced = [ratio for ratio in page.ratios if ratio.name == "vs_best" and ratio.variant in near]
    if raced:
        return near[max(raced, key=lambda ratio: ratio.value).variant]
    return others[0] if others else None


def lead(page: Page) -> list[tuple[str, str, str]]:
    """`(figure, what, against what)` of the leading network: what was gained and lost, measured."""
    dense, ours = page.variants[0], leading(page)
    if ours is None:
        return []
    own = {ratio.name: ratio.value for ratio in page.ratios if ratio.variant == ours.name}
    drop = None if dense.accuracy is None or ours.accuracy is None else ours.accuracy - dense.accuracy
    figures = [
        (numbers.points(drop), "points of accuracy", f"{numbers.percent(ours.accuracy)} on {page.split}"),
        (
            numbers.times(numbers.quotient(dense.params, ours.params)),
            "fewer parameters",
            f"{numbers.count(ours.params)} left",
        ),
        (
            numbers.times(numbers.quotient(dense.macs, ours.macs)),
            "fewer MACs",
            f"{numbers.count(ours.macs)} left per image",
        ),
    ]
    if (against := next((name for name in ("vs_best", *CLAIMS) if name in own), None)) is not None:  # the hardest first
        told = f"against {CLAIMS[against]}"
        if against == "vs_best" and "vs_f32" in own:
            told += f"; {numbers.times(own['vs_f32'])} against {CLAIMS['vs_f32']}"
        figures.insert(0, (numbers.times(own[against]), _faster(own[against]), told))
    return [figure for figure in figures if figure[0] != numbers.DASH]


def simulated(compared: Mapping[str, Any]) -> dict[str, Any]:
    """Drawings and tables of a comparison."""
    pairs = compared["pairs"]
    titles = [(pair, f"{pair['network']} on {pair['machine']}") for pair in pairs]
    drawn = [(title, tornado(pair["sensitivity"], pair, title)) for pair, title in titles]
    return {
        "cycles": stacked.cycles(pairs),
        "energy": stacked.energy(pairs),
        "columns": comparison.PAIRS,
        "rows": comparison.pair_cells(pairs),
        "share_columns": comparison.SHARES,
        "shares": [share.cells() for share in comparison.shares(pairs)],
        "tornados": [(title, drawing) for title, drawing in drawn if drawing],
        "inputs": compared["inputs"],
        "batch": compared["batch"],
        "alike": compared["alike"],
        "command": compared["command"],
    }


def fitted(notes: fits.Fitted, layer: str | None = None) -> dict[str, Any]:
    """Drawings and tables of a network that was fitted to a budget."""
    predicted, stairs = predictions.predictions(notes), staircase.staircases(notes)
    stair = None if not stairs else stairs.get(layer or "") or next(iter(stairs.values()))
    return {
        "title": notes.title,
        "how": notes.how,
        "width": notes.width,
        "columns": fits.OUTCOME,
        "outcome": fits.outcome(notes),
        "legend": predictions.legend(predicted),
        "scatter": [predictions.scatter(predicted, *size) for size in (WIDE, NARROW) if predicted],
        "kept": predictions.summary(notes, predicted),
        "stairs": [] if stair is None else [staircase.picture(stair, *size) for size in (WIDE, NARROW)],
        "climbs": "" if stair is None else stair.told,
        "left_columns": fits.LEFT,
        "left": fits.left_dense(notes),
    }


def totals(section: Section) -> dict[str, float | None]:
    """Largest bar of each kind, so that all layers of a network share one scale."""
    return {
        "seconds": max(
            (t for layer in section.layers for t in (layer.seconds, layer.dense_seconds) if t), default=None
        ),
        "bits": max((b for layer in section.layers for b in (layer.bits, layer.dense_bits)), default=0) or None,
    }


def share(part: float | None, whole: float | None) -> str:
    """A CSS-ready percentage, for the length of a bar."""
    value = numbers.quotient(part, whole)
    return f"{100 * min(value, 1.0):.2f}%" if value else "0%"


def _faster(value: float) -> str:
    return "faster" if value >= 1 else "as fast: slower than the original"


def _has_times(layers: Sequence[Layer]) -> bool:
    return any(layer.seconds is not None for layer in layers)


def _ratio(dense: Variant, ours: Variant, what: str) -> str:
    return numbers.times(numbers.quotient(getattr(dense, what), getattr(ours, what)))


def _style(page: Page) -> str:
    """The rules of what the page shows."""
    parts = [_text("style.css"), stacked.style() if page.simulations else "", _text("fits.css") if page.fits else ""]
    return "".join(parts)


def _text(name: str) -> str:
    return resources.files("dovetail.report").joinpath(name).read_text(encoding="utf-8")


def _environment() -> Environment:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("dovetail.report", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "count": numbers.count,
        "size": numbers.size,
        "ms": numbers.milliseconds,
        "percent": numbers.percent,
        "points": numbers.points,
        "times": numbers.times,
    }
    environment.globals |= {"totals": totals, "share": share, "has_times": _has_times, "ratio": _ratio}
    return environment
