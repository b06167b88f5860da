"""What a verb may be pointed at: a packed file, or a dense network by name."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from dovetail.cli.materials import Sets, open_sets
from dovetail.cli.schema import Data, Network
from dovetail.errors import RecipeError

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
    normalised = {key: metadata[key] for key in ("mean", "std") if key in metadata}
    network = (metadata.get("original") or {}).get("name", "")
    return open_sets(Data(name=name, held_out=0, **normalised), network, root)


def original_of(program: Program, given: str | None, weights: str | None) -> Network:
    """The dense network that a packed one stands for: named by the user, or as the file says."""
    if given is not None:
        options: dict[str, Any] = {}
        recorded = program.metadata.get("original")
        if recorded is not None and recorded["name"] == given:
            options = recorded["options"]
            weights = weights or recorded["weights"]
        return Network.model_construct(name=given, options=options, weights=weights)
    recorded = program.metadata.get("original")
    if recorded is None:
        raise RecipeError("the file does not say what it was made from; name the dense network with --original")
    return Network.model_construct(**{**recorded, "weights": weights or recorded["weights"]})
