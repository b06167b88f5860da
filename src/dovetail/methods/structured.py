"""What methods share whose weights have their structure by construction: permuted diagonals, circulant blocks.

Layers take their format before the first step and train in it, so that nothing is projected while training. In a second
phase, if it is asked for, the numbers of a layer become 16 that its weights share (Han et al., "Deep compression",
2016).
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Hashable, Mapping, Sequence, Set
from dataclasses import dataclass, field, fields, replace
from typing import Any, ClassVar, Final, Literal

import numpy as np
import torch
from torch import Tensor, nn

from dovetail.errors import SpecError
from dovetail.formats.base import Spec, format_named
from dovetail.formats.layer import FormatLayer, first_parameter, from_packed, numpy, swap
from dovetail.formats.values import CODEBOOK4, F32, Values, nearest, values_named
from dovetail.methods.base import (
    Kept,
    ParamGroups,
    Phase,
    Plan,
    SinglePhase,
    check,
    complete,
    execution_order,
    into_formats,
    unplain,
)

Start = Literal["pretrained", "scratch"]
FEW_CLASSES: Final = 100
FEW_CHANNELS: Final = 4


@dataclass(kw_only=True, eq=False)
class Structured(SinglePhase):
    """Trains layers whose weights are blocks with one vector each.

    Attributes:
        size: of the blocks: layers have 1/size of their numbers left.
        sizes: layer name or glob → another size than `size`; later ones win. 1 keeps a layer dense.
        start: "pretrained" takes the nearest weight of the structure for each layer's own; "scratch" draws new ones, of
            the deviation that the structure asks for.
        values: how the numbers are stored in the end: f32, bf16, fixed16, int8 or codebook4.
        share_epochs: of a second phase, in which the numbers of each layer are 16 that train; values are then
            "codebook4".
        share_learning_rate: its peak.
        everything: first convolutions of up to four channels and classifiers of fewer than a hundred classes, too.
    """

    format: ClassVar[str]

    size: int = 4
    sizes: Mapping[str, int] = field(default_factory=dict)
    start: Start = "pretrained"
    values: str = "f32"
    share_epochs: int = 0
    share_learning_rate: float = 1e-3
    everything: bool = False

    def __post_init__(self) -> None:
        if self.share_epochs and self.values == "f32":
            self.values = CODEBOOK4.name
        holds = format_named(self.format).spec.holds
        if values_named(self.values) not in holds:
            known = ", ".join(values.name for values in holds)
            raise SpecError(f"{self.name} values must be one of {known}, not {self.values!r}")
        if self.share_epochs and self.values != CODEBOOK4.name:
            raise SpecError(f"{self.name} share_epochs train a code book; values {self.values!r} have none")
        if self.start not in ("pretrained", "scratch"):
            raise SpecError(f"{self.name} start must be pretrained or scratch, not {self.start!r}")
        if not isinstance(self.sizes, Mapping):
            raise SpecError(f"{self.name} sizes must map names of layers to sizes, not be {self.sizes!r}")
        for name, size in {"size": self.size, **self.sizes}.items():
            if isinstance(size, bool) or not isinstance(size, int) or size < 1:
                raise SpecError(f"{self.name} {name} must be a whole number of at least 1, not {size!r}")

    def plan(self, model: nn.Module, example: Tensor, given: Plan | None = None) -> Plan:
        """The format for every layer that can take it; a given plan adds layers, or keeps them.

        Raises:
            SpecError: a name that matches nothing, another format, a size above a layer that `sizes` names, or no layer
                to change.
        """
        order = execution_order(model, example)
        named = {n: size for glob, size in self.sizes.items() for n in Plan({glob: Kept("")}).resolve(model)}
        plan = complete(model, given, lambda name, layer: self._choose(name, layer, order, named))
        plan = self._in_order(plan, model, order, frozenset(given.resolve(model)) if given is not None else frozenset())
        for name, spec in plan.specs():
            if spec.format != self.format:
                raise SpecError(f"layer {name!r}: {self.name} trains the format {self.format}, not {spec.format}")
            if getattr(model.get_submodule(name), "groups", 1) > 1:
                raise SpecError(f"layer {name!r}: {self.format} holds no grouped convolutions; keep it dense")
        if not any(plan.specs()):
            why = "; ".join(f"{name}: {kept.reason}" for name, kept in plan.layers.items() if isinstance(kept, Kept))
            raise SpecError(f"{self.name} finds no layer for blocks of {self.size}; give another size ({why})")
        self._plan, self._codes = plan, dict[str, Tensor]()
        return plan

    def phases(self) -> Sequence[Phase]:
        """One; and one that trains code books, if asked for."""
        shared = {f.name: getattr(self, f.name) for f in fields(Phase) if f.name != "name"}
        phases = [Phase(name=self.name, **shared)]
        if self.share_epochs:
            share = shared | {"epochs": self.share_epochs, "learning_rate": self.share_learning_rate, "warmup": 0.0}
            phases.append(Phase(name="share", **share | {"weight_decay": 0.0}))
        return phases

    def begin(self, phase: Phase, model: nn.Module) -> ParamGroups:
        """Swap the layers, or find the code books of the layers that there are."""
        if phase.name == self.name:
            if self.start == "scratch":
                self._draw(model)
            into_formats(model, self._trained())
        self._layers: dict[str, Any] = {name: model.get_submodule(name) for name, _ in self._plan.specs()}
        if phase.name == "share":
            self._codes = self._codes or {name: _clustered(layer) for name, layer in self._layers.items()}
            self._codes = {n: codes.to(self._layers[n].values.device) for n, codes in self._codes.items()}
            self._share()
        return self._groups(phase, model)

    def recordable(self) -> Hashable:
        """The loss reads nothing but the model."""
        return ()

    @torch.no_grad()
    def before_step(self) -> None:
        """Numbers that are shared take the mean of their gradients: the nearest to them that keeps them equal."""
        for name, codes in self._codes.items():
            gradient = self._layers[name].values.grad
            if gradient is not None:
                gradient.copy_(_means(gradient, codes)[codes].view_as(gradient))

    def after_step(self) -> None:
        """What is shared stays equal to the last bit."""
        self._share()

    @torch.no_grad()
    def end(self, phase: Phase, model: nn.Module) -> None:
        """After the last phase layers store their numbers as `values` says."""
        if phase.name != self.phases()[-1].name:
            return
        for layer in self._layers.values():
            layer.spec = replace(layer.spec, values=values_named(self.values))
            rounded = from_packed(layer, layer.pack())
            layer.values.copy_(rounded.values)
        self._codes = {}

    def state_dict(self) -> dict[str, Any]:
        """Which numbers of each layer are shared."""
        return {"codes": dict(self._codes)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Inverse of `state_dict`."""
        self._codes = dict(state["codes"])

    def settled(self, model: nn.Module, plan: Plan) -> Plan:
        """With the values that the layers store in the end."""
        return _with_values(plan, values_named(self.values))

    @abstractmethod
    def _spec(self, size: int, layer: Any) -> Spec:
        """The format of a layer, in blocks of `size`."""

    def _in_order(self, plan: Plan, model: nn.Module, order: Sequence[str], given: Set[str]) -> Plan:
        """The plan, seen as a chain of layers in the order in which they run; layers of `given` keep their format."""
        return plan

    def _groups(self, phase: Phase, model: nn.Module) -> ParamGroups:
        return super().begin(phase, model)

    def _choose(self, name: str, layer: Any, order: Sequence[str], named: Mapping[str, int]) -> Spec | Kept:
        size = named.get(name, self.size)
        if size == 1:
            return Kept("size 1")
        if reason := unplain(layer):
            return Kept(reason)
        if getattr(layer, "groups", 1) > 1:
            return Kept(f"{layer.groups} groups: {self.format} holds ungrouped convolutions")
        spec = self._spec(size, layer)
        if name in named:
            check(name, layer, spec)
            return spec
        outputs, inputs = layer.weight.shape[:2]
        try:
            spec.check(tuple(layer.weight.shape), name)
        except SpecError:
            return Kept(f"{inputs} inputs and {outputs} outputs are too few for blocks of {size}")
        if not self.everything and isinstance(layer, nn.Conv2d) and inputs <= FEW_CHANNELS:
            return Kept(f"{inputs} input channels (everything=True takes it)")
        if not self.everything and name == order[-1] and outputs < FEW_CLASSES:
            return Kept(f"classifier of {outputs} classes (everything=True takes it)")
        return spec

    def _trained(self) -> Plan:
        """The plan as it trains: in floating point."""
        return _with_values(self._plan, F32)

    def _draw(self, model: nn.Module) -> None:
        """New weights of the right deviation for every planned layer that is dense still."""
        for name, spec in self._trained().specs():
            layer = model.get_submodule(name)
            if not isinstance(layer, FormatLayer):
                seed = int(torch.randint(1 << 31, ()))
                shape = tuple(first_parameter(layer).shape)
                drawn = format_named(spec.format).packed.random(shape, spec, np.random.default_rng(seed))
                swap(model, name, from_packed(layer, drawn).train(layer.training))

    @torch.no_grad()
    def _share(self) -> None:
        for name, codes in self._codes.items():
            values = self._layers[name].values
            values.copy_(_means(values, codes)[codes].view_as(values))


