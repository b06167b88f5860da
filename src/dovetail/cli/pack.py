"""`dovetail pack`: lower a dense network into a .dovetail file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from dovetail.cli.adhoc import adhoc
from dovetail.cli.console import say
from dovetail.cli.materials import answer_to, build_network, fitted, image_of, open_sets, require_fit
from dovetail.cli.options import DataFolder, Out, Set, Weights, writable
from dovetail.cli.pipeline import describe


def pack(
    network: Annotated[str, Parameter(help="A zoo name, or package.module:callable.")],
    /,
    *,
    weights: Weights = None,
    on: Annotated[str | None, Parameter(help="Data set that fixes input, classes and normalisation.")] = None,
    input: Annotated[str, Parameter(help="Shape of one image where no data set is named.")] = "3x32x32",
    overrides: Set = (),
    data: DataFolder = None,
    out: Out = None,
) -> None:
    """Lower a dense network as it is (also a compressed one of your own code) into a .dovetail file.

    `dovetail compress` and `dovetail recipe run` pack what they have trained by themselves.
    """
    from dovetail.program.lower import lower

    target = writable(out or Path(f"{network.rpartition(':')[2]}.dovetail"), ".dovetail")
    recipe = adhoc(network, on or "none", weights=weights, overrides=overrides)
    sets = None if on is None else open_sets(recipe.data, recipe.network.name, data)
    if sets is None:
        dense, example = recipe.network, image_of(input)
        metadata = {"network": dense.model_dump(mode="json"), "original": dense.model_dump(mode="json")}
    else:
        dense, example = fitted(recipe.network, sets), sets.example()
        metadata = describe(recipe, "", sets) | {"recipe": None, "method": None}
    model = build_network(dense, data)
    if sets is None:
        answer_to(model, dense.name, example, f"an input of --input {input}")
    else:
        require_fit(model, dense.name, sets)
    program = lower(model.eval(), example, metadata=metadata)
    program.save(target)
    ops = sum(len(graph.nodes) for graph in program.run_by(program.graph))
    told = ", random weights (--weights gives trained ones)" if dense.random else ""
    say(f"wrote {target}: {ops} ops, {target.stat().st_size / 1e6:.2f} MB{told}")
