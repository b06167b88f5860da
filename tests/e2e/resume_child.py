"""Compresses a tiny network, to be killed. Arguments: method, run folder, steps before SIGKILL (or -1)."""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path

import torch
from torch import nn

import dovetail as dt
from dovetail.methods import Distill, Int8, Magnitude, Method, Penni, Thin, Tucker
from dovetail.methods.base import Phase
from dovetail.training.data import Augment, Images, Loader


class TwoPhases(Tucker):
    """Swaps one layer in its first phase and the others in its second."""

    def phases(self):
        return Phase("first", 1, 0.05, warmup=0.5), Phase("second", 2, 0.02, schedule="one-cycle")

    def begin(self, phase, model):
        whole = self._plan
        if phase.name == "first":
            self._plan = dt.Plan(dict(list(whole.layers.items())[:2]))
        try:
            return super().begin(phase, model)
        finally:
            self._plan = whole


METHODS = {
    "two-phases": lambda: TwoPhases(ratio=0.5),
    "magnitude": lambda: Distill(Magnitude(density=0.2, epochs=3, interval=2), network()),
    "penni": lambda: Penni(bases=3, l1=0.01, channel_density=0.6, alternate_epochs=3, retrain_epochs=1),
    "int8": lambda: Int8(epochs=3, observe=3, freeze=0.4),
    "thin": lambda: Thin(epochs=3, optimizer="adamw", learning_rate=0.01),
}


def kill_after(method: Method, steps: int) -> None:
    """SIGKILL to this process after so many optimizer steps."""
    after_step, left = method.after_step, steps

    def counted() -> None:
        nonlocal left
        after_step()
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    method.after_step = counted


def network() -> nn.Module:
    torch.manual_seed(3)
    convs = [nn.Conv2d(3, 16, 3, padding=1), nn.Conv2d(16, 16, 3), nn.Conv2d(16, 24, 3, stride=2)]
    body = [layer for conv in convs for layer in (conv, nn.BatchNorm2d(conv.out_channels), nn.ReLU())]
    return nn.Sequential(*body, nn.Dropout(0.1), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(24, 4))


def loader() -> Loader:
    generator = torch.Generator().manual_seed(5)
    images = torch.randint(0, 256, (40, 12, 12, 3), generator=generator, dtype=torch.uint8).numpy()
    labels = torch.arange(40).remainder(4).numpy()
    return Loader(
        Images(images, labels, 4), 8, mean=(0.5,) * 3, std=(0.25,) * 3, augment=Augment(), shuffle=True, seed=9
    )


def compress(method: str, run: Path | None, kill: int = -1) -> tuple[nn.Module, dt.Compression]:
    torch.set_num_threads(1)
    settings = dt.Settings(run=run, checkpoint_minutes=0, channels_last=True, label_smoothing=0.1, seed=4)
    model, made = network(), METHODS[method]()
    kill_after(made, kill)
    return model, dt.compress(model, made, train=loader(), validate=loader(), settings=settings)


if __name__ == "__main__":
    compress(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]))
    time.sleep(60)
