"""Global magnitude pruning on a cubic schedule: the baseline that everybody knows.

Source: Zhu and Gupta, "To prune, or not to prune" (2017), equation 1; one threshold for all layers as in Han et al.
(NeurIPS 2015), there per layer.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from dovetail.errors import SpecError, TrainingError
from dovetail.formats.base import Spec
from dovetail.formats.sparse import SparseSpec
from dovetail.methods.base import (
    Kept,
    ParamGroups,
    Phase,
    Plan,
    SinglePhase,
    complete,
    execution_order,
    into_formats,
    unplain,
)
from dovetail.methods.largest import densest
from dovetail.methods.prices import without_densities


@dataclass(kw_only=True, eq=False)
class Magnitude(SinglePhase):
    """Removes the weights of smallest magnitude while training, then trains on with fixed masks.

    A removed weight stays zero. At the end the pruned layers hold the sparse format.

    Attributes:
        density: fraction of the weights of all pruned layers together that is kept, met to the nearest weight; layers
            whose spec in a given plan has a density of its own keep that instead.
        interval: steps between two updates of the masks.
        ramp: part of the steps over which the density falls, by a cubic law, from 1 to `density`.
        everything: prune every convolution and linear layer; otherwise the first convolution and all linear layers
            (and a classifier that is a convolution) are left dense.
    """

    name = "magnitude"

    density: float = 0.1
    interval: int = 50
    ramp: float = 0.5
    everything: bool = False

    def __post_init__(self) -> None:
        for option, value in (("density", self.density), ("ramp", self.ramp)):
            if not 0 < value <= 1:
                raise SpecError(f"{self.name} {option} {value} must lie above 0 and not above 1")
        if self.interval < 1:
            raise SpecError(f"{self.name} interval {self.interval} must be at least 1 step")

    def plan(self, model: nn.Module, example: Tensor, given: Plan | None = None) -> Plan:
        """The sparse format for every layer to prune; a given plan adds layers (`SparseSpec()`) or keeps them.

        Raises:
            SpecError: a name that matches nothing, another format, nothing to prune.
        """
        order = execution_order(model, example)
        plan = complete(model, given, lambda name, layer: self._choose(name, layer, order))
        for name, spec in plan.specs():
            self._require(name, spec)
        if not any(plan.specs()):
            told = "everything=True prunes the first and linear layers too"
            raise SpecError(f"{self.name} finds no layer to prune: {told}")
        self._plan, self._own = without_densities(plan)
        self._step, self._dropped, self._density = 0, dict[str, Tensor](), 1.0
        return plan

    def begin(self, phase: Phase, model: nn.Module) -> ParamGroups:
        """Remember the weights to prune; layers are swapped at the end."""
        if phase.epochs and not self.steps_per_epoch:
            raise TrainingError(f"{self.name} must know the steps of an epoch: set steps_per_epoch before begin")
        self._weights = {n: model.get_submodule(n).get_parameter("weight") for n, _ in self._plan.specs()}
        self._dropped = {name: mask.to(self._weights[name].device) for name, mask in self._dropped.items()}
        self._ramp_steps = max(1, round(self.ramp * phase.epochs * self.steps_per_epoch))
        return super().begin(phase, model)

    def recordable(self) -> Hashable:
        """The loss reads nothing but the model."""
        return ()

    def after_step(self) -> None:
        """Update the masks every `interval` steps and at the ramp's end; hold removed weights at zero."""
        self._step += 1
        if self._step <= self._ramp_steps and (self._step % self.interval == 0 or self._step == self._ramp_steps):
            self._prune(self._step / self._ramp_steps)
        self._hold()

    def end(self, phase: Phase, model: nn.Module) -> None:
        """Bring the layers to the sparse format, after a last pruning where the ramp was not walked to its end."""
        if self._step < self._ramp_steps:
            self._prune(1.0)
            self._hold()
        into_formats(model, self._plan)
        self._weights, self._dropped = {}, {}

    def metrics(self) -> dict[str, float]:
        """`density`: share of the weights that is left."""
        return {"density": self._density}

    def state_dict(self) -> dict[str, Any]:
        """Steps so far and masks (True = removed)."""
        return {"step": self._step, "dropped": dict(self._dropped)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Inverse of `state_dict`."""
        self._step = state["step"]
        self._drop(dict(state["dropped"]))

    def _choose(self, name: str, layer: Any, order: list[str]) -> Spec | Kept:
        if reason := unplain(layer):
            return Kept(reason)
        if name not in order:
            return Kept("does not run on the example")
        if not self.everything and name == order[0]:
            return Kept("first layer (everything=True prunes it)")
        if not self.everything and (isinstance(layer, nn.Linear) or name == order[-1]):
            return Kept("linear or classifier (everything=True prunes it)")
        return self._spec()

    def _spec(self) -> Spec:
        """What the pruned layers become."""
        return SparseSpec()

    def _require(self, name: str, spec: Spec) -> None:
        """`SpecError` for what a given plan may not ask."""
        if not isinstance(spec, SparseSpec):
            raise SpecError(f"layer {name!r}: magnitude trains the format sparse, not {spec.format}")

    @torch.no_grad()
    def _prune(self, at: float) -> None:
        """Remove all but the largest weights, at a part of the ramp; those that are removed are the smallest."""
        sizes = {name: weight.detach().abs() for name, weight in self._weights.items()}
        kept = self._largest(sizes, at, lambda shared: densest(flat(shared), cubic(at, self.density)))
        self._drop({name: ~part for name, part in kept.items()})

    def _largest(
        self, sizes: Mapping[str, Tensor], at: float, shared: Callable[[Mapping[str, Tensor]], Tensor]
    ) -> dict[str, Tensor]:
        """True at the entries of `sizes` that stay, at a part of the ramp; of layers without own density as told."""
        kept = {
            n: densest(s.flatten(), cubic(at, self._own[n])).view(s.shape) for n, s in sizes.items() if n in self._own
        }
        if others := {name: size for name, size in sizes.items() if name not in kept}:
            parts = shared(others).split([size.numel() for size in others.values()])
            kept |= {name: part.view(size.shape) for (name, size), part in zip(others.items(), parts)}
        return {name: kept[name] for name in sizes}

    def _drop(self, dropped: dict[str, Tensor]) -> None:
        self._dropped = dropped
        removed, total = map(sum, _counts(dropped))
        self._density = 1.0 - removed / total if total else 1.0

    @torch.no_grad()
    def _hold(self) -> None:
        for name, dropped in self._dropped.items():
            self._weights[name].masked_fill_(dropped, 0.0)


def cubic(at: float, density: float) -> float:
    """Density at a part `at` of the ramp, from 1 to `density` (Zhu and Gupta, equation 1)."""
    return density + (1.0 - density) * (1.0 - at) ** 3


def flat(tensors: Mapping[str, Tensor]) -> Tensor:
    """All entries in one vector."""
    return torch.cat([tensor.flatten() for tensor in tensors.values()])


def _counts(masks: Mapping[str, Tensor]) -> tuple[list[int], list[int]]:
    """True entries, and all, of every mask."""
    return [int(mask.sum()) for mask in masks.values()], [mask.numel() for mask in masks.values()]
