"""Networks on machines in figures: the layers of one pair, all pairs beside each other, and whose gain it is.

A comparison is the JSON that `dovetail simulate` writes; its first pair is what the others are compared with.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dovetail.report import numbers
from dovetail.report.stacked import CAUSES

Json = Mapping[str, Any]
PAIRS = (
    "network",
    "on",
    "multipliers",
    "cycles",
    "time",
    "used",
    "off-chip",
    "energy",
    "time / first",
    "per multiplier",
    "energy / first",
)
SHARES = ("baseline", "", "all in all", "by the network", "by the machine")


@dataclass(frozen=True)
class Share:
    """What separates the first pair from a machine with a network of its own; above 1 the first pair takes less.

    Attributes:
        machine: the other machine.
        network: its own network.
        what: "time" or "energy".
        whole: of the other pair over the first.
        by_network: of the other network over the first one's, both on the other machine.
        by_machine: of the first one's network on the other machine over the first pair.
    """

    machine: str
    network: str
    what: str
    whole: float
    by_network: float
    by_machine: float

    def cells(self) -> tuple[str, ...]:
        """In the order of `SHARES`."""
        parts = (self.whole, self.by_network, self.by_machine)
        return (f"{self.network} on {self.machine}", self.what, *map(numbers.times, parts))


def pair_cells(pairs: Sequence[Json]) -> list[tuple[str, ...]]:
    """A row per pair, in the order of `PAIRS`; `per multiplier` is the ratio of times, each times its multipliers."""
    first = pairs[0]
    return [_cells(pair, first) for pair in pairs]


def shares(pairs: Sequence[Json]) -> list[Share]:
    """Of every pair with another machine and another network than the first, where the fourth pair is known, too."""
    first, found = pairs[0], {(pair["machine"], pair["network"]): pair for pair in pairs}
    made = []
    for (machine, network), pair in found.items():
        between = found.get((machine, first["network"]))
        if machine == first["machine"] or network == first["network"] or between is None:
            continue
        for what, key in (("time", "seconds"), ("energy", "joules")):
            whole, network_share, machine_share = (
                pair[key] / first[key],
                pair[key] / between[key],
                between[key] / first[key],
            )
            made.append(Share(machine, network, what, whole, network_share, machine_share))
    return made


def layer_columns(layers: Iterable[Json]) -> tuple[str, ...]:
    """Of the table of a pair: a column for each cause that occurs."""
    return ("layer", "run as", "cycles", *_causes(layers), "used", "off-chip", "energy")


def layer_cells(layers: Sequence[Json], total: Json) -> Iterator[tuple[str, ...]]:
    """A row per layer and the sum, in the order of `layer_columns`."""
    causes = _causes(layers)
    for layer in (*layers, {"name": "total", "form": "", **total}):
        spent = (numbers.count(layer["cycles_by"].get(cause, 0)) for cause in causes)
        figures = (f"{layer['utilisation']:.0%}", numbers.size(layer["bytes_by"]["dram"]))
        yield (layer["name"], layer["form"], numbers.count(layer["cycles"]), *spent, *figures, _joules(layer))


def _causes(layers: Iterable[Json]) -> tuple[str, ...]:
    present = {cause for layer in layers for cause, cycles in layer["cycles_by"].items() if cycles}
    return tuple(cause for cause in CAUSES if cause in present)


def _cells(pair: Json, first: Json) -> tuple[str, ...]:
    slower = pair["seconds"] / first["seconds"]
    return (
        pair["network"],
        pair["machine"],
        f"{pair['units']:,}",
        numbers.count(pair["cycles"]),
        numbers.milliseconds(1e3 * pair["seconds"]),
        f"{pair['utilisation']:.0%}",
        numbers.size(pair["bytes_by"]["dram"]),
        _joules(pair),
        numbers.times(slower),
        numbers.times(slower * pair["units"] / first["units"]),
        numbers.times(pair["joules"] / first["joules"]),
    )


def _joules(figures: Json) -> str:
    return numbers.joules(figures["joules"])
