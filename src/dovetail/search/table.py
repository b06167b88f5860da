"""Costs of layers on one machine, measured once: a file that grows by every entry, so that a stopped search goes on."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final, Self

from dovetail import files
from dovetail.errors import DataError
from dovetail.formats.base import Spec
from dovetail.program.layers import LayerShape

VERSION: Final = 1


@dataclass(frozen=True)
class Entry:
    """One measurement.

    Attributes:
        value: over the dense layer's time, or whatever the table holds.
        low, high: of the single measurements.
        detail: in words, such as the kernel that ran.
    """

    value: float
    low: float
    high: float
    detail: str = ""


Measure = Callable[[LayerShape, Spec], Entry]


@dataclass
class CostTable:
    """What layers cost in formats on one machine under one set of conditions.

    Attributes:
        machine: what the costs hold for, as plain data; a file of another machine is refused.
        path: of the file; None keeps the table in memory.
        entries: layer and format in words → measurement.
    """

    machine: Mapping[str, Any]
    path: Path | None = None
    entries: dict[str, Entry] = field(default_factory=dict)

    @classmethod
    def open(cls, path: str | Path, machine: Mapping[str, Any]) -> Self:
        """The table of a file, an empty one where there is none.

        Raises:
            DataError: the file is no table, or one of another machine.
        """
        where = Path(path)
        table = cls(json.loads(json.dumps(dict(machine))), where)
        if not where.exists():
            return table
        try:
            data = json.loads(where.read_text())
            version, of = data["version"], data["machine"]
            entries = {name: Entry(**entry) for name, entry in data["entries"].items()}
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise DataError(f"{where} is no table of costs ({error!r}); remove it, or give another file") from None
        if version != VERSION:
            raise DataError(f"{where} has costs of version {version}, not {VERSION}; remove it to measure anew")
        if other := differences(table.machine, of):
            raise DataError(
                f"{where} was measured elsewhere: {other}; costs of another machine say nothing here, so give another "
                "file, or remove this one to measure anew"
            )
        table.entries = entries
        return table

    def get(self, shape: LayerShape, spec: Spec) -> Entry | None:
        """What is known of a layer in a format."""
        return self.entries.get(key(shape, spec))

    def measured(self, shape: LayerShape, spec: Spec, measure: Measure) -> Entry:
        """What is known, else what `measure` finds, which is then known and on disk."""
        name = key(shape, spec)
        if name not in self.entries:
            self.entries[name] = measure(shape, spec)
            self.save()
        return self.entries[name]

    def save(self) -> None:
        """Write the file, whole or not at all, with what others have added to it since."""
        if self.path is None:
            return
        files.make_folder(self.path.parent, error=DataError)
        with files.locked(self.path.parent, name=f".{self.path.name}.lock", wait=True, error=DataError):
            self.entries = {**type(self).open(self.path, self.machine).entries, **self.entries}
            entries = {name: asdict(entry) for name, entry in self.entries.items()}
            data = {"version": VERSION, "machine": dict(self.machine), "entries": entries}
            files.write(self.path, json.dumps(data, indent=1, ensure_ascii=False) + "\n", error=DataError)


def key(shape: LayerShape, spec: Spec) -> str:
    """A layer and its format in words: equal for layers that differ in nothing but their names."""
    geometry = "" if shape.op == "linear" else f" pad {shape.padding} dilation {shape.dilation}"
    sizes = f"{shape.op} {shape} in {shape.input} {shape.weight}{geometry}"
    return f"{sizes}: {json.dumps(spec.to_json(), sort_keys=True)}"


def differences(here: Mapping[str, Any], there: Mapping[str, Any]) -> str:
    """How conditions of a measurement elsewhere differ from those here, in words; empty where they do not."""
    names = [name for name in {**here, **there} if here.get(name) != there.get(name)]
    return "; ".join(f"{name} is {there.get(name)!r} there and {here.get(name)!r} here" for name in names)
