"""Tucker-2 decomposition and fine-tuning: HOSVD, HOOI, then plain training of the factors.

Source: Kim et al., "Compression of deep convolutional neural networks for fast and low power mobile applications"
(ICLR 2016); HOOI as in TDC (PPoPP 2023), section 3.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import replace
from typing import Any, Final

from torch import Tensor, nn

from dovetail.errors import SpecError
from dovetail.formats.base import Spec
from dovetail.formats.layer import require_ungrouped
from dovetail.formats.svd import SvdSpec
from dovetail.formats.tucker import TuckerSpec
from dovetail.methods.base import Kept, ParamGroups, Phase, Plan, SinglePhase, complete, into_formats, unplain
from dovetail.methods.tdc_ranks import ranks_named

STEP: Final = 8
"""Chosen ranks are multiples of this, and at least this: the lanes of a vector register."""


class Tucker(SinglePhase):
    """Decomposes convolutions into 1x1, core, 1x1, and fine-tunes.

    A linear layer or 1x1 convolution has no core; it can be decomposed into two thinner ones (format svd).
    """

    name = "tucker"

    def __init__(
        self,
        *,
        ranks: Mapping[str, tuple[int, int] | int] | str | None = None,
        plan: Plan | None = None,
        ratio: float | None = None,
        svd: bool = False,
        fold: bool = True,
        **training: Any,
    ) -> None:
        """Give ranks, a plan or a ratio; where several name a layer, the plan wins over ranks over ratio.

        Args:
            ranks: layer name or glob → `(rank_in, rank_out)`, or one rank for the SVD of a linear layer or 1x1
                convolution. Or the name of a set that TDC ships, such as "resnet18" (`dovetail.methods.tdc_ranks`).
            plan: layer name or glob → `TuckerSpec`, `SvdSpec` or `Kept`, which are taken as they are.
            ratio: ranks of all other layers as a fraction of their channels, rounded to a multiple of 8, at least 8.
                A layer that would not get cheaper stays dense. Without a ratio all other layers do.
            svd: the ratio is for linear layers (the classifier is one) and 1x1 convolutions too.
            fold: a side whose rank is its number of channels gets no factor: the core takes it in.
            training: epochs, learning_rate and so on, as `SinglePhase` has them.
        """
        super().__init__(**training)
        if ratio is not None and not 0 < ratio <= 1:
            raise SpecError(f"{self.name} ratio {ratio} must lie above 0 and not above 1")
        self.ranks = dict(ranks_named(ranks) if isinstance(ranks, str) else ranks or {})
        self.given, self.ratio, self.svd, self.fold = plan or Plan(), ratio, svd, fold

    def plan(self, model: nn.Module, example: Tensor, given: Plan | None = None) -> Plan:
        """A spec for every named layer, by ratio for the others; the rest are kept with a reason.

        Raises:
            SpecError: no ranks at all, a name that matches nothing, ranks above the channels, a grouped convolution.
        """
        literal = Plan({**self.given.layers, **(given.layers if given is not None else {})})
        asked = Plan({**self._ranked(), **literal.layers})
        if self.ratio is None and not any(asked.specs()):
            raise SpecError(f"{self.name} needs ranks={{'layer': (rank_in, rank_out)}}, a ratio, or a plan")
        chosen, fixed = complete(model, asked, self._choose).layers, literal.resolve(model)
        layers = {n: what if n in fixed else self._folded(what, model.get_submodule(n)) for n, what in chosen.items()}
        self._plan = Plan(layers)
        for name, spec in self._plan.specs():
            self._require_known(name, spec)
            require_ungrouped(model.get_submodule(name), spec)
        return self._plan

    def begin(self, phase: Phase, model: nn.Module) -> ParamGroups:
        """Swap the planned layers."""
        into_formats(model, self._plan)
        return super().begin(phase, model)

    def recordable(self) -> Hashable:
        """The loss reads nothing but the model."""
        return ()

    def _ranked(self) -> dict[str, Spec]:
        found: dict[str, Spec] = {}
        for name, rank in self.ranks.items():
            try:
                svd = isinstance(rank, int)
                found[name] = SvdSpec(rank=rank) if svd else TuckerSpec(rank_in=rank[0], rank_out=rank[1])
            except SpecError as error:
                raise SpecError(f"ranks of {name!r}: {error}") from None
        return found

    def _folded(self, what: Spec | Kept, layer: Any) -> Spec | Kept:
        """With `fold` set, if that is wanted and changes anything."""
        if not self.fold or not isinstance(what, TuckerSpec):
            return what
        folded = replace(what, fold=True)
        return folded if any(folded.folds(tuple(layer.weight.shape))) else what

    def _choose(self, name: str, layer: Any) -> Spec | Kept:
        if self.ratio is None:
            return Kept("not in the plan")
        if reason := unplain(layer):
            return Kept(reason)
        if getattr(layer, "groups", 1) > 1:
            return Kept(f"{layer.groups} groups: Tucker holds ungrouped convolutions")
        flat = isinstance(layer, nn.Linear) or tuple(layer.kernel_size) == (1, 1)
        return self._choose_svd(layer) if flat else self._choose_tucker(layer)

    def _choose_tucker(self, layer: nn.Conv2d) -> Spec | Kept:
        c, k, (r, s) = layer.in_channels, layer.out_channels, layer.kernel_size
        if min(c, k) <= STEP:
            return Kept(f"{c} to {k} channels: too few for ranks of {STEP}")
        d1, d2 = self._rank(c), self._rank(k)
        spread, (into, out) = layer.stride[0] * layer.stride[1], (self.fold and d1 == c, self.fold and d2 == k)
        factored, dense = (not into) * c * d1 * spread + r * s * d1 * d2 + (not out) * d2 * k, k * c * r * s
        if factored >= dense:
            return Kept(f"ranks ({d1}, {d2}) take {factored} multiplications for each output position, dense {dense}")
        return TuckerSpec(rank_in=d1, rank_out=d2)

    def _choose_svd(self, layer: nn.Conv2d | nn.Linear) -> Spec | Kept:
        if not self.svd:
            return Kept("1x1 or linear: no core to decompose (svd=True decomposes it)")
        k, c = layer.weight.shape[:2]
        rank = self._rank(min(c, k))
        if rank * (c + k) >= c * k:
            return Kept(f"rank {rank} takes {rank * (c + k)} multiplications, dense {c * k}")
        return SvdSpec(rank=rank)

    def _rank(self, channels: int) -> int:
        return min(channels, max(STEP, STEP * round((self.ratio or 0.0) * channels / STEP)))

    def _require_known(self, name: str, spec: Spec) -> None:
        if not isinstance(spec, TuckerSpec | SvdSpec):
            raise SpecError(f"layer {name!r}: {self.name} trains the formats tucker and svd, not {spec.format}")
