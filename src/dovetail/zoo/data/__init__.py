"""Data sets in memory: uint8 images and labels, a training and a test part, and how to normalise them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from dovetail.errors import DataError
from dovetail.zoo.data.arrays import Part, Read
from dovetail.zoo.data.cifar10 import read_cifar10
from dovetail.zoo.data.digits import read_digits
from dovetail.zoo.data.folder import read_folder
from dovetail.zoo.data.mnist import read_mnist
from dovetail.zoo.data.spoken_digits import read_spoken_digits
from dovetail.zoo.normalisation import BY_DATA, IMAGENET
from dovetail.zoo.root import data_root, missing

DATA_SETS = tuple(BY_DATA)


@dataclass(frozen=True)
class DataSets:
    """A data set, opened. The arrays may be shared by several callers: do not write into them.

    Attributes:
        train: the images to train on; nothing is held out yet.
        test: the images to measure on, once.
        mean: per channel, of images scaled to 0..1, for networks trained here.
        std: likewise; published weights may want others: ask `zoo.normalisation(network, data)`.
        name: `"cifar10"`, ..., or the folder's own name.
        class_names: in the order of the labels.
    """

    train: Part
    test: Part
    mean: tuple[float, ...]
    std: tuple[float, ...]
    name: str
    class_names: tuple[str, ...]


def open_data(name: str, root: str | Path | None = None, *, size: int | tuple[int, int] = 224) -> DataSets:
    """Read a data set into memory.

    Args:
        name: `digits` (always there), `cifar10`, `mnist`, `fashion_mnist`, `spoken_digits`, or a folder of images:
            a path, absolute, relative to the working folder, or relative to `root`.
        root: the folder that holds the data; None is the one that DOVETAIL_DATA names.
        size: height and width that images of a folder are brought to; the others keep their own size.

    Raises:
        DataError: the data are missing, truncated or not what they claim to be.
    """
    registered = known(name)
    if registered is not None:
        return _sets(_READERS[registered](root), registered)
    height, width = (size, size) if isinstance(size, int) else size
    if min(height, width) < 1:
        raise DataError(f"size {size} of the images must be positive")
    folder = _image_folder(name, root)
    return _sets(read_folder(folder, (height, width)), folder.resolve().name)


def known(name: str) -> str | None:
    """The data set's registered name; case, hyphens and underscores do not matter (`CIFAR-10`). None for a folder."""
    plain = name.lower().replace("-", "").replace("_", "")
    return next((each for each in DATA_SETS if each.replace("_", "") == plain), None)


def _sets(read: Read, name: str) -> DataSets:
    mean, std = BY_DATA.get(name, IMAGENET)
    return DataSets(read.train, read.test, mean, std, name, read.class_names)


def _image_folder(name: str, root: str | Path | None) -> Path:
    direct = Path(name).expanduser()
    if direct.is_dir():
        return direct
    if direct.is_absolute():
        raise missing(direct, "the folder of images")
    try:
        folder = data_root(root) / name
    except DataError as error:
        raise DataError(f"{name!r} is neither a data set ({', '.join(DATA_SETS)}) nor a folder: {error}") from None
    if not folder.is_dir():
        raise missing(folder, f"{name!r}, neither a data set ({', '.join(DATA_SETS)}) nor a folder of images,")
    return folder


_READERS: dict[str, Callable[[str | Path | None], Read]] = {
    "digits": lambda _: read_digits(),
    "cifar10": lambda root: read_cifar10(data_root(root)),
    "mnist": lambda root: read_mnist("mnist", data_root(root)),
    "fashion_mnist": lambda root: read_mnist("fashion_mnist", data_root(root)),
    "spoken_digits": lambda root: read_spoken_digits(data_root(root)),
}

__all__ = ["DATA_SETS", "DataSets", "Part", "known", "open_data"]
