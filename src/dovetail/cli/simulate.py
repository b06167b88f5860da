"""`dovetail simulate`: what networks cost on models of accelerators, layer by layer."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from dovetail import files
from dovetail.cli import networks
from dovetail.cli.console import say, table
from dovetail.cli.options import DataFolder
from dovetail.cli.run import read_input
from dovetail.cli.simulations import COMPARISON, FOLDER, Network, Pair, alike, comparison
from dovetail.errors import DataError, MachineError, RecipeError
from dovetail.peers.machine import command as command_line
from dovetail.peers.machine import versions

if TYPE_CHECKING:
    import numpy as np

    from dovetail.accelerators.machine import Machine
    from dovetail.accelerators.simulation import Recorded
    from dovetail.program.program import Program

log = logging.getLogger("dovetail.cli")
Machines = dict[str, "Machine"]


@dataclass(frozen=True)
class Images:
    """Which images networks meet: of their test set, or of a file; `count` None takes one, or the whole file."""

    count: int | None
    batch: int
    file: Path | None
    data: Path | None


@dataclass(frozen=True)
class Met:
    """A network with what its layers met, and the machines that it is to run on."""

    network: Network
    machines: Machines
    layers: Sequence[Recorded]
    about: dict[str, Any]


def simulate(
    *programs: Annotated[
        str, Parameter(help="Packed networks (*.dovetail); the first, on the first machine, is what is compared.")
    ],
    on: Annotated[
        tuple[str, ...],
        Parameter(name="--on", help="Machines: eyeriss-1024,scnn,sparten. Repeatable.", negative=()),
    ] = (),
    baseline: Annotated[
        tuple[str, ...],
        Parameter(help="A machine with a network of its own: scnn=magnitude.dovetail. Repeatable.", negative=()),
    ] = (),
    equal: Annotated[bool, Parameter(help="Take each machine's variant of the common size.", negative=())] = False,
    images: Annotated[int | None, Parameter(help="How many: 1 of the test set by default, all of --inputs.")] = None,
    batch: Annotated[int, Parameter(help="Images that go through a machine together.")] = 1,
    inputs: Annotated[Path | None, Parameter(help="A .npy file of images, or an image, not the test set.")] = None,
    tornado: Annotated[
        tuple[str, ...],
        Parameter(help="Halve and double the parameters with this mark: chosen. Repeatable.", negative=()),
    ] = (),
    data: DataFolder = None,
    out: Annotated[
        Path | None, Parameter(name=["--out", "-o"], help="Folder of the results; simulations/NETWORK by default.")
    ] = None,
) -> None:
    """Simulate networks on models of accelerators: every network on all machines, and each baseline with its own.

    Prints cycles by cause, traffic and energy of every layer, and all pairs beside each other; writes them as JSON and
    pictures. A command that was stopped goes on where it was: what has the same weights, inputs and machine is taken
    from the results in the folder, and only what changed is simulated.
    """
    chosen = _machines(on, equal=equal)
    if not programs or not chosen:
        raise RecipeError("name at least one .dovetail file and one machine: dovetail simulate net.dovetail --on scnn")
    _require(images, batch, tornado)
    asked = _asked(programs, chosen, _baselines(baseline, equal=equal))
    where = Images(images, batch, inputs, data)
    loaded = [(network, machines, networks.load(str(network.path))) for network, machines in asked]
    target = out or FOLDER / asked[0][0].name
    met = [_meet(network, machines, program, where) for network, machines, program in loaded]
    files.make_folder(target, error=DataError)
    with files.locked(target, error=DataError):
        files.sweep(target)
        done = [(one, _simulate(one, target)) for one in met]
        pairs = [pair for _, its in done for pair in its]
        for one, its in done if tornado else ():
            _vary(its, one.layers, tornado)
        for pair in pairs:
            pair.finish()
        _show(pairs)
        _write(comparison(met[0].about, pairs, alike(pair.machine for pair in pairs)), target)


def _asked(
    programs: Iterable[str], machines: Machines, own: Iterable[tuple[Machine, str]]
) -> list[tuple[Network, Machines]]:
    """Every network once, with the machines that it is to run on."""
    found: dict[str, tuple[Network, Machines]] = {}
    given = [(Path(name), machines) for name in programs] + [(Path(name), {m.name: m}) for m, name in own]
    for path, where in given:
        if not networks.is_packed(path.name):
            raise RecipeError(f"{path} is no .dovetail file; `dovetail pack` and `dovetail compress` make them")
        network, known = found.setdefault(path.stem, (Network(path.stem, path), {}))
        if network.path != path:
            raise RecipeError(f"{network.path} and {path} have the same name; rename one, for results are named so")
        known |= where
    return list(found.values())


def _machines(names: Iterable[str], *, equal: bool) -> Machines:
    found = [_machine(name.strip(), equal=equal) for word in names for name in word.split(",") if name.strip()]
    return {machine.name: machine for machine in found}


def _machine(name: str, *, equal: bool) -> Machine:
    from dovetail.accelerators import machine_named, of_common_size

    return of_common_size(machine_named(name)) if equal else machine_named(name)


def _baselines(words: Iterable[str], *, equal: bool) -> list[tuple[Machine, str]]:
    found = []
    for word in words:
        name, sign, file = word.partition("=")
        if not (name and sign and file):
            raise RecipeError(f"--baseline {word}: write a machine and its network: scnn=magnitude.dovetail")
        found.append((_machine(name, equal=equal), file))
    return found


def _require(images: int | None, batch: int, marks: Iterable[str]) -> None:
    from dovetail.accelerators.parameters import MARKS

    for name, count in (("images", 1 if images is None else images), ("batch", batch)):
        if count < 1:
            raise RecipeError(f"--{name} {count} simulates nothing; give a whole number of at least 1")
    if unknown := [mark for mark in marks if mark not in MARKS]:
        raise RecipeError(f"--tornado {unknown[0]}: there is no such mark; there are {', '.join(MARKS)}")


def _meet(network: Network, machines: Machines, program: Program, where: Images) -> Met:
    """Run the network on its images, and see that all machines can run its layers."""
    from dovetail.accelerators.simulation import recorded, require

    given, source = _inputs(network, program, where)
    layers = recorded(program, given, where.batch)
    try:
        require(machines.values(), layers)
    except MachineError as error:
        raise MachineError(f"{network.path}: {error}") from None
    about = {
        "command": command_line(),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "versions": versions(()),
        "inputs": source,
        "images": len(given),
        "batch": where.batch,
    }
    case = networks.told(program, "case") or ""
    return Met(Network(network.name, network.path, case), machines, layers, about)


def _inputs(network: Network, program: Program, where: Images) -> tuple[np.ndarray, str]:
    """The images, and where they are from, in words."""
    if where.file is not None:
        return _some(read_input(where.file, program), where.count, where.file), where.file.name
    if networks.told(program, "data") is None:
        raise RecipeError(f"{network.path} does not say what data it was made for; give images with --inputs")
    sets, count = networks.sets_of(program, None, where.data), where.count or 1
    source = f"the first {count} test images" if count > 1 else "the first test image"
    return _first(sets.test, count), f"{source} of {sets.name}"


def _some(given: np.ndarray, count: int | None, file: Path) -> np.ndarray:
    """As many images of a file as are wanted, or all."""
    if count is None:
        return given
    if (held := len(given) if given.ndim else 0) < count:
        raise RecipeError(f"--images {count}: {file} has {held}")
    return given[:count]


def _first(batches: Iterable[tuple[Any, Any]], count: int) -> np.ndarray:
    import numpy as np

    found: list[np.ndarray] = []
    for images, _ in batches:
        found.append(images.numpy())
        if sum(map(len, found)) >= count:
            return np.concatenate(found)[:count]
    raise RecipeError(f"--images {count}: the test set has {sum(map(len, found))}")


def _simulate(met: Met, folder: Path) -> list[Pair]:
    """Every layer on every machine, those apart that the folder has already."""
    from dovetail.accelerators.identity import fingerprint
    from dovetail.accelerators.simulation import run

    pairs = [_pair(met, machine, folder) for machine in met.machines.values()]
    for number, layer in enumerate(met.layers, 1):
        for pair in pairs:
            mark = fingerprint(pair.machine, layer.name, layer.digest)
            if pair.has_layer(mark):
                continue
            begun = time.monotonic()
            pair.add(run(pair.machine, layer), mark)
            spent = f"{time.monotonic() - begun:.1f} s"
            log.info("%s: %s (%d of %d), %s", pair.name, layer.name, number, len(met.layers), spent)
    for pair in pairs:
        if pair.reused:
            log.info("%s: %d of %d layers are taken from %s", pair.name, pair.reused, len(met.layers), pair.target)
    return pairs


def _pair(met: Met, machine: Machine, folder: Path) -> Pair:
    return Pair(folder / f"{met.network.name}-on-{machine.name}.json", met.about, met.network, machine)


def _vary(pairs: Iterable[Pair], layers: Sequence[Recorded], marks: Sequence[str]) -> None:
    """The effect of every parameter of these marks on each pair of a network."""
    from dovetail.accelerators.identity import fingerprint
    from dovetail.accelerators.sensitivity import effect, variations

    digests = [layer.digest for layer in layers]
    for pair in pairs:
        every = list(variations(pair.machine, marks))
        for number, variation in enumerate(every, 1):
            both = [machine for machine in (variation.halved, variation.doubled) if machine is not None]
            mark = "-".join(fingerprint(machine, variation.field, *digests) for machine in both)
            if both and not pair.has_effect(mark):
                pair.add(effect(variation, layers), mark)
                log.info("%s: %s halved and doubled (%d of %d)", pair.name, variation.field, number, len(every))


def _show(pairs: Sequence[Pair]) -> None:
    from dovetail.report.comparison import PAIRS, SHARES, layer_cells, layer_columns, pair_cells, shares

    for pair in pairs:
        table(pair.name, layer_columns(pair.layers), layer_cells(pair.layers, pair.total()), left=2)
    told = comparison({}, pairs, "")["pairs"]
    table("All pairs", PAIRS, pair_cells(told), left=2, note=alike(pair.machine for pair in pairs))
    if gains := shares(told):
        table("Whose gain it is", SHARES, [share.cells() for share in gains], left=2)


def _write(compared: dict[str, Any], folder: Path) -> None:
    """The comparison and its pictures."""
    from dovetail.report import stacked
    from dovetail.report.tornado import tornado

    text = json.dumps(compared, indent=1, ensure_ascii=False) + "\n"
    written = [files.write(folder / COMPARISON, text, error=DataError)]
    drawings = {"cycles": stacked.cycles(compared["pairs"]), "energy": stacked.energy(compared["pairs"])}
    for pair in compared["pairs"]:
        title = f"{pair['network']} on {pair['machine']}"
        drawings[f"{Path(pair['file']).stem}-tornado"] = tornado(pair["sensitivity"], pair, title)
    for name, drawing in drawings.items():
        if drawing:
            written.append(files.write(folder / f"{name}.svg", stacked.standalone(drawing), error=DataError))
    say(f"wrote {folder}: {', '.join(path.name for path in written)} and a JSON for each pair")