def _with_values(plan: Plan, values: Values) -> Plan:
    return Plan({**plan.layers, **{name: replace(spec, values=values) for name, spec in plan.specs()}})


def _clustered(layer: Any) -> Tensor:
    """Which of 16 numbers each value is nearest to, int64, flattened; 16 for those that no weight takes.

    Where blocks reach beyond the layer, some of their values stand for nothing.
    """
    with torch.enable_grad():
        (taken,) = torch.autograd.grad(layer.weight().sum(), layer.values)
    used = numpy(taken).ravel() != 0
    flat = numpy(layer.values).ravel()
    book = np.sort(CODEBOOK4.cluster(flat[used])).astype(np.float32)
    codes = np.where(used, nearest(book, flat).astype(np.int64), CODEBOOK4.size)
    return torch.from_numpy(codes)


def _means(values: Tensor, codes: Tensor) -> Tensor:
    """Mean of the values of each code, 0 where there are none; values that no weight takes have that of the first."""
    flat = values.detach().reshape(-1).double()
    sums = flat.new_zeros(CODEBOOK4.size + 1).index_add_(0, codes, flat)
    counts = torch.zeros_like(sums).index_add_(0, codes, torch.ones_like(flat))
    means = sums / counts.clamp(min=1)
    means[-1] = means[0]
    return means.to(values.dtype)
