"""`dovetail quantize`: a packed network in whole numbers, without training."""

from __future__ import annotations

from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter

from dovetail.cli import networks
from dovetail.cli.console import say
from dovetail.cli.options import DataFolder, Out, Seed, writable
from dovetail.errors import RecipeError

if TYPE_CHECKING:
    from dovetail.program.program import Program

BATCH = 32


def quantize(
    program: Annotated[Path, Parameter(help="A .dovetail file in floating point.")],
    /,
    *,
    on: Annotated[str | None, Parameter(help="Data set; a packed file knows its own.")] = None,
    rule: Annotated[Literal["mse", "percentile", "minmax"], Parameter(help="How far codes reach.")] = "mse",
    images: Annotated[int, Parameter(help="Training images to calibrate on.")] = 512,
    keep: Annotated[
        tuple[str, ...], Parameter(help="Layers to leave in floating point. Repeatable.", negative=())
    ] = (),
    correct: Annotated[bool, Parameter(help="Mend biases by what rounding the weights shifts.")] = True,
    seed: Seed = 0,
    data: DataFolder = None,
    out: Out = None,
) -> None:
    """Write the network with int8 weights and uint8 tensors, calibrated on training images."""
    from dovetail.api import quantize as make
    from dovetail.training.data import Loader

    if images < 1:
        raise RecipeError(f"--images {images} calibrates on nothing; a few hundred do")
    target = writable(out or program.with_name(f"{program.stem}-int8.dovetail"))
    loaded = networks.load(str(program))
    sets = networks.sets_of(loaded, on, data)
    drawn = Loader(sets.calibration.data, BATCH, mean=sets.mean, std=sets.std, shuffle=True, seed=seed)
    some = (batch[: images - BATCH * i] for i, (batch, _) in enumerate(islice(drawn, -(-images // BATCH))))
    made = make(loaded, some, rule=rule, keep=keep, correct=correct)
    made.save(target)
    say(f"wrote {target}: {_described(made)}, {target.stat().st_size / 1e6:.2f} MB")


def _described(program: Program) -> str:
    layers = {n.name: program.weights[n.weight].spec.values.name for n in program.graph.nodes if n.weight is not None}
    left = [name for name, values in layers.items() if values != "int8"]
    told = f"{len(layers) - len(left)} of {len(layers)} weight layers in int8"
    return told + (f", {', '.join(left)} in floating point" if left else "")
