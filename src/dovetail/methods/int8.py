"""Whole numbers: a network fine-tuned as it will compute in int8, or only calibrated.

Source: Jacob et al., "Quantization and training of neural networks for efficient integer-arithmetic-only inference"
(CVPR 2018), section 3. Departing from it, weights are rounded by output channel, and batch norms are not folded while
training: a factor per output channel does not change which codes a weight has.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor, nn

from dovetail.errors import SpecError
from dovetail.formats.base import Spec
from dovetail.formats.dense import DenseSpec
from dovetail.formats.layer import FormatLayer, from_packed, pack, swap
from dovetail.formats.recurrent import Recurrent
from dovetail.formats.values import F32, INT8
from dovetail.methods.base import (
    Batch,
    Criterion,
    Kept,
    ParamGroups,
    Phase,
    Plan,
    Quantization,
    SinglePhase,
    check,
    unplain,
)
from dovetail.methods.operands import Operands
from dovetail.methods.rounding import bring_to_grid
from dovetail.program.calibrate import RULES, Rule
from dovetail.program.quantize import is_ternary, recomposed, whole_form, whole_values

KINDS = (nn.Conv2d, nn.Linear, FormatLayer)
NORM = nn.modules.batchnorm._BatchNorm


@dataclass(kw_only=True, eq=False)
class Int8(SinglePhase):
    """Trains a network, dense or in formats, with the roundings of int8 in its forward pass; it comes last.

    Weights are rounded by output channel, and what convolutions, linear layers and means read is rounded to 256 codes
    per tensor; gradients pass straight through. At the end weights lie on their grids, and shared kernel bases are the
    weights that they stand for. The model itself then computes with real numbers: lower it, and `dovetail.quantize`
    makes of it what `quantization` says. Without epochs the model is left as it is, and that is all.

    Attributes:
        rule: how far codes reach; `images`: training images on which that is decided in the end; `correct` and
            `reestimate`: how what rounding shifts is mended. All as in `dovetail.quantize`. A trained network has
            learnt what it is to give, so only one that was not trained is mended.
        observe: batches at the beginning of every epoch from which the reach of codes is taken, the mean of what the
            rule says of each. Operands are real numbers until the first reach is known.
        freeze: share of the epochs, the last ones, in which batch norms use and keep the statistics that they have.
    """

    name = "int8"

    epochs: int = 10
    rule: Rule = "mse"
    images: int = 1000
    correct: bool = True
    reestimate: bool = False
    observe: int = 4
    freeze: float = 0.0

    def __post_init__(self) -> None:
        if self.rule not in RULES:
            raise SpecError(f"unknown int8 rule {self.rule!r}; known are {', '.join(RULES)}")
        for option in ("images", "observe"):
            if getattr(self, option) < 1:
                raise SpecError(f"int8 {option} {getattr(self, option)} must be at least 1")
        if not 0 <= self.freeze <= 1:
            raise SpecError(f"int8 freeze {self.freeze} must lie between 0 and 1")
        self._plan, self._norms = Plan(), list[nn.Module]()
        self._operands = Operands(self.rule, self.observe)
        self._reset()

    def plan(self, model: nn.Module, example: Tensor, given: Plan | None = None) -> Plan:
        """Every layer keeps its format, with int8 values; a given plan keeps layers in floating point.

        Raises:
            SpecError: a name that matches nothing, another format than the layer has, nothing to bring to int8, a
                recurrent layer.
        """
        self._reset()
        if walking := [name for name, module in model.named_modules() if isinstance(module, Recurrent)]:
            raise SpecError(f"layer {walking[0]!r} is recurrent; networks with such layers stay in floating point")
        fixed = {} if given is None else given.resolve(model, KINDS)
        found = {name: layer for name, layer in model.named_modules() if isinstance(layer, KINDS)}
        trained = self.epochs > 0
        self._plan = Plan({name: _chosen(name, layer, fixed.get(name), trained) for name, layer in found.items()})
        if not any(self._plan.specs()):
            raise SpecError("int8 finds no convolution or linear layer that may leave floating point")
        return self._plan

    def begin(self, phase: Phase, model: nn.Module) -> ParamGroups:
        """From now on the model computes as if in int8, in training and in evaluation."""
        self._operands.release()
        self._norms = [module for module in model.modules() if isinstance(module, NORM)]
        if phase.epochs:
            self._first_frozen = phase.epochs - round(self.freeze * phase.epochs)
            self._operands.watch(model, floating=self._kept())
        return super().begin(phase, model)

    def before_epoch(self, epoch: int) -> None:
        """Observe anew, and freeze the batch norms when it is time."""
        self._operands.before_epoch(epoch)
        if epoch >= self._first_frozen:
            for norm in self._norms:
                norm.eval()

    def loss(self, model: nn.Module, batch: Batch, criterion: Criterion) -> Tensor:
        """The criterion of the rounded network."""
        with self._operands.observing():
            return super().loss(model, batch, criterion)

    def after_epoch(self, epoch: int) -> None:
        """Take the reach of codes from an epoch that was too short to observe all that was wanted."""
        self._operands.after_epoch()

    def end(self, phase: Phase, model: nn.Module) -> None:
        """Bring trained weights to their grids; the model computes with real numbers again."""
        self._operands.release()
        for norm in self._norms:
            norm.train(model.training)
        for name, _ in self._plan.specs() if phase.epochs else ():
            _settle(model, name)

    def quantization(self) -> Quantization:
        """The options above; layers that the plan keeps stay in floating point."""
        untrained = self.epochs == 0
        return Quantization(
            rule=self.rule,
            keep=self._kept(),
            correct=self.correct and untrained,
            reestimate=self.reestimate and untrained,
            images=self.images,
        )

    def state_dict(self) -> dict[str, Any]:
        """The reach of codes, and the observations of which it becomes the next."""
        return self._operands.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Inverse of `state_dict`."""
        self._operands.load_state_dict(state)

    def _reset(self) -> None:
        self._operands.release()
        self._operands = Operands(self.rule, self.observe)
        self._first_frozen = 0

    def _kept(self) -> tuple[str, ...]:
        return tuple(name for name, what in self._plan.layers.items() if isinstance(what, Kept))


def _chosen(name: str, layer: nn.Module, given: Spec | Kept | None, trained: bool) -> Spec | Kept:
    """What becomes of a layer; `SpecError` for another format than it has."""
    if isinstance(given, Kept):
        return given
    if not isinstance(layer, FormatLayer):
        if reason := unplain(layer):
            return Kept(reason)
        check(name, layer, DenseSpec())
    packed = pack(layer)
    if trained and is_ternary(packed):
        raise SpecError(f"layer {name!r}: int8 trains no ternary numbers; take epochs: 0, which leaves them")
    form = recomposed(packed) if trained else whole_form(packed, getattr(layer, "groups", 1))
    spec = replace(form.spec, values=whole_values(form))
    if given is not None and given != spec:
        raise SpecError(f"layer {name!r}: int8 leaves formats as they are, so it takes {spec}, not {given}")
    return spec


def _settle(model: nn.Module, name: str) -> None:
    layer = model.get_submodule(name)
    if isinstance(layer, FormatLayer):
        packed = recomposed(layer.pack()).cast(INT8).cast(F32)
        swap(model, name, from_packed(layer, packed).train(layer.training))
    else:
        bring_to_grid(layer)
