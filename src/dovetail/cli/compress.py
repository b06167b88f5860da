"""`dovetail compress`: train a network into a method's formats and pack it."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from dovetail.cli.adhoc import adhoc
from dovetail.cli.console import say
from dovetail.cli.options import DataFolder, On, Out, Runs, Seed, Set, Weights, writable
from dovetail.cli.schema import YAML, read
from dovetail.errors import RecipeError

log = logging.getLogger("dovetail.cli")
NAMES = "penni, escalate, tucker, tdc, permdnn, circnn, magnitude, block, int8 or thin"
KEYS = {"method": "method.name", "on": "data.name", "weights": "network.weights", "runs": "runs"}


def compress(
    network: Annotated[str, Parameter(help="A recipe (*.yaml), a zoo name, or package.module:callable.")],
    /,
    *,
    method: Annotated[str | None, Parameter(help=f"{NAMES}.")] = None,
    on: On | None = None,
    weights: Weights = None,
    seed: Seed = 0,
    overrides: Set = (),
    runs: Runs | None = None,
    data: DataFolder = None,
    out: Out = None,
) -> None:
    """Compress a network and write a .dovetail file; the same command goes on from its last checkpoint.

    Choices are made on held-out training images, so the accuracy reported here is theirs: `dovetail eval` measures
    a file on the test set. Without a recipe the data are the digits unless --on says otherwise, and checkpoints lie in
    runs. A recipe brings all that along; --set method.parameters.KEY=VALUE and other keys change it.
    """
    from dovetail.cli import recipes, score
    from dovetail.cli.pipeline import pack_trained, train

    if network.endswith(YAML):
        _refuse_beside_recipe(network, {"method": method, "on": on, "weights": weights, "runs": runs})
        name, recipe = Path(network).stem, recipes.with_weights(read(Path(network), overrides), Path(network).parent)
    else:
        on, runs = on or "digits", runs or Path("runs")
        name = f"{method}-{network.rpartition(':')[2]}-{Path(on).name}"
        recipe = adhoc(network, on, _required(method), weights=weights, overrides=overrides, runs=runs)
    target = writable(out or Path(f"{name}.dovetail"), ".dovetail")
    if recipe.network.random and recipe.method.parameters.get("start") != "scratch":
        log.warning("%s begins with random weights; --weights gives trained ones", recipe.network.name)
    done = train(recipe, name, seed, data)
    program = pack_trained(recipe, name if network.endswith(YAML) else "", done)
    program.save(target)
    accuracy = done.history.accuracy
    if done.quantization is not None and done.sets.held_out is not None:
        accuracy = score.through_engine(program, done.sets.held_out).accuracy
    say(f"wrote {target}" + ("" if accuracy is None else f"; {accuracy:.2f} % on the held-out images"))


def _refuse_beside_recipe(recipe: str, flags: Mapping[str, object]) -> None:
    for flag, value in flags.items():
        if value is not None:
            raise RecipeError(f"{recipe} says itself what --{flag} would; change it with --set {KEYS[flag]}={value}")


def _required(method: str | None) -> str:
    if method is None:
        raise RecipeError(f"say how to compress: --method {NAMES}, or give a recipe (*.yaml)")
    return method
