"""MNIST and Fashion-MNIST: the original idx files (gzipped or not) or one `.npz`."""

from __future__ import annotations

import gzip
import math
import zlib
from pathlib import Path

import numpy as np

from dovetail.errors import DataError
from dovetail.zoo.data.arrays import Part, Read, load_npz, part
from dovetail.zoo.root import missing

_FOLDERS = {
    "mnist": ("", "mnist", "MNIST", "MNIST/raw"),
    "fashion_mnist": ("fashion_mnist", "fashion-mnist", "FashionMNIST", "FashionMNIST/raw"),
}
_NAMES = {
    "mnist": tuple("0123456789"),
    "fashion_mnist": (
        "T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"
    ),
}  # fmt: skip
_IMAGES, _LABELS = 2051, 2049  # the magic numbers of idx files: uint8 with 3 axes, with 1 axis


def read_mnist(name: str, root: Path) -> Read:
    """`<name>.npz` under `root`, else the four idx files in one of the usual folders.

    Raises:
        DataError: neither is there, or a file is damaged.
    """
    archive = root / f"{name}.npz"
    if archive.is_file():
        return Read(*_from_npz(archive), _NAMES[name])
    for folder in (root / each for each in _FOLDERS[name]):
        if _find(folder, "train-images", 3) is not None:
            return Read(_from_idx(folder, "train"), _from_idx(folder, "t10k"), _NAMES[name])
    raise missing(archive, f"data set {name!r} (neither the .npz nor idx files such as train-images-idx3-ubyte.gz)")


def read_idx(path: Path, magic: int) -> np.ndarray:
    """The uint8 array of an idx file: magic, one big-endian size per axis, the values.

    Raises:
        DataError: wrong magic, or more or fewer values than the header says.
    """
    data = _bytes(path)
    axes = magic % 256
    if len(data) < 4 + 4 * axes or int.from_bytes(data[:4], "big") != magic:
        raise DataError(f"{str(path)!r} is no idx file of {axes} axes (its magic is {data[:4].hex()!r}); get it anew")
    shape = [int.from_bytes(data[4 + 4 * axis : 8 + 4 * axis], "big") for axis in range(axes)]
    values = data[4 + 4 * axes :]
    if len(values) != math.prod(shape):
        raise DataError(f"{str(path)!r} says {shape} and holds {len(values)} values: it is truncated; get it anew")
    return np.frombuffer(values, np.uint8).reshape(shape)


def _bytes(path: Path) -> bytes:
    try:
        return gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{str(path)!r} cannot be read: {error}; get it anew") from None


def _from_idx(folder: Path, prefix: str) -> Part:
    images, labels = (_required(folder, f"{prefix}-{what}", axes) for what, axes in (("images", 3), ("labels", 1)))
    return part(read_idx(images, _IMAGES), read_idx(labels, _LABELS), 10, images)


def _find(folder: Path, stem: str, axes: int) -> Path | None:
    names = [f"{stem}{dot}idx{axes}-ubyte{end}" for dot in "-." for end in ("", ".gz")]
    return next((folder / name for name in names if (folder / name).is_file()), None)


def _required(folder: Path, stem: str, axes: int) -> Path:
    path = _find(folder, stem, axes)
    if path is None:
        raise missing(folder / f"{stem}-idx{axes}-ubyte.gz", "an idx file")
    return path


def _from_npz(path: Path) -> tuple[Part, Part]:
    """Arrays `train_x`, `train_y`, `test_x`, `test_y`, or the same as `x_train`, ... (Keras)."""
    arrays = load_npz(path)

    def one(which: str) -> Part:
        for x, y in ((f"{which}_x", f"{which}_y"), (f"x_{which}", f"y_{which}")):
            if x in arrays and y in arrays:
                return part(arrays[x], arrays[y], 10, path)
        raise DataError(f"{str(path)!r} has no arrays {which}_x and {which}_y; it has {', '.join(arrays)}")

    return one("train"), one("test")
