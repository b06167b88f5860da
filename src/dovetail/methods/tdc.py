"""TDC: dense weights drawn towards low rank by ADMM while they train, then decomposed at once and fine-tuned.

Source: Xiang et al., "TDC: Towards extremely efficient CNNs on GPUs via hardware-aware Tucker decomposition" (PPoPP
2023); the form of ADMM as in Yin et al., "Towards efficient tensor decomposition-based DNN model compression with
optimization framework" (CVPR 2021). The training code was not released.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import torch
from torch import Tensor, nn

from dovetail.errors import SpecError
from dovetail.methods.base import Method, ParamGroups, Phase, Plan
from dovetail.methods.projection import LowRank, project
from dovetail.methods.tucker import Tucker

STALLED: Final = 0.9
"""A gap above this share of what it was has stalled."""


@dataclass
class Split:
    """A layer in training, and the copy of its weight that is of low rank.

    Attributes:
        near: the copy, P of weight + dual.
        dual: what weight and copy still disagree about, summed up over the epochs (scaled by 1 / rho).
    """

    weight: nn.Parameter
    spec: LowRank
    near: Tensor
    dual: Tensor


class Tdc(Tucker):
    """Two phases: `admm` trains the dense network towards its ranks, `finetune` the factors; that alone is `Tucker`.

    In `admm` the loss has (rho / 2) ||K - near + dual||^2 for every planned layer, and after each epoch
    near = P(K + dual), dual += K - near, where P is the projection to the layer's ranks. It begins with near = P(K)
    and no dual.
    """

    name = "tdc"

    def __init__(
        self,
        *,
        admm_epochs: int = 30,
        admm_learning_rate: float = 0.05,
        rho: float = 1e-3,
        double_rho: int = 0,
        hooi: bool = True,
        **options: Any,
    ) -> None:
        """Ranks, a plan or a ratio as `Tucker` takes them.

        Args:
            admm_epochs: of the first phase; zero leaves it out.
            admm_learning_rate: its peak; schedule, weight decay and so on are those of both phases.
            rho: how strongly weights are drawn.
            double_rho: so many epochs after which rho doubles, again and again, if the gap has not fallen by a tenth
                since; zero never doubles it.
            hooi: project by HOOI; else by HOSVD, which is quicker and errs more.
            options: those of `Tucker`; `epochs` and `learning_rate` are of the second phase.
        """
        super().__init__(**options)
        if not rho > 0:
            raise SpecError(f"tdc rho {rho} must be above 0")
        if double_rho < 0:
            raise SpecError(f"tdc double_rho {double_rho} must be a number of epochs, or 0 for never")
        self.admm_epochs, self.admm_learning_rate = admm_epochs, admm_learning_rate
        self.rho, self.double_rho, self.hooi = rho, double_rho, hooi
        self._reset()

    def plan(self, model: nn.Module, example: Tensor, given: Plan | None = None) -> Plan:
        """As `Tucker` does."""
        self._reset()
        return super().plan(model, example, given)

    def phases(self) -> Sequence[Phase]:
        """Admm, finetune."""
        finetune = replace(super().phases()[0], name="finetune")
        admm = replace(finetune, name="admm", epochs=self.admm_epochs, learning_rate=self.admm_learning_rate)
        return (admm, finetune) if self.admm_epochs else (finetune,)

    def begin(self, phase: Phase, model: nn.Module) -> ParamGroups:
        """Split the planned weights; in `finetune`, decompose them."""
        if phase.name != "admm":
            self._reset()
            return super().begin(phase, model)
        known = self._copies()
        self._splits = {n: self._split(model.get_submodule(n), spec, known.get(n)) for n, spec in self._plan.specs()}
        if not self._gaps:
            self._gaps = [_gap([(split.weight, split.near) for split in self._splits.values()])]
        return Method.begin(self, phase, model)

    @torch.no_grad()
    def before_step(self) -> None:
        """Add the gradient of the quadratic, which needs no graph: rho (K - near + dual)."""
        for split in self._splits.values():
            pull = (split.weight - split.near).add_(split.dual).mul_(self._rho)
            split.weight.grad = pull if split.weight.grad is None else split.weight.grad.add_(pull)

    @torch.no_grad()
    def after_epoch(self, epoch: int) -> None:
        """New copies and duals; what is left between the weights and their own projections is the gap."""
        if not self._splits:
            return
        for split in self._splits.values():
            drawn = split.weight + split.dual
            split.near = self._project(drawn, split.spec)
            split.dual = drawn - split.near
        own = [(split.weight, self._project(split.weight, split.spec)) for split in self._splits.values()]
        self._gaps.append(_gap(own))
        if self.double_rho and (epoch + 1) % self.double_rho == 0:
            self._double_if_stalled()

    def metrics(self) -> dict[str, float]:
        """In `admm`: `gap`, ||K - P(K)|| / ||K|| of all planned weights together, and `rho`."""
        return {"gap": self._gaps[-1], "rho": self._rho} if self._gaps else {}

    def end(self, phase: Phase, model: nn.Module) -> None:
        """The copies have served; the weights themselves are decomposed when `finetune` begins."""
        self._splits, self._known = {}, {}

    def state_dict(self) -> dict[str, Any]:
        """Copies and duals by layer, rho, and the gap after each epoch."""
        return {"copies": self._copies(), "rho": self._rho, "gaps": list(self._gaps)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Inverse of `state_dict`; `begin` takes copies and duals to where the weights are."""
        self._splits, self._known = {}, dict(state["copies"])
        self._rho, self._gaps = float(state["rho"]), [float(gap) for gap in state["gaps"]]

    def _reset(self) -> None:
        self._splits: dict[str, Split] = {}
        self._known: dict[str, Mapping[str, Tensor]] = {}
        self._rho, self._gaps = self.rho, list[float]()

    def _copies(self) -> dict[str, Mapping[str, Tensor]]:
        """Copies and duals by layer, or those of the run that goes on."""
        own = {name: {"near": split.near, "dual": split.dual} for name, split in self._splits.items()}
        return {**self._known, **own}

    def _split(self, layer: nn.Module, spec: Any, known: Mapping[str, Tensor] | None) -> Split:
        weight = layer.get_parameter("weight")
        if known is None:
            return Split(weight, spec, self._project(weight, spec), torch.zeros_like(weight))
        return Split(weight, spec, known["near"].to(weight), known["dual"].to(weight))

    def _project(self, weight: Tensor, spec: LowRank) -> Tensor:
        return project(weight, spec, refine=self.hooi)

    def _double_if_stalled(self) -> None:
        """Twice the rho is half the scaled dual: what it stands for, rho times dual, stays."""
        if self._gaps[-1] > STALLED * self._gaps[-1 - self.double_rho]:
            self._rho *= 2
            for split in self._splits.values():
                split.dual /= 2


@torch.no_grad()
def _gap(pairs: Sequence[tuple[Tensor, Tensor]]) -> float:
    """Relative distance of weights from their projections, all of them together."""
    apart = sum(float((weight - near).double().square().sum()) for weight, near in pairs)
    whole = sum(float(weight.double().square().sum()) for weight, _ in pairs)
    return (apart / whole) ** 0.5 if whole else 0.0
