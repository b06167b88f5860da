"""What `dovetail simulate` leaves behind: a JSON for each network on each machine, as it grows, and the comparison."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dovetail import files
from dovetail.errors import DataError, MachineError

if TYPE_CHECKING:
    from dovetail.accelerators.machine import Machine
    from dovetail.accelerators.sensitivity import Effect
    from dovetail.accelerators.simulation import Layer

log = logging.getLogger("dovetail.cli")
FOLDER = Path("simulations")
COMPARISON = "comparison.json"
Json = Mapping[str, Any]


@dataclass(frozen=True)
class Network:
    """A packed network that is simulated.

    Attributes:
        name: in tables and file names, that of the file.
        path: the file.
        case: as recipes name it, e.g. `resnet18_cifar/penni`; empty where the file says nothing.
    """

    name: str
    path: Path
    case: str = ""

    @cached_property
    def sha256(self) -> str:
        """Of the file."""
        return hashlib.sha256(self.path.read_bytes()).hexdigest()

    def to_json(self) -> dict[str, str]:
        """Plain data."""
        return {"name": self.name, "file": self.path.name, "sha256": self.sha256, "case": self.case}


@dataclass
class Pair:
    """A network on a machine, in a file that is whole after every layer; what the file has is taken again.

    Attributes:
        target: the file.
        about: what stands on top of it: command, network, images.
        network: which.
        machine: the description.
        layers: those that are done, as JSON.
        effects: of parameters, those that are done.
        reused: how many of both came from the file.
    """

    target: Path
    about: Json
    network: Network
    machine: Machine
    layers: list[Json] = field(default_factory=list)
    effects: list[Json] = field(default_factory=list)
    reused: int = 0

    def __post_init__(self) -> None:
        self._earlier = _known(self.target)

    @property
    def name(self) -> str:
        """For messages and titles."""
        return f"{self.network.name} on {self.machine.name}"

    def has_layer(self, fingerprint: str) -> bool:
        """Whether the file had a layer; it then counts as done."""
        return self._takes(fingerprint, self.layers)

    def has_effect(self, fingerprint: str) -> bool:
        """The same for the effect of a parameter."""
        return self._takes(fingerprint, self.effects)

    def add(self, done: Layer | Effect, fingerprint: str) -> None:
        """One more layer or effect; the file has it when this returns.

        Effects are of all layers together, so with a new layer those that an earlier command found hold no more.
        """
        from dovetail.accelerators.simulation import Layer

        if isinstance(done, Layer):
            self._earlier = {mark: entry for mark, entry in self._earlier.items() if "field" not in entry}
        entries = self.layers if isinstance(done, Layer) else self.effects
        entries.append({"fingerprint": fingerprint, **done.to_json()})
        self._save(complete=False)

    def finish(self) -> None:
        """Nothing more comes. Effects that an earlier command found still hold where it had these very layers."""
        left = list(self._earlier.values())
        if not self.effects and all("field" in entry for entry in left):
            self.effects = left
        self._earlier = {}
        self._save(complete=True)

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        return {
            **self.about,
            "network": self.network.to_json(),
            "machine": self.machine.to_json(),
            "total": self.total(),
            "layers": self.layers,
            "sensitivity": self.effects,
        }

    def total(self) -> dict[str, Any]:
        """The layers so far, added up."""
        from dovetail.accelerators.simulation import figures
        from dovetail.accelerators.trace import Trace, total

        return figures(total(Trace.from_json(layer["trace"]) for layer in self.layers))

    def _save(self, *, complete: bool) -> None:
        """Write what there is, and what an earlier command left, in case this one is stopped."""
        data = self.to_json() | {"complete": complete}
        left = {} if complete else {"earlier": list(self._earlier.values())}
        files.write(self.target, json.dumps(data | left, indent=1, ensure_ascii=False) + "\n", error=DataError)

    def _takes(self, fingerprint: str, entries: list[Json]) -> bool:
        found = self._earlier.pop(fingerprint, None)
        if found is None:
            return False
        entries.append(found)
        self.reused += 1
        return True


def comparison(about: Json, pairs: Sequence[Pair], alike: str) -> dict[str, Any]:
    """All pairs beside each other; the first is what the others are compared with."""
    return {
        **about,
        "case": pairs[0].network.case,
        "alike": alike,
        "pairs": [
            {
                "network": pair.network.name,
                "machine": pair.machine.name,
                "units": pair.machine.units,
                "file": pair.target.name,
                **pair.total(),
                "sensitivity": [{k: v for k, v in effect.items() if k != "fingerprint"} for effect in pair.effects],
            }
            for pair in pairs
        ],
    }


def read_comparisons(folder: Path) -> list[dict[str, Any]]:
    """The comparisons below a folder, by path; `DataError` where one is none."""
    return [read_comparison(path) for path in sorted(folder.glob(f"*/{COMPARISON}"))]


def read_comparison(path: Path) -> dict[str, Any]:
    """The comparison in a file; `DataError` where it is none."""
    read = _read(path)
    if not isinstance(read, dict) or not read.get("pairs"):
        raise DataError(f"{path} is no comparison of `dovetail simulate`; restore it or remove it")
    return read


def alike(machines: Iterable[Machine]) -> str:
    """What a reader must know of machines that are not of one size; "" where they are."""
    found = list({machine.name: machine for machine in machines}.values())
    told = []
    for what, values in {
        "multipliers": [f"{machine.units:,}" for machine in found],
        "clocks": [f"{machine.clock_hz / 1e6:,g} MHz" for machine in found],
        "nodes": [f"{machine.node_nm:g} nm" for machine in found],
        "off-chip bandwidths": [f"{machine.dram_bytes_per_cycle:g} bytes/cycle" for machine in found],
        "memories of inputs and outputs": [f"{machine.kept_values:,} values" for machine in found],
    }.items():
        if len(set(values)) > 1:
            listed = ", ".join(f"{machine.name} {value}" for machine, value in zip(found, values))
            told.append(f"{what} differ: {listed}")
    return "; ".join(told)


def _known(path: Path) -> dict[str, Json]:
    """Fingerprint → what a file of a pair holds; nothing where there is none, or where it cannot be read."""
    from dovetail.accelerators.simulation import Layer

    if not path.exists():
        return {}
    try:
        data = _read(path)
        entries = [*data["layers"], *data["sensitivity"], *data.get("earlier", ())]
        for entry in entries:
            if "trace" in entry:
                Layer.from_json(entry)
        return {entry["fingerprint"]: entry for entry in entries}
    except (DataError, MachineError, KeyError, TypeError) as error:
        log.warning("%s is no simulation (%s); it is made anew", path, error)
        return {}


def _read(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{path} is no result of `dovetail simulate` ({error}); restore it or remove it") from None
