"""What a command line asks of every race, and what of it must show in names and commands."""

from __future__ import annotations

import shlex
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from dovetail.engine.native import ISA_VARIABLE
from dovetail.peers.machine import portable

BLOCKS = 24


@dataclass(frozen=True)
class Conditions:
    """Under which conditions all races of a command are run."""

    weights: str | None
    against: tuple[str, ...]
    threads: tuple[int, ...]
    batch: int
    blocks: int
    data: Path | None
    isa: str | None
    cold: bool = False
    busy: bool = False

    def suffix(self, *, blind: bool = False) -> str:
        """What joins the variant where a race is not the plain one, so that the plain one's evidence stays.

        `blind`: the network was trained on data that are not at hand, or its original is not, so that no accuracy can
        be compared.
        """
        parts = [f"b{self.batch}"] if self.batch > 1 else []
        parts += ["t" + "t".join(map(str, self.threads))] if self.threads else []
        parts += [self.isa] if self.isa else []
        parts += ["cold"] * self.cold + ["busy"] * self.busy
        parts += ["time_only"] if blind else []
        parts += ["some_peers"] if self.against else []
        parts += ["other_weights"] if self.weights is not None else []
        parts += [f"{self.blocks}blocks"] if self.blocks != BLOCKS else []
        return "".join(f"_{part}" for part in parts)

    def command(self, name: str, named: Iterable[str] = ()) -> str:
        """What repeats one race, from the folder in which it was run; `named` are words of its own."""
        isa = [f"{ISA_VARIABLE}={self.isa}"] if self.isa else []
        return " ".join([*isa, shlex.join(["dovetail", "bench", name, *named, *self._flags()])])

    def _flags(self) -> list[str]:
        """Those that differ from the defaults; where the data lie is no part of a command."""
        words = [] if self.weights is None else ["--weights", portable(self.weights)]
        words += [word for name in self.against for word in ("--against", name)]
        words += [word for count in self.threads for word in ("--threads", str(count))]
        words += ["--batch", str(self.batch)] if self.batch != 1 else []
        words += ["--blocks", str(self.blocks)] if self.blocks != BLOCKS else []
        return words + ["--cold"] * self.cold + ["--busy"] * self.busy
