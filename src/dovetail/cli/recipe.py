"""`dovetail recipe`: run, train, verify and list recipes."""

from __future__ import annotations

import hashlib
import json
import logging
import math
import shlex
import statistics
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import App, Parameter

from dovetail import files
from dovetail.cli import evidence, integers, layers, networks, recipes, score
from dovetail.cli.app import Failed
from dovetail.cli.console import say, table
from dovetail.cli.materials import Sets, build_network, fitted
from dovetail.cli.options import DataFolder, Set, Threads
from dovetail.cli.pipeline import dense_like, pack_trained, take_further, train
from dovetail.cli.schema import Recipe, read
from dovetail.errors import DataError, RecipeError

if TYPE_CHECKING:
    from torch import nn

    from dovetail.program.program import Program

log = logging.getLogger("dovetail.cli")
app = App(name="recipe")
Name = Annotated[str, Parameter(help="A recipe's name, or the path of its YAML file.")]


@dataclass(frozen=True)
class Measured:
    """One seed: trained, packed, and measured once on the test set; epochs and hours are those of a packed start, too.

    Attributes:
        model: what was trained; None where nothing was.
        gpus: that trained it.
    """

    program: Program
    sets: Sets
    accuracy: float
    epochs: int
    hours: float
    model: nn.Module | None = None
    gpus: Sequence[str] = ()


@app.command
def run(name: Name, /, *, overrides: Set = (), threads: Threads = None, data: DataFolder = None) -> None:
    """Train, pack, measure once on the test set; write recipes/results/NAME.json and the packed network beside it.

    Where the recipe says `weights`, trained weights are kept there as well. With --set of anything that changes the
    result, all of that goes to the folder of runs, under a name of its own.
    """
    path = recipes.find(name)
    recipe = read(path, overrides)
    label, target = _outcome(recipe, path)
    _require_comparison(recipe, path)
    recipe = recipes.with_weights(recipe, path.parent)
    epochs, hours = _before(recipe, path)
    files.make_folder(target.parent, error=DataError)
    start = None if recipe.start is None else integers.start_of(recipe.start, path)
    if recipe.control is not None and recipes.control_accuracy(path, recipe.control) is None:
        _train_without_control(recipe, path, label, data)
    measured = [_measure(recipe, label, seed, data, threads, start) for seed in recipe.settings.seeds]
    program, sets = measured[0].program, measured[0].sets
    file = target.with_suffix(".dovetail")
    program.save(file)
    weights = _save_weights(recipe, measured[0].model, target)
    result = evidence.result(
        recipe=label,
        command=_command(path, overrides),
        dataset=sets.name,
        seeds=recipe.settings.seeds,
        dense_accuracy=max(_dense_accuracies(recipe, path, [one.accuracy for one in measured], sets, data)),
        accuracy=[one.accuracy for one in measured],
        ratios=evidence.ratios(dense_like(program, data), program),
        epochs=measured[0].epochs + epochs,
        hours=[one.hours + hours for one in measured],
        where=_where({gpu for one in measured for gpu in one.gpus}),
        program=file,
        weights=weights,
    )
    evidence.write(result, target)
    say(json.dumps(result, indent=1))
    if file.stat().st_size > evidence.LARGEST[file.suffix]:
        say(f"{file.name} has {file.stat().st_size / 1e6:.1f} MB: too large to commit, pack it anew where it is needed")
    say(f"wrote {target}" + ("" if label == path.stem else f", for --set makes it another recipe than {path.stem}"))


@app.command(name="train")
def train_only(name: Name, /, *, overrides: Set = (), data: DataFolder = None) -> None:
    """Train all seeds and stop: `dovetail recipe run` then packs and measures, here or wherever their runs are brought.

    For a machine with a GPU that is not the one to measure on. It needs no engine; of each run the newest checkpoint is
    enough.
    """
    path = recipes.find(name)
    recipe = read(path, overrides)
    label, _ = _outcome(recipe, path)
    if recipe.start is not None:
        raise RecipeError(f"{path}: it begins from the packed network of {recipe.start} and has nothing to train")
    recipe = recipes.with_weights(recipe, path.parent)
    for seed in recipe.settings.seeds:
        done = train(recipe, label, seed, data)
        told = "" if done.history.accuracy is None else f": {done.history.accuracy:.2f} % on the held-out images"
        say(f"{Path(recipe.runs) / f'{label}-s{seed}'} is trained{told}")
    say(f"`dovetail recipe run {path.stem}` packs and measures it, where this folder of runs is")


@app.command
def verify(name: Name, /, *, threads: Threads = None, data: DataFolder = None) -> None:
    """Evaluate a committed packed network again; exit status 1 if accuracy, counts or hash differ from its result."""
    try:
        _verify(recipes.find(name), threads, data)
    except evidence.OtherFileError as error:
        raise Failed(str(error)) from None


