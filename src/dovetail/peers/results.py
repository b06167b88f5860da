"""What a race gives: rows, ratios, and the JSON that is committed as evidence."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from dovetail import files
from dovetail.errors import DataError


@dataclass(frozen=True)
class Row:
    """The times of one target.

    Attributes:
        case: `<network>/<variant>`; `<variant>_t<n>` for the single thread counts beneath the better one.
        max_error: on the outputs, relative to their range, against the torch model (or, for ours, the packed network).
        threads: of this row.
        agreement: percent of images with the torch model's top-1, where the target is not f32.
        accuracy: percent on the labelled data, where there were any.
        ratio: this target's time over ours, for the table.
    """

    case: str
    target: str
    dtype: str
    median_ms: float
    p10_ms: float
    p90_ms: float
    runs: int
    max_error: float
    threads: int
    agreement: float | None = None
    accuracy: float | None = None
    ratio: float | None = None

    def to_json(self) -> dict[str, Any]:
        """Without what is for the table only; agreement and accuracy where they were measured."""
        data = asdict(self)
        hidden = {"threads", "ratio"} | {name for name in ("agreement", "accuracy") if data[name] is None}
        return {name: value for name, value in data.items() if name not in hidden}


@dataclass(frozen=True)
class Ratio:
    """Peer time over our time; `value`, the smaller of `median` and `p10`, is the claim.

    `case` is `<network>/<variant>/<ratio>`; `ours` and `peer` are names of rows.
    """

    case: str
    ours: str
    peer: str
    value: float
    median: float
    p10: float

    @property
    def name(self) -> str:
        """The last part of the case, such as "vs_f32"."""
        return self.case.rpartition("/")[2]


@dataclass(frozen=True)
class Race:
    """All that was measured in one race.

    Attributes:
        threads: the thread counts tried; the better one of each target has the plain case.
        noise: the same target against itself, in the form of a ratio: what of a ratio is chance.
        absent: peers that did not take part, by name, and why.
        conditions: "cold": caches emptied before every run; "busy": another process computed meanwhile.
        time_only: nobody's accuracy was measured, be it for want of data or because the weights are random.
    """

    bench: str
    command: str
    date: str
    machine: Mapping[str, Any]
    versions: Mapping[str, str]
    threads: tuple[int, ...]
    batch: int
    rows: tuple[Row, ...]
    ratios: tuple[Ratio, ...]
    noise: tuple[Ratio, ...] = ()
    absent: Mapping[str, str] = field(default_factory=dict)
    time_only: bool = False
    conditions: tuple[str, ...] = ()

    def ratio(self, name: str) -> Ratio | None:
        """The ratio called `name` ("vs_f32", …), or None where nobody was there to compare with."""
        return next((ratio for ratio in self.ratios if ratio.name == name), None)

    def to_json(self) -> dict[str, Any]:
        """Plain data; a peer that did not run has the reason in the place of its version."""
        return {
            "bench": self.bench,
            **({"time_only": True} if self.time_only else {}),
            "command": self.command,
            "date": self.date,
            "machine": dict(self.machine),
            "versions": {**self.versions, **{name: f"not run: {why}" for name, why in self.absent.items()}},
            "threads": list(self.threads),
            "batch": self.batch,
            **({"conditions": list(self.conditions)} if self.conditions else {}),
            "rows": [row.to_json() for row in self.rows],
            "ratios": [asdict(ratio) for ratio in self.ratios],
            "noise": [asdict(ratio) for ratio in self.noise],
        }

    def save(self, path: str | Path) -> None:
        """Write the JSON, making its folder; the file is whole or not there.

        Raises:
            DovetailError: the place cannot be written.
        """
        target = Path(path)
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise DataError(f"cannot write {target}: {error.strerror}; choose another folder") from None
        files.write(target, json.dumps(self.to_json(), indent=1) + "\n")

    def table(self) -> Any:
        """For people, a `rich.table.Table`: every target at its better thread count, the ratios, and who was absent."""
        from dovetail.peers.table import table

        return table(self)
