"""The table of speed claims: every ratio that was measured, beside what it should reach."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dovetail.report import numbers, tables

COLUMNS = ("case", "ratio", "value", "target", "", "against", "A/A", "our time", "accuracy", "on")
GEOMEAN = "geomean"
"""The variant that stands for the geometric mean over all cases of a network."""
_RATIOS = ("vs_f32", "vs_best", "vs_own_dense", "vs_int8", "vs_same")
Json = Mapping[str, Any]


@dataclass(frozen=True)
class Claim:
    """One ratio of one case; what is unknown is None.

    Attributes:
        case: `<network>/<variant>`.
        value: peer time / our time; None where it has not been raced.
        target: what it should at least be.
        milliseconds: ours, the median.
        accuracy: ours, in percent; None for time-only cases.
        machine: the instructions that our engine used, or the card.
        twice: the time of a second process of ours in the same race / our time: 1 but for chance.
    """

    case: str
    ratio: str
    value: float | None = None
    target: float | None = None
    peer: str = ""
    milliseconds: float | None = None
    accuracy: float | None = None
    time_only: bool = False
    machine: str = ""
    twice: float | None = None

    @property
    def verdict(self) -> str:
        """Against the target: "met", what share of it was reached, or nothing."""
        if self.target is None:
            return ""
        if self.value is None:
            return "not raced"
        return "met" if self.value >= self.target else f"{self.value / self.target:.0%} of it"

    def cells(self) -> tuple[str, ...]:
        """In the order of `COLUMNS`."""
        target = "" if self.target is None else numbers.times(self.target)
        quality = "time only" if self.time_only else "" if self.accuracy is None else numbers.percent(self.accuracy)
        spent = "" if self.milliseconds is None else numbers.milliseconds(self.milliseconds)
        value, chance = numbers.times(self.value), "" if self.twice is None else f"{self.twice:.2f}"
        return (self.case, self.ratio, value, target, self.verdict, self.peer, chance, spent, quality, self.machine)


def claims(races: Iterable[Json], targets: Mapping[str, float]) -> list[Claim]:
    """Every ratio of the races, as their JSON has them, and every target that none of them has measured.

    Networks in order of their names; the plain variants of each before those of other conditions. A target of the
    variant "geomean" is for the geometric mean of the ratio over the raced cases of its network, whatever their
    conditions.
    """
    wanted = {tuple(name.rsplit("/", 1)): float(target) for name, target in targets.items()}
    found = {(claim.case, claim.ratio): claim for race in races for claim in _measured(race, wanted)}
    means = {key: mean for key in wanted if (mean := _mean(*key, wanted[key], list(found.values()))) is not None}
    found |= means
    missing = {key: Claim(*key, target=target) for key, target in wanted.items() if key not in found}
    return sorted((found | missing).values(), key=_rank)


def summary(found: Sequence[Claim]) -> str:
    """How many targets were met, in a sentence; "" without targets."""
    aimed = [claim for claim in found if claim.target is not None]
    met = sum(claim.verdict == "met" for claim in aimed)
    raced = sum(claim.value is not None for claim in aimed)
    return f"{met} of {len(aimed)} targets met, {len(aimed) - raced} not raced." if aimed else ""


def markdown(found: Sequence[Claim]) -> str:
    """The table in Markdown."""
    return tables.markdown(COLUMNS, [claim.cells() for claim in found], ("value", "target", "A/A", "our time"))


def _measured(race: Json, wanted: Mapping[tuple[str, ...], float]) -> Iterator[Claim]:
    rows = {(row["case"], row["target"]): row for row in race["rows"]}
    twice = {row["case"].rsplit("/", 1)[0]: row["value"] for row in race.get("noise", ())}
    for ratio in race["ratios"]:
        case, name = ratio["case"].rsplit("/", 1)
        ours = rows.get((case, ratio["ours"]), {})
        yield Claim(
            case=case,
            ratio=name,
            value=ratio["value"],
            target=wanted.get((case, name)),
            peer=ratio["peer"],
            twice=twice.get(case),
            milliseconds=ours.get("median_ms"),
            accuracy=ours.get("accuracy"),
            time_only=bool(race.get("time_only")),
            machine=str(race["machine"].get("gpu", race["machine"].get("engine_isa", ""))),
        )


def _mean(case: str, ratio: str, target: float, found: Sequence[Claim]) -> Claim | None:
    """The geometric mean over the cases of a network, where `case` stands for it and some were raced."""
    network, _, variant = case.partition("/")
    values = [c.value for c in found if c.value and c.ratio == ratio and c.case.startswith(f"{network}/")]
    if variant != GEOMEAN or not values:
        return None
    alike = {c.machine for c in found if c.ratio == ratio and c.case.startswith(f"{network}/")}
    told = f"the best of each of {len(values)} cases"
    return Claim(case, ratio, math.prod(values) ** (1 / len(values)), target, told, machine=", ".join(sorted(alike)))


def _rank(claim: Claim) -> tuple[str, str, int]:
    network, _, variant = claim.case.partition("/")
    return network, variant, _RATIOS.index(claim.ratio) if claim.ratio in _RATIOS else len(_RATIOS)
