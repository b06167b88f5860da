"""Fresh BatchNorm statistics for a network whose weights were changed without training."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from dovetail.training.metrics import device_of


def reestimate_batchnorm(model: nn.Module, loader: Iterable[tuple[Tensor, Tensor]], images: int = 1000) -> None:
    """Replace running means and variances by the average over batches with at least `images` images (or all there are).

    Only BatchNorm layers run in training mode meanwhile; every mode and momentum is put back.
    """
    norms = [module for module in model.modules() if isinstance(module, _BatchNorm) and module.track_running_stats]
    if not norms:
        return
    modes = {module: module.training for module in model.modules()}
    momenta = {norm: norm.momentum for norm in norms}
    model.eval()
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None
        norm.train()
    try:
        _forward(model, loader, images)
    finally:
        for module, mode in modes.items():
            module.training = mode
        for norm, momentum in momenta.items():
            norm.momentum = momentum


@torch.no_grad()
def _forward(model: nn.Module, loader: Iterable[tuple[Tensor, Tensor]], images: int) -> None:
    device, seen = device_of(model), 0
    for batch, _ in loader:
        model(batch.to(device))
        seen += len(batch)
        if seen >= images:
            break
