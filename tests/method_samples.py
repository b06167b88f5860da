"""A small instance of every method of the registry, and a network and data for them.

A new method adds one row to SAMPLES.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

from dovetail.methods import Block, CirCnn, Escalate, Int8, Magnitude, Mixed, Penni, PermDnn, Tdc, Thin, Tucker

SAMPLES = {
    "block": lambda: Block(density=0.4, epochs=2, interval=2),
    "circnn": lambda: CirCnn(size=4, epochs=2, share_epochs=1),
    "escalate": lambda: Escalate(
        bases=3,
        density=0.3,
        shared=2,
        sparsify_epochs=1,
        ternarise_epochs=2,
        settle_epochs=1,
        update=2,
        blend=0.5,
        rounded=True,
    ),
    "int8": lambda: Int8(epochs=2, observe=2, freeze=0.5),
    "magnitude": lambda: Magnitude(density=0.4, epochs=2, interval=2),
    "mixed": lambda: Mixed(
        methods={
            "escalate": {"bases": 2, "density": 0.5, "sparsify_epochs": 1, "ternarise_epochs": 1, "settle_epochs": 1},
            "tucker": {"ratio": 0.5, "svd": True},
        }
    ),
    "penni": lambda: Penni(bases=3, l1=0.01, channel_density=0.6, alternate_epochs=2, retrain_epochs=1),
    "permdnn": lambda: PermDnn(size=3, start="scratch", epochs=1, share_epochs=1),
    "tdc": lambda: Tdc(ratio=0.5, svd=True, admm_epochs=2, admm_learning_rate=0.02, epochs=1, rho=0.1, double_rho=1),
    "thin": lambda: Thin(epochs=2, warmup=0.5),
    "tucker": lambda: Tucker(ratio=0.5, epochs=2),
}


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.bn = nn.Conv2d(1, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16)
        self.same, self.bn2 = nn.Conv2d(16, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16)
        self.down, self.fc = nn.Conv2d(16, 24, 3, stride=2, padding=1), nn.Linear(24, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.relu(self.bn(self.stem(x)))
        x = F.relu(self.bn2(self.same(x)) + x)
        return self.fc(F.dropout(F.relu(self.down(x)).mean((2, 3)), 0.1, self.training))


def build() -> nn.Module:
    torch.manual_seed(7)
    return Residual()


def batches() -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Five of eight images; the class is the brightest of three rows."""
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(40, 1, 6, 6, generator=generator)
    labels = images[:, 0, :3].sum(2).argmax(1)
    return [(images[i : i + 8], labels[i : i + 8]) for i in range(0, 40, 8)]
