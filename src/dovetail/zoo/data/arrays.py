"""What every reader of this folder returns, and the checks that they share."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from dovetail.errors import DataError, install_hint

if TYPE_CHECKING:
    from types import ModuleType


@dataclass(frozen=True, eq=False)
class Part:
    """The training or the test part of a data set: exactly what the training room's `Loader` and `split` read.

    Attributes:
        images: uint8, `(N, H, W, C)`; RGB or one grey channel.
        labels: int64, `(N,)`, from 0 to `classes` - 1.
        classes: the number of classes.
    """

    images: np.ndarray
    labels: np.ndarray
    classes: int

    def __len__(self) -> int:
        return len(self.images)

    def __repr__(self) -> str:
        return f"Part({' x '.join(map(str, self.images.shape))}, {self.classes} classes)"


@dataclass(frozen=True)
class Read:
    """Both parts as a reader found them, and the names of the classes."""

    train: Part
    test: Part
    class_names: tuple[str, ...]


def part(images: Any, labels: Any, classes: int, where: Path | str) -> Part:
    """A checked `Part`; grey images may come as `(N, H, W)`.

    Raises:
        DataError: types, shapes or labels are not those of labelled images; the message names `where`.
    """
    images, labels = np.asarray(images), np.asarray(labels)
    images = images[..., None] if images.ndim == 3 else images
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[-1] not in (1, 3) or 0 in images.shape:
        raise DataError(f"{where}: expected uint8 images (N, H, W, 1 or 3), found {images.dtype} {images.shape}")
    if not np.issubdtype(labels.dtype, np.integer) or labels.shape != (len(images),):
        raise DataError(f"{where}: expected {len(images)} integer labels, found {labels.dtype} {labels.shape}")
    if labels.min() < 0 or labels.max() >= classes:
        raise DataError(f"{where}: labels from {labels.min()} to {labels.max()}, but there are {classes} classes")
    return Part(np.require(images, requirements=["C", "W"]), np.require(labels, np.int64, ["C", "W"]), classes)


def every_fifth(labels: np.ndarray) -> np.ndarray:
    """A fixed stratified split: true for the fifth, tenth, ... image of each class, which make the test part."""
    chosen = np.zeros(len(labels), bool)
    for label in np.unique(labels):
        chosen[np.flatnonzero(labels == label)[4::5]] = True
    return chosen


def optional(module: str, package: str, what: str) -> ModuleType:
    """A module of an optional package.

    Raises:
        DataError: it is not installed.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise DataError(f"{what} needs {package}: {install_hint('data')} ({error})") from None


def load_npz(path: Path) -> dict[str, np.ndarray]:
    """All arrays of an `.npz` file; objects in it are refused, never unpickled.

    Raises:
        DataError: the file is truncated or no such file.
    """
    try:
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as file:
            return {name: file[name] for name in file.files}
    except Exception as error:  # numpy, zipfile and zlib each have their own errors for a damaged file
        raise DataError(f"{str(path)!r} is truncated or no .npz file of plain arrays: {error}; get it anew") from None
