"""`dovetail bench`: the fair race of packed networks against other runtimes."""

from __future__ import annotations

import logging
import os
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from dovetail.cli import networks
from dovetail.cli.console import console, say
from dovetail.cli.materials import build_network
from dovetail.cli.options import DataFolder, Weights, writable
from dovetail.cli.pages import SELF
from dovetail.engine.native import ISA_VARIABLE
from dovetail.errors import DataError, RecipeError
from dovetail.peers.machine import portable

if TYPE_CHECKING:
    from torch import nn

    from dovetail.cli.materials import Sets
    from dovetail.peers.results import Race
    from dovetail.program.program import Program

log = logging.getLogger("dovetail.cli")
ITSELF = "self"
RESULTS = Path("benchmarks/results")
BLOCKS = 24


def bench(
    *programs: Annotated[Path, Parameter(help="One or more .dovetail files.")],
    original: Annotated[
        str | None,
        Parameter(
            help="The dense network; a packed file knows its own. 'self': the packed network in other runtimes. "
            "By default files of the method thin race both ways."
        ),
    ] = None,
    weights: Weights = None,
    against: Annotated[
        tuple[str, ...], Parameter(help="Peers: onnxruntime, openvino-int8, …; all by default.", negative=())
    ] = (),
    threads: Annotated[tuple[int, ...], Parameter(help="Thread counts to try.", negative=())] = (),
    batch: Annotated[int, Parameter(help="Images per run.")] = 1,
    blocks: Annotated[int, Parameter(help="Blocks of about 20 runs per target.")] = BLOCKS,
    data: DataFolder = None,
    out: Annotated[Path, Parameter(name=["--out", "-o"], help="Folder of the JSON results.")] = RESULTS,
) -> None:
    """Race packed networks against their dense originals in other runtimes, each at its best.

    Prints medians, spread and the ratios (peer time / our time; above 1 we are faster), and writes one JSON per file.
    With data at hand, int8 peers are calibrated and accuracies measured; without, the race is about time only. A dense
    network trained as it is (method thin) also races itself in other runtimes: a point of the curve to beat.
    """
    from dovetail.peers.peer import peer_named
    from dovetail.peers.race import require

    if not programs:
        raise RecipeError("name at least one .dovetail file; `dovetail recipe run` and `dovetail compress` make them")
    require(threads, batch, blocks)
    for name in against:
        peer_named(name)
    writable(next(folder for folder in (out, *out.parents, Path()) if folder.exists()) / "race.json")
    loaded = {path: networks.load(str(path)) for path in programs}
    asked = Conditions(weights, against, threads, batch, blocks, data, os.environ.get(ISA_VARIABLE))
    for path, program in loaded.items():
        for dense in _originals(program) if original is None else (original,):
            race = _race(program, path, dense, asked)
            console().print(race.table())
            target = out / f"{race.bench}.json"
            race.save(target)
            say(f"wrote {target}")


@dataclass(frozen=True)
class Conditions:
    """What a command line asks of every race."""

    weights: str | None
    against: tuple[str, ...]
    threads: tuple[int, ...]
    batch: int
    blocks: int
    data: Path | None
    isa: str | None

    def suffix(self, *, blind: bool) -> str:
        """What joins the variant where a race is not the plain one, so that the plain one's evidence stays.

        `blind`: the network was trained on data that are not at hand, so that no accuracy can be compared.
        """
        parts = [f"b{self.batch}"] if self.batch > 1 else []
        parts += ["t" + "t".join(map(str, self.threads))] if self.threads else []
        parts += [self.isa] if self.isa else []
        parts += ["time_only"] if blind else []
        parts += ["some_peers"] if self.against else []
        parts += ["other_weights"] if self.weights is not None else []
        parts += [f"{self.blocks}blocks"] if self.blocks != BLOCKS else []
        return "".join(f"_{part}" for part in parts)

    def flags(self) -> list[str]:
        """Those that differ from the defaults, to repeat the race; where the data lie is no part of it."""
        words = [] if self.weights is None else ["--weights", portable(self.weights)]
        words += [word for name in self.against for word in ("--against", name)]
        words += [word for count in self.threads for word in ("--threads", str(count))]
        words += ["--batch", str(self.batch)] if self.batch != 1 else []
        return words + (["--blocks", str(self.blocks)] if self.blocks != BLOCKS else [])


def _originals(program: Program) -> tuple[str | None, ...]:
    """The recorded original; for a dense network also itself."""
    return (None, ITSELF) if program.metadata.get("method") == "thin" else (None,)


def _race(program: Program, path: Path, original: str | None, asked: Conditions) -> Race:
    from dovetail.export.torch_module import to_torch
    from dovetail.peers.peer import DEFAULT
    from dovetail.peers.race import race

    itself = original == ITSELF
    ours = to_torch(program, rounded=False)
    dense, trained = (ours, True) if itself else _original(program, path, original, asked)
    sets = _sets(program, asked.data) if trained else None
    blind = trained and sets is None and program.metadata.get("data") is not None
    network, variant = _case(program, path, _against(program, original) + asked.suffix(blind=blind), itself=itself)
    return race(
        program,
        dense,
        peers=asked.against or DEFAULT,
        data=None if sets is None else sets.calibration,
        test=None if sets is None else sets.test,
        compressed=None if itself else ours,
        threads=asked.threads or None,
        batch=asked.batch,
        blocks=asked.blocks,
        network=network,
        variant=variant,
        command=_command(path, original, asked),
        report=log.info,
    )


def _sets(program: Program, root: Path | None) -> Sets | None:
    try:
        return networks.sets_of(program, None, root)
    except (DataError, RecipeError) as error:
        log.warning("a race about time only: %s", error)
        return None


def _original(program: Program, path: Path, name: str | None, asked: Conditions) -> tuple[nn.Module, bool]:
    """The dense network for the peers, and whether it is trained: else the race is about time only.

    A recipe that starts from random weights has its trained dense control beside it.
    """
    from dovetail.export.torch_module import to_torch

    network = networks.original_of(program, name, asked.weights)
    control = path.with_name(f"{program.metadata.get('control')}.dovetail")
    if network.weights is None and name is None and control.is_file():
        return to_torch(networks.load(str(control)), rounded=False), True
    if network.weights is None:
        log.warning("a race about time only: %s has random weights; give --weights to compare accuracies", network.name)
    return build_network(network, asked.data), network.weights is not None


def _against(program: Program, original: str | None) -> str:
    """What joins the variant where another network than the recorded one is the original."""
    recorded = (program.metadata.get("original") or {}).get("name")
    return "" if original in (None, ITSELF, recorded) else f"_vs_{original.replace(':', '-')}"


def _case(program: Program, path: Path, suffix: str, *, itself: bool) -> tuple[str, str]:
    known = program.metadata
    unnamed = f"{(known.get('original') or {}).get('name', 'network')}_{known.get('data', 'random')}/{path.stem}"
    network, _, variant = (known.get("case") or unnamed.replace(":", "-")).partition("/")
    return network, variant + suffix + (SELF if itself else "")


def _command(path: Path, original: str | None, asked: Conditions) -> str:
    """What repeats this one race, from the folder in which it was run."""
    named = ["--original", original] if original else []
    isa = [f"{ISA_VARIABLE}={asked.isa}"] if asked.isa else []
    return " ".join([*isa, shlex.join(["dovetail", "bench", portable(path), *named, *asked.flags()])])
