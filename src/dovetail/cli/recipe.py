"""`dovetail recipe`: run, verify and list recipes."""

from __future__ import annotations

import json
import logging
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import App, Parameter

from dovetail.cli import evidence, networks, recipes, score
from dovetail.cli.app import Failed
from dovetail.cli.console import say, table
from dovetail.cli.materials import Sets, build_network, fitted
from dovetail.cli.options import DataFolder, Set, Threads
from dovetail.cli.pipeline import dense_like, pack_trained, train
from dovetail.cli.schema import Recipe, read
from dovetail.errors import DataError, RecipeError

if TYPE_CHECKING:
    from dovetail.program.program import Program

log = logging.getLogger("dovetail.cli")
app = App(name="recipe")
Name = Annotated[str, Parameter(help="A recipe's name, or the path of its YAML file.")]
DIFFERING = 5
"""Test images that torch and the engine may put into different classes: ties within rounding."""


@dataclass(frozen=True)
class Measured:
    """One seed: trained, packed, and measured once on the test set."""

    program: Program
    sets: Sets
    accuracy: float
    epochs: int
    hours: float


@app.command
def run(name: Name, /, *, overrides: Set = (), threads: Threads = None, data: DataFolder = None) -> None:
    """Train, pack, measure once on the test set; write recipes/results/NAME.json and the packed network beside it."""
    path = recipes.find(name)
    recipe = read(path, overrides)
    target = recipes.result_path(path, recipe.evidence)
    _require_dense(recipe, path)
    _require_folder(target.parent)
    measured = [_measure(recipe, path.stem, seed, data, threads) for seed in recipe.settings.seeds]
    program, sets = measured[0].program, measured[0].sets
    file = target.with_suffix(".dovetail")
    program.save(file)
    result = evidence.result(
        recipe=path.stem,
        command=_command(path, overrides),
        dataset=sets.name,
        seeds=recipe.settings.seeds,
        dense_accuracy=_dense_accuracy(recipe, path, measured, data),
        accuracy=[one.accuracy for one in measured],
        ratios=evidence.ratios(dense_like(program, data), program),
        epochs=measured[0].epochs,
        hours=[one.hours for one in measured],
        where=_where(),
        program=file,
    )
    evidence.write(result, target)
    say(json.dumps(result, indent=1))
    if file.stat().st_size > evidence.LARGEST:
        say(f"{file.name} has {file.stat().st_size / 1e6:.1f} MB: too large to commit, pack it anew where it is needed")
    say(f"wrote {target}")


@app.command
def verify(name: Name, /, *, threads: Threads = None, data: DataFolder = None) -> None:
    """Evaluate a committed packed network again; exit status 1 if accuracy, counts or hash differ from its result."""
    path = recipes.find(name)
    recipe = read(path)
    target = recipes.result_path(path, recipe.evidence)
    committed = evidence.read(target)
    program = networks.load(str(evidence.program_file(committed, target)))
    sets = networks.sets_of(program, None, data)
    found = {"accuracy": score.through_engine(program, sets.test, threads).accuracy}
    found |= vars(evidence.ratios(dense_like(program, data), program))
    _compare(path.stem, committed, found, 100 * DIFFERING / len(sets.test.data))


@app.command(name="list")
def list_() -> None:
    """The recipes of the working folder, and which of them have results."""
    rows = [_row(path) for path in recipes.listed()]
    if not rows:
        raise RecipeError(f"there is no recipe in {recipes.folder()}; go to a checkout of Dovetail or give a YAML file")
    table("Recipes", ["recipe", "what", "result"], rows, left=3)


def _measure(recipe: Recipe, name: str, seed: int, root: Path | None, threads: int | None) -> Measured:
    """Train and pack one seed; its accuracy is the engine's, which torch must confirm."""
    done = train(recipe, name, seed, root)
    program = pack_trained(recipe, name, done)
    log.info("measuring on the %d test images of %s", len(done.sets.test.data), done.sets.name)
    ours = score.through_engine(program, done.sets.test, threads)
    if (differing := ours.differing(score.through_torch(done.model, done.sets.test))) > DIFFERING:
        raise Failed(
            f"{name}, seed {seed}: torch and the engine put {differing} of {len(ours)} test images into different "
            f"classes, more than {DIFFERING}; this is a defect of the engine, please report it with the packed network"
        )
    epochs = sum(phase.epochs for phase in {r.phase: r for r in done.history.records}.values())
    return Measured(program, done.sets, ours.accuracy, epochs, done.history.seconds / 3600)


def _require_dense(recipe: Recipe, path: Path) -> None:
    """There must be a dense accuracy to compare with: before hours of training, not after."""
    if _is_control(recipe) or recipe.dense.weights is not None:
        return
    if recipe.control is None:
        raise RecipeError(f"{path}: name the dense control (control: …) or give the network weights to start from")
    if recipes.control_accuracy(path, recipe.control) is None:
        raise RecipeError(f"{path}: its dense control has no result yet; first: dovetail recipe run {recipe.control}")


def _dense_accuracy(recipe: Recipe, path: Path, measured: list[Measured], root: Path | None) -> float:
    """The best of the start, and of the dense control with the same extra epochs (this very run, if it is one)."""
    found = [sum(one.accuracy for one in measured) / len(measured)] if _is_control(recipe) else []
    if recipe.dense.weights is not None:
        sets = measured[0].sets
        found.append(score.through_torch(build_network(fitted(recipe.dense, sets), root), sets.test).accuracy)
    control = None if recipe.control is None else recipes.control_accuracy(path, recipe.control)
    if control is not None:
        found.append(control)
    elif recipe.control is not None:
        log.warning("the dense control %s has no result yet; run it first, then this recipe again", recipe.control)
    return max(found)


def _is_control(recipe: Recipe) -> bool:
    return recipe.control is None and recipe.dense == recipe.network and recipe.method.name == "thin"


def _compare(name: str, committed: Mapping[str, Any], found: Mapping[str, float], slack: float) -> None:
    claimed = {key: committed[key] for key in found} | {"accuracy": committed["accuracy"][0]}
    wrong = [key for key in found if abs(found[key] - claimed[key]) > (slack if key == "accuracy" else 0.0015)]
    rows = [(key, f"{claimed[key]:g}", f"{found[key]:g}", "differs" if key in wrong else "holds") for key in found]
    table(f"{name}: sha256 holds", ["", "committed", "found", ""], rows)
    if wrong:
        raise Failed(f"{name}: {', '.join(wrong)} differ from the committed result; find out why, or run it again")


def _require_folder(folder: Path) -> None:
    """Before hours of training, not after."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(f"cannot make the folder {folder}: {error.strerror}; check its permissions") from None


def _row(path: Path) -> tuple[str, str, str]:
    recipe = read(path)
    target = recipes.result_path(path, recipe.evidence)
    if not target.is_file():
        return path.stem, recipe.title, "not run yet"
    data = evidence.read(target)
    return path.stem, recipe.title, f"{data['accuracy'][0]:.2f} %, {data['macs_ratio']:.2f}x fewer MACs"


def _command(path: Path, overrides: tuple[str, ...]) -> str:
    changes = [part for override in overrides for part in ("--set", override)]
    return shlex.join(["dovetail", "recipe", "run", path.stem, *changes])


def _where() -> str:
    import torch

    from dovetail.peers.machine import machine

    here = machine()
    return f"{here['cpu']}, {here['cores']} cores, torch {torch.__version__.partition('+')[0]}"
