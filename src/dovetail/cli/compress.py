"""`dovetail compress`: train a network into a method's formats and pack it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from dovetail.cli.adhoc import adhoc
from dovetail.cli.console import say
from dovetail.cli.options import DataFolder, On, Out, Runs, Seed, Set, Weights, writable
from dovetail.cli.schema import Recipe, read
from dovetail.errors import RecipeError

YAML = (".yaml", ".yml")


def compress(
    network: Annotated[str, Parameter(help="A recipe (*.yaml), a zoo name, or package.module:callable.")],
    /,
    *,
    method: Annotated[str | None, Parameter(help="penni, tucker, magnitude or thin.")] = None,
    on: On = "digits",
    weights: Weights = None,
    seed: Seed = 0,
    overrides: Set = (),
    runs: Runs = Path("runs"),
    data: DataFolder = None,
    out: Out = None,
) -> None:
    """Compress a network and write a .dovetail file; the same command goes on from its last checkpoint.

    Choices are made on held-out training images, so the accuracy reported here is theirs: `dovetail eval` measures
    a file on the test set. A recipe brings network, data and method along; --set method.parameters.KEY=VALUE and
    other keys change it.
    """
    from dovetail.cli.pipeline import pack_trained, train

    if network.endswith(YAML):
        name, recipe = _from_file(Path(network), method, weights, overrides)
    else:
        name = f"{method}-{network.rpartition(':')[2]}-{Path(on).name}"
        recipe = adhoc(network, on, _required(method), weights=weights, overrides=overrides, runs=runs)
    target = writable(out or Path(f"{name}.dovetail"))
    done = train(recipe, name, seed, data)
    pack_trained(recipe, name if network.endswith(YAML) else "", done).save(target)
    accuracy = done.history.accuracy
    say(f"wrote {target}" + ("" if accuracy is None else f"; {accuracy:.2f} % on the held-out images"))


def _from_file(path: Path, method: str | None, weights: str | None, overrides: tuple[str, ...]) -> tuple[str, Recipe]:
    if method or weights:
        raise RecipeError(f"{path} says its method and weights itself; change them with --set method.name=…")
    return path.stem, read(path, overrides)


def _required(method: str | None) -> str:
    if method is None:
        raise RecipeError("say how to compress: --method penni, tucker, magnitude or thin, or give a recipe (*.yaml)")
    return method
