"""Compress a network of your own with a plan of your own, save it, and run the file without torch's help.

python examples/your_own_network.py
"""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

import dovetail as dt
from dovetail.formats.tucker import TuckerSpec


def network() -> nn.Module:
    """Any module built of the supported ops will do."""
    return nn.Sequential(
        nn.Conv2d(3, 32, 3, padding=1),
        nn.BatchNorm2d(32),
        nn.ReLU(),
        nn.Conv2d(32, 64, 3, stride=2, padding=1),
        nn.BatchNorm2d(64),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(64, 2),
    )


def batches(count: int = 8) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Any iterable of (images, labels) that starts anew for each epoch; here: is the upper half brighter?"""
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(count, 32, 3, 16, 16, generator=generator)
    labels = (images[..., :8, :].mean((2, 3, 4)) > images[..., 8:, :].mean((2, 3, 4))).long()
    return list(zip(images, labels))


def main() -> None:
    """Compress, save, run, compare."""
    torch.manual_seed(0)
    model = network()
    plan = {"3": TuckerSpec(rank_in=16, rank_out=16), "0": dt.Kept("three input channels are too few to gain")}
    dt.compress(model, dt.methods.Tucker(epochs=2, learning_rate=0.01), train=batches(), plan=plan)

    image = torch.rand(1, 3, 16, 16)
    dt.lower(model, image).save("mine.dovetail")
    session = dt.Session("mine.dovetail", threads=1)

    error = np.abs(session(image.numpy()) - model.eval()(image).detach().numpy()).max()
    print(f"mine.dovetail answers like the torch model, to {error:.1e}")


if __name__ == "__main__":
    main()
