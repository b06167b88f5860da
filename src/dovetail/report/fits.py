"""Networks fitted to a budget: what was decided, what had been measured for it, and what came of it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Self

from dovetail.report import numbers

Json = Mapping[str, Any]
OUTCOME: Final = ("", "dense", "predicted", "measured", "budget")
LEFT: Final = ("layer", "dense", "best candidate", "margin", "reason")
NEAR: Final = 0.1
"""A prediction that is off by no more of itself counts as kept."""


@dataclass(frozen=True)
class Decision:
    """What became of one layer.

    Attributes:
        spec: of its format; None where it stays dense, and then `reason` says why.
        dense, chosen, best: predicted cost, in the unit of the plan's first limit; no `best` without candidates.
    """

    name: str
    shape: str
    spec: Json | None
    reason: str
    dense: float
    chosen: float
    best: float | None

    @classmethod
    def from_json(cls, data: Json) -> Self:
        """From an entry of the plan."""
        name, best = str(data["name"]), data["best"]
        where = f"decision about {name!r}"
        spec = None if data["spec"] is None else _spec(data["spec"], where)
        return cls(
            name,
            str(data["shape"]),
            spec,
            str(data["reason"]),
            amount(data["dense"], f"{where}, dense"),
            amount(data["chosen"], f"{where}, chosen"),
            None if best is None else amount(best, f"{where}, best"),
        )


@dataclass(frozen=True)
class Candidate:
    """A format that layers of one shape could have, and its time over the dense layer's: the middle, least and most."""

    spec: Json
    ratio: float
    low: float
    high: float


@dataclass(frozen=True)
class Priced:
    """What was measured of the layers of one shape; `dense` is in seconds."""

    layers: tuple[str, ...]
    weight: tuple[int, ...]
    dense: float
    candidates: tuple[Candidate, ...]

    @classmethod
    def from_json(cls, data: Json) -> Self:
        """From an entry of the plan."""
        where = f"times of {data['shape']!r}"
        candidates = tuple(
            Candidate(
                _spec(one["spec"], where), *(positive(one[key], f"{where}, {key}") for key in ("ratio", "low", "high"))
            )
            for one in data["candidates"]
        )
        weight = tuple(int(size) for size in data["weight"])
        return cls(tuple(map(str, data["layers"])), weight, amount(data["dense"], f"{where}, dense"), candidates)


@dataclass(frozen=True)
class Achieved:
    """What the trained network came to: accuracies in percent, seconds, bytes; where counted MACs, cycles, joules.

    Attributes:
        bounds: cost → what the budget allows in the race that this was measured in.
        kept: cost or "accuracy" → whether it keeps to the budget.
    """

    dense_accuracy: float
    accuracy: float
    latency: float
    bytes: float
    rival: str
    rival_seconds: float
    layers: Mapping[str, float]
    bounds: Mapping[str, float]
    kept: Mapping[str, bool]
    macs: float | None = None
    cycles: float | None = None
    energy: float | None = None

    @classmethod
    def from_json(cls, data: Json) -> Self:
        """From the end of the notes."""
        shares = (number(data[key], f"achieved {key}") for key in ("dense_accuracy", "accuracy"))
        costs = (positive(data[key], f"achieved {key}") for key in ("latency", "bytes"))
        layers = {str(name): amount(seconds, f"seconds of {name!r}") for name, seconds in data["layers"].items()}
        rival = positive(data["rival_seconds"], "achieved rival_seconds")
        bounds = {str(name): positive(bound, f"bound of {name}") for name, bound in data["bounds"].items()}
        kept = {str(name): _truth(holds, f"whether {name} is kept") for name, holds in data["kept"].items()}
        counted = {
            name: positive(data[name], f"achieved {name}") for name in ("macs", "cycles", "energy") if name in data
        }
        return cls(*shares, *costs, str(data["rival"]), rival, layers, bounds, kept, **counted)


