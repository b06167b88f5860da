"""A small residual network, its data, and a way to run a method over them."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F


class Small(nn.Module):
    """Stem, a residual convolution, a strided one, a 1x1, a grouped one, a classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 16, 3, padding=1)
        self.bn = nn.BatchNorm2d(16)
        self.same = nn.Conv2d(16, 16, 3, padding=1, bias=False)
        self.down = nn.Conv2d(16, 32, 3, stride=2, padding=1)
        self.point = nn.Conv2d(32, 64, 1)
        self.grouped = nn.Conv2d(64, 64, 3, padding=1, groups=4)
        self.fc = nn.Linear(64, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.relu(self.bn(self.stem(x)))
        x = F.relu(x + self.same(x))
        x = F.relu(self.point(F.relu(self.down(x))))
        return self.fc(F.relu(self.grouped(x)).mean((2, 3)))


@pytest.fixture
def build():
    """Builds the same network each time."""

    def make() -> nn.Module:
        torch.manual_seed(7)
        return Small()

    return make


@pytest.fixture
def data():
    """Four batches of eight 6x6 images of three classes."""
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(32, 1, 6, 6, generator=generator)
    labels = images[:, 0, :3].sum(2).argmax(1)
    return [(images[i : i + 8], labels[i : i + 8]) for i in range(0, 32, 8)]


@pytest.fixture
def example(data):
    return data[0][0][:1]
