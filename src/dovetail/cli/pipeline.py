"""From a recipe to a packed network: train through the method's phases, then lower; or take a packed one further."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dovetail import files
from dovetail.cli import integers, networks, recipes
from dovetail.cli.materials import (
    Sets,
    build_method,
    build_network,
    device_for,
    fitted,
    open_sets,
    require_fit,
    settings,
)
from dovetail.cli.schema import Network, Recipe
from dovetail.errors import DataError, RecipeError

if TYPE_CHECKING:
    from torch import nn

    from dovetail.methods.base import Plan, Quantization
    from dovetail.program.program import Program
    from dovetail.training.metrics import History


@dataclass(frozen=True)
class Trained:
    """One network after all phases of its method; `quantization` is what packing does to it then, if anything."""

    model: nn.Module
    plan: Plan
    history: History
    sets: Sets
    seed: int
    quantization: Quantization | None


def train(recipe: Recipe, name: str, seed: int, root: Path | None, *, keep: bool = True) -> Trained:
    """Train with one seed; with `keep` in `<runs>/<name>-s<seed>`, resuming what is there; on the CPU in the end."""
    import torch

    from dovetail.api import compress

    if recipe.start is not None:
        raise RecipeError(f"start: {recipe.start} is packed and cannot be trained; `dovetail recipe run` takes it")
    torch.manual_seed(seed)
    sets = open_sets(recipe.data, recipe.dense.name, root, seed)
    network, device = fitted(recipe.network, sets), device_for(recipe)
    model = build_network(network, root)
    require_fit(model, network.name, sets)
    method = build_method(recipe.method, root, sets, Path(recipe.runs) if keep and device == "cpu" else None)
    done = compress(
        model.to(device),
        method,
        train=sets.train,
        validate=sets.held_out,
        example=sets.example().to(device),
        plan=given_plan(recipe.method.plan),
        settings=settings(recipe, seed, Path(recipe.runs) / f"{name}-s{seed}" if keep else None),
        network=network.model_dump(mode="json", include={"name", "options"}),
    )
    how = method.quantization() or (_calibrated() if recipe.method.quantize else None)
    return Trained(model.to("cpu"), done.plan, done.history, sets, seed, how)


def pack_trained(recipe: Recipe, name: str, done: Trained) -> Program:
    """The packed network, in whole numbers where its method ends in them, with what it must say of itself."""
    how = done.quantization
    if how is None:
        return pack(done.model, done.sets, describe(recipe, name, done.sets, _kept(done.plan)) | _began(recipe))
    program = pack(done.model, done.sets, describe(recipe, name, done.sets) | _began(recipe))
    return integers.quantized(program, how, done.sets, done.seed, _kept(done.plan))


def _calibrated() -> Quantization | None:
    """As `int8` without epochs brings a network to whole numbers that was not trained for them."""
    from dovetail.methods import Int8

    return Int8(epochs=0).quantization()


def take_further(
    recipe: Recipe, name: str, start: integers.Start, seed: int, root: Path | None
) -> tuple[Program, Sets]:
    """What a recipe makes of its packed start, without training, and the data."""
    sets = open_sets(recipe.data, recipe.dense.name, root, seed)
    made = integers.converted(recipe, start.program, sets, seed, root)
    told = describe(recipe, name, sets, networks.told(start.program, "left"))
    began = {"start": start.recipe, "start_sha256": start.sha256, "floating": made.metadata["floating"]}
    return replace(made, metadata=told | began), sets


def pack(model: nn.Module, sets: Sets, metadata: Mapping[str, Any]) -> Program:
    """Lower a trained model; `metadata` travels with the file."""
    from dovetail.program.lower import lower

    return lower(model.eval(), sets.example(), metadata=dict(metadata))


def save_weights(model: nn.Module, path: Path) -> Path:
    """A model's state as a safetensors file, whole or not at all."""
    from safetensors.torch import save

    return files.write(path, save({name: tensor.contiguous() for name, tensor in model.state_dict().items()}))


def dense_like(program: Program, root: Path | None) -> Program:
    """The dense original of a packed network, packed; with random weights where its own are not at hand.

    Sizes and times do not depend on the weights.
    """
    import torch

    from dovetail.program.lower import lower

    network = networks.original_of(program)
    try:
        model = build_network(network, root)
    except (DataError, RecipeError):
        model = build_network(network.model_copy(update={"weights": None, "trained": None}), root)
    return lower(
        model.eval(), torch.zeros(networks.input_shape(program)), metadata={"network": network.model_dump(mode="json")}
    )


def given_plan(layers: Mapping[str, Mapping[str, Any] | str]) -> Plan | None:
    """A plan from a recipe: layer or glob → spec, or the reason why it stays dense."""
    from dovetail.formats import spec_from_json
    from dovetail.methods.base import Kept, Plan

    if not layers:
        return None
    return Plan({name: Kept(what) if isinstance(what, str) else spec_from_json(what) for name, what in layers.items()})


def describe(recipe: Recipe, name: str, sets: Sets, left: Mapping[str, str] | None = None) -> dict[str, Any]:
    """What a packed network says of itself: where it comes from, what its inputs are, what is `left` dense and why."""
    return {
        "recipe": name,
        "case": recipe.case,
        "control": recipe.control,
        "method": recipe.method.name,
        "network": _named(fitted(recipe.network, sets)),
        "original": _named(fitted(recipe.dense, sets)),
        "data": sets.name,
        "mean": list(sets.mean),
        "std": list(sets.std),
        "classes": list(sets.classes),
        "left": dict(left or {}),
    }


def _kept(plan: Plan) -> dict[str, str]:
    """Layer → why the plan leaves it as it is."""
    from dovetail.methods.base import Kept

    return {layer: what.reason for layer, what in plan.layers.items() if isinstance(what, Kept)}


def _named(network: Network) -> dict[str, Any]:
    """A network as plain data; its weights by file name or recipe, for paths mean nothing elsewhere."""
    weights = None if network.weights is None or network.trained is not None else Path(network.weights).name
    return network.model_copy(update={"weights": weights}).model_dump(mode="json")


def _began(recipe: Recipe) -> dict[str, str]:
    """Which weights the network started from, where another recipe trained them."""
    found = recipes.trained_sha256(recipe.network)
    return {} if found is None else {"trained_sha256": found}
