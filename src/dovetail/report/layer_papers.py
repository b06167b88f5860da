"""Two machines on published linear layers, beside what a paper claims: tables, and a page of them in Markdown.

A paper and its result are plain data, as `benchmarks/papers` has them. Ratios are of what the other machine takes over
what the paper's machine takes: above 1 it takes less.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from dovetail.report import numbers
from dovetail.report.tables import markdown

Json = Mapping[str, Any]
CLAIMS = ("ratio", "paper", "model, from – to", "model, mean", "asked")
LAYERS = ("layer", "weight", "p", "inputs", "cycles", "fill", "time", "used", "weights", "cycles", "time", "used")
RATIOS = ("layer", "time", "at equal density", "energy, chips", "energy, by use", "energy, events", "area", "asked")
SWEEP = ("elements", "columns", "cycles", "without fill", "speed-up", "speed-up without fill", "efficiency")
ARITHMETIC = ("figure", "published", "follows", "off", "asked")
SWAYS = ("parameter", "of", "value", "known from", "time, ½", "time, 2×", "energy, ½", "energy, 2×")
WHAT: Final[Mapping[str, tuple[str, str]]] = {
    "time": ("time", "time"),
    "energy, chips": ("energy", "energy: published power x time"),
    "energy, by use": ("energy", "energy: the same, where multipliers idle less of it"),
    "energy, events": ("energy", "energy: events on the chip"),
    "area": ("area", "speed per area"),
}
"""Column → claim it belongs to, and in words."""
PAGE = """# {title}: paper against model

What the paper of [`{machine}`]({machine}.md) claims against [`{rival}`]({rival}.md), beside what the models say:
collected by `dovetail paper {name} --out docs/accelerators/{name}-paper.md`. Ratios are of what `{rival}` takes over
what `{machine}` takes. Published figures are {known}.

{claims}
Means are geometric, over the layers. Both machines have their weights on the chip, and work on the same {vectors}
vectors; `{rival}` is brought to {node:g} nm as the paper does it, frequency linear, area quadratic, power constant, and
has weights of its own densities.

## Layers

`{machine}`, then `{rival}`; cycles of a vector, inputs and weights that are not zero.

{layers}
{ratios}
"At equal density" gives `{rival}` as many weights as `{machine}` has. "Chips" is the ratio of times, each times the
published power. "By use" lets memories and gates of `{machine}` take the share of their power in which its multipliers
work; the power of `{rival}` is taken whole there, as its parts are not known. "Events" are counted on both at
{node:g} nm; off-chip memory and loading weights are left out.

{notes}## More elements

{layer} on more elements of {multipliers} multipliers; several columns go together where one leaves multipliers idle
(`multi_column`). Speed-ups are against the first row; efficiency is the one without fill over that of the elements.

{sweep}
## Arithmetic on published figures

No model has a part in these: they follow from clocks, areas and powers that are published or recalled.

{arithmetic}
## Parameters

**Parameters with a † are reconstructed**, not read in the paper. They were fixed before the first comparison, and none
was changed after it. Factors tell how the mean ratios change with half and twice a parameter; a dash: not varied, or no
machine can have it.

