"""What a verb may be pointed at: a packed file, or a dense network by name."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from dovetail.cli.materials import Sets, open_sets
from dovetail.cli.schema import Data, Network
from dovetail.errors import InputError, RecipeError

if TYPE_CHECKING:
    from dovetail.program.program import Program


def is_packed(name: str) -> bool:
    """Whether this names a `.dovetail` file rather than a network."""
    return name.endswith(".dovetail")


def load(name: str) -> Program:
    """The packed network in a file; everything wrong with it is a `ProgramError` or `DataError`."""
    from dovetail.program.store import load as read

    return read(name)


def sets_of(program: Program, on: str | None, root: Path | None) -> Sets:
    """The data that a packed network was made for, or those named by `on`, with its own normalisation."""
    metadata = program.metadata
    name = on or metadata.get("data")
    if name is None:
        raise RecipeError("the file does not say what data it was made for; name them with --on")
    given = {key: metadata[key] for key in ("mean", "std") if key in metadata} | _size_of_folder(program, name)
    network = (metadata.get("original") or {}).get("name", "")
    return open_sets(Data(name=name, held_out=0, **given), network, root)


def _size_of_folder(program: Program, data: str) -> dict[str, Any]:
    """The images of a folder are brought to the size that the network takes."""
    from dovetail.zoo.data import known

    shape = input_shape(program)
    return {"size": shape[2:]} if known(data) is None and len(shape) == 4 else {}


def original_of(program: Program, given: str | None = None, weights: str | None = None) -> Network:
    """The dense network that a packed one stands for: named by the user, or as the file says."""
    recorded = program.metadata.get("original")
    if recorded is None and given is None:
        raise RecipeError("the file does not say what it was made from; name the dense network with --original")
    known = dict(recorded) if recorded is not None and given in (None, recorded["name"]) else {"name": given}
    network = Network.model_validate(known)
    return network if weights is None else network.model_copy(update={"weights": weights, "trained": None})


def input_shape(program: Program) -> tuple[int, ...]:
    """Of one image."""
    graph = program.graph
    if len(graph.inputs) != 1:
        raise InputError(f"this verb takes networks with one input; this one has {', '.join(graph.inputs)}")
    return graph.bind(batch=1)[graph.inputs[0]]


def left_dense(program: Program) -> dict[str, list[str]]:
    """Why layers stayed dense → the layers, as the file says."""
    return _by_reason(program, "left")


def left_real(program: Program) -> dict[str, list[str]]:
    """Why layers of a network in whole numbers stayed in floating point → the layers, as the file says."""
    return _by_reason(program, "floating")


def _by_reason(program: Program, key: str) -> dict[str, list[str]]:
    reasons: dict[str, list[str]] = {}
    for layer, reason in program.metadata.get(key, {}).items():
        reasons.setdefault(reason, []).append(layer)
    return reasons
