"""Images in memory, and a loader whose every batch can be drawn again.

The random numbers of a batch come from (seed, epoch, batch) alone, so an epoch that is resumed in its middle goes on
exactly as the uninterrupted one would have.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from dovetail.errors import InputError


class Labelled(Protocol):
    """What a `Loader` reads: `Images`, or any object with these three attributes."""

    @property
    def images(self) -> Any:
        """uint8, `(N, H, W, C)`."""

    @property
    def labels(self) -> Any:
        """Integers, `(N,)`, from 0 to `classes` - 1."""

    @property
    def classes(self) -> int:
        """The number of classes."""


@dataclass(frozen=True, eq=False)
class Images:
    """Labelled images in memory, checked: arrays or tensors are taken, numpy arrays are kept.

    Attributes:
        images: uint8, `(N, H, W, C)`.
        labels: int64, `(N,)`, from 0 to `classes` - 1.
        classes: the number of classes.

    Raises:
        InputError: an array has another type or shape, the counts differ, or a label is out of range.
    """

    images: np.ndarray
    labels: np.ndarray
    classes: int

    def __post_init__(self) -> None:
        images, labels = np.asarray(self.images), np.asarray(self.labels)
        _check(images, labels, self.classes)
        object.__setattr__(self, "images", np.require(images, requirements=["C", "W"]))
        object.__setattr__(self, "labels", np.require(labels, np.int64, ["C", "W"]))

    def __len__(self) -> int:
        return len(self.images)

    def __repr__(self) -> str:
        return f"Images({' x '.join(map(str, self.images.shape))}, {self.classes} classes)"


def split(images: Labelled, held_out: int = 5000) -> tuple[Images, Images]:
    """The rest, and the last `held_out` images, on which choices are made.

    Raises:
        InputError: not both parts would have images.
    """
    count = len(images.images)
    if not 0 < held_out < count:
        raise InputError(f"cannot hold out {held_out} of {count} images; give a number from 1 to {count - 1}")
    at = count - held_out
    rest = Images(images.images[:at], images.labels[:at], images.classes)
    return rest, Images(images.images[at:], images.labels[at:], images.classes)


@dataclass(frozen=True)
class Augment:
    """Random crops of the image padded with black on all sides, and random left-right flips.

    Attributes:
        crop_padding: pixels added on every side before cropping back to the size; 0 for no crops.
        flip: mirror every image with probability one half.
    """

    crop_padding: int = 4
    flip: bool = True

    def __post_init__(self) -> None:
        if self.crop_padding < 0:
            raise InputError(f"crop_padding {self.crop_padding} must not be negative; 0 means no crops")

    def __call__(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """uint8 `(N, H, W, C)` to the same shape; draws from `generator` alone."""
        if self.crop_padding:
            images = _crop(images, self.crop_padding, generator)
        if self.flip:
            mirrored = torch.rand(len(images), generator=generator) < 0.5
            images = torch.where(mirrored.view(-1, 1, 1, 1), images.flip(2), images)
        return images


class Loader:
    """Batches of `(images, labels)`: float32 `(N, C, H, W)` in channels_last memory, and int64 `(N,)`.

    Args:
        data: uint8 images and their labels.
        batch: images per batch; the last one may be smaller unless `drop_last`.
        mean: per channel, of images scaled to 0..1; one number serves all channels.
        std: likewise.
        augment: changes the images of a batch; None leaves them alone.
        shuffle: draw a new order in every epoch.
        seed: of order and augmentation.
        drop_last: leave out a last batch that is not full.

    Raises:
        InputError: an argument is out of range, or does not fit the images.
    """

    def __init__(
        self,
        data: Labelled,
        batch: int,
        *,
        mean: Sequence[float],
        std: Sequence[float],
        augment: Augment | None = None,
        shuffle: bool = False,
        seed: int = 0,
        drop_last: bool = False,
    ) -> None:
        if batch < 1 or seed < 0:
            raise InputError(f"batch {batch} must be at least 1 and seed {seed} at least 0")
        self.data = data if isinstance(data, Images) else Images(data.images, data.labels, data.classes)
        self.batch, self.augment, self.shuffle, self.seed, self.drop_last = batch, augment, shuffle, seed, drop_last
        self.mean, self.std = tuple(map(float, mean)), tuple(map(float, std))
        self._images, self._labels = torch.from_numpy(self.data.images), torch.from_numpy(self.data.labels)
        self._scale, self._shift = _affine(self.mean, self.std, self.data.images.shape)

    def __len__(self) -> int:
        """Batches per epoch."""
        count = len(self.data) / self.batch
        return math.floor(count) if self.drop_last else math.ceil(count)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Epoch 0."""
        return self.epoch(0)

    def epoch(self, number: int, start: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
        """The batches of an epoch from batch `start` on, the same as those of the whole epoch.

        Raises:
            InputError: `number` is negative, or `start` lies outside 0 to the number of batches.
        """
        if number < 0 or not 0 <= start <= len(self):
            raise InputError(f"epoch {number}, start {start}: an epoch has {len(self)} batches, counted from 0")
        return self._epoch(number, start)

    def _epoch(self, number: int, start: int) -> Iterator[tuple[Tensor, Tensor]]:
        order = torch.randperm(len(self.data), generator=_generator(self.seed, number)) if self.shuffle else None
        for index in range(start, len(self)):
            images, labels = self._batch(index, order)
            if self.augment is not None:
                images = self.augment(images, _generator(self.seed, number, index + 1))
            yield self._normalised(images), labels

    def _batch(self, index: int, order: Tensor | None) -> tuple[Tensor, Tensor]:
        where = slice(index * self.batch, (index + 1) * self.batch)
        if order is None:
            return self._images[where], self._labels[where].clone()
        chosen = order[where]
        return self._images.index_select(0, chosen), self._labels.index_select(0, chosen)

    def _normalised(self, images: Tensor) -> Tensor:
        """`(x / 255 - mean) / std`, computed on whole rows of `W * C` numbers: a last axis of 3 would be slow."""
        count, height, width, channels = images.shape
        rows = images.reshape(count, height, width * channels).float()
        rows = rows.mul_(self._scale).add_(self._shift)
        return rows.view(count, height, width, channels).permute(0, 3, 1, 2)


def _check(images: np.ndarray, labels: np.ndarray, classes: int) -> None:
    if images.dtype != np.uint8 or images.ndim != 4 or 0 in images.shape:
        raise InputError(f"images must be uint8 of shape (N, H, W, C), not {images.dtype} of shape {images.shape}")
    if not np.issubdtype(labels.dtype, np.integer) or labels.shape != (len(images),):
        raise InputError(
            f"labels must be integers of shape ({len(images)},), one per image, not {labels.dtype} of {labels.shape}"
        )
    if labels.min() < 0 or labels.max() >= classes:
        raise InputError(f"labels run from {labels.min()} to {labels.max()}; with {classes} classes 0 to {classes - 1}")


def _affine(mean: tuple[float, ...], std: tuple[float, ...], shape: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """Scale and shift, `(W * C,)` each, that normalise a row of uint8 numbers; computed in float64."""
    width, channels = shape[2:]
    for name, given in (("mean", mean), ("std", std)):
        if len(given) not in (1, channels) or not np.isfinite(given).all():
            raise InputError(f"{name} {given} must be {channels} finite numbers, one per channel, or one for all")
    if min(std) <= 0:
        raise InputError(f"std {std} must be positive")
    means, stds = (np.broadcast_to(np.asarray(given, np.float64), channels) for given in (mean, std))
    scale, shift = 1 / (255 * stds), -means / stds
    return _row(scale, width), _row(shift, width)


def _row(channels: np.ndarray, width: int) -> Tensor:
    return torch.from_numpy(np.tile(channels, width).astype(np.float32))


def _generator(*key: int) -> torch.Generator:
    """A generator that depends on nothing but `key`; neighbouring keys give unrelated streams."""
    mixed = int(np.random.SeedSequence(key).generate_state(1, np.uint64)[0])
    return torch.Generator().manual_seed(mixed >> 1)


def _crop(images: Tensor, padding: int, generator: torch.Generator) -> Tensor:
    """One window per image out of the padded image: `offsets` index a view that holds every window."""
    count, height, width, _ = images.shape
    padded = torch.nn.functional.pad(images, (0, 0, padding, padding, padding, padding))
    windows = padded.unfold(1, height, 1).unfold(2, width, 1)  # (N, 2p+1, 2p+1, C, H, W), no copy
    rows, columns = torch.randint(0, 2 * padding + 1, (2, count), generator=generator)
    return windows[torch.arange(count), rows, columns].permute(0, 2, 3, 1)
