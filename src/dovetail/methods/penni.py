"""PENNI: kernels as sparse combinations of a few shared ones, trained in turns, pruned, and the network shrunk.

Source: Li et al., "PENNI: Pruned kernel sharing for efficient CNN inference" (ICML 2020), section 3. Where
the released code departs from the paper (it drops the mean of the kernels at the start, and its "frozen" tensors still
move through momentum and weight decay), this follows the paper.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from dovetail.errors import SpecError
from dovetail.formats.base import Geometry, Spec
from dovetail.formats.kernel_basis import KernelBasisSpec
from dovetail.formats.kernel_basis.layer import KernelBasisConv2d
from dovetail.formats.layer import numpy, swap
from dovetail.methods.base import Kept, ParamGroups, Phase, Plan, Schedule, complete, execution_order, unplain
from dovetail.methods.kernels import (
    Bases,
    Init,
    bases_for,
    bases_of,
    basis_macs,
    decomposed,
    drop_frozen_gradients,
    is_depthwise,
    soften,
    train_sides,
)
from dovetail.methods.largest import densest
from dovetail.methods.reach import require_reach
from dovetail.methods.shrink import Bound, bind, shrink
from dovetail.methods.shrinking.groups import ChannelGroups
from dovetail.methods.shrinking.rebuild import foldable
from dovetail.methods.shrinking.removal import Mode, dead
from dovetail.methods.shrinking.selection import importance, silence, total_macs, weakest, within
from dovetail.methods.shrinking.sites import Site
from dovetail.methods.shrinking.tracks import Bools
from dovetail.methods.staged import Staged
from dovetail.training.schedule import factor

ZERO = 1e-7
Finish = Literal["kernel_basis", "dense", "auto"]


@dataclass(kw_only=True, eq=False)
class Penni(Staged):
    """Three phases: `alternate` (bases and coefficients in turns), `prune` (no epochs; also shrinks), `retrain`.

    Layers to which a plan gives a spec of their own take its bases and, where it has one, its density: so many of their
    coefficients are kept, whatever `threshold`, `density` and `global_density` say of the others.

    Attributes:
        bases: shared kernels per layer, d: a number, or a fraction below 1 of the kernels' energy that they must hold
            (the smallest such d), or either of them by layer name or glob, later ones winning.
        init: `"svd"`, the optimum; `"pca_nomean"`, what the released code does; `"pca_mean"`, the same with the mean as
            one more basis that every kernel takes once (for comparison: no channel can die then).
        skip_first: leave the first convolution dense.
        pointwise: make 1x1 convolutions sparse, too (one basis, so the coefficients are the weight).
        l1: penalty per coefficient; `group_l1`: per channel, the norm of its producer's and consumers' coefficients
            together, times the root of their number. It makes whole channels small, which is what shrinking needs.
        sparsifier: `"l1"` adds the penalties to the loss; `"prox"` softens the coefficients after each step, which
            gives true zeros while training.
        interval: epochs of a turn. Coefficients come first, for interval - 1 epochs, then each side has `interval`; 0
            trains both all the time.
        start: `"both"` trains the bases, too, before the first turn ends.
        threshold: coefficients below this many standard deviations of their layer are cut.
        density: instead of `threshold`, the share of every layer's coefficients that is kept, the largest;
            `global_density`: of all layers' together.
        channel_density: the share of removable channels that is kept, the most important of the whole network.
        macs_target: the share of the dense network's multiply-accumulates that may remain; the least important channels
            go, one by one, until it is met. Both count after the coefficients are cut.
        thrift: how much sooner dear channels go: importance is divided by their cost to this power, 0 to 1.
        shrink: remove dead channels physically: `"exact"` or `"paper"` as in `shrink`; True takes `"paper"` where
            retraining follows, else `"exact"`.
        finish: what decomposed layers become after shrinking: stay `"kernel_basis"`, `"dense"`, or `"auto"`: kernel
            basis where it takes at most `break_even` of the dense layer's multiply-accumulates.
        alternate_epochs, retrain_epochs: of the phases; zero skips the training, not the phase.
        retrain_learning_rate: None takes `learning_rate`.
        channel_map: what shrinking removed, once it has.
    """

    name = "penni"

    bases: Bases | Mapping[str, Bases] = 5
    init: Init = "svd"
    skip_first: bool = False
    pointwise: bool = False
    l1: float = 1e-4
    group_l1: float = 0.0
    sparsifier: Literal["l1", "prox"] = "l1"
    interval: int = 2
    start: Literal["coefficients", "both"] = "coefficients"
    threshold: float = 1.0
    density: float | None = None
    global_density: float | None = None
    channel_density: float | None = None
    macs_target: float | None = None
    thrift: float = 0.0
    shrink: bool | Mode = True
    finish: Finish = "kernel_basis"
    break_even: float = 0.5
    alternate_epochs: int = 100
    retrain_epochs: int = 30
    learning_rate: float = 0.01
    retrain_learning_rate: float | None = None
    schedule: Schedule = "step"
    weight_decay: float = 1e-4
    momentum: float = 0.9
    nesterov: bool = True
    optimizer: Literal["sgd", "adamw"] = "sgd"
    warmup: float = 0.0

    def __post_init__(self) -> None:
        for name in ("density", "global_density", "channel_density", "macs_target", "break_even"):
            value = getattr(self, name)
            if value is not None and not 0 < value <= 1:
                raise SpecError(f"penni {name} {value} must lie above 0 and not above 1")
        for name in ("l1", "group_l1", "threshold", "interval", "thrift"):
            if not getattr(self, name) >= 0:
                raise SpecError(f"penni {name} {getattr(self, name)} must not be negative")
        if self.density is not None and self.global_density is not None:
            raise SpecError("penni takes a density per layer or a global_density, not both")
        for name, known in _CHOICES.items():
            if getattr(self, name) not in known:
                listed = ", ".join(map(str, known))
                raise SpecError(f"unknown penni {name} {getattr(self, name)!r}; known are {listed}")
        self._reset()

    def plan(self, model: nn.Module, example: Tensor, given: Plan | None = None) -> Plan:
        """Every convolution larger than 1x1 (with `pointwise`, those too) takes a kernel basis.

        Raises:
            SpecError: a name matches nothing, another format is asked for, nothing can be decomposed, or `macs_target`
                is out of reach.
            UnsupportedOp: channels are to be removed from a network that cannot be lowered.
        """
        self._reset()
        self._example = example
        first = execution_order(model, example)[:1] if self.skip_first else []
        self._require_names(model)
        self._plan = complete(model, given, lambda name, layer: self._choose(name, layer, name in first))
        for name, spec in self._plan.specs():
            if not isinstance(spec, KernelBasisSpec) or spec.coefficients == "ternary":
                raise SpecError(f"layer {name!r}: penni trains the format kernel_basis, not ternary: {spec}")
        if not any(self._plan.specs()):
            raise SpecError("penni finds no convolution larger than 1x1 to decompose (pointwise=True takes 1x1, too)")
        if self._removes:
            bound = bind(model, example)
            if self.macs_target is not None:
                specs = {name: spec for name, spec in self._plan.specs() if isinstance(spec, KernelBasisSpec)}
                density = self.density or self.global_density
                require_reach(bound.coupling, specs, self._macs, self.macs_target, density)
        return self._plan

    def phases(self) -> Sequence[Phase]:
        """Alternate, prune, retrain."""
        alternate = Phase(
            name="alternate",
            epochs=self.alternate_epochs,
            learning_rate=self.learning_rate,
            schedule=self.schedule,
            weight_decay=self.weight_decay,
            momentum=self.momentum,
            nesterov=self.nesterov,
            optimizer=self.optimizer,
            warmup=self.warmup,
        )
        rate = self.learning_rate if self.retrain_learning_rate is None else self.retrain_learning_rate
        retrain = replace(alternate, name="retrain", epochs=self.retrain_epochs, learning_rate=rate)
        return (alternate, replace(alternate, name="prune", epochs=0), retrain)

    def begin(self, phase: Phase, model: nn.Module) -> ParamGroups:
        """Decompose what is dense yet; all parameters train (turns are taken epoch by epoch)."""
        if phase.name == "alternate":
            for name, spec in self._plan.specs():
                if not isinstance(model.get_submodule(name), KernelBasisConv2d):
                    whole = replace(spec, density=None)  # all coefficients train until they are pruned
                    swap(model, name, decomposed(model.get_submodule(name), whole, self.init))
        self._enter(phase)
        self._model, self._layers = model, _decomposed_layers(model)
        grouped = phase.name == "alternate" and self.group_l1 > 0
        self._groups = ChannelGroups(model, bind(model, self._example).coupling) if grouped else None
        train_sides(self._layers.values(), bases=True, coefficients=True)
        return super().begin(phase, model)

    def before_epoch(self, epoch: int) -> None:
        """Give the turn to one side: only in the first phase."""
        turn = self.turn(epoch) if self._where == "alternate" else "both"
        train_sides(self._layers.values(), bases=turn != "coefficients", coefficients=turn != "bases")

    def turn(self, epoch: int) -> Literal["coefficients", "bases", "both"]:
        """Who trains in an epoch (from 0) of `alternate`: sides change before epochs e with (e + 1) % interval == 0."""
        turns = (epoch + 1) // self.interval if self.interval else 0
        if not self.interval or (turns == 0 and self.start == "both"):
            return "both"
        return "bases" if turns % 2 else "coefficients"

    def penalty(self) -> Tensor | float:
        """l1 of the coefficients while they train, plus that of the channels' norms."""
        if not self._sparsifying or self.sparsifier == "prox":
            return 0.0
        total: Tensor | float = 0.0
        if self.l1:
            total = self.l1 * sum(self._free(layer).abs().sum() for layer in self._layers.values())
        return total + self.group_l1 * self._groups.penalty(self._model) if self._groups else total

    def before_step(self) -> None:
        """A frozen side has no gradient at all, so that neither momentum nor weight decay moves it."""
        drop_frozen_gradients(self._layers.values())

    @torch.no_grad()
    def after_step(self) -> None:
        """The proximal step, with the learning rate of the optimizer's; and the mean's coefficients stay one."""
        if self._sparsifying and self.sparsifier == "prox":
            rate = self._rate()
            for layer in self._layers.values():
                soften(self._free(layer), rate * self.l1)
            if self._groups:
                self._groups.soften(self._model, rate * self.group_l1)
        if self.init == "pca_mean":
            for layer in self._layers.values():
                layer.coefficients[..., self._free(layer).shape[-1] :] = 1.0
        self._step += 1

    def end(self, phase: Phase, model: nn.Module) -> None:
        """Both sides train again; `prune` cuts coefficients, removes channels and settles the formats."""
        train_sides(self._layers.values(), bases=True, coefficients=True)
        if phase.name == "prune":
            self._prune()
            bound = bind(model, self._example) if self._removes or self.finish == "auto" else None
            if bound is not None and self._removes:
                self._remove_channels(model, bound)
            self._settle(model, bound)

    @torch.no_grad()
    def metrics(self) -> dict[str, float]:
        """`zeros`: share of the coefficients that are zero (at most 1e-7); `l1`: the sum of their sizes."""
        sizes = [layer.live_coefficients().abs().flatten() for layer in self._layers.values()]
        if not sizes:
            return {}
        every = torch.cat(sizes)
        return {"zeros": float((every <= ZERO).double().mean()), "l1": float(every.sum())}

    def settled(self, model: nn.Module, plan: Plan) -> Plan:
        """Layers that `finish` made dense again are kept, and say why."""
        dense = "made dense again (finish='dense')"
        dear = f"its kernel basis took more than {self.break_even:g} of the dense work (finish='auto')"
        reason, held = Kept(dense if self.finish == "dense" else dear), _decomposed_layers(model)
        changed = {name: reason for name, _ in plan.specs() if name not in held}
        return Plan({**plan.layers, **changed})

    def _reset(self) -> None:
        super()._reset()
        self._layers: dict[str, KernelBasisConv2d] = {}
        self._groups: ChannelGroups | None = None

    @property
    def _removes(self) -> bool:
        return bool(self.shrink) or self.channel_density is not None or self.macs_target is not None

    @property
    def _mode(self) -> Mode:
        if self.shrink in ("exact", "paper"):
            return self.shrink
        return "paper" if self.retrain_epochs else "exact"

    @property
    def _sparsifying(self) -> bool:
        return self._where == "alternate" and any(x.coefficients.requires_grad for x in self._layers.values())

    def _choose(self, name: str, layer: Any, first: bool) -> Spec | Kept:
        if isinstance(layer, nn.Linear):
            return Kept("a linear layer has no kernels to share")
        if reason := unplain(layer):
            return Kept(reason)
        if is_depthwise(layer):
            return Kept("a depthwise convolution has one kernel per channel; PENNI leaves it")
        if first:
            return Kept("first layer (skip_first=False decomposes it)")
        kernel = layer.weight.shape[2] * layer.weight.shape[3]
        if kernel == 1:
            return KernelBasisSpec(bases=1, coefficients="sparse") if self.pointwise else Kept("1x1: left as it is")
        most = min(kernel, layer.weight.shape[0] * layer.weight.shape[1])
        count = bases_for(numpy(layer.weight), bases_of(name, self.bases, 5)) + (self.init == "pca_mean")
        return KernelBasisSpec(bases=min(count, most), coefficients="sparse")

    def _require_names(self, model: nn.Module) -> None:
        if isinstance(self.bases, Mapping):
            Plan(dict.fromkeys(self.bases, Kept(""))).resolve(model)

    def _free(self, layer: KernelBasisConv2d) -> Tensor:
        """Coefficients that may become zero: not those of the mean."""
        mean = self.init == "pca_mean" and layer.kernel_size != (1, 1)
        return layer.coefficients[..., : layer.spec.bases - mean]

    def _rate(self) -> float:
        phase, steps = self._phase, self.steps_per_epoch
        if not steps:
            return phase.learning_rate
        now = factor(phase.schedule, self._step, phase.epochs * steps, round(phase.warmup * steps))
        return phase.learning_rate * now

    @torch.no_grad()
    def _prune(self) -> None:
        """Cut the small coefficients, every basis having norm 1, so that they can be compared."""
        for layer in self._layers.values():
            layer.normalise_bases()
        free = {name: self._free(layer).abs() for name, layer in self._layers.items()}
        for name, kept in self._survivors(free).items():
            mask = torch.ones_like(self._layers[name].coefficients, dtype=torch.bool)
            mask[..., : kept.shape[-1]] = kept
            self._layers[name].prune(mask)

    def _survivors(self, sizes: Mapping[str, Tensor]) -> dict[str, Tensor]:
        planned = {name: spec.density for name, spec in self._plan.specs() if isinstance(spec, KernelBasisSpec)}
        own = {name: share for name, share in planned.items() if share is not None and name in sizes}
        kept = {name: densest(sizes[name].flatten(), share).view(sizes[name].shape) for name, share in own.items()}
        return kept | self._others({name: size for name, size in sizes.items() if name not in own})

    def _others(self, sizes: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """What is kept of layers whose density is not planned."""
        if not sizes:
            return {}
        if self.global_density is not None:
            every = torch.cat([size.flatten() for size in sizes.values()])
            kept = densest(every, self.global_density).split([size.numel() for size in sizes.values()])
            return {name: part.view(size.shape) for (name, size), part in zip(sizes.items(), kept)}
        if self.density is not None:
            return {name: densest(size.flatten(), self.density).view(size.shape) for name, size in sizes.items()}
        return {name: size >= self.threshold * self._free(self._layers[name]).std() for name, size in sizes.items()}

    def _remove_channels(self, model: nn.Module, bound: Bound) -> None:
        """Silence the channels that the targets give up, and shrink."""
        coupling, score = bound.coupling, importance(bound.coupling, self.thrift)
        removed = dead(coupling, self._mode, foldable(model, bound))
        if self.channel_density is not None:
            removed = weakest(coupling, score, removed, round(self.channel_density * len(coupling.free)))
        if self.macs_target is not None:
            budget = int(self.macs_target * total_macs(coupling, _nothing(bound)))
            costs = {name: self._cost(layer) for name, layer in self._layers.items()}
            removed = within(coupling, score, removed, budget, costs)
        if self.channel_density is not None or self.macs_target is not None:
            silence(model, coupling, removed)
            for layer in self._layers.values():
                layer.prune(layer.coefficients.detach() != 0)
        if self.shrink:
            self.channel_map = shrink(model, self._example, mode=self._mode)

    def _cost(self, layer: KernelBasisConv2d) -> Any:
        """Multiply-accumulates of a layer with some channels left, in the format that it will have."""
        bases, present = numpy(layer.bases), numpy(layer.live_coefficients()) != 0

        def cost(site: Site, outputs: Bools, inputs: Bools) -> int:
            kept = present[outputs][:, inputs] if site.reader else present
            return self._macs(bases, kept, Geometry(*site.positions, site.groups))

        return cost

    def _macs(self, bases: np.ndarray, coefficients: np.ndarray, at: Geometry) -> int:
        dense = int(np.prod(coefficients.shape[:2])) * int(np.prod(bases.shape[1:])) * at.outputs
        if self.finish == "dense":
            return dense
        sparse = basis_macs(bases, coefficients, at)
        return sparse if self.finish == "kernel_basis" or sparse <= self.break_even * dense else dense

    def _settle(self, model: nn.Module, bound: Bound | None) -> None:
        """Bring every decomposed layer to its final format."""
        for name, layer in _decomposed_layers(model).items():
            if self.finish == "dense" or (
                bound is not None and self.finish == "auto" and self._dear(name, layer, bound)
            ):
                swap(model, name, layer.to_dense().train(layer.training))

    def _dear(self, name: str, layer: KernelBasisConv2d, bound: Bound) -> bool:
        site = bound.coupling.sites[name]
        macs = layer.pack().macs(Geometry(*site.positions, site.groups))
        return macs > self.break_even * int(np.prod(layer.weight_shape)) * site.positions[1]


_CHOICES: dict[str, tuple[Any, ...]] = {
    "init": ("svd", "pca_nomean", "pca_mean"),
    "sparsifier": ("l1", "prox"),
    "start": ("coefficients", "both"),
    "shrink": (True, False, "exact", "paper"),
    "finish": ("kernel_basis", "dense", "auto"),
}


def _decomposed_layers(model: nn.Module) -> dict[str, KernelBasisConv2d]:
    return {name: module for name, module in model.named_modules() if isinstance(module, KernelBasisConv2d)}


def _nothing(bound: Bound) -> Bools:
    return np.zeros(bound.coupling.count, dtype=bool)
