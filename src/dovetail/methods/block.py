"""Magnitude pruning of whole blocks of input channels: free, alike in all layers, n of every m, or balanced by cost.

Sources: the schedule of Zhu and Gupta (2017) as in `magnitude`; n:m sparsity as in Mishra et al., "Accelerating sparse
deep neural networks" (2021). Blocks of four input channels are what a dot product of bytes multiplies at once.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from dovetail.errors import SpecError
from dovetail.formats.base import Spec
from dovetail.formats.block_sparse import BlockSparseSpec
from dovetail.methods.base import Kept, Plan
from dovetail.methods.largest import densest
from dovetail.methods.magnitude import Magnitude, cubic, flat
from dovetail.methods.prices import by_layer, require_positive, within_budget


@dataclass(kw_only=True, eq=False)
class Block(Magnitude):
    """Removes the blocks of smallest norm while training, then trains on with fixed masks.

    At the end the pruned layers hold the block-sparse format.

    Attributes:
        density: share of the blocks of all pruned layers together that is kept; with `uniform`, of every layer's own;
            with `cost`, share of the cost. Layers whose spec in a given plan has a density keep that instead.
        block: neighbouring input channels of one output channel and tap that are kept or removed together.
        uniform: every layer keeps the same share of its blocks. Otherwise layers with small norms lose most of theirs,
            and how large those are means little before a batch norm.
        keep: (n, m): n of every m neighbouring blocks are kept in every layer, and `density` is not asked.
        cost: layer name or glob → what it costs when dense, say its seconds on the machine: a block of a layer costs an
            equal part of that. Blocks then go by norm over the root of their cost, so that dear layers lose more, until
            the cost is down to `density`. None: every block costs the same.
        interval, ramp, everything: as in `Magnitude`.
    """

    name = "block"

    block: int = 4
    uniform: bool = False
    keep: tuple[int, int] | None = None
    cost: Mapping[str, float] | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        spec = self._spec()  # checks block and keep
        self.keep = spec.keep
        if self.keep is not None and self.cost is not None:
            raise SpecError("block with keep prunes every layer alike; cost has no say in it, leave one of them out")
        if self.uniform and (self.keep is not None or self.cost is not None):
            raise SpecError(
                "block with uniform prunes every layer alike; keep and cost have no say in it, leave it out"
            )
        require_positive(self.cost, "block")

    def plan(self, model: nn.Module, example: Tensor, given: Plan | None = None) -> Plan:
        """The block-sparse format for every layer to prune; see `Magnitude.plan`.

        Raises:
            SpecError: also for a layer to prune that `cost` does not name.
        """
        plan = super().plan(model, example, given)
        if self.cost is not None:
            self._costs = by_layer(plan, self.cost, model, "block cost")
        return plan

    def _choose(self, name: str, layer: Any, order: list[str]) -> Spec | Kept:
        chosen = super()._choose(name, layer, order)
        if isinstance(chosen, Spec) and layer.weight.shape[1] < self.block:
            return Kept(f"{layer.weight.shape[1]} input channels per output: fewer than a block of {self.block}")
        return chosen

    def _spec(self) -> BlockSparseSpec:
        return BlockSparseSpec(block=self.block, keep=self.keep)

    def _require(self, name: str, spec: Spec) -> None:
        if not isinstance(spec, BlockSparseSpec):
            raise SpecError(f"layer {name!r}: block trains the format block_sparse, not {spec.format}")
        if (spec.block, spec.keep) != (self.block, self.keep):
            raise SpecError(f"layer {name!r}: block={self.block} and keep={self.keep} hold for every layer, not {spec}")

    @torch.no_grad()
    def _prune(self, at: float) -> None:
        norms = {name: block_norms(weight.detach(), self.block) for name, weight in self._weights.items()}
        kept = self._largest(norms, at, lambda shared: self._kept(shared, cubic(at, self.density)))
        self._drop({name: ~spread(part, self._weights[name].shape, self.block) for name, part in kept.items()})

    def _kept(self, norms: Mapping[str, Tensor], density: float) -> Tensor:
        """Which blocks stay, all layers in one vector."""
        if self.cost is not None:
            prices = [torch.full_like(n, self._costs[name] / n.numel()).flatten() for name, n in norms.items()]
            return within_budget(flat(norms), torch.cat(prices), density)
        if self.uniform:
            return torch.cat([densest(n.flatten(), density) for n in norms.values()])
        if self.keep is None:
            return densest(flat(norms), density)
        stay = torch.cat([n_of_m(n, *self.keep).flatten() for n in norms.values()])
        every = flat(norms)
        share = float(stay.double().mean())
        return densest(every.masked_fill(stay, float("inf")), share + (1.0 - share) * self._left(density))

    def _left(self, density: float) -> float:
        """Of what n:m removes in the end: the part that stays at this point of the ramp, from 1 to 0."""
        return (density - self.density) / (1.0 - self.density) if self.density < 1.0 else 0.0


def block_norms(weight: Tensor, block: int) -> Tensor:
    """Root mean square of every block: `(K, C, ...)` to `(K, blocks, taps)`; what fills up the last block is zero."""
    flat = weight.flatten(2) if weight.dim() > 2 else weight.unsqueeze(2)
    filled = nn.functional.pad(flat, (0, 0, 0, -flat.shape[1] % block))
    return filled.view(len(flat), -1, block, flat.shape[2]).square().mean(dim=2).sqrt()


def spread(kept: Tensor, shape: torch.Size, block: int) -> Tensor:
    """A mask of blocks `(K, blocks, taps)` as a mask of a weight's entries."""
    return kept.repeat_interleave(block, dim=1)[:, : shape[1]].reshape(shape)


def n_of_m(norms: Tensor, n: int, m: int) -> Tensor:
    """True at the n largest of every m neighbouring blocks of an output channel and tap; of equal ones the first."""
    filled = nn.functional.pad(norms, (0, 0, 0, -norms.shape[1] % m), value=-1.0)
    groups = filled.view(len(norms), -1, m, norms.shape[2])
    order = groups.argsort(dim=2, descending=True, stable=True)
    kept = torch.zeros_like(groups, dtype=torch.bool).scatter_(2, order[:, :, :n], True)
    return kept.view(filled.shape)[:, : norms.shape[1]]
