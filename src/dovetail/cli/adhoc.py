"""A recipe from flags, for the verbs that take none."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from dovetail.cli import recipes
from dovetail.cli.schema import Recipe, check, merge, parse_overrides

USUAL = {
    "cifar10": {"crop": 4, "flip": True},
    "digits": {"crop": 1, "flip": False},
    "spoken_digits": {"crop": 3, "flip": False},
}


def adhoc(
    network: str,
    on: str,
    method: str = "thin",
    parameters: Mapping[str, Any] | None = None,
    *,
    weights: str | None = None,
    overrides: Iterable[str] = (),
    batch: int = 128,
    precision: str = "f32",
    runs: Path = Path("runs"),
) -> Recipe:
    """The recipe that flags describe; the usual augmentation of known data sets, `--set` on top."""
    from dovetail.zoo.data import known

    data = {"name": on, "batch": batch, "augment": USUAL.get(known(on) or on, {})}
    given = {
        "network": {"name": network, "weights": None if weights is None else Path(weights).name},
        "data": data,
        "method": {"name": method, "parameters": dict(parameters or {})},
        "settings": {"precision": precision},
        "runs": str(runs),
    }
    named = check(merge(given, parse_overrides(overrides)), "the command line")
    recipe = recipes.with_weights(named, recipes.folder())
    return recipe if weights is None else _with_weights(recipe, weights)


def _with_weights(recipe: Recipe, weights: str) -> Recipe:
    """A command line, unlike a recipe, may name weights by their path."""
    network = recipe.network.model_copy(update={"weights": weights})
    return recipe.model_copy(update={"network": network})
