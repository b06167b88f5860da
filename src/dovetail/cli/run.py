"""`dovetail run`: a packed file on one input."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Annotated
from zipfile import BadZipFile

import numpy as np
from cyclopts import Parameter

from dovetail import files
from dovetail.cli import networks
from dovetail.cli.console import say, table
from dovetail.cli.options import Threads, writable
from dovetail.errors import DataError, InputError, install_hint

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from dovetail.program.program import Program

TOP = 5


def run(
    program: Annotated[Path, Parameter(help="A .dovetail file.")],
    input: Annotated[Path | None, Parameter(help="An image, or a .npy file; random numbers if left out.")] = None,
    /,
    *,
    threads: Threads = None,
    out: Annotated[Path | None, Parameter(name=["--out", "-o"], help="File of the raw output, if wanted.")] = None,
) -> None:
    """Run a packed network on one image (or a .npy batch) and print its answer.

    --out keeps the raw output (.npy), or all of them by name where there are several (.npz).
    """
    from dovetail.engine import Session

    target = None if out is None else writable(out)
    loaded = networks.load(str(program))
    given = read_input(input, loaded)
    answer = Session(loaded, threads=threads)(given)
    outputs = answer if isinstance(answer, tuple) else (answer,)
    for name, output in zip(loaded.graph.outputs, outputs, strict=True):
        say(f"{name}: {output.dtype} {output.shape}, from {output.min():.4g} to {output.max():.4g}")
    if outputs[0].ndim == 2:
        _classes(outputs[0], networks.told(loaded, "classes") or ())
    if target is not None:
        files.write(target, _raw(dict(zip(loaded.graph.outputs, outputs))))
        say(f"wrote {target}")


def read_input(path: Path | None, program: Program) -> np.ndarray:
    """An image or a `.npy` file as the network takes it; random numbers for None."""
    shape = networks.input_shape(program)
    if path is None:
        return np.random.default_rng(0).standard_normal(shape, dtype=np.float32)
    if not path.is_file():
        raise DataError(f"there is no file {path}; give an image or a .npy file")
    return _array(path) if path.suffix == ".npy" else _image(path, shape, program)


def _array(path: Path) -> np.ndarray:
    try:
        with path.open("rb") as file:
            array = np.load(file, allow_pickle=False)
    except (ValueError, EOFError, BadZipFile) as error:
        raise InputError(f"{path} is no .npy file of numbers: {error}") from None
    if not isinstance(array, np.ndarray):
        raise InputError(f"{path} holds arrays by name (.npz); give a file of one array, as numpy.save writes it")
    if array.dtype.kind != "f":
        raise InputError(
            f"{path} holds {array.dtype}, and networks take normalised float32; give an image (it is normalised as the "
            "network was trained), or scale and shift the numbers yourself and save them with .astype('float32')"
        )
    if not np.isfinite(array).all():
        raise InputError(f"{path} holds NaN or infinity, for which no network has an answer; give finite numbers")
    return np.ascontiguousarray(array, dtype=np.float32)


def _raw(outputs: Mapping[str, np.ndarray]) -> bytes:
    """One output as `.npy`; several, by name, as `.npz`."""
    buffer = BytesIO()
    if len(outputs) == 1:
        np.save(buffer, *outputs.values())
    else:
        np.savez(buffer, **outputs)
    return buffer.getvalue()


def _image(path: Path, shape: tuple[int, ...], program: Program) -> np.ndarray:
    from dovetail.cli.materials import normalise

    try:
        from PIL import Image, UnidentifiedImageError
    except ImportError:
        raise DataError(f"reading images needs pillow: {install_hint('data')}, or give a .npy file") from None
    if len(shape) != 4 or shape[1] not in (1, 3):
        raise InputError(f"this network takes inputs of shape {shape}, which is no image; give a .npy file")
    try:
        with Image.open(path) as image:
            sized = image.convert("RGB" if shape[1] == 3 else "L").resize(
                (shape[3], shape[2]), Image.Resampling.BILINEAR
            )
    except UnidentifiedImageError:
        raise DataError(f"{path} is not an image that pillow can read") from None
    pixels = np.asarray(sized, dtype=np.uint8).reshape(1, shape[2], shape[3], shape[1])
    return normalise(pixels, networks.told(program, "mean") or (0.0,), networks.told(program, "std") or (1.0,))


def _classes(logits: np.ndarray, names: Sequence[str]) -> None:
    """The likeliest classes of the first image."""
    first = logits[0].astype(np.float64)
    odds = np.exp(first - first.max())
    order = np.argsort(-first)[:TOP]
    labels = [names[i] if i < len(names) else str(i) for i in order]
    table("", ["class", "probability"], [(label, f"{odds[i] / odds.sum():.1%}") for label, i in zip(labels, order)])