def _verify(path: Path, threads: int | None, data: Path | None) -> None:
    recipe = recipes.with_weights(read(path), path.parent)
    target = recipes.result_path(path)
    committed = evidence.read(target)
    file = evidence.program_file(committed, target)
    program = networks.load(str(file))
    if "weights" in committed:
        evidence.weights_file(committed, target)
    _require_same_start(recipe, path, program)
    sets = networks.sets_of(program, None, data)
    found = {"accuracy": score.through_engine(program, sets.test, threads).accuracy}
    found |= vars(evidence.ratios(dense_like(program, data), program))
    start, *known = _dense_accuracies(recipe, path, committed["accuracy"], sets, data)
    found["dense_accuracy"] = max((start, *known))
    ties = 100 * differing_allowed(len(sets.test.data)) / len(sets.test.data)
    slack = {"accuracy": ties} | ({"dense_accuracy": ties} if start > max(known, default=0.0) else {})
    _compare(path.stem, committed, found, slack)
    for line in (*layers.accounting(program, file), *evidence.judged(recipe.aims, committed)):
        say(line)


@app.command(name="list")
def list_() -> None:
    """The recipes of the working folder, and which of them have results."""
    rows = [_row(path) for path in recipes.listed()]
    if not rows:
        raise RecipeError(f"there is no recipe in {recipes.folder()}; go to a checkout of Dovetail or give a YAML file")
    table("Recipes", ["recipe", "what", "result"], rows, left=3)


def _measure(
    recipe: Recipe, name: str, seed: int, root: Path | None, threads: int | None, start: integers.Start | None
) -> Measured:
    """Train and pack one seed, or take the start further; its accuracy is the engine's, which another must confirm."""
    label = f"{name}, seed {seed}"
    if start is not None:
        program, sets = take_further(recipe, name, start, seed, root)
        return Measured(program, sets, _confirmed(label, program, sets, threads), start.epochs, start.hours)
    done = train(recipe, name, seed, root)
    program = pack_trained(recipe, name, done)
    accuracy = _confirmed(label, program, done.sets, threads, done.model if done.quantization is None else None)
    epochs = sum(phase.epochs for phase in {r.phase: r for r in done.history.records}.values())
    hours, gpus = done.history.seconds / 3600, done.history.gpus
    return Measured(program, done.sets, accuracy, epochs, hours, done.model, gpus)


def _before(recipe: Recipe, path: Path) -> tuple[int, float]:
    """Epochs and hours of the recipe whose trained weights the network starts from; a packed start tells of its own."""
    trained = recipe.network.trained
    if trained is None or recipe.start is not None:
        return 0, 0.0
    told = recipes.result_of(path, trained)
    return int(told["epochs"]), float(told["hours"])


def _save_weights(recipe: Recipe, model: nn.Module | None, target: Path) -> Path | None:
    """Beside the result, where the recipe keeps them."""
    from dovetail import zoo

    if recipe.weights is None or model is None:
        return None
    return zoo.save_int8(model, target.with_suffix(".safetensors"))


def _require_same_start(recipe: Recipe, path: Path, program: Program) -> None:
    """What the network was made from must still be what its recipe names: by its result, its file may be missing."""
    told, began = program.metadata, recipe.network
    if recipe.start is not None:
        other, now = recipe.start, recipes.result_of(path, recipe.start)["program"]["sha256"]
        then = told.get("start_sha256")
    elif began.trained is not None:
        other, now, then = began.trained, recipes.trained_sha256(began), told.get("trained_sha256")
    else:
        return
    if then is None:
        raise Failed(f"{path.stem}: its packed network was not made from {other}, as the recipe now says; run it again")
    if now != then:
        raise Failed(f"{path.stem}: {other}, from which it was made, has another result now; run it again")


def _confirmed(label: str, program: Program, sets: Sets, threads: int | None, model: nn.Module | None = None) -> float:
    """The engine's accuracy on the test set, once torch's `model` agrees; in whole numbers the reference must."""
    log.info("measuring on the %d test images of %s", len(sets.test.data), sets.name)
    ours = score.through_engine(program, sets.test, threads)
    if model is None:
        other, images, differing, allowed = "the reference", *score.beside_reference(program, sets.test, threads)
    else:
        other, images, allowed = "torch", len(ours), differing_allowed(len(ours))
        differing = ours.differing(score.through_torch(model, sets.test))
    if differing > allowed:
        raise Failed(
            f"{label}: {other} and the engine put {differing} of {images} test images into different classes, more "
            f"than {allowed}; this is a defect of the engine, please report it with the packed network"
        )
    return ours.accuracy


