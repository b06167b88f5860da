"""Images for a race: what is timed, what is compared, what int8 is calibrated and judged on."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Self

import numpy as np

from dovetail.errors import DataError
from dovetail.peers.peer import Images

MAX_BYTES = 2**30


@dataclass(frozen=True)
class Samples:
    """Images `(n, ...)` float32 as the network takes them, and labels `(n,)` where there are any."""

    images: Images
    labels: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.images)

    def part(self, start: int, stop: int) -> Self:
        """A range of them."""
        return type(self)(self.images[start:stop], None if self.labels is None else self.labels[start:stop])


def gather(data: Iterable[Any], count: int) -> Samples:
    """The first `count` images of a loader (fewer where they would take more than `MAX_BYTES`).

    Args:
        data: batches `(images, labels)` or images alone, tensors or arrays, normalised for the network.
        count: how many to take at most.
    """
    images: list[Images] = []
    labels: list[np.ndarray] = []
    taken = 0
    for batch in data:
        x, y = batch if isinstance(batch, (tuple, list)) else (batch, None)
        images.append(np.ascontiguousarray(x, dtype=np.float32))
        labels += [] if y is None else [np.asarray(y)]
        taken += len(images[-1])
        if taken >= count or taken * images[0][0].nbytes >= MAX_BYTES:
            break
    if not images:
        raise DataError("the data for the race have no batches; give a loader with at least one image")
    return Samples(np.concatenate(images), np.concatenate(labels) if labels else None).part(0, count)


def padded(images: Images, batch: int) -> Images:
    """`images` and copies of the last one, up to a multiple of `batch`."""
    missing = -len(images) % batch
    return np.concatenate([images, np.repeat(images[-1:], missing, axis=0)]) if missing else images


def filled(images: Images, batch: int) -> Images:
    """Exactly `batch` images: the first ones, repeated from the start where there are too few."""
    return np.ascontiguousarray(images[np.arange(batch) % len(images)], dtype=np.float32)
