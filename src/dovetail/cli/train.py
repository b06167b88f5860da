"""`dovetail train`: a dense network on a data set, into a safetensors file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from dovetail.cli.console import say
from dovetail.cli.options import DataFolder, On, Out, Runs, Seed, Set, Weights, writable


def train(
    network: Annotated[str, Parameter(help="A zoo name such as resnet8, or package.module:callable.")],
    /,
    *,
    on: On = "digits",
    epochs: Annotated[int, Parameter(help="Passes over the training images.")] = 30,
    learning_rate: Annotated[float, Parameter(help="Peak of the cosine schedule.")] = 0.1,
    batch: Annotated[int, Parameter(help="Images per step.")] = 128,
    seed: Seed = 0,
    precision: Annotated[Literal["f32", "bf16"], Parameter(help="bf16: under autocast.")] = "f32",
    weights: Weights = None,
    overrides: Set = (),
    runs: Runs = Path("runs"),
    data: DataFolder = None,
    out: Out = None,
) -> None:
    """Train a dense network and save its weights; the same command goes on from its last checkpoint.

    Accuracy is reported on held-out training images; `dovetail eval` measures on the test set.
    """
    from dovetail.cli import pipeline
    from dovetail.cli.adhoc import adhoc

    target = writable(out or Path(f"{_stem(network)}-{_stem(on)}.safetensors"), ".safetensors")
    recipe = adhoc(
        network,
        on,
        parameters={"epochs": epochs, "learning_rate": learning_rate},
        weights=weights,
        overrides=overrides,
        batch=batch,
        precision=precision,
        runs=runs,
    )
    done = pipeline.train(recipe, target.stem, seed, data)
    pipeline.save_weights(done.model, target)
    accuracy = done.history.accuracy
    say(f"wrote {target}" + ("" if accuracy is None else f"; {accuracy:.2f} % on the held-out images"))


def _stem(name: str) -> str:
    return Path(name.replace(":", "-").replace(".", "-")).name
