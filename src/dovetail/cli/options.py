"""The options that several verbs share."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from dovetail.errors import RecipeError

DataFolder = Annotated[
    Path | None, Parameter(name="--data", help="Folder of data sets and weights; else DOVETAIL_DATA.")
]
Set = Annotated[
    tuple[str, ...],
    Parameter(
        name="--set",
        show_default=False,
        negative=(),
        help="Override a key of the recipe, e.g. --set method.parameters.bases=4. Repeatable.",
    ),
]
Threads = Annotated[int | None, Parameter(help="Threads of the engine; all usable cores by default.")]
Out = Annotated[Path | None, Parameter(name=["--out", "-o"], help="File to write; named after the network by default.")]
Weights = Annotated[str | None, Parameter(help="A .safetensors file, or a name of the zoo such as resnet56_cifar10.")]
Seed = Annotated[int, Parameter(help="Of weights, order and augmentation.")]
Runs = Annotated[Path, Parameter(help="Folder of checkpoints.")]
On = Annotated[
    str,
    Parameter(name="--on", help="Data set: digits, cifar10, mnist, fashion_mnist, spoken_digits or an image folder."),
]


def writable(path: Path, suffix: str | None = None) -> Path:
    """`path`, after a check that it can be written, and ends as such files do: better now than after hours of training.

    So no file of another kind is written over by mistake.
    """
    folder = path.parent
    if path.is_dir():
        raise RecipeError(f"--out {path} is a folder; name a file in it")
    if suffix is not None and path.suffix != suffix:
        raise RecipeError(f"--out {path}: what is written is a {suffix} file; name it {path.stem}{suffix}")
    if not folder.is_dir():
        raise RecipeError(f"--out {path}: there is no folder {folder}; make it or choose another place")
    try:
        with tempfile.TemporaryFile(dir=folder):
            return path
    except OSError as error:
        raise RecipeError(
            f"--out {path}: {folder} cannot be written ({error.strerror}); choose another place"
        ) from None
