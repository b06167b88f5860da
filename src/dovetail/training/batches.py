"""Any re-iterable of batches, seen as epochs that can be entered in the middle."""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Iterator, Sequence, Sized
from itertools import islice
from typing import Any

import torch
from torch import Tensor

from dovetail.errors import TrainingError

Batch = tuple[Tensor, Tensor]


class Batches:
    """A loader by epochs: uses its `epoch(number, start)` where it has one, else iterates it anew and skips.

    Attributes:
        count: batches of an epoch, from `len`, else by counting once.
    """

    def __init__(self, loader: Iterable[Batch]) -> None:
        require_anew(loader, "training")
        self.loader = loader
        self.count = len(loader) if isinstance(loader, Sized) else sum(1 for _ in loader)
        if self.count == 0:
            raise TrainingError("the training data has no batch; check the data set, the batch size and drop_last")

    def epoch(self, number: int, start: int = 0) -> Iterator[Batch]:
        """Batches of an epoch from `start` on; earlier ones are drawn and dropped at once if they must be."""
        if hasattr(self.loader, "epoch"):
            return iter(self.loader.epoch(number, start))
        batches = iter(self.loader)
        for _ in islice(batches, start):
            pass
        return batches

    def identity(self) -> dict[str, Any]:
        """What tells this data from other data: the batch count and, where runs agree on it, the first batch."""
        first = self._first()
        crc = {} if first is None else {"first": zlib.crc32(_bytes(first[1]), zlib.crc32(_bytes(first[0])))}
        return {"batches": self.count, **crc}

    def _first(self) -> Batch | None:
        """None where looking would draw random numbers."""
        if hasattr(self.loader, "epoch"):
            first: Batch = next(iter(self.loader.epoch(0, 0)))
            return first
        return self.loader[0] if isinstance(self.loader, Sequence) else None


def require_anew(loader: Iterable[Batch], what: str) -> None:
    """`TrainingError` for data, called by what it is for, of which an iteration leaves nothing to the next one."""
    if isinstance(loader, Iterator):
        raise TrainingError(
            f"the {what} data is a {type(loader).__name__} that can be iterated only once; "
            "give a list of batches, a DataLoader or another object that starts anew for each epoch"
        )


def _bytes(tensor: Tensor) -> bytes:
    return tensor.detach().cpu().contiguous().numpy().tobytes()


def to(batch: Any, device: torch.device, layout: torch.memory_format) -> Batch:
    """The batch on the device; 4-D images in the given layout.

    To a GPU it goes through pinned memory: from any other a copy waits for all that the GPU has still to do.
    """
    images, labels = (_moved(tensor, device) for tensor in batch)
    if images.dim() == 4:
        images = images.contiguous(memory_format=layout)
    return images, labels


def _moved(tensor: Tensor, device: torch.device) -> Tensor:
    waiting = tensor.device.type == "cpu" and device.type == "cuda"
    return (tensor.pin_memory() if waiting else tensor).to(device, non_blocking=True)
