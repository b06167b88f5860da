"""What a method is: a plan (layer → format) and phases that train towards it."""

from __future__ import annotations

import fnmatch
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from torch import Tensor, nn

from dovetail.errors import SpecError
from dovetail.formats.base import Spec

Schedule = Literal["constant", "cosine", "one-cycle", "step"]
ParamGroups = list[dict[str, Any]]
Criterion = Callable[[Tensor, Tensor], Tensor]
Batch = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class Phase:
    """A stretch of training with one optimizer.

    Attributes:
        epochs: may be zero: `begin` and `end` still run.
        learning_rate: the peak; the optimizer is rebuilt at the start of the phase from what `begin` returns.
        schedule: of the learning rate over the phase ("step": times 0.1 at half and three quarters).
    """

    name: str
    epochs: int
    learning_rate: float
    schedule: Schedule = "cosine"
    weight_decay: float = 1e-4
    momentum: float = 0.9
    nesterov: bool = True
    optimizer: Literal["sgd", "adamw"] = "sgd"


@dataclass(frozen=True)
class Kept:
    """Why a layer stays dense."""

    reason: str


@dataclass(frozen=True)
class Plan:
    """Layer name or glob → `Spec`, or `Kept` with the reason. Later entries win; names that match nothing are errors."""

    layers: Mapping[str, Spec | Kept] = field(default_factory=dict)

    def resolve(self, model: nn.Module, kinds: tuple[type[nn.Module], ...] = (nn.Conv2d, nn.Linear)) -> dict[str, Spec | Kept]:
        """One entry per matched layer of the model, in its order."""
        names = [name for name, module in model.named_modules() if isinstance(module, kinds)]
        found: dict[str, Spec | Kept] = {}
        for pattern, what in self.layers.items():
            matched = [name for name in names if fnmatch.fnmatchcase(name, pattern)]
            if not matched:
                raise SpecError(f"no layer is called {pattern!r}; the model has {_some(names)}")
            found.update(dict.fromkeys(matched, what))
        return {name: found[name] for name in names if name in found}

    def specs(self) -> Iterator[tuple[str, Spec]]:
        """The layers that change."""
        for name, what in self.layers.items():
            if isinstance(what, Spec):
                yield name, what


class Method:
    """Base of all methods: does nothing. Override what the system needs; see `design` in the docs for the order of calls.

    The training loop calls `plan` once, then for each of `phases()`: `begin`, the epochs, `end`. Everything that a
    resumed run needs beyond the model's own parameters must be in `state_dict`.
    """

    name: str = "method"

    def plan(self, model: nn.Module, example: Tensor, given: Plan | None = None) -> Plan:
        """Layer → spec or a reason to leave it; completes and checks a given plan. Must not change the model."""
        raise NotImplementedError

    def phases(self) -> Sequence[Phase]:
        """The phases in order; `plan` has been called."""
        return ()

    def begin(self, phase: Phase, model: nn.Module) -> ParamGroups:
        """Swap layers, add parameters; the optimizer is built from the answer."""
        return [{"params": [p for p in model.parameters() if p.requires_grad]}]

    def loss(self, model: nn.Module, batch: Batch, criterion: Criterion) -> Tensor:
        """The scalar to minimise; the default adds `penalty()` to the criterion."""
        images, labels = batch
        return criterion(model(images), labels) + self.penalty()

    def penalty(self) -> Tensor | float:
        """A regulariser over the method's own parameters."""
        return 0.0

    def before_step(self) -> None:
        """After backward, before the optimizer: mask or reshape gradients."""

    def after_step(self) -> None:
        """After the optimizer: proximal steps, re-projection, masks."""

    def before_epoch(self, epoch: int) -> None:
        """Before the batches of an epoch (counted within the phase): turn taking between parameter sets."""

    def after_epoch(self, epoch: int) -> None:
        """After the batches of an epoch (counted within the phase): duals, thresholds, regrowth."""

    def end(self, phase: Phase, model: nn.Module) -> None:
        """Hard projection; afterwards the structure is exact."""

    def state_dict(self) -> dict[str, Any]:
        """All of the method's state as tensors, numbers, strings and containers of them."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Inverse of `state_dict`; called after `plan` and, in mid-phase, after the model has its phase's layers."""


def _some(names: Sequence[str], count: int = 6) -> str:
    return ", ".join(names[:count]) + (f" and {len(names) - count} more" if len(names) > count else "")
