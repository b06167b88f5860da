"""What a method is: a plan (layer → format) and phases that train towards it."""

from __future__ import annotations

import fnmatch
import inspect
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, Literal

import torch
from torch import Tensor, nn

from dovetail.errors import SpecError
from dovetail.formats.base import Spec
from dovetail.formats.layer import FormatLayer, from_dense, swap
from dovetail.program.calibrate import Rule
from dovetail.training.metrics import evaluating
from dovetail.training.phase import ParamGroups, Phase, Schedule

__all__ = [
    "Batch",
    "Criterion",
    "Kept",
    "Method",
    "ParamGroups",
    "Phase",
    "Plan",
    "Quantization",
    "Schedule",
    "SinglePhase",
    "check",
    "complete",
    "execution_order",
    "into_formats",
    "unplain",
    "weight_layers",
]

Criterion = Callable[[Tensor, Tensor], Tensor]
Batch = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class Kept:
    """Why a layer stays dense."""

    reason: str


@dataclass(frozen=True)
class Plan:
    """Layer name or glob → `Spec`, or `Kept` and why. Later entries win; names that match nothing are refused."""

    layers: Mapping[str, Spec | Kept] = field(default_factory=dict)

    def resolve(
        self, model: nn.Module, kinds: tuple[type[nn.Module], ...] = (nn.Conv2d, nn.Linear)
    ) -> dict[str, Spec | Kept]:
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


@dataclass(frozen=True)
class Quantization:
    """How a packed network is brought to whole numbers: the options of `dovetail.quantize`.

    Attributes:
        images: how many training images to give it.
    """

    rule: Rule
    keep: tuple[str, ...]
    correct: bool
    reestimate: bool
    images: int

    def options(self) -> dict[str, Any]:
        """All but the images, by name."""
        return {name: getattr(self, name) for name in ("rule", "keep", "correct", "reestimate")}


def weight_layers(model: nn.Module) -> dict[str, nn.Conv2d | nn.Linear]:
    """The dense layers that a plan may name, in the model's order."""
    return {name: module for name, module in model.named_modules() if isinstance(module, nn.Conv2d | nn.Linear)}


def complete(model: nn.Module, given: Plan | None, choose: Callable[[str, Any], Spec | Kept]) -> Plan:
    """One checked entry for every weight layer: the given one, or what `choose(name, layer)` says.

    Raises:
        SpecError: a pattern matches nothing, or a layer cannot take its spec. The model is untouched.
    """
    fixed = given.resolve(model) if given is not None else {}
    layers = {
        name: fixed[name] if name in fixed else choose(name, layer) for name, layer in weight_layers(model).items()
    }
    for name, what in layers.items():
        if isinstance(what, Spec):
            check(name, model.get_submodule(name), what)
    return Plan(layers)


def check(name: str, layer: nn.Module, spec: Spec) -> None:
    """`SpecError` unless `layer`, an `nn.Conv2d` or `nn.Linear`, can take `spec`."""
    weight = layer.get_parameter("weight")
    spec.check(tuple(weight.shape), name)
    if reason := unplain(layer):
        raise SpecError(f"layer {name!r} cannot take {spec}: {reason}; leave it out of the plan")
    if not bool(weight.isfinite().all()):
        raise SpecError(f"layer {name!r} has NaN or Inf among its weights; check the checkpoint it came from")


def unplain(layer: nn.Module) -> str:
    """Why no format can hold the layer (its padding), or nothing."""
    if not isinstance(layer, nn.Conv2d):
        return ""
    if layer.padding_mode != "zeros":
        return f"padding_mode={layer.padding_mode!r}, and formats pad with zeros"
    even = any(d * (k - 1) % 2 for d, k in zip(layer.dilation, layer.kernel_size))
    return "padding='same' with an even kernel pads unevenly" if layer.padding == "same" and even else ""


