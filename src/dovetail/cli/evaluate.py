"""`dovetail eval`: accuracy on the test set, of a packed file or of a dense network."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter

from dovetail.cli import networks, score
from dovetail.cli.console import say
from dovetail.cli.options import DataFolder, Set, Threads, Weights
from dovetail.errors import RecipeError

if TYPE_CHECKING:
    from dovetail.cli.materials import Sets

By = Literal["engine", "reference"]


def evaluate(
    network: Annotated[str, Parameter(help="A .dovetail file, a zoo name, or package.module:callable.")],
    /,
    *,
    on: Annotated[str | None, Parameter(help="Data set; a packed file knows its own.")] = None,
    weights: Weights = None,
    by: Annotated[By, Parameter(help="What runs a packed file.")] = "engine",
    threads: Threads = None,
    overrides: Set = (),
    data: DataFolder = None,
) -> None:
    """Print the accuracy on the test set: of a .dovetail file through the engine, of a network through torch.

    What a network was trained with by --set (data.size, network.options.…) is said again here; a packed file knows it.
    """
    if networks.is_packed(network):
        if overrides:
            raise RecipeError("--set is for networks by name; a packed file knows its own data and options")
        found, sets = _packed(network, on, by, threads, data)
    else:
        found, sets = _dense(network, on, weights, overrides, data)
    right = round(found.accuracy * len(found) / 100)
    say(f"{found.accuracy:.2f} % of the {len(found)} test images of {sets.name} ({right} right)")


def _packed(
    name: str, on: str | None, by: By, threads: int | None, root: Path | None
) -> tuple[score.Predictions, Sets]:
    program = networks.load(name)
    sets = networks.sets_of(program, on, root)
    if by == "engine":
        return score.through_engine(program, sets.test, threads), sets
    return score.through_reference(program, sets.test), sets


def _dense(
    name: str, on: str | None, weights: str | None, overrides: tuple[str, ...], root: Path | None
) -> tuple[score.Predictions, Sets]:
    from dovetail.cli.adhoc import adhoc
    from dovetail.cli.materials import build_network, fitted, open_sets, require_fit

    if on is None or weights is None:
        raise RecipeError(f"to evaluate the network {name!r} give its data and weights: --on cifar10 --weights FILE")
    recipe = adhoc(name, on, weights=weights, overrides=overrides)
    sets = open_sets(recipe.data.model_copy(update={"held_out": 0}), name, root)
    model = build_network(fitted(recipe.network, sets), root)
    require_fit(model, name, sets)
    return score.through_torch(model, sets.test), sets