{sways}"""


def ratio(layer: Json, column: str, area: Json, rival: str = "rival") -> float:
    """One ratio of a layer, by the column of `RATIOS`."""
    ours, theirs = layer["ours"], layer[rival]
    match column:
        case "time":
            return float(theirs["seconds"] / ours["seconds"])
        case "energy, chips":
            return float(theirs["chip_joules"] / ours["chip_joules"])
        case "energy, by use":
            return float(theirs["chip_joules"] / ours["parts_joules"])
        case "energy, events":
            return float(theirs["joules"] / ours["joules"])
        case _:
            return float(theirs["seconds"] / ours["seconds"] * area["rival"] / area["ours"])


def within(value: float, span: Sequence[float]) -> bool:
    """Whether a value lies in a span, its ends with it."""
    return bool(span[0] <= value <= span[1])


def claim_rows(paper: Json, result: Json) -> Iterator[tuple[str, ...]]:
    """In the order of `CLAIMS`."""
    for column, (claim, words) in WHAT.items():
        found = [ratio(layer, column, result["area"]) for layer in result["layers"]]
        mean = statistics.geometric_mean(found)
        told = _asked(paper["asked"], found, mean) if column == "time" else ""
        yield (words, _span(paper["claims"][claim]), _span((min(found), max(found))), numbers.times(mean), told)


def layer_rows(paper: Json, result: Json) -> Iterator[tuple[str, ...]]:
    """In the order of `LAYERS`; of one vector."""
    for layer in result["layers"]:
        told, ours, theirs = paper["layers"][layer["name"]], layer["ours"], layer["rival"]
        yield (
            layer["name"],
            f"{told['outputs']} x {told['inputs']}",
            str(told["size"]),
            _share(told["density"]),
            *_cost(ours, paper["vectors"], fill=True),
            _share(told["rival"]),
            *_cost(theirs, paper["vectors"], fill=False),
        )


def ratio_rows(paper: Json, result: Json) -> Iterator[tuple[str, ...]]:
    """In the order of `RATIOS`."""
    for layer in result["layers"]:
        found = [ratio(layer, column, result["area"]) for column in WHAT]
        equal = ratio(layer, "time", result["area"], "equal") if "equal" in layer else found[0]
        asked = "within" if within(found[0], paper["asked"]["each"]) else "not within"
        time, *others = map(numbers.times, found)
        yield (layer["name"], time, numbers.times(equal), *others, f"{asked} {_span(paper['asked']['each'])}")


def sweep_rows(result: Json) -> Iterator[tuple[str, ...]]:
    """In the order of `SWEEP`."""
    first = result["sweep"][0]
    for row in result["sweep"]:
        bare, before = row["cycles"] - row["fill"], first["cycles"] - first["fill"]
        speed = before / bare
        yield (
            str(row["elements"]),
            "several" if row["several"] else "one",
            f"{row['cycles']:,}",
            f"{bare:,}",
            numbers.times(first["cycles"] / row["cycles"]),
            numbers.times(speed),
            _share(speed * first["elements"] / row["elements"]),
        )


def arithmetic_rows(result: Json) -> Iterator[tuple[str, ...]]:
    """In the order of `ARITHMETIC`."""
    for row in result["arithmetic"]:
        near = "within" if abs(row["off"]) <= row["within"] else "not within"
        published, computed = (f"{row[key]:,.4g}" for key in ("published", "computed"))
        yield (row["what"], published, computed, f"{100 * row['off']:+.2f} %", f"{near} {100 * row['within']:g} %")


def sway_rows(result: Json) -> Iterator[tuple[str, ...]]:
    """Every parameter of both machines that was not read in the paper, in the order of `SWAYS`."""
    varied = {(sway["of"], sway["field"]): sway for sway in result["sways"]}
    for name, machine in result["machines"].items():
        for row in machine["parameters"]:
            sway = varied.get((name, row["field"]), {"time": (None, None), "energy": (None, None)})
            if row["mark"] in ("paper", "derived"):
                continue
            value = row["value"]["name"] if isinstance(row["value"], Mapping) else row["value"]
            known = f"{row['mark']}, {row['note']}" if row["note"] else row["mark"]
            factors = map(numbers.times, (*sway["time"], *sway["energy"]))
            yield (f"`{row['field']}` †", name, _value(value), known, *factors)


def page(name: str, paper: Json, result: Json) -> str:
    """All of it in Markdown; `name` is the paper's, on the command line."""
    own = {row["field"]: row["value"] for row in result["machines"][paper["machine"]]["parameters"]}
    notes = f"## What decides it\n\n{paper['notes'].rstrip()}\n\n" if paper["notes"] else ""
    return PAGE.format(
        name=name,
        node=result["node_nm"],
        claims=markdown(CLAIMS, claim_rows(paper, result), CLAIMS[1:-1]),
        layers=markdown(LAYERS, layer_rows(paper, result), LAYERS[2:]),
        ratios=markdown(RATIOS, ratio_rows(paper, result), RATIOS[1:-1]),
        notes=notes,
        layer=paper["sweep"]["layer"],
        multipliers=own["multipliers"],
        sweep=markdown(SWEEP, sweep_rows(result), SWEEP),
        arithmetic=markdown(ARITHMETIC, arithmetic_rows(result), ARITHMETIC[1:-1]),
        sways=markdown(SWAYS, sway_rows(result), SWAYS[4:]),
        **{key: paper[key] for key in ("title", "machine", "rival", "known", "vectors")},
    )


def _asked(asked: Json, found: Sequence[float], mean: float) -> str:
    """Whether every layer and the mean are where they are asked to be."""
    inside = sum(within(one, asked["each"]) for one in found)
    near = "within" if within(mean, asked["mean"]) else "not within"
    return f"{inside} of {len(found)} within {_span(asked['each'])}; mean {near} {_span(asked['mean'])}"


def _cost(cost: Json, vectors: int, *, fill: bool) -> tuple[str, ...]:
    """Of one vector."""
    cells = (f"{cost['cycles'] / vectors:,.0f}",)
    cells += (f"{cost['fill'] / vectors:,.0f}",) if fill else ()
    return (*cells, numbers.milliseconds(1e3 * cost["seconds"] / vectors), _share(cost["used"]))


def _value(value: Any) -> str:
    return f"{value:,.12g}" if isinstance(value, int | float) and not isinstance(value, bool) else str(value)


def _share(value: float) -> str:
    return f"{100 * value:.3g} %"


def _span(ends: Sequence[float]) -> str:
    return f"{numbers.times(ends[0])} – {numbers.times(ends[1])}"
