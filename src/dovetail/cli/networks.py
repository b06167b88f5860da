"""What a verb may be pointed at: a packed file, or a dense network by name."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

from pydantic import Field, TypeAdapter, ValidationError

from dovetail.cli.materials import Sets, open_sets
from dovetail.cli.schema import CASE, Channels, Data, Network, RecipeName
from dovetail.errors import DataError, InputError, RecipeError

if TYPE_CHECKING:
    from dovetail.program.program import Program


TOLD: Final[dict[str, Any]] = {
    "case": Annotated[str, Field(pattern=CASE)],
    "classes": tuple[str, ...],
    "control": RecipeName,
    "data": str,
    "floating": dict[str, str],
    "left": dict[str, str],
    "mean": Channels,
    "original": Network,
    "std": Channels,
}
"""What a packed file may say of itself, and as what; anybody may have written it."""


def is_packed(name: str) -> bool:
    """Whether this names a `.dovetail` file rather than a network."""
    return name.endswith(".dovetail")


def load(name: str) -> Program:
    """The packed network in a file; everything wrong with it is a `ProgramError` or `DataError`."""
    from dovetail.program.store import load as read

    return read(name)


def told(program: Program, key: str) -> Any:
    """What a packed file says under a key of `TOLD`; None where it says nothing.

    Raises:
        DataError: it says something else there than such a key means.
    """
    value = program.metadata.get(key)
    if value is None:
        return None
    try:
        return TypeAdapter(TOLD[key]).validate_python(value)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join([key, *map(str, first["loc"])])
        why = first["msg"].removeprefix("Value error, ")
        raise DataError(f"the file's metadata say {value!r} of {key!r} ({where}: {why}); pack it anew") from None


def sets_of(program: Program, on: str | None, root: Path | None) -> Sets:
    """The data that a packed network was made for, or those named by `on`, with its own normalisation."""
    name = on or told(program, "data")
    if name is None:
        raise RecipeError("the file does not say what data it was made for; name them with --on")
    known = {key: value for key in ("mean", "std") if (value := told(program, key)) is not None}
    original = told(program, "original")
    network = "" if original is None else original.name
    given = known | _size_of_folder(program, name)
    return open_sets(Data(name=name, held_out=0, **given), network, root)


def _size_of_folder(program: Program, data: str) -> dict[str, Any]:
    """The images of a folder are brought to the size that the network takes."""
    from dovetail.zoo.data import known

    shape = input_shape(program)
    return {"size": shape[2:]} if known(data) is None and len(shape) == 4 else {}


def original_of(program: Program, given: str | None = None, weights: str | None = None) -> Network:
    """The dense network that a packed one stands for: named by the user, or as the file says."""
    recorded: Network | None = told(program, "original")
    if recorded is not None and given in (None, recorded.name):
        network = recorded
    elif given is not None:
        network = Network(name=given)
    else:
        raise RecipeError("the file does not say what it was made from; name the dense network with --original")
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
    for layer, reason in (told(program, key) or {}).items():
        reasons.setdefault(reason, []).append(layer)
    return reasons
