"""A stretch of training with one optimizer, and that optimizer."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

import torch
from torch import Tensor
from torch.optim import SGD, AdamW, Optimizer

from dovetail.errors import TrainingError
from dovetail.training.schedule import SCHEDULES, factor

Schedule = Literal["constant", "cosine", "one-cycle", "step"]
OPTIMIZERS: Final = ("sgd", "adamw")
ParamGroups = list[dict[str, Any]]


@dataclass(frozen=True)
class Phase:
    """A stretch of training with one optimizer.

    Attributes:
        epochs: may be zero: `begin` and `end` still run.
        learning_rate: the peak; the optimizer is rebuilt at the start of the phase from what `begin` returns.
        schedule: of the learning rate over the phase ("step": times 0.1 at half and three quarters).
        warmup: epochs over which the rate first rises in a straight line; the schedule takes the rest.
    """

    name: str
    epochs: int
    learning_rate: float
    schedule: Schedule = "cosine"
    weight_decay: float = 1e-4
    momentum: float = 0.9
    nesterov: bool = True
    optimizer: Literal["sgd", "adamw"] = "sgd"
    warmup: float = 0.0

    def __post_init__(self) -> None:
        """`TrainingError` for what cannot be trained: at once, for a phase is used hours after it is made."""
        if not isinstance(self.epochs, int) or isinstance(self.epochs, bool) or self.epochs < 0:
            self._refuse("epochs", "a whole number from 0")
        if not _finite(self.learning_rate) or self.learning_rate <= 0:
            self._refuse("learning_rate", "a finite number above 0")
        for name in ("weight_decay", "momentum", "warmup"):
            if not _finite(getattr(self, name)) or getattr(self, name) < 0:
                self._refuse(name, "a finite number from 0")
        if self.schedule not in SCHEDULES:
            self._refuse("schedule", f"one of {', '.join(SCHEDULES)}")
        if self.optimizer not in OPTIMIZERS:
            self._refuse("optimizer", f"one of {', '.join(OPTIMIZERS)}")

    def _refuse(self, name: str, wanted: str) -> None:
        raise TrainingError(f"phase {self.name!r}: {name} is {getattr(self, name)!r}; it must be {wanted}")


def build_optimizer(phase: Phase, groups: ParamGroups) -> Optimizer:
    """From the groups that `begin` returned; a group may bring its own peak `lr` and `weight_decay`.

    Raises:
        TrainingError: there is nothing to train.
    """
    if not any(list(group["params"]) for group in groups):
        raise TrainingError(
            f"phase {phase.name!r} has {phase.epochs} epochs but no parameter to train; is everything frozen?"
        )
    if phase.optimizer == "sgd":
        nesterov = phase.nesterov and phase.momentum > 0
        built: Optimizer = SGD(
            groups, phase.learning_rate, phase.momentum, weight_decay=phase.weight_decay, nesterov=nesterov
        )
    else:
        built = AdamW(groups, phase.learning_rate, weight_decay=phase.weight_decay)
    for group in built.param_groups:
        group["peak"] = group["lr"]
    return built


def set_rate(optimizer: Optimizer, phase: Phase, step: int, steps_per_epoch: int) -> float:
    """Give every group its rate for a step of the phase (from 0); returns the phase's own."""
    now = factor(phase.schedule, step, phase.epochs * steps_per_epoch, round(phase.warmup * steps_per_epoch))
    for group in optimizer.param_groups:
        group["lr"] = group["peak"] * now
    return phase.learning_rate * now


def load_optimizer(optimizer: Optimizer, state: Mapping[str, Any]) -> None:
    """Restore the state; tensors take the memory layout of their parameters, as they had it when they were made."""
    optimizer.load_state_dict(dict(state))
    for parameter, values in optimizer.state.items():
        for name, value in values.items():
            if isinstance(value, Tensor) and value.dim() > 0 and value.shape == parameter.shape:
                values[name] = torch.empty_like(parameter, dtype=value.dtype).copy_(value)


def _finite(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
