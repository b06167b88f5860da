"""A tiny classification task, models for it, and hooks that log their calls."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from dovetail.methods.base import Method, Phase


class Logged(Method):
    """A method without formats that writes down the verbs it hears."""

    name = "logged"

    def __init__(self, *phases: Phase) -> None:
        self._phases = phases
        self.calls: list[str] = []

    def phases(self):
        return self._phases

    def begin(self, phase, model):
        self.calls.append(f"begin {phase.name}")
        return super().begin(phase, model)

    def before_epoch(self, epoch):
        self.calls.append(f"before_epoch {epoch}")

    def loss(self, model, batch, criterion):
        self.calls.append("loss")
        return super().loss(model, batch, criterion)

    def before_step(self):
        self.calls.append("before_step")

    def after_step(self):
        self.calls.append("after_step")

    def after_epoch(self, epoch):
        self.calls.append(f"after_epoch {epoch}")

    def end(self, phase, model):
        self.calls.append(f"end {phase.name}")


@pytest.fixture
def logged():
    return Logged


@pytest.fixture
def data():
    """Six batches of eight 4x4 images of three classes; the class is the brightest of three rows."""
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(48, 1, 4, 4, generator=generator)
    labels = images[:, 0, :3].sum(2).argmax(1)
    return [(images[i : i + 8], labels[i : i + 8]) for i in range(0, 48, 8)]


@pytest.fixture
def build():
    """Builds the same small network each time: a convolution, a norm, dropout and a classifier."""

    def make() -> nn.Module:
        torch.manual_seed(7)
        return nn.Sequential(
            nn.Conv2d(1, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU(), nn.Flatten(), nn.Dropout(0.2), nn.Linear(96, 3)
        )

    return make