def into_formats(model: nn.Module, plan: Plan) -> None:
    """Swap every planned layer that is not in a format yet; all are made before the first is swapped."""
    dense = {name: model.get_submodule(name) for name, _ in plan.specs()}
    made = {
        name: from_dense(dense[name], spec, name).train(dense[name].training)
        for name, spec in plan.specs()
        if not isinstance(dense[name], FormatLayer)
    }
    for name, layer in made.items():
        swap(model, name, layer)


def execution_order(model: nn.Module, example: Tensor) -> list[str]:
    """Names of the weight layers in the order in which they first run on `example`."""
    order: dict[str, None] = {}
    handles = [
        layer.register_forward_hook(lambda *_, name=name: order.setdefault(name))
        for name, layer in weight_layers(model).items()
    ]
    try:
        with evaluating(model), torch.no_grad():
            model(example)
    finally:
        for handle in handles:
            handle.remove()
    return list(order)


class Method:
    """Base of all methods: does nothing. Override what the system needs.

    The training loop calls `plan` once, then for each of `phases()`: `begin`, the epochs, `end`. Within an epoch:
    `before_epoch`; per batch `loss`, backward, `before_step`, optimizer, `after_step`; then `after_epoch`.

    A resumed run calls `plan`, `load_state_dict`, `begin` of the current phase and, in mid-epoch, `before_epoch` of
    the current epoch again. So `begin` and `before_epoch` depend on their arguments and on `state_dict` alone and leave
    what is as they want it already; all else that a resumed run needs, beyond the model itself, is in `state_dict`.

    Attributes:
        steps_per_epoch: batches of an epoch; whoever runs the phases sets it before the first `begin`.
    """

    name: str = "method"
    steps_per_epoch: int = 0

    def plan(self, model: nn.Module, example: Tensor, given: Plan | None = None) -> Plan:
        """Layer → spec or a reason to leave it; completes and checks a given plan. Must not change the model."""
        raise NotImplementedError

    def options(self) -> dict[str, Any]:
        """What the method was made with, as plain data: a run is only resumed with the same."""
        values = {name: getattr(self, name, None) for name in inspect.signature(type(self)).parameters}
        return {name: str(value) for name, value in values.items() if value is not None and not callable(value)}

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

    def recordable(self) -> Hashable | None:
        """What the next `loss` depends on beside the batch and the tensors of the model, which may change in place.

        While the answer is the same, a GPU may replay a recorded step instead of calling `loss`: numbers of Python that
        it read stay what they were, and so do the places of other tensors. None, the default: `loss` must be called.
        """
        return None

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

    def metrics(self) -> dict[str, float]:
        """Numbers of its own for the record of an epoch, by name (sparsity, rank, gap to a projection)."""
        return {}

    def settled(self, model: nn.Module, plan: Plan) -> Plan:
        """`plan` as all phases left the model: what came out dense after all is `Kept`, and says why."""
        return plan

    def quantization(self) -> Quantization | None:
        """How the network, once lowered, is brought to whole numbers; None leaves it in floating point."""
        return None

    def state_dict(self) -> dict[str, Any]:
        """All of the method's state as tensors, numbers, strings and containers of them."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Inverse of `state_dict`; called after `plan` and, in mid-phase, after the model has its phase's layers."""


@dataclass(kw_only=True, eq=False)
class SinglePhase(Method):
    """What methods with one phase of training share.

    Attributes:
        epochs: may be zero: then nothing is trained.
        learning_rate: the peak of `schedule`; the other options are those of `Phase`.
    """

    epochs: int = 20
    learning_rate: float = 0.01
    schedule: Schedule = "cosine"
    weight_decay: float = 1e-4
    momentum: float = 0.9
    nesterov: bool = True
    optimizer: Literal["sgd", "adamw"] = "sgd"
    warmup: float = 0.0

    def phases(self) -> Sequence[Phase]:
        """One, named like the method."""
        shared = {f.name: getattr(self, f.name) for f in fields(Phase) if f.name != "name"}
        return (Phase(name=self.name, **shared),)


def _some(names: Sequence[str], count: int = 6) -> str:
    return ", ".join(names[:count]) + (f" and {len(names) - count} more" if len(names) > count else "")
