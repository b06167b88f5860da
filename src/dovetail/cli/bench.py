"""`dovetail bench`: the fair race of packed networks against other runtimes."""

from __future__ import annotations

import logging
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from dovetail.cli import networks
from dovetail.cli.console import console, say
from dovetail.cli.materials import build_network
from dovetail.cli.options import DataFolder, Weights
from dovetail.cli.pages import SELF
from dovetail.errors import DataError, RecipeError

if TYPE_CHECKING:
    from torch import nn

    from dovetail.cli.materials import Sets
    from dovetail.peers.results import Race
    from dovetail.program.program import Program

log = logging.getLogger("dovetail.cli")
ITSELF = "self"
RESULTS = Path("benchmarks/results")


def bench(
    *programs: Annotated[Path, Parameter(help="One or more .dovetail files.")],
    original: Annotated[
        str | None,
        Parameter(help="The dense network; a packed file knows its own. 'self': the packed network in other runtimes."),
    ] = None,
    weights: Weights = None,
    against: Annotated[
        tuple[str, ...], Parameter(help="Peers: onnxruntime, openvino-int8, …; all by default.", negative=())
    ] = (),
    threads: Annotated[tuple[int, ...], Parameter(help="Thread counts to try.", negative=())] = (),
    batch: Annotated[int, Parameter(help="Images per run.")] = 1,
    blocks: Annotated[int, Parameter(help="Blocks of about 20 runs per target.")] = 24,
    data: DataFolder = None,
    out: Annotated[Path, Parameter(name=["--out", "-o"], help="Folder of the JSON results.")] = RESULTS,
) -> None:
    """Race packed networks against their dense originals in other runtimes, each at its best.

    Prints medians, spread and the ratios (peer time / our time; above 1 we are faster), and writes one JSON per file.
    With data at hand, int8 peers are calibrated and accuracies measured; without, the race is about time only.
    """
    if not programs:
        raise RecipeError("name at least one .dovetail file; `dovetail recipe run` and `dovetail compress` make them")
    for path in programs:
        race = _race(path, original, weights, against, threads=threads, batch=batch, blocks=blocks, root=data)
        console().print(race.table())
        target = out / f"{race.bench}.json"
        race.save(target)
        say(f"wrote {target}")


def _race(
    path: Path,
    original: str | None,
    weights: str | None,
    against: tuple[str, ...],
    *,
    threads: tuple[int, ...],
    batch: int,
    blocks: int,
    root: Path | None,
) -> Race:
    from dovetail.export.torch_module import to_torch
    from dovetail.peers.peer import DEFAULT
    from dovetail.peers.race import race

    program = networks.load(str(path))
    ours = to_torch(program)
    dense, trained = (ours, True) if original == ITSELF else _original(program, path, original, weights, root)
    sets = _sets(program, root) if trained else None
    network, variant = _case(program, path, batch, itself=original == ITSELF)
    return race(
        program,
        dense,
        peers=against or DEFAULT,
        data=None if sets is None else sets.calibration,
        test=None if sets is None else sets.test,
        compressed=None if original == ITSELF else ours,
        threads=threads or None,
        batch=batch,
        blocks=blocks,
        network=network,
        variant=variant,
        command=_command(path, original, against, batch),
        report=log.info,
    )


def _sets(program: Program, root: Path | None) -> Sets | None:
    try:
        return networks.sets_of(program, None, root)
    except (DataError, RecipeError) as error:
        log.warning("a race about time only: %s", error)
        return None


def _original(
    program: Program, path: Path, name: str | None, weights: str | None, root: Path | None
) -> tuple[nn.Module, bool]:
    """The dense network for the peers, and whether it is trained: else the race is about time only.

    A recipe that starts from random weights has its trained dense control beside it.
    """
    from dovetail.export.torch_module import to_torch

    network = networks.original_of(program, name, weights)
    control = path.with_name(f"{program.metadata.get('control')}.dovetail")
    if network.weights is None and name is None and control.is_file():
        return to_torch(networks.load(str(control))), True
    if network.weights is None:
        log.warning("a race about time only: %s has random weights; give --weights to compare accuracies", network.name)
    return build_network(network, root), network.weights is not None


def _case(program: Program, path: Path, batch: int, *, itself: bool) -> tuple[str, str]:
    known = program.metadata
    unnamed = f"{(known.get('original') or {}).get('name', 'network')}_{known.get('data', 'random')}/{path.stem}"
    network, _, variant = (known.get("case") or unnamed.replace(":", "-")).partition("/")
    return network, variant + (f"_b{batch}" if batch > 1 else "") + (SELF if itself else "")


def _command(path: Path, original: str | None, against: tuple[str, ...], batch: int) -> str:
    words = ["dovetail", "bench", path.name]
    words += ["--original", original] if original else []
    words += [word for name in against for word in ("--against", name)]
    return shlex.join(words + (["--batch", str(batch)] if batch > 1 else []))
