"""Where recipes lie, and what one of them says about another."""

from __future__ import annotations

import statistics
from pathlib import Path
from typing import Any

from dovetail.cli import evidence
from dovetail.cli.schema import YAML, Network, Recipe, folder_of, suggest
from dovetail.errors import RecipeError


def folder() -> Path:
    """`recipes`, here or in the checkout."""
    return folder_of("recipes")


def listed() -> list[Path]:
    """Every recipe, by name."""
    return sorted(folder().glob("*.yaml"))


def find(name: str) -> Path:
    """The file of a recipe, by name or path; `RecipeError` suggests the nearest name."""
    if name.endswith(YAML):
        if not Path(name).is_file():
            raise RecipeError(f"there is no recipe file {name}")
        return Path(name)
    known = {path.stem: path for path in listed()}
    if name not in known:
        raise RecipeError(f"there is no recipe {name!r} in {folder()}; {suggest(name, known)}")
    return known[name]


def result_path(recipe: Path) -> Path:
    """Where a recipe's result stands: `results/<recipe>.json` beside it."""
    return recipe.parent / "results" / f"{recipe.stem}.json"


def control_accuracy(recipe: Path, control: str) -> float | None:
    """Mean test accuracy of the dense control, or None where it has not been run."""
    path = result_path(recipe.with_name(f"{control}.yaml"))
    return statistics.fmean(evidence.read(path)["accuracy"]) if path.is_file() else None


def with_weights(recipe: Recipe, beside: Path) -> Recipe:
    """The recipe, in which networks that others of the folder `beside` have trained know the file of their weights.

    Raises:
        RecipeError: there is no such file, or it is not the one of its result; the message says which command makes it.
    """

    def find(network: Network) -> Network:
        return located(network, beside)

    method, teacher, original = recipe.method, recipe.method.teacher, recipe.original
    if teacher is not None:
        taught = teacher.model_copy(update={"network": find(teacher.network)})
        method = method.model_copy(update={"teacher": taught})
    dense = None if original is None else find(original)
    return recipe.model_copy(update={"network": find(recipe.network), "original": dense, "method": method})


def located(network: Network, *folders: Path) -> Network:
    """The network with the file of its weights, where a recipe has trained them: one in the first folder that has it.

    Raises:
        RecipeError: as `with_weights`.
    """
    if network.trained is None:
        return network
    known = [folder / f"{network.trained}.yaml" for folder in folders]
    recipe = next((path for path in known if path.is_file()), None)
    if recipe is None:
        told = " or ".join(dict.fromkeys(str(folder) for folder in folders))
        raise RecipeError(
            f"network {network.name!r} is trained by {network.trained}, but no such recipe is in {told}; bring "
            "it there, with its result and weights, or repeat `dovetail fit` where that wrote this one"
        )
    target = result_path(recipe)
    return network.model_copy(update={"weights": str(evidence.weights_file(evidence.read(target), target))})


def trained_sha256(network: Network) -> str | None:
    """Of the weights that another recipe has trained, once their file is known; None of any other network."""
    return None if network.trained is None or network.weights is None else evidence.sha256(Path(network.weights))


def result_of(recipe: Path, other: str) -> dict[str, Any]:
    """What stands in the result of the recipe `other` beside `recipe`."""
    return evidence.read(result_path(recipe.with_name(f"{other}.yaml")))
