"""Folders of images: `<root>/<class>/*.png`, or that under `train` and `test` (or `val`)."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from dovetail.errors import DataError
from dovetail.zoo.data.arrays import Part, Read, every_fifth, optional, part
from dovetail.zoo.root import missing

_ENDINGS = {".png", ".jpg", ".jpeg", ".webp", ".bmp"}
_MEMORY = 8 * 2**30  # bytes; the images of a data set are kept in memory


def read_folder(folder: Path, size: tuple[int, int]) -> Read:
    """RGB images brought to `size` (height, width): the short side scaled, the centre kept.

    Without `train` and `test` (or `val`) inside, every fifth image of each class, by file name, is the test part. The
    images of a part are in a fixed order that mixes the classes.

    Raises:
        DataError: no class folders, a class without images, an unreadable image, or more than memory should hold.
    """
    if not (folder / "train").is_dir():
        files, names = _labelled(folder, None)
        test = every_fifth(np.array([label for _, label in files]))
        if not test.any():
            raise DataError(
                f"{str(folder)!r} has fewer than five images of every class; too few to hold out a test part"
            )
        chosen = [[file for file, at in zip(files, mask) if at] for mask in (~test, test)]
        _require_room(folder, len(files), size)
        return Read(*(_read(folder, part_of, size, len(names)) for part_of in chosen), names)
    test_folder = next((folder / each for each in ("test", "val") if (folder / each).is_dir()), None)
    if test_folder is None:
        raise missing(folder / "test", "the test part beside 'train' ('test' or 'val')")
    files, names = _labelled(folder / "train", None)
    test_files, _ = _labelled(test_folder, names)
    _require_room(folder, len(files) + len(test_files), size)
    train_part = _read(folder / "train", files, size, len(names))
    return Read(train_part, _read(test_folder, test_files, size, len(names)), names)


def _labelled(folder: Path, names: tuple[str, ...] | None) -> tuple[list[tuple[Path, int]], tuple[str, ...]]:
    """Every image with its label, class by class and by file name."""
    found = tuple(sorted(each.name for each in folder.iterdir() if each.is_dir() and not each.name.startswith(".")))
    if not found:
        raise DataError(f"{str(folder)!r} has no folders of images, one per class")
    if names is not None and (strange := sorted(set(found) - set(names))):
        raise DataError(f"{str(folder)!r} has classes that the training part lacks: {', '.join(strange)}")
    names = names or found
    return [(path, names.index(name)) for name in found for path in _images(folder / name)], names


def _read(folder: Path, files: list[tuple[Path, int]], size: tuple[int, int], classes: int) -> Part:
    """In a fixed order that mixes the classes: the last images, which are held out for choices, are of all of them."""
    mixed = random.Random(0).sample(files, len(files))
    return part(_pixels([path for path, _ in mixed], size), [label for _, label in mixed], classes, folder)


def _images(folder: Path) -> list[Path]:
    paths = sorted(path for path in folder.iterdir() if path.suffix.lower() in _ENDINGS)
    if not paths:
        raise DataError(f"{str(folder)!r} holds no images ({', '.join(sorted(_ENDINGS))})")
    return paths


def _require_room(folder: Path, count: int, size: tuple[int, int]) -> None:
    needed = count * size[0] * size[1] * 3
    if needed > _MEMORY:
        raise DataError(
            f"{str(folder)!r}: {count} images of {size[0]}x{size[1]} take {needed / 2**30:.1f} GiB, more than the "
            f"{_MEMORY // 2**30} GiB allowed; give a smaller size or fewer images"
        )


def _pixels(paths: Sequence[Path], size: tuple[int, int]) -> np.ndarray:
    """`(N, height, width, 3)` uint8."""
    image = optional("PIL.Image", "pillow", "reading images")
    operations = optional("PIL.ImageOps", "pillow", "reading images")
    height, width = size
    pixels = np.empty((len(paths), height, width, 3), np.uint8)
    for at, path in enumerate(paths):
        try:
            with image.open(path) as file:
                pixels[at] = operations.fit(file.convert("RGB"), (width, height), image.Resampling.BILINEAR)
        except (OSError, ValueError, SyntaxError, image.DecompressionBombError) as error:
            raise DataError(f"{str(path)!r} is truncated or no image: {error}; repair or remove it") from None
    return pixels
