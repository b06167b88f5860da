"""CIFAR-10 in three forms: packed WebP sheets, the binary version, and the Python version (read, never unpickled)."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from dovetail.errors import DataError
from dovetail.zoo.data.arrays import Part, Read, load_npz, optional, part
from dovetail.zoo.data.inert_pickle import read_inert
from dovetail.zoo.root import missing

NAMES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
SIDE = 32
_TRAIN, _TEST = tuple(f"data_batch_{k}" for k in range(1, 6)), ("test_batch",)
_RECORD = 1 + 3 * SIDE * SIDE


def read_cifar10(root: Path) -> Read:
    """The first form that is found under `root`.

    Raises:
        DataError: none is there, one lacks a file, or a file is damaged.
    """
    if (root / "cifar10_labels.npz").is_file():
        return _from_sheets(root)
    if folder := _folder(root, "cifar-10-batches-bin", "data_batch_1.bin"):
        return Read(_from_bin(folder, _TRAIN), _from_bin(folder, _TEST), NAMES)
    if folder := _folder(root, "cifar-10-batches-py", "data_batch_1"):
        return Read(_from_python(folder, _TRAIN), _from_python(folder, _TEST), NAMES)
    raise missing(
        root / "cifar10_labels.npz", "CIFAR-10 (neither sheets, cifar-10-batches-bin nor cifar-10-batches-py)"
    )


def _folder(root: Path, name: str, file: str) -> Path | None:
    return next((each for each in (root, root / name, root / "cifar10" / name) if (each / file).is_file()), None)


def _from_sheets(root: Path) -> Read:
    labels = load_npz(root / "cifar10_labels.npz")
    sheets = {"train": [root / f"cifar10_train_{k}.webp" for k in range(5)], "test": [root / "cifar10_test.webp"]}

    def one(which: str) -> Part:
        if f"{which}_labels" not in labels:
            raise DataError(f"{str(root / 'cifar10_labels.npz')!r} has no array '{which}_labels'; get it anew")
        return part(_decoded(sheets[which]), labels[f"{which}_labels"], 10, root / f"cifar10_{which}")

    return Read(one("train"), one("test"), NAMES)


def _decoded(paths: Sequence[Path]) -> np.ndarray:
    for path in paths:
        if not path.is_file():
            raise missing(path, "a sheet of CIFAR-10")
    return _sheets(tuple((path, path.stat().st_mtime_ns) for path in paths))


@functools.lru_cache(maxsize=2)
def _sheets(stamped: tuple[tuple[Path, int], ...]) -> np.ndarray:
    """Decoding takes seconds, so both parts stay in memory until a file changes; nobody writes into them."""
    return np.concatenate([_sheet(path) for path, _ in stamped])


def _sheet(path: Path) -> np.ndarray:
    """The tiles of a sheet, row by row: `(N, 32, 32, 3)`."""
    image = optional("PIL.Image", "pillow", "reading CIFAR-10 sheets")
    try:
        with image.open(path) as file:
            pixels = np.asarray(file.convert("RGB"))
    except (OSError, ValueError, image.DecompressionBombError) as error:
        raise DataError(f"{str(path)!r} is truncated or no image: {error}; get it anew") from None
    rows, columns = pixels.shape[0] // SIDE, pixels.shape[1] // SIDE
    if pixels.shape[:2] != (rows * SIDE, columns * SIDE):
        raise DataError(f"{str(path)!r} of size {pixels.shape[1]}x{pixels.shape[0]} is no sheet of 32x32 tiles")
    tiles = pixels.reshape(rows, SIDE, columns, SIDE, 3).transpose(0, 2, 1, 3, 4)
    return tiles.reshape(rows * columns, SIDE, SIDE, 3)


def _from_bin(folder: Path, names: Iterable[str]) -> Part:
    """Records of one label byte and 3 x 32 x 32 values, in files of equal length."""
    files = [_records(folder / f"{name}.bin") for name in names]
    if len({len(file) for file in files}) > 1:
        raise DataError(f"the files of {str(folder)!r} differ in length: one is truncated; get them anew")
    records = np.concatenate(files)
    return part(_images(records[:, 1:]), records[:, 0], 10, folder)


def _records(path: Path) -> np.ndarray:
    if not path.is_file():
        raise missing(path, "a file of CIFAR-10")
    values = np.fromfile(path, np.uint8)
    if not values.size or values.size % _RECORD:
        raise DataError(
            f"{str(path)!r} of {values.size} bytes is no whole number of {_RECORD}-byte records; get it anew"
        )
    return values.reshape(-1, _RECORD)


def _from_python(folder: Path, names: Iterable[str]) -> Part:
    batches = [_python_batch(folder / name) for name in names]
    images, labels = (np.concatenate(column) for column in zip(*batches, strict=True))
    return part(_images(images), labels, 10, folder)


def _python_batch(path: Path) -> tuple[np.ndarray, np.ndarray]:
    if not path.is_file():
        raise missing(path, "a file of CIFAR-10")
    batch = read_inert(path)
    data, labels = batch.get("data"), batch.get("labels")
    if (
        not isinstance(data, np.ndarray)
        or data.ndim != 2
        or data.shape[1] != _RECORD - 1
        or not isinstance(labels, list)
    ):
        raise DataError(f"{str(path)!r} is no batch of CIFAR-10 (data (N, {_RECORD - 1}) and labels); get it anew")
    return data, np.asarray(labels)


def _images(flat: np.ndarray) -> np.ndarray:
    """`(N, 3072)` planes to `(N, 32, 32, 3)`."""
    return flat.reshape(-1, 3, SIDE, SIDE).transpose(0, 2, 3, 1)
