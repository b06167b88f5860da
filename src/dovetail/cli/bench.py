"""`dovetail bench`: the fair race of packed networks against other runtimes."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from dovetail.cli import networks, recipes, sheets
from dovetail.cli.app import Failed
from dovetail.cli.conditions import BLOCKS, Conditions
from dovetail.cli.console import console, say
from dovetail.cli.materials import build_network
from dovetail.cli.options import DataFolder, Weights, writable
from dovetail.cli.pages import SELF
from dovetail.engine.native import ISA_VARIABLE
from dovetail.errors import DataError, DovetailError, RecipeError
from dovetail.peers.machine import portable

if TYPE_CHECKING:
    from torch import nn

    from dovetail.cli.materials import Sets
    from dovetail.peers.results import Race
    from dovetail.program.program import Program

log = logging.getLogger("dovetail.cli")
ITSELF = "self"
RESULTS = Path("benchmarks/results")


def bench(
    *names: Annotated[str, Parameter(help="Packed files (*.dovetail), and sheets of networks with random weights.")],
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
    cold: Annotated[bool, Parameter(help="Empty the caches before every run.", negative=())] = False,
    busy: Annotated[bool, Parameter(help="Race beside a process that computes.", negative=())] = False,
    data: DataFolder = None,
    out: Annotated[Path, Parameter(name=["--out", "-o"], help="Folder of the JSON results.")] = RESULTS,
) -> None:
    """Race networks against their dense originals in other runtimes, each at its best.

    Prints medians, spread and the ratios (peer time / our time; above 1 we are faster), and writes one JSON per race.
    With data at hand, int8 peers are calibrated and accuracies measured; without, the race is about time only. A dense
    network trained as it is (method thin) also races itself in other runtimes: a point of the curve to beat. A sheet of
    benchmarks/networks, by path or name, makes networks of random weights, which race for time only: all of its
    variants, or one (resnet18_224/sparse90).
    """
    from dovetail.peers.peer import peer_named
    from dovetail.peers.race import require

    if not names:
        raise RecipeError(
            "name at least one .dovetail file (`dovetail recipe run` and `dovetail compress` make them), "
            f"or one of the sheets {', '.join(path.stem for path in sheets.listed()) or f'in {sheets.folder()}'}"
        )
    require(threads, batch, blocks)
    for name in against:
        peer_named(name)
    writable(next(folder for folder in (out, *out.parents, Path()) if folder.exists()) / "race.json")
    asked = Conditions(weights, against, threads, batch, blocks, data, os.environ.get(ISA_VARIABLE), cold, busy)
    races = [race for name in names for race in _races(name, original, asked, out)]
    failed = [told for race in races if (told := _run(race, out, alone=len(races) == 1))]
    if failed:
        raise Failed(f"{len(failed)} of {len(races)} races failed: {'; '.join(failed)}")


def _run(race: Callable[[], Race | None], out: Path, *, alone: bool) -> str:
    """Race, print and write; unless it is `alone`, a race that fails only says why, and the others have their turn."""
    try:
        done = race()
    except DovetailError as error:
        if alone:
            raise
        log.warning("a race failed: %s", error)
        return str(error)
    if done is not None:
        console().print(done.table())
        target = out / f"{done.bench}.json"
        done.save(target)
        say(f"wrote {target}")
    return ""


def _races(name: str, original: str | None, asked: Conditions, out: Path) -> Iterator[Callable[[], Race | None]]:
    """The races that one name of the command line means, everything read that is read before the first of them."""
    if networks.is_packed(name):
        path, program = Path(name), networks.load(name)
        for dense in _originals(program) if original is None else (original,):
            yield partial(_race_packed, program, path, dense, asked)
        return
    if original is not None or asked.weights is not None:
        raise RecipeError(f"{name}: a sheet says itself what races; leave out --original and --weights")
    for case in sheets.cases(name):
        yield partial(_race_for_time, case, asked, out)


def read_race(path: Path) -> dict[str, Any]:
    """The JSON of a result; `DataError` where it is none."""
    try:
        return dict(json.loads(path.read_text()))
    except (OSError, ValueError, TypeError) as error:
        raise DataError(f"{path} is no race result ({error!r}); restore it or remove it and race again") from None


def _race_for_time(case: sheets.Case, asked: Conditions, out: Path) -> Race | None:
    """A network of random weights; not where the same case has raced with trained ones."""
    from dovetail.cli.random_networks import make
    from dovetail.peers.peer import DEFAULT
    from dovetail.peers.race import race

    variant = case.variant + asked.suffix()
    evidence = out / f"{case.network}_{variant}.json"
    if evidence.is_file() and not read_race(evidence).get("time_only"):
        log.warning("%s is left out: %s was measured with trained weights and data", case.name, evidence)
        return None
    log.info("making %s", case.name)
    made, other = make(case), case.beside
    return race(
        made.program,
        made.original,
        peers=asked.against or (*DEFAULT, *case.sheet.peers),
        data=[made.images],
        compressed=made.compressed,
        beside=None if other is None else (other.variant, make(other).program),
        threads=asked.threads or None,
        batch=asked.batch,
        blocks=asked.blocks,
        cold=asked.cold,
        busy=asked.busy,
        network=case.network,
        variant=variant,
        command=asked.command(case.word),
        report=log.info,
    )


def _originals(program: Program) -> tuple[str | None, ...]:
    """The recorded original; for a dense network also itself, and nothing else where nobody trained that one."""
    if program.metadata.get("method") != "thin":
        return (None,)
    recorded = networks.told(program, "original")
    trained = (recorded is not None and not recorded.random) or networks.told(program, "control")
    return (None, ITSELF) if trained else (ITSELF,)


def _race_packed(program: Program, path: Path, original: str | None, asked: Conditions) -> Race:
    from dovetail.export.torch_module import to_torch
    from dovetail.peers.peer import DEFAULT, OF_MATRICES
    from dovetail.peers.race import race

    itself = original == ITSELF
    ours = to_torch(program, rounded=False)
    dense, trained = (ours, True) if itself else _original(program, path, original, asked)
    sets = _sets(program, asked.data) if trained else None
    blind = sets is None and program.metadata.get("data") is not None
    network, variant = _case(program, path, _against(program, original) + asked.suffix(blind=blind), itself=itself)
    return race(
        program,
        dense,
        peers=asked.against or (DEFAULT if _convolves(program) else OF_MATRICES),
        data=None if sets is None else sets.calibration,
        test=None if sets is None else sets.test,
        compressed=None if itself else ours,
        threads=asked.threads or None,
        batch=asked.batch,
        blocks=asked.blocks,
        cold=asked.cold,
        busy=asked.busy,
        network=network,
        variant=variant,
        command=asked.command(portable(path), ["--original", original] if original else []),
        report=log.info,
    )


def _convolves(program: Program) -> bool:
    return any(node.op == "conv2d" for graph in program.graphs.values() for node in graph.nodes)


def _sets(program: Program, root: Path | None) -> Sets | None:
    try:
        return networks.sets_of(program, None, root)
    except (DataError, RecipeError) as error:
        log.warning("a race about time only: %s", error)
        return None


def _original(program: Program, path: Path, name: str | None, asked: Conditions) -> tuple[nn.Module, bool]:
    """The dense network for the peers, and whether it is trained: else the race is about time only.

    A recipe that starts from random weights has its trained dense control beside it or among the results of all
    recipes; weights that another recipe has trained lie beside that one's result.
    """
    from dovetail.export.torch_module import to_torch

    found = networks.original_of(program, name, asked.weights)
    folders, control = (path.resolve().parent.parent, recipes.folder()), networks.told(program, "control")
    network = recipes.located(found, *folders)
    if network.weights is None and name is None and control is not None:
        results = (path.parent, recipes.folder() / "results")
        if packed := _first(f"{control}.dovetail", results):
            return to_torch(networks.load(str(packed)), rounded=False), True
        if _first(f"{control}.safetensors", results):
            network = recipes.located(network.model_copy(update={"trained": control}), *folders)
    if network.weights is None:
        log.warning("a race about time only: %s has random weights; give --weights to compare accuracies", network.name)
    return build_network(network, asked.data), network.weights is not None


def _first(name: str, folders: Iterable[Path]) -> Path | None:
    return next((path for folder in folders if (path := folder / name).is_file()), None)


def _against(program: Program, original: str | None) -> str:
    """What joins the variant where another network than the recorded one is the original."""
    recorded = networks.told(program, "original")
    return "" if original in (None, ITSELF, recorded and recorded.name) else f"_vs_{original.replace(':', '-')}"


def _case(program: Program, path: Path, suffix: str, *, itself: bool) -> tuple[str, str]:
    case, original, data = (networks.told(program, key) for key in ("case", "original", "data"))
    unnamed = f"{'network' if original is None else original.name}_{data or 'random'}/{path.stem}"
    network, _, variant = (case or unnamed.replace(":", "-")).partition("/")
    return network, variant + suffix + (SELF if itself else "")
