"""Where recipes lie, and what one of them says about another."""

from __future__ import annotations

import statistics
from pathlib import Path

from dovetail.cli import evidence
from dovetail.cli.schema import suggest
from dovetail.errors import RecipeError


def folder() -> Path:
    """`recipes` in the working folder, else in the checkout that this package is run from."""
    here = Path("recipes")
    checkout = Path(__file__).resolve().parents[3] / "recipes"
    return here if here.is_dir() or not checkout.is_dir() else checkout


def listed() -> list[Path]:
    """Every recipe, by name."""
    return sorted(folder().glob("*.yaml"))


def find(name: str) -> Path:
    """The file of a recipe, by name or path; `RecipeError` suggests the nearest name."""
    if name.endswith((".yaml", ".yml")):
        if not Path(name).is_file():
            raise RecipeError(f"there is no recipe file {name}")
        return Path(name)
    known = {path.stem: path for path in listed()}
    if name not in known:
        raise RecipeError(f"there is no recipe {name!r} in {folder()}; {suggest(name, known)}")
    return known[name]


def result_path(recipe: Path, file: str | None = None) -> Path:
    """Where a recipe's result stands: `results/<recipe>.json` beside it, or the evidence file it names."""
    return recipe.parent / "results" / (file or f"{recipe.stem}.json")


def control_accuracy(recipe: Path, control: str) -> float | None:
    """Mean test accuracy of the dense control, or None where it has not been run."""
    path = result_path(recipe.with_name(control))
    return statistics.fmean(evidence.read(path)["accuracy"]) if path.is_file() else None
