"""ESCALATE: kernels as combinations of a few 8-bit ones by sparse coefficients of -1, 0 and 1, in whole numbers.

Source: Li et al., "ESCALATE: Boosting the efficiency of sparse CNN accelerator with kernel decomposition" (MICRO 2021).
Only its abstract could be read; the schedule follows PENNI (ICML 2020) and trained ternary quantization (ICLR 2017),
and what is chosen here is marked so on the method's page.
"""

from __future__ import annotations

import fnmatch
import logging
from collections.abc import Hashable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Any, Final, Literal

import torch
from torch import Tensor, nn

from dovetail.errors import SpecError, TrainingError
from dovetail.formats.base import Spec
from dovetail.formats.kernel_basis import KernelBasisSpec
from dovetail.formats.kernel_basis.layer import KernelBasisLayer
from dovetail.formats.layer import numpy, swap
from dovetail.formats.values import F32, INT8
from dovetail.methods.base import (
    Batch,
    Criterion,
    Kept,
    ParamGroups,
    Phase,
    Plan,
    Quantization,
    Schedule,
    complete,
    execution_order,
    unplain,
    weight_layers,
)
from dovetail.methods.kernels import (
    Bases,
    bases_for,
    bases_of,
    decomposed,
    drop_frozen_gradients,
    is_depthwise,
    is_ternary,
    is_whole,
    soften,
    train_sides,
)
from dovetail.methods.operands import Operands
from dovetail.methods.places import Places
from dovetail.methods.prices import by_layer, require_positive, without_densities
from dovetail.methods.rounding import bring_to_grid
from dovetail.methods.shrink import bind, shrink
from dovetail.methods.staged import Staged
from dovetail.program.calibrate import RULES, Rule
from dovetail.training.metrics import device_of
from dovetail.training.schedule import factor

log = logging.getLogger("dovetail.methods")
Allocation = Literal["global", "uniform"]
SPARSIFY, TERNARISE, SETTLE = "sparsify", "ternarise", "settle"
REAL: Any = {"coefficients": "dense", "shared": 1, "block": 1, "asymmetric": False, "values": F32}  # in `sparsify`
MOST_BASES: Final = 12
"""Shared kernels of a layer of which nothing is said, however large its kernels are."""
SMALL: Final = 1 / 64
"""Of a layer's largest number: a shared kernel that reaches less far is nearly lost in 8 bits."""
YOUNGER = {"asymmetric": "False", "rounded": "False", "linear": "False"}