@dataclass(frozen=True)
class Fitted:
    """The notes of `dovetail fit`.

    Attributes:
        network, options, data, method, budget: as asked for.
        drop: points of accuracy that it may lose; None where nobody said.
        limits, dense, predicted: cost → of the whole network: at most, before and after.
        margin: share by which a candidate must beat the dense layer.
        machine: on whose model cycles and energy were counted, if any.
        survey: machine, threads, and the times of the dense network and its fastest rival.
        priced: of every distinct layer; nothing where no times were asked for, or the notes are older than that.
        achieved: None before training.
        width: share of the channels, where the plan is a thinner network and no layer has a format.
    """

    network: str
    options: Json
    data: str
    method: str
    budget: str
    drop: float | None
    limits: Mapping[str, float]
    dense: Mapping[str, float]
    predicted: Mapping[str, float]
    margin: float
    rule: str
    decisions: tuple[Decision, ...]
    priced: tuple[Priced, ...]
    survey: Json
    achieved: Achieved | None = None
    machine: str | None = None
    width: float | None = None

    @classmethod
    def from_json(cls, notes: Json) -> Self:
        """From the whole file; KeyError, TypeError, ValueError or AttributeError where it is another or damaged."""
        asked, plan = notes["asked"], notes["plan"]
        recipe = asked["recipe"]
        drop = asked["accuracy_drop"]
        limits = _costs(plan, "limits")
        return cls(
            network=str(recipe["network"]["name"]),
            options=dict(recipe["network"].get("options", {})),
            data=str(recipe["data"]["name"]),
            method=str(recipe["method"]["name"]),
            budget=str(asked["budget"]),
            drop=None if drop is None else number(drop, "accuracy_drop"),
            limits=limits,
            dense=_costs(plan, "dense", limits),
            predicted=_costs(plan, "predicted", limits),
            margin=number(plan["margin"], "margin"),
            rule=str(plan["rule"]),
            decisions=tuple(Decision.from_json(one) for one in plan["decisions"]),
            priced=tuple(Priced.from_json(one) for one in plan.get("priced", ())),
            survey=_survey(plan["survey"]),
            achieved=_achieved(notes, limits, judged=drop is not None),
            machine=None if asked.get("machine") is None else str(asked["machine"]),
            width=None if plan.get("width") is None else positive(plan["width"], "width"),
        )

    @property
    def timed(self) -> bool:
        """Whether the costs of the decisions are seconds."""
        return "latency" in self.limits

    @property
    def title(self) -> str:
        """Such as "resnet18 (stem cifar, classes 10) on cifar10 within latency=0.5x"."""
        options = ", ".join(f"{key} {value}" for key, value in self.options.items())
        return f"{self.network}{f' ({options})' if options else ''} on {self.data} within {self.budget}"

    @property
    def how(self) -> str:
        """Where and how the plan was made, in a sentence."""
        threads, cpu = self.survey["threads"], self.survey["machine"]["cpu"]
        by = "TDC's rule" if self.rule == "tdc" else "the knapsack"
        where = f"on {cpu}, {threads} thread{'s' * (threads != 1)}"
        if self.width is not None:
            return f"A dense network of {self.width:g} of the channels, the widest that keeps to the budget {where}."
        if self.machine is not None:
            where = f"on the model of the machine {self.machine}" + (f" and {where}" if self.timed else "")
        return (
            f"Formats of method {self.method}, chosen by {by} by what they take {where}; a format must take "
            f"{self.margin:.0%} less than the dense layer."
        )

    @property
    def left(self) -> tuple[Decision, ...]:
        """The layers that stay dense as they are; of a thinner network none."""
        return tuple(decision for decision in self.decisions if decision.spec is None and self.width is None)

    def cost(self, value: float | None) -> str:
        """Of a decision, in words."""
        return told(next(iter(self.limits)), value)

    def priced_of(self, layer: str) -> Priced | None:
        """What was measured of a layer's shape."""
        return next((priced for priced in self.priced if layer in priced.layers), None)


TOLD: Final[Mapping[str, Callable[[float], str]]] = {
    "latency": lambda seconds: numbers.milliseconds(1e3 * seconds),
    "bytes": numbers.size,
    "macs": lambda macs: f"{numbers.count(round(macs))} MACs",
    "cycles": lambda cycles: f"{numbers.count(round(cycles))} cycles",
    "energy": numbers.joules,
}
"""Cost → its values in words."""


def told(cost: str, value: float | None) -> str:
    """A cost of this name in words."""
    if value is None:
        return numbers.DASH
    return TOLD[cost](value)


def words(spec: Json) -> str:
    """A format in a few words, such as "tucker, rank in 32, rank out 64"."""
    hidden = ("format", "version", "values")
    parts = [f"{key.replace('_', ' ')} {value}" for key, value in spec.items() if key not in hidden]
    return ", ".join([str(spec["format"]), *(part for part in parts if not part.endswith(" None"))])


