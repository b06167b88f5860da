"""Whole numbers in recipes and verbs: which images calibrate, what stays real, and starts that are packed already."""

from __future__ import annotations

import fnmatch
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from dovetail.cli import evidence, networks, recipes
from dovetail.cli.materials import Sets, build_method, fitted
from dovetail.cli.schema import Recipe
from dovetail.errors import RecipeError

if TYPE_CHECKING:
    from torch import Tensor

    from dovetail.methods.base import Quantization
    from dovetail.program.program import Program

BATCH = 32


@dataclass(frozen=True)
class Start:
    """The committed network from which a recipe begins, the hash of its file, and what it took."""

    recipe: str
    program: Program
    sha256: str
    epochs: int
    hours: float


def quantized(program: Program, how: Quantization, sets: Sets, seed: int, reasons: Mapping[str, str]) -> Program:
    """The network in whole numbers, calibrated on training images drawn by `seed`.

    Its metadata say in `floating` which layers are left in floating point: why, where `reasons` knows, else what is in
    the way.
    """
    from dovetail.api import quantize

    made = quantize(program, _drawn(sets, how.images, seed), **how.options())
    return replace(made, metadata={**made.metadata, "floating": floating(made, reasons)})


def floating(program: Program, reasons: Mapping[str, str]) -> dict[str, str]:
    """Layer → why it computes with real numbers."""
    from dovetail.program.integer import cannot_take_codes, touches_codes

    graph = program.graph
    real = [node for node in graph.nodes if node.weight is not None and not touches_codes(node, graph)]
    told = {node.name: reasons.get(node.name) or cannot_take_codes(node, graph) for node in real}
    return {name: reason or "its sums could exceed 32 bits" for name, reason in told.items()}


def start_of(name: str, path: Path) -> Start:
    """The committed network of the recipe `name` beside the one in `path`, its hash checked."""
    target = recipes.result_path(recipes.find(str(path.with_name(f"{name}.yaml"))))
    committed = evidence.read(target)
    program = networks.load(str(evidence.program_file(committed, target)))
    return Start(name, program, committed["program"]["sha256"], int(committed["epochs"]), float(committed["hours"]))


def converted(recipe: Recipe, start: Program, sets: Sets, seed: int, root: Path | None) -> Program:
    """What the method of a recipe makes of its start.

    Raises:
        RecipeError: the method trains, or makes nothing of a packed network; the start is of another network or data.
    """
    method = build_method(recipe.method, root, sets)
    if epochs := sum(phase.epochs for phase in method.phases()):
        raise RecipeError(
            f"{recipe.method.name} trains {epochs} epochs, and start: {recipe.start} is packed and cannot be trained; "
            "set its epochs to 0, or leave the start out"
        )
    how = method.quantization()
    if how is None:
        raise RecipeError(f"method {recipe.method.name} makes nothing of a packed network; only int8 takes a start")
    _require_same(recipe, start, sets)
    reasons = _kept(recipe, start)
    return quantized(start, replace(how, keep=tuple(reasons)), sets, seed, reasons)


def _drawn(sets: Sets, count: int, seed: int) -> Iterator[Tensor]:
    """So many training images as they are, in batches."""
    from dovetail.training.data import Loader

    drawn = Loader(sets.calibration.data, BATCH, mean=sets.mean, std=sets.std, shuffle=True, seed=seed)
    for i, (images, _) in enumerate(islice(drawn, -(-count // BATCH))):
        yield images[: count - BATCH * i]


def _require_same(recipe: Recipe, start: Program, sets: Sets) -> None:
    """The start must stand for the recipe's network and see images as the recipe does."""
    told, dense = partial(networks.told, start), fitted(recipe.dense, sets)
    original = told("original")
    pairs = {
        "network": (original and (original.name, original.options), (dense.name, dense.options)),
        "data": (told("data"), sets.name),
        "mean": (told("mean"), tuple(sets.mean)),
        "std": (told("std"), tuple(sets.std)),
    }
    for name, (its, ours) in pairs.items():
        if its != ours:
            raise RecipeError(f"start: {recipe.start} has the {name} {its}, and this recipe {ours}; say the same")


def _kept(recipe: Recipe, start: Program) -> dict[str, str]:
    """Layers that the recipe's plan keeps in floating point, and why."""
    names = [node.name for node in start.graph.nodes if node.weight is not None]
    kept: dict[str, str] = {}
    for pattern, what in recipe.method.plan.items():
        matched = [name for name in names if fnmatch.fnmatchcase(name, pattern)]
        if not matched:
            raise RecipeError(f"method.plan: no layer of {recipe.start} is called {pattern!r}")
        if not isinstance(what, str):
            raise RecipeError(f"method.plan: layer {pattern!r} is packed already; say only why it keeps real numbers")
        kept |= dict.fromkeys(matched, what)
    return kept
