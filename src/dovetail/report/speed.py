"""The table of speed claims: every ratio that was measured, beside what it should reach."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

from dovetail.report import numbers, tables

COLUMNS = ("case", "ratio", "value", "target", "", "against", "A/A", "our time", "accuracy", "on")
GEOMEAN = "geomean"
"""The variant that stands for the geometric mean over all cases of a network."""
_RATIOS = ("vs_f32", "vs_best", "vs_own_dense", "vs_beside", "vs_int8", "vs_same")
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


def claims(
    races: Iterable[Json], targets: Mapping[str, float], cases: Mapping[str, Collection[str]] = MappingProxyType({})
) -> list[Claim]:
    """Every ratio of the races, as their JSON has them, and every target that none of them has measured.

    Networks in order of their names; the plain variants of each before those of other conditions. A target of the
    variant "geomean" is for the geometric mean of the ratio over all `cases` of its network.
    """
    wanted = {tuple(name.rsplit("/", 1)): float(target) for name, target in targets.items()}
    found = {(claim.case, claim.ratio): claim for race in races for claim in _measured(race, wanted)}
    for (case, ratio), target in wanted.items():
        network, _, variant = case.partition("/")
        if variant == GEOMEAN and (mean := _mean(ratio, cases.get(network, ()), found)) is not None:
            found[case, ratio] = replace(mean, case=case, target=target)
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


def _mean(ratio: str, of: Collection[str], found: Mapping[tuple[str, str], Claim]) -> Claim | None:
    """The geometric mean of a ratio over cases, if all of them were raced, and on one machine."""
    raced = [found[key] for case in of if (key := (case, ratio)) in found]
    values = [claim.value for claim in raced if claim.value is not None]
    if not raced or len(values) < len(of) or len({claim.machine for claim in raced}) > 1:
        return None
    told, time_only = f"the best in each of {len(values)}", any(claim.time_only for claim in raced)
    mean = math.exp(sum(map(math.log, values)) / len(values))
    return Claim("", ratio, mean, peer=told, time_only=time_only, machine=raced[0].machine)


def _rank(claim: Claim) -> tuple[str, str, int]:
    network, _, variant = claim.case.partition("/")
    return network, variant, _RATIOS.index(claim.ratio) if claim.ratio in _RATIOS else len(_RATIOS)