def outcome(fitted: Fitted) -> list[tuple[str, ...]]:
    """Of accuracy and of each limited cost: dense, predicted, measured, and whether the budget holds.

    Beside what was measured stands by what share of the prediction it differs, beside the bound how much of it is used.
    """
    got, found = fitted.achieved, []
    if got is not None:
        lost = f"{got.dense_accuracy - got.accuracy:.2f} points lost"
        accuracies = (f"{got.dense_accuracy:.2f} %", numbers.DASH, f"{got.accuracy:.2f} %")
        bound = lost if fitted.drop is None else _verdict(got.kept["accuracy"], f"{lost} of {fitted.drop:g}")
        found.append(("accuracy, held out", *accuracies, bound))
    for name, limit in fitted.limits.items():
        measured = None if got is None else getattr(got, name)
        dense, predicted, came = (told(name, v) for v in (fitted.dense[name], fitted.predicted[name], measured))
        held = f"at most {told(name, limit)}"
        if got is not None and measured is not None:
            came = f"{came} ({measured / fitted.predicted[name] - 1:+.1%})"
            used = f" ({measured / got.bounds[name]:.0%} used)"
            share = f", {got.latency / got.rival_seconds:.2f}x of {got.rival}" if name == "latency" else ""
            held = _verdict(got.kept[name], f"at most {told(name, got.bounds[name])}{used}{share}")
        found.append((name, dense, predicted, came, held))
    return found


@dataclass(frozen=True)
class LeftDense:
    """A row of the table of layers that stay dense; what stands under a cell is in small letters."""

    layer: str
    shape: str
    dense: str
    best: str
    format: str
    margin: str
    short: str
    reason: str


def left_dense(fitted: Fitted) -> list[LeftDense]:
    """Of each layer left dense, in the order of execution: its best candidate beside what it had to be."""
    return [_left(fitted, decision) for decision in fitted.left]


def _left(fitted: Fitted, decision: Decision) -> LeftDense:
    names = (decision.name, decision.shape, fitted.cost(decision.dense))
    if decision.best is None or not decision.dense:
        return LeftDense(*names, numbers.DASH, "", numbers.DASH, "", decision.reason)
    share, most = decision.best / decision.dense, 1 - fitted.margin
    short = "missed" if share > most else "kept"
    return LeftDense(
        *names,
        f"{share:.1%}",
        _best(fitted, decision.name),
        f"at most {most:.1%}",
        f"{short} by {100 * abs(share - most):.1f} points",
        decision.reason,
    )


def _best(fitted: Fitted, layer: str) -> str:
    """The format of the candidate that takes least time, where times were measured."""
    priced = fitted.priced_of(layer)
    if not fitted.timed or priced is None or not priced.candidates:
        return ""
    return words(min(priced.candidates, key=lambda one: one.ratio).spec)


def number(value: Any, what: str) -> float:
    """A finite number, or ValueError."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError(f"{what} is {value!r} and no number")
    return float(value)


def amount(value: Any, what: str) -> float:
    """A number that is not below 0, or ValueError: of a layer that runs as a part of another no time is known."""
    if (found := number(value, what)) < 0:
        raise ValueError(f"{what} is {value!r} and below 0")
    return found


def positive(value: Any, what: str) -> float:
    """A number above 0, or ValueError."""
    if (found := number(value, what)) <= 0:
        raise ValueError(f"{what} is {value!r} and not above 0")
    return found


def _costs(plan: Json, key: str, like: Sequence[str] | Mapping[str, float] = ()) -> dict[str, float]:
    found = {name: positive(value, f"{key} of {name}") for name, value in plan[key].items()}
    if unknown := [name for name in found if name not in TOLD]:
        raise ValueError(f"{key} of {unknown[0]} are none; there are {', '.join(TOLD)}")
    if not found or any(name not in found for name in like):
        raise ValueError(f"{key} lack a cost")
    return found


def _achieved(notes: Json, limits: Mapping[str, float], *, judged: bool) -> Achieved | None:
    """What came of the plan, with a verdict on all that is limited, on the accuracy too where it is `judged`."""
    if "achieved" not in notes:
        return None
    found = Achieved.from_json(notes["achieved"])
    wanted = {"accuracy", *limits} if judged else set(limits)
    known = all(getattr(found, name) is not None for name in limits)
    if not known or found.bounds.keys() != limits.keys() or found.kept.keys() != wanted:
        raise ValueError("what was achieved is not held against what was asked for")
    return found


def _truth(value: Any, what: str) -> bool:
    """Yes or no, or ValueError."""
    if not isinstance(value, bool):
        raise ValueError(f"{what} is {value!r} and neither true nor false")
    return value


def _spec(data: Json, where: str) -> dict[str, Any]:
    """Of a format that has a name, or ValueError."""
    spec = dict(data)
    if not isinstance(spec.get("format"), str):
        raise ValueError(f"{where}: the spec {spec} names no format")
    return spec


def _survey(data: Json) -> dict[str, Any]:
    """What of the survey is shown."""
    machine = data["machine"]
    told = {"cpu": str(machine["cpu"]), "cores": int(machine["cores"]), "isa": list(map(str, machine["isa"]))}
    times = {key: positive(data[key], f"survey {key}") for key in ("dense_ms", "rival_ms")}
    return {"machine": told, "threads": int(data["threads"]), **times}


def _verdict(holds: bool, what: str) -> str:
    return f"{'met' if holds else 'missed'}: {what}"
