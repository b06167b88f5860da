"""The coefficients of each channel as one group: its producer's rows and its consumer's columns, for group lasso."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from dovetail.formats.kernel_basis.layer import KernelBasisLayer
from dovetail.methods.shrinking.coupling import Coupling
from dovetail.methods.shrinking.removal import producers, readers
from dovetail.methods.shrinking.tracks import Ints


@dataclass(frozen=True)
class _Part:
    """The rows (or columns) of one layer's coefficients that belong to removable channels."""

    name: str
    side: Literal[0, 1]
    positions: Tensor
    groups: Tensor


class ChannelGroups:
    """One group per removable channel (Yuan and Lin 2006: each weighs the root of its size).

    Only kernel-basis layers take part: a group holds A[k,:,:] of the channel's producers and A[:,k,:] of its consumers.
    """

    def __init__(self, model: nn.Module, coupling: Coupling) -> None:
        self.count = len(coupling.free)
        number = np.full(coupling.count, -1, dtype=np.int64)
        number[coupling.free] = np.arange(self.count)
        sides: tuple[tuple[Literal[0, 1], list[tuple[str, Ints]]], ...] = (
            (0, [(site.name, number[site.outputs]) for site in producers(coupling)]),
            (1, [(site.name, number[site.inputs]) for site in readers(coupling)]),
        )
        self.parts = [
            _part(model, name, side, numbers)
            for side, layers in sides
            for name, numbers in layers
            if (numbers >= 0).any() and isinstance(model.get_submodule(name), KernelBasisLayer)
        ]
        self.roots = self._sums([torch.ones_like(c) for c in self._coefficients(model)]).sqrt()

    def squares(self, model: nn.Module) -> Tensor:
        """`(groups,)`: sum of squares of every group's coefficients, differentiable."""
        return self._sums([c.pow(2) for c in self._coefficients(model)])

    def penalty(self, model: nn.Module) -> Tensor:
        """Sum over groups of root(size) times norm; a group of zeros has gradient zero."""
        return (self.roots * (self.squares(model) + 1e-24).sqrt()).sum()

    @torch.no_grad()
    def soften(self, model: nn.Module, threshold: float) -> None:
        """The proximal step: shorten every group by threshold * root(size), to zero where it is shorter than that."""
        norms = self.squares(model).sqrt()
        factors = (1 - threshold * self.roots / norms.clamp_min(1e-24)).clamp_min(0)
        for part, coefficients in zip(self.parts, self._coefficients(model)):
            lines = torch.ones(coefficients.shape[part.side]).to(factors)
            lines[part.positions] = factors[part.groups]
            coefficients.mul_(lines.view((-1, 1, 1) if part.side == 0 else (1, -1, 1)))

    def _coefficients(self, model: nn.Module) -> list[Tensor]:
        return [_layer(model, part.name).coefficients for part in self.parts]

    def _sums(self, values: list[Tensor]) -> Tensor:
        """Values of the coefficients' shapes, part by part, added up within every group."""
        total = torch.zeros(self.count)
        for part, value in zip(self.parts, values):
            lines = value.sum(dim=(1 - part.side, 2))
            total = total.to(lines).index_add(0, part.groups, lines[part.positions])
        return total


def _part(model: nn.Module, name: str, side: Literal[0, 1], numbers: Ints) -> _Part:
    device, positions = _layer(model, name).coefficients.device, np.flatnonzero(numbers >= 0)
    return _Part(name, side, *(torch.from_numpy(array).to(device) for array in (positions, numbers[positions])))


def _layer(model: nn.Module, name: str) -> KernelBasisLayer:
    layer = model.get_submodule(name)
    if not isinstance(layer, KernelBasisLayer):
        raise TypeError(f"layer {name!r} left its kernel basis while its groups were in use")
    return layer