@dataclass(kw_only=True, eq=False)
class Escalate(Staged):
    """Three phases: `sparsify` (real coefficients, fewer and fewer), `ternarise` (ternary ones), `settle` (they stand).

    Convolutions larger than 1x1 become a kernel basis with ternary coefficients, 1x1 ones (with `pointwise`) and linear
    layers (with `linear`) a basis of one kernel, depthwise ones (with `depthwise`) a basis with 8-bit coefficients, all
    of which stay. The first layer, and the last if it is linear, stay dense, for int8. The trained network computes
    with exactly the numbers that are packed; `dovetail.quantize` then makes whole numbers of what flows between them.

    Attributes:
        bases: shared kernels per layer, M: a number, or a fraction of the kernels' energy that they must hold, or
            either by layer name or glob, later ones winning. Layers of which nothing is said have two thirds of the
            taps of a kernel, twelve at most: six of a 3x3 one.
        shared: neighbouring output channels whose coefficients stand at the same places, each with its own signs. The
            places then take a part of the bits, and so the same bits hold more coefficients.
        block: neighbouring input channels whose coefficients stand at a place together, as dot products of the engine
            take them: four. The same saving of bits; of `shared` and `block` one at most is more than 1.
        asymmetric: an output has two scales, of its coefficients above zero and of those below. They are no whole
            numbers: these take the weights that they stand for.
        pointwise: 1x1 convolutions become ternary, too.
        linear: so do linear layers between the first layer and the last.
        depthwise: shared kernels of a depthwise convolution; None leaves these layers dense.
        density: share of the coefficients of all ternary layers that is kept; with `cost`, share of the cost; or shares
            by layer name or glob, later ones winning, which every layer then keeps of its own. Specs of a given plan
            may have densities, which win; then no layers compete.
        allocation: `"global"` keeps the largest of all layers together, by |coefficient| times the norm of its basis;
            `"uniform"` the same share in every layer.
        cost: layer name or glob → what it costs with all coefficients, say its seconds: dear layers lose more.
        least: share of a layer's coefficients that it keeps whatever the others are.
        l1: penalty per coefficient in `sparsify`, by soft thresholding after each step.
        interval: epochs of a turn of `sparsify`: coefficients and bases train in turns; 0 trains both all the time.
        ramp: part of `sparsify` over which the density falls, by a cubic law.
        blend: part of `ternarise`, its first, over which ternary coefficients take the place of the real ones, evenly,
            in training alone: what is evaluated and packed has the ternary ones. 0 takes these at once.
        update: steps between two choices of the coefficients that are kept. In `sparsify` those that are gone stay so;
            in `ternarise` they train on behind their zeros, and come back where they have become larger than others.
        shrink: channels that nothing makes or reads any more leave the network in the end, as with `dovetail.shrink`,
            and shared kernels that are idle then. The network computes the same; outputs that share places leave
            together.
        rounded: `settle` trains with the roundings of int8, as the method `Int8` does: what layers read has 256 codes,
            and weights that stay dense lie on their grids. Nothing is then mended in the end.
        sparsify_epochs, ternarise_epochs, settle_epochs: of the phases; zero skips the training, not the phase.
        learning_rate: of `sparsify`; `ternarise_learning_rate`, `settle_learning_rate`: None takes `learning_rate`.
        schedule: of all phases; `sparsify_schedule`: of the first, None takes `schedule`.
        rule, images, reestimate: how the operands' codes are calibrated in the end; as in `Int8`.
        channel_map: what `shrink` removed, once it has.
    """

    name = "escalate"

    bases: Bases | Mapping[str, Bases] | None = None
    shared: int = 1
    block: int = 1
    asymmetric: bool = False
    pointwise: bool = True
    linear: bool = True
    depthwise: int | None = None
    density: float | Mapping[str, float] = 0.05
    allocation: Allocation = "global"
    cost: Mapping[str, float] | None = None
    least: float = 0.002
    l1: float = 1e-4
    interval: int = 0
    update: int = 50
    ramp: float = 0.6
    blend: float = 0.0
    shrink: bool = False
    rounded: bool = False
    sparsify_epochs: int = 100
    ternarise_epochs: int = 60
    settle_epochs: int = 20
    learning_rate: float = 0.01
    ternarise_learning_rate: float | None = None
    settle_learning_rate: float | None = None
    schedule: Schedule = "cosine"
    sparsify_schedule: Schedule | None = None
    weight_decay: float = 1e-4
    momentum: float = 0.9
    nesterov: bool = True
    rule: Rule = "mse"
    images: int = 1000
    reestimate: bool = True

    def __post_init__(self) -> None:
        own = isinstance(self.density, Mapping)
        for name, value in (*self._densities(), ("ramp", self.ramp)):
            if not 0 < value <= 1:
                raise SpecError(f"escalate {name} {value} must lie above 0 and not above 1")
        if not 0 <= self.blend <= 1:
            raise SpecError(f"escalate blend {self.blend} must lie between 0 and 1")
        if not own and self.allocation == "global" and not 0 <= self.least <= self._densities()[0][1]:
            raise SpecError(f"escalate least {self.least} must lie between 0 and the density, {self.density}")
        for name in ("l1", "interval"):
            if not getattr(self, name) >= 0:
                raise SpecError(f"escalate {name} {getattr(self, name)} must not be negative")
        for name in ("shared", "block", "depthwise", "update", "images"):
            if (value := getattr(self, name)) is not None and value < 1:
                raise SpecError(f"escalate {name} {value} must be at least 1")
        if self.allocation not in ("global", "uniform"):
            raise SpecError(f"unknown escalate allocation {self.allocation!r}; known are global, uniform")
        if self.cost is not None and (own or self.allocation == "uniform"):
            raise SpecError("escalate has no use for cost where every layer keeps its own share; leave one of them out")
        require_positive(self.cost, "escalate")
        if self.rule not in RULES:
            raise SpecError(f"unknown escalate rule {self.rule!r}; known are {', '.join(RULES)}")
        self._operands = Operands(self.rule)
        self._reset()

    def options(self) -> dict[str, Any]:
        """Without those that earlier versions lacked, where they say what these did: such a run goes on."""
        return {name: value for name, value in super().options().items() if (name, value) not in YOUNGER.items()}

    def plan(self, model: nn.Module, example: Tensor, given: Plan | None = None) -> Plan:
        """A ternary kernel basis for every layer but the first and a last linear one; a given plan says otherwise.

        Raises:
            SpecError: a name matches nothing, another format is asked for, nothing can be decomposed, there are to be
                more shared kernels than a kernel has taps, a layer holds nothing but zeros, or the density leaves some
                layer without a coefficient.
            UnsupportedOp: channels are to be removed from a network that cannot be lowered.
        """
        self._reset()
        self._example = example
        order = execution_order(model, example)
        if isinstance(self.bases, Mapping):
            Plan(dict.fromkeys(self.bases, Kept(""))).resolve(model)
        plan = complete(model, given, lambda name, layer: self._choose(name, layer, order))
        self._require_kernels(model, plan)
        self._plan, self._own = without_densities(plan)
        for name, spec in self._plan.specs():
            if not (is_ternary(spec) or (is_whole(spec) and is_depthwise(model.get_submodule(name)))):
                also = "; of depthwise layers it trains dense ones of int8, too"
                raise SpecError(
                    f"layer {name!r}: escalate trains kernel_basis with ternary coefficients, not {spec}{also}"
                )
        if not any(is_ternary(spec) for _, spec in self._plan.specs()):
            raise SpecError("escalate finds no layer to decompose into ternary coefficients")
        self._places = self._places_of(model)
        if self.shrink:
            bind(model, example)
        return plan

    def phases(self) -> Sequence[Phase]:
        """Sparsify, ternarise, settle."""
        first = Phase(
            name=SPARSIFY,
            epochs=self.sparsify_epochs,
            learning_rate=self.learning_rate,
            schedule=self.sparsify_schedule or self.schedule,
            weight_decay=self.weight_decay,
            momentum=self.momentum,
            nesterov=self.nesterov,
        )
        later = replace(first, schedule=self.schedule)
        given = (self.ternarise_learning_rate, self.settle_learning_rate)
        rates = [self.learning_rate if rate is None else rate for rate in given]
        return (
            first,
            replace(later, name=TERNARISE, epochs=self.ternarise_epochs, learning_rate=rates[0]),
            replace(later, name=SETTLE, epochs=self.settle_epochs, learning_rate=rates[1]),
        )

    def begin(self, phase: Phase, model: nn.Module) -> ParamGroups:
        """Decompose what is dense yet; from `ternarise` on the coefficients are ternary, in `settle` they stand."""
        if phase.epochs and not self.steps_per_epoch:
            raise TrainingError("escalate must know the steps of an epoch: set steps_per_epoch before begin")
        for name, spec in self._plan.specs():
            layer = model.get_submodule(name)
            if not isinstance(layer, KernelBasisLayer):
                layer = decomposed(layer, replace(spec, **REAL))
                swap(model, name, layer)
            if phase.name != SPARSIFY:
                layer.spec, layer.latent = spec, True
        self._enter(phase)
        self._ternary_part = torch.ones((), device=device_of(model))
        self._note_layers(model)
        train_sides(self._layers.values(), bases=True, coefficients=True)
        train_sides(self._ternary.values(), bases=True, coefficients=phase.name != SETTLE)
        self._blend()
        self._operands.release()
        if self._rounds:
            whole = [name for name, layer in self._layers.items() if not layer.spec.asymmetric]
            self._operands.watch(model, whole=whole)
        return super().begin(phase, model)

    def before_epoch(self, epoch: int) -> None:
        """Give the turn to one side in `sparsify`, coefficients first; observe operands that are rounded."""
        if self._where == SPARSIFY and self.interval:
            of_bases = (epoch + 1) // self.interval % 2 == 1
            train_sides(self._layers.values(), bases=of_bases, coefficients=not of_bases)
        if self._rounds:
            self._operands.before_epoch(epoch)

    def loss(self, model: nn.Module, batch: Batch, criterion: Criterion) -> Tensor:
        """The criterion of the network as the phase has it."""
        with self._operands.observing() if self._rounds else nullcontext():
            return super().loss(model, batch, criterion)

    def recordable(self) -> Hashable | None:
        """Layers compute otherwise in another phase and once blending ends; rounding observes operands: `None`."""
        return None if self._rounds else (self._where, self._blending)

    def before_step(self) -> None:
        """What is frozen has no gradient at all, so that neither momentum nor weight decay moves it."""
        drop_frozen_gradients(self._layers.values())

    @torch.no_grad()
    def after_step(self) -> None:
        """Soften the coefficients in `sparsify` and hold removed ones at zero; choose anew which are kept."""
        if self._where == SPARSIFY:
            steps = self._phase.epochs * self.steps_per_epoch
            rate = self._phase.learning_rate * factor(self._phase.schedule, self._step, steps, 0)
            for layer in self._ternary.values():
                if layer.coefficients.requires_grad and self.l1:
                    soften(layer.coefficients, rate * self.l1)
                if layer.mask is not None:
                    layer.coefficients.mul_(layer.mask)
        self._step += 1
        self._blend()
        if self._where == SETTLE:
            return
        ramp = max(1, round(self.ramp * self._phase.epochs * self.steps_per_epoch)) if self._where == SPARSIFY else 0
        if self._step % self.update == 0 or self._step == ramp:
            self._places.keep(self._ternary, min(1.0, self._step / ramp) if ramp else 1.0)

    def after_epoch(self, epoch: int) -> None:
        """Take the reach of codes from an epoch that was too short to observe all that was wanted."""
        if self._rounds:
            self._operands.after_epoch()

    def end(self, phase: Phase, model: nn.Module) -> None:
        """The last choice of a phase; after `settle` the layers hold what is packed."""
        self._operands.release()
        train_sides(self._layers.values(), bases=True, coefficients=True)
        if phase.name != SETTLE:
            self._places.keep(self._ternary)
        else:
            for name, layer in self._layers.items():
                layer.settle_latent()
                if name in self._ternary:
                    layer.prune(layer.coefficients != 0)
            _tell_small_bases(self._layers)
            if self.shrink:
                self.channel_map = shrink(model, self._example)
                self._note_layers(model)
            for dense in weight_layers(model).values() if self._rounds else ():
                bring_to_grid(dense)

    def quantization(self) -> Quantization:
        """int8 by calibration alone: bases and coefficients are whole numbers already (but asymmetric ones).

        What was trained with these roundings has learnt what it is to give with them.
        """
        reestimate = self.reestimate and not (self.rounded and self.settle_epochs)
        return Quantization(rule=self.rule, keep=(), correct=False, reestimate=reestimate, images=self.images)

    @torch.no_grad()
    def metrics(self) -> dict[str, float]:
        """`density`: share of the coefficients that are not zero, in layers that are to be ternary."""
        if not self._ternary:
            return {}
        live = [layer.live_coefficients() for layer in self._ternary.values()]
        return {"density": sum(int((x != 0).sum()) for x in live) / sum(x.numel() for x in live)}

    def state_dict(self) -> dict[str, Any]:
        """That of all staged methods, and the reach of rounded operands."""
        operands = {"operands": self._operands.state_dict()} if self.rounded else {}
        return {**super().state_dict(), **operands}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Inverse of `state_dict`."""
        super().load_state_dict(state)
        if self.rounded:
            self._operands.load_state_dict(state["operands"])

    def _reset(self) -> None:
        super()._reset()
        self._operands.release()
        self._operands = Operands(self.rule)
        self._plan, self._blending = Plan(), False
        self._layers: dict[str, KernelBasisLayer] = {}
        self._ternary: dict[str, KernelBasisLayer] = {}

    @property
    def _rounds(self) -> bool:
        """Whether the phase trains as if in int8."""
        return self.rounded and self._where == SETTLE and self._phase.epochs > 0

    def _note_layers(self, model: nn.Module) -> None:
        """All decomposed layers, and those among them whose coefficients are to be ternary."""
        self._layers = {name: model.get_submodule(name) for name, _ in self._plan.specs()}
        self._ternary = {name: self._layers[name] for name, spec in self._plan.specs() if is_ternary(spec)}

    def _blend(self) -> None:
        """How ternary the next step is: it follows from the steps of the phase, so a resumed one finds it again."""
        steps = self.blend * self._phase.epochs * self.steps_per_epoch if self._where == TERNARISE else 0
        self._blending = self._step < steps
        if self._blending:
            self._ternary_part.fill_(self._step / steps)
        for layer in self._ternary.values():
            layer.blend = self._ternary_part if self._blending else 1.0

    def _choose(self, name: str, layer: Any, order: list[str]) -> Spec | Kept:
        if reason := unplain(layer):
            return Kept(reason)
        if name not in order:
            return Kept("does not run on the example")
        if name == order[0]:
            return Kept("first layer: int8")
        if isinstance(layer, nn.Linear):
            if name == order[-1]:
                return Kept("last layer: int8")
            return self._spec(1) if self.linear else Kept("linear: int8")
        size = layer.weight.shape[2] * layer.weight.shape[3]
        most = min(size, layer.weight.shape[0] * layer.weight.shape[1])
        if is_depthwise(layer):
            if self.depthwise is None or size == 1:
                return Kept("a depthwise convolution has one kernel per channel: int8")
            return KernelBasisSpec(bases=min(self.depthwise, most), values=INT8)
        if size == 1:
            return self._spec(1) if self.pointwise else Kept("1x1: int8")
        usual = min(-(-2 * size // 3), MOST_BASES)
        wanted = usual if self.bases is None else bases_of(name, self.bases, usual)
        return self._spec(min(bases_for(numpy(layer.weight), wanted), most))

    def _require_kernels(self, model: nn.Module, plan: Plan) -> None:
        """`SpecError` where a number of bases is above the taps of all kernels it is for, or a layer is all zeros."""
        taps = {}
        for name, _ in plan.specs():
            weight = model.get_submodule(name).get_parameter("weight")
            taps[name] = weight.shape[2] * weight.shape[3] if weight.ndim == 4 else 1
            if not weight.any():
                raise SpecError(f"layer {name!r} holds nothing but zeros; leave it out with plan={{{name!r}: 'zeros'}}")
        for pattern, wanted in (self.bases if isinstance(self.bases, Mapping) else {"*": self.bases or 1}).items():
            most = max((taps[name] for name in taps if fnmatch.fnmatchcase(name, pattern)), default=1)
            if isinstance(wanted, int) and wanted > most > 1:
                raise _too_many(f"bases {wanted} of {pattern!r}", most)
        deep = [taps[name] for name, _ in plan.specs() if is_depthwise(model.get_submodule(name))]
        if self.depthwise is not None and deep and self.depthwise > max(deep):
            raise _too_many(f"depthwise {self.depthwise}", max(deep))

    def _spec(self, bases: int) -> KernelBasisSpec:
        together = {"shared": self.shared, "block": self.block}
        return KernelBasisSpec(bases=bases, coefficients="ternary", asymmetric=self.asymmetric, **together)

    def _densities(self) -> list[tuple[str, float]]:
        """For messages: what each is called, and it."""
        if isinstance(self.density, Mapping):
            return [(f"density of {name!r}", value) for name, value in self.density.items()]
        return [("density", self.density)]

    def _places_of(self, model: nn.Module) -> Places:
        """What the options say of the planned layers."""
        specs = {n: spec for n, spec in self._plan.specs() if isinstance(spec, KernelBasisSpec) and is_ternary(spec)}
        shares, costs, density = dict[str, float](), dict[str, float](), 1.0
        if self._own:
            told = self.density if isinstance(self.density, Mapping) else {"*": self.density}
            others = Plan({name: spec for name, spec in specs.items() if name not in self._own})
            shares = by_layer(others, told, model, "escalate density") | self._own
        elif isinstance(self.density, Mapping):
            shares = by_layer(Plan(specs), self.density, model, "escalate density")
        elif self.allocation == "uniform":
            shares = dict.fromkeys(specs, self.density)
        else:
            density = self.density
        if self.cost is not None:
            costs = by_layer(Plan(specs), self.cost, model, "escalate cost")
        places = Places(specs, density, self.least, shares, costs)
        places.require_some(model)
        return places


def _too_many(wanted: str, most: int) -> SpecError:
    return SpecError(
        f"escalate {wanted}: kernels there have {most} taps at most, and that many shared kernels make up any kernel"
    )


def _tell_small_bases(layers: Mapping[str, KernelBasisLayer]) -> None:
    """A warning where 8 bits, of one scale for the layer, keep next to nothing of a basis."""
    for name, layer in layers.items():
        reach = layer.bases.detach().abs().flatten(1).amax(dim=1)
        small = [number for number, most in enumerate(reach.tolist()) if most < SMALL * float(reach.max())]
        if small:
            log.warning(
                "layer %r: shared kernels %s reach less than 1/%d of the layer's largest number; 8 bits keep little",
                name, ", ".join(map(str, small)), round(1 / SMALL),
            )  # fmt: skip
