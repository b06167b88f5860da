"""Accuracy of a network on labelled images, through torch or through the engine."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from torch import nn

    from dovetail.program.program import Program
    from dovetail.training.data import Loader

CONFIRMED = 64
"""Images: the reference is slow."""
Predict = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Predictions:
    """The class that a network gives to every image, beside the true one."""

    classes: np.ndarray
    labels: np.ndarray

    @property
    def accuracy(self) -> float:
        """Top-1, in percent."""
        return 100.0 * float(np.mean(self.classes == self.labels))

    def differing(self, other: Predictions) -> int:
        """Images that the two networks put into different classes."""
        return int(np.count_nonzero(self.classes != other.classes))

    def __len__(self) -> int:
        return len(self.labels)


def through_torch(model: nn.Module, loader: Loader) -> Predictions:
    """What the torch model says, in evaluation mode."""
    import torch

    model.eval()
    with torch.no_grad():
        return _predict(lambda x: model(torch.from_numpy(x)).numpy(), loader)


def through_engine(program: Program, loader: Loader, threads: int | None = None) -> Predictions:
    """What the packed network says on the engine."""
    from dovetail.engine import Session

    return _predict(Session(program, threads=threads), loader)


def through_reference(program: Program, loader: Loader) -> Predictions:
    """What the packed network means, in plain numpy: slow."""
    from dovetail.program.reference import run

    return _predict(lambda x: run(program, x), loader)


def beside_reference(program: Program, loader: Loader, threads: int | None = None) -> tuple[int, int, int]:
    """Of how many images the engine must class as the reference does, how many it does not, and how many it may not.

    In whole numbers both give the same bits: any other number counts. Where some layers are in floating point, one tie
    may go the other way.
    """
    from dovetail.engine import Session
    from dovetail.program.reference import run

    images, _ = next(iter(loader))
    some = images[:CONFIRMED].contiguous().numpy()
    ours, theirs = (np.asarray(network(some)) for network in (Session(program, threads=threads), partial(run, program)))
    exact = not program.metadata.get("floating")
    differing = (ours != theirs).any(axis=1) if exact else ours.argmax(axis=1) != theirs.argmax(axis=1)
    return len(some), int(np.count_nonzero(differing)), 0 if exact else 1


def _predict(network: Predict, loader: Loader) -> Predictions:
    classes, labels = [], []
    for images, truth in loader:
        logits = network(images.contiguous().numpy())
        classes.append(np.argmax(np.asarray(logits), axis=1))
        labels.append(truth.numpy())
    return Predictions(np.concatenate(classes), np.concatenate(labels))
