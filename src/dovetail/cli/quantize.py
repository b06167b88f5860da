"""`dovetail quantize`: a packed network in whole numbers, without training."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter

from dovetail.cli import integers, networks
from dovetail.cli.console import say
from dovetail.cli.options import DataFolder, Out, writable
from dovetail.errors import RecipeError

if TYPE_CHECKING:
    from dovetail.program.program import Program


def quantize(
    program: Annotated[Path, Parameter(help="A .dovetail file in floating point.")],
    /,
    *,
    on: Annotated[str | None, Parameter(help="Data set; a packed file knows its own.")] = None,
    rule: Annotated[Literal["mse", "percentile", "minmax"], Parameter(help="How far codes reach.")] = "mse",
    images: Annotated[int, Parameter(help="Training images to calibrate on.")] = 1000,
    keep: Annotated[
        tuple[str, ...], Parameter(help="Layers to leave in floating point. Repeatable.", negative=())
    ] = (),
    correct: Annotated[bool, Parameter(help="Mend biases by what rounding the weights shifts.")] = True,
    reestimate: Annotated[
        bool, Parameter(help="Mend mean and deviation of what each layer gives, one after another.")
    ] = False,
    seed: Annotated[int, Parameter(help="Of the draw of calibration images.")] = 0,
    data: DataFolder = None,
    out: Out = None,
) -> None:
    """Write the network with int8 weights and uint8 tensors, calibrated on training images."""
    from dovetail.methods.base import Quantization

    if images < 1:
        raise RecipeError(f"--images {images} calibrates on nothing; a few hundred do")
    target = writable(out or program.with_name(f"{program.stem}-int8.dovetail"), ".dovetail")
    loaded = networks.load(str(program))
    sets = networks.sets_of(loaded, on, data)
    how = Quantization(rule=rule, keep=keep, correct=correct, reestimate=reestimate, images=images)
    made = integers.quantized(loaded, how, sets, seed, dict.fromkeys(keep, "kept by --keep"))
    made.save(target)
    say(f"wrote {target}: {_described(made)}, {target.stat().st_size / 1e6:.2f} MB")


def _described(program: Program) -> str:
    layers = {n.name: program.weights[n.weight].spec.values.name for n in program.graph.nodes if n.weight is not None}
    left = [name for name, values in layers.items() if values not in ("int8", "ternary")]
    told = f"{len(layers) - len(left)} of {len(layers)} weight layers in int8"
    return told + (f", {', '.join(left)} in floating point" if left else "")
