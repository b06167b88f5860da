"""Which coefficients of shared kernels are kept: the largest of all layers together, or of each layer its own share."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from dovetail.errors import SpecError
from dovetail.formats.kernel_basis import KernelBasisSpec
from dovetail.formats.kernel_basis.layer import KernelBasisLayer
from dovetail.methods.largest import densest
from dovetail.methods.magnitude import cubic
from dovetail.methods.prices import within_budget
from dovetail.methods.reach import ALIVE


@dataclass(frozen=True)
class Places:
    """How many coefficients are kept, and which.

    Attributes:
        specs: of the layers.
        density: share that all keep together, of their number or of what they cost.
        least: share of its own that a layer keeps whatever the others are.
        shares: layer → share of its own; where there are any, layers do not compete.
        costs: layer → what it costs with all coefficients; where there are none, their number counts.
    """

    specs: Mapping[str, KernelBasisSpec]
    density: float
    least: float
    shares: Mapping[str, float]
    costs: Mapping[str, float]

    def require_some(self, model: nn.Module) -> None:
        """`SpecError` where a layer of the dense model would be left without any."""
        counts = dict[str, int]()
        for name, spec in self.specs.items():
            shape = model.get_submodule(name).get_parameter("weight").shape
            counts[name] = -(-shape[0] // spec.shared) * -(-shape[1] // spec.block) * spec.bases
        for name, share in self.shares.items():
            if share * counts[name] < 1:
                raise SpecError(
                    f"escalate density {share} leaves layer {name!r}, of {counts[name]} places, without a coefficient"
                )
        if self.shares:
            return
        prices = {name: self.costs.get(name, count) for name, count in counts.items()}
        kept = {name: max(1, math.floor(self.least * count)) / count for name, count in counts.items()}
        whole = sum(prices[name] * part for name, part in kept.items()) / sum(prices.values())
        if self.density < whole * (1 - 1e-9):
            raise SpecError(
                f"escalate density {self.density} is below {whole:.3g}, what {len(counts)} layers keep whatever it is: "
                f"one coefficient each, or the share `least`, {self.least}; raise the density or lower that"
            )

    @torch.no_grad()
    def keep(self, layers: Mapping[str, KernelBasisLayer], at: float = 1.0) -> None:
        """Keep the most important coefficients, as many as at this part of the way to the density."""
        sizes = {}
        for name, layer in layers.items():
            spec, own = self.specs[name], layer.coefficients.abs() * layer.bases.flatten(1).norm(dim=1)
            sizes[name] = together(together(own, spec.shared), spec.block, axis=1)
        for name, kept in self.kept(sizes, at).items():
            spec, (outputs, inputs, _) = self.specs[name], layers[name].coefficients.shape
            kept = kept.repeat_interleave(spec.block, 1)[:, :inputs]
            layers[name].prune(kept.repeat_interleave(spec.shared, 0)[:outputs])

    def kept(self, sizes: Mapping[str, Tensor], at: float) -> dict[str, Tensor]:
        """Which of each layer's coefficients, or groups of them, are kept."""
        if self.shares:
            return {n: densest(size.flatten(), cubic(at, self.shares[n])).view(size.shape) for n, size in sizes.items()}
        density = cubic(at, self.density)
        surest = {name: densest(size.flatten(), max(self.least, ALIVE)) for name, size in sizes.items()}
        scores = torch.cat([size.flatten().masked_fill(surest[name], float("inf")) for name, size in sizes.items()])
        if self.costs:
            prices = [torch.full_like(s, self.costs[name] / s.numel()).flatten() for name, s in sizes.items()]
            kept = within_budget(scores, torch.cat(prices), density)
        else:
            kept = densest(scores, density)
        kept |= torch.cat(list(surest.values()))
        parts = kept.split([size.numel() for size in sizes.values()])
        return {name: part.view(size.shape) for (name, size), part in zip(sizes.items(), parts)}


def together(sizes: Tensor, count: int, axis: int = 0) -> Tensor:
    """Means over each `count` neighbours along an axis; the last group may have fewer."""
    if count == 1:
        return sizes
    along = sizes.movedim(axis, -1)
    missing = -along.shape[-1] % count
    summed = nn.functional.pad(along, (0, missing)).unflatten(-1, (-1, count)).sum(-1)
    counts = torch.full_like(summed, count)
    counts[..., -1] -= missing
    return (summed / counts).movedim(-1, axis)