def differing_allowed(images: int) -> int:
    """Of so many test images two computations may class 5 of 10,000 differently, at least one: ties within rounding."""
    return max(1, images * 5 // 10_000)


def _outcome(recipe: Recipe, path: Path) -> tuple[str, Path]:
    """Name and evidence file of what is run: with overrides that change the result never those of the recipe itself."""
    if (change := _digest(recipe)) == _digest(read(path)):
        return path.stem, recipes.result_path(path)
    label = f"{path.stem}-custom-{change}"
    log.info("--set makes this another recipe than %s; it is called %s and kept in %s", path.stem, label, recipe.runs)
    return label, Path(recipe.runs) / f"{label}.json"


def _digest(recipe: Recipe) -> str:
    """Of all in a recipe that its result depends on."""
    told = recipe.model_dump(mode="json", exclude={"title", "runs", "aims"})
    for name in ("threads", "checkpoint_minutes", "device", "record"):
        del told["settings"][name]
    (told["method"]["teacher"] or {}).pop("remember", None)
    if not told["method"]["quantize"]:
        del told["method"]["quantize"]
    for part, name in ((told["data"], "size"), (told, "start"), (told, "weights")):
        if part[name] is None:
            del part[name]
    return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()[:6]


def _require_comparison(recipe: Recipe, path: Path) -> None:
    """There must be something dense to compare with: before hours of training, not after."""
    if not _is_control(recipe) and recipe.dense.random and recipe.control is None:
        raise RecipeError(f"{path}: name the dense control (control: …) or give the network weights to start from")


def _train_without_control(recipe: Recipe, path: Path, label: str, root: Path | None) -> None:
    """Train every seed; then the control must have its result, or nothing is measured and claimed yet."""
    told = ""
    if recipe.start is None:
        log.warning(
            "the dense control %s has no result yet: this trains, but cannot be measured before", recipe.control
        )
        for seed in recipe.settings.seeds:
            train(recipe, label, seed, root)
        told = f"{label} is trained and kept in {recipe.runs}, but "
    if recipe.control is not None:
        _control_accuracy(path, recipe.control, told)


def _control_accuracy(path: Path, control: str, otherwise: str = "") -> float:
    accuracy = recipes.control_accuracy(path, control)
    if accuracy is None:
        raise RecipeError(
            f"{otherwise}its dense control {control} has no result to compare with: "
            f"run `dovetail recipe run {control}` first, then this command again"
        )
    return accuracy


def _dense_accuracies(
    recipe: Recipe, path: Path, accuracy: Sequence[float], sets: Sets, root: Path | None
) -> tuple[float, ...]:
    """Of the start (or nothing), then of the dense controls with the same extra epochs: named, or this very recipe."""
    start = -math.inf
    if not recipe.dense.random:
        start = score.through_torch(build_network(fitted(recipe.dense, sets), root), sets.test).accuracy
    own = [statistics.fmean(accuracy)] if _is_control(recipe) else []
    named = [] if recipe.control is None else [_control_accuracy(path, recipe.control)]
    return (start, *own, *named)


def _is_control(recipe: Recipe) -> bool:
    return recipe.control is None and recipe.dense == recipe.network and recipe.method.name == "thin"


def _compare(name: str, committed: Mapping[str, Any], found: Mapping[str, float], slack: Mapping[str, float]) -> None:
    """Ratios and accuracies are rounded to three digits; `slack` allows more."""
    claimed = {key: committed[key] for key in found} | {"accuracy": committed["accuracy"][0]}
    wrong = [key for key in found if abs(found[key] - claimed[key]) > slack.get(key, 0.0015)]
    rows = [(key, f"{claimed[key]:g}", f"{found[key]:g}", "differs" if key in wrong else "holds") for key in found]
    table(f"{name}: sha256 holds", ["", "committed", "found", ""], rows)
    if wrong:
        raise Failed(f"{name}: {', '.join(wrong)} differ from the committed result; find out why, or run it again")


def _row(path: Path) -> tuple[str, str, str]:
    recipe = read(path)
    target = recipes.result_path(path)
    if not target.is_file():
        return path.stem, recipe.title, "not run yet"
    data = evidence.read(target)
    return path.stem, recipe.title, f"{data['accuracy'][0]:.2f} %, {data['macs_ratio']:.2f}x fewer MACs"


def _command(path: Path, overrides: tuple[str, ...]) -> str:
    changes = [part for override in overrides for part in ("--set", override)]
    return shlex.join(["dovetail", "recipe", "run", path.stem, *changes])


def _where(gpus: Collection[str]) -> str:
    """The GPUs that trained, then the machine that packed and measured."""
    import torch

    from dovetail.peers.machine import machine

    here = machine()
    version = torch.__version__.partition("+")[0]
    return ", ".join([*sorted(gpus), here["cpu"], f"{here['cores']} cores", f"torch {version}"])
