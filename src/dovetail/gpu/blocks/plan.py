"""What may be said of how a layer is to run, as data and as text."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Self

from dovetail.errors import GpuError
from dovetail.gpu.tuning import SAID

Ways = Mapping[str, Callable[[str], Any] | None]
"""The ways of a format: name → what reads its tiles, or None where it has none."""

MOST_SPLITS = 8
"""Of the plans that are ranked; given ones may have more."""


@dataclass(frozen=True)
class Plan:
    """One way to run a layer, and its tiles."""

    way: str
    tiles: Any = None

    @property
    def splits(self) -> int:
        """Programs that share out the terms of a sum."""
        return 1 if self.tiles is None else int(self.tiles.splits)

    def __str__(self) -> str:
        return self.way if self.tiles is None else f"{self.way} {self.tiles}"

    @classmethod
    def parse(cls, text: str, ways: Ways) -> Self:
        """The inverse of `str`; `GpuError` for anything else."""
        way, _, rest = text.partition(" ")
        if way not in ways or bool(rest) != (ways[way] is not None):
            known = ", ".join(f"'{name} TILES'" if read else repr(name) for name, read in ways.items())
            raise GpuError(f"{text!r} is no plan of this layer; give {known}, or say {SAID}")
        read = ways[way]
        return cls(way) if read is None else cls(way, read(rest))


def share(count: int, at_a_time: int, splits: int) -> int:
    """Steps of each split, so that all of `count` terms are taken `at_a_time`."""
    steps = -(-count // at_a_time)
    return -(-steps // splits)


@dataclass(frozen=True)
class Strip:
    """How one launch without matrix units is cut up: numbers of a weight are read once, in the order of memory.

    Attributes:
        batch: inputs whose products are made together.
        rows: of blocks.
        columns: of blocks, of a step.
        splits: programs that share the columns out among themselves.
        warps: of a program.
    """

    batch: int
    rows: int
    columns: int
    splits: int = 1
    warps: int = 4

    def __post_init__(self) -> None:
        numbers = (self.batch, self.rows, self.columns, self.warps)
        if any(not isinstance(n, int) or n < 1 or n & (n - 1) for n in numbers):
            raise GpuError(f"strip {self}: batch, rows, columns and warps must be powers of two")
        if self.splits < 1:
            raise GpuError(f"strip {self}: at least one split is needed")

    @property
    def stages(self) -> int:
        """Loads go to registers: other programs of the multiprocessor hide their latency."""
        return 1

    def __str__(self) -> str:
        return f"{self.batch}x{self.rows}x{self.columns}:{self.splits}:{self.warps}"

    @classmethod
    def parse(cls, text: str) -> Self:
        """The inverse of `str`; `GpuError` for anything else."""
        try:
            return cls(*(int(word) for word in text.replace("x", ":").split(":")))
        except (TypeError, ValueError):
            raise GpuError(f"{text!r} is no strip; write it as 1x1x64:4:4") from None
