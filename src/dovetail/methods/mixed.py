"""Several methods on one network, each on layers of its own: what a search asks for that mixes formats."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import fields, replace
from typing import Any, Final

from torch import Tensor, nn

from dovetail.errors import SpecError
from dovetail.formats.base import Spec
from dovetail.formats.block_circulant import BlockCirculantSpec
from dovetail.formats.block_sparse import BlockSparseSpec
from dovetail.formats.kernel_basis import KernelBasisSpec
from dovetail.formats.permuted_diagonal import PermutedDiagonalSpec
from dovetail.formats.sparse import SparseSpec
from dovetail.formats.svd import SvdSpec
from dovetail.formats.tucker import TuckerSpec
from dovetail.methods.base import (
    Batch,
    Criterion,
    Kept,
    Method,
    ParamGroups,
    Phase,
    Plan,
    Quantization,
    SinglePhase,
    weight_layers,
)
from dovetail.methods.kernels import is_ternary

TRAINS: Final[Mapping[str, Callable[[Spec], bool]]] = {
    "block": lambda spec: isinstance(spec, BlockSparseSpec),
    "circnn": lambda spec: isinstance(spec, BlockCirculantSpec),
    "escalate": is_ternary,
    "magnitude": lambda spec: isinstance(spec, SparseSpec),
    "penni": lambda spec: isinstance(spec, KernelBasisSpec) and not is_ternary(spec),
    "permdnn": lambda spec: isinstance(spec, PermutedDiagonalSpec),
    "tdc": lambda spec: isinstance(spec, TuckerSpec | SvdSpec),
    "tucker": lambda spec: isinstance(spec, TuckerSpec | SvdSpec),
}
"""Method → the formats that it trains, of those that can be mixed."""
STAGED: Final = ("escalate", "penni", "tdc")
"""Of these, those of several phases."""
REMOVING: Final = ("shrink", "channel_density", "macs_target")
"""Options of PENNI that take channels away while there are epochs to come."""
WHOLE: Final = ("circnn", "permdnn")
"""Methods whose layers cannot lose single channels: a whole block of them is one structure."""
TRAINING: Final = frozenset(f.name for f in fields(SinglePhase))
"""Options of a training in one phase."""


class Mixed(SinglePhase):
    """Trains layers by different methods at once, in one phase.

    A method of several phases leads where there is one: the training then has its phases. The others train along over
    all epochs, so that their ramps are as long as the training.
    """

    name = "mixed"

    def __init__(self, *, methods: Mapping[str, Mapping[str, Any]], **training: Any) -> None:
        """The methods by name, with their options.

        Layers that a plan gives a format go to the first method that trains it; of the others each method takes, in
        turn, those that its own plan would change.

        Args:
            methods: name → options, such as `{"block": {"density": 0.2}, "tucker": {"ratio": 0.5}}`; those of the
                training are not among them, but for a method of several phases.
            training: epochs, learning_rate and so on, as `SinglePhase` has them; one of several phases has its own.
        """
        from dovetail.methods import METHODS

        super().__init__(**training)

        if unknown := [name for name in methods if name not in TRAINS]:
            raise SpecError(f"mixed cannot mix {', '.join(unknown)}; it mixes {', '.join(TRAINS)}")
        if not methods:
            raise SpecError(f"mixed needs methods={{'block': {{...}}}}: one or several of {', '.join(TRAINS)}")
        self.methods = {name: dict(options) for name, options in methods.items()}
        try:
            self._members = {name: METHODS[name](**options) for name, options in self.methods.items()}
        except TypeError as error:
            raise SpecError(f"mixed: {error}") from None
        for name in self.methods:
            self._require_phases(name, training)
        self._require_channels()
        self._active: dict[str, Method] = {}
        self._own: dict[str, Collection[str]] = {}
        self._before = 0

    def plan(self, model: nn.Module, example: Tensor, given: Plan | None = None) -> Plan:
        """Every layer goes to one method, or stays dense.

        Raises:
            SpecError: none of the methods trains a format that is given, no layer is changed, or two methods have
                several phases.
        """
        fixed = given.resolve(model) if given is not None else {}
        proposed = {name: self._proposed(member, model, example) for name, member in self._members.items()}
        owners = {layer: self._owner(layer, fixed.get(layer), proposed) for layer in weight_layers(model)}
        self._active, self._own, layers = {}, {}, dict[str, Spec | Kept]()
        for name, member in self._members.items():
            own = {n: fixed.get(n, proposed[name].get(n)) for n, owner in owners.items() if owner == name}
            if not own:
                continue
            others = dict.fromkeys((layer for layer in owners if layer not in own), Kept("another method's"))
            whole: dict[str, Any] = {**others, **own}
            layers |= {n: what for n, what in member.plan(model, example, Plan(whole)).layers.items() if n in own}
            self._active[name], self._own[name] = member, frozenset(own)
        if not self._active:
            raise SpecError(f"none of {', '.join(self._members)} changes a layer; give a plan, or them their options")
        left = {layer: self._reason(layer, fixed.get(layer), proposed) for layer in owners if layer not in layers}
        self._staged()
        return Plan({layer: layers.get(layer, left.get(layer, Kept(""))) for layer in owners})

    def phases(self) -> Sequence[Phase]:
        """Those of a method of several, else one."""
        self._tell_steps()
        leader = self._staged()
        return super().phases() if leader is None else self._active[leader].phases()

    def begin(self, phase: Phase, model: nn.Module) -> ParamGroups:
        """Each on its layers; what one gives a learning rate of its own keeps it."""
        self._tell_steps()
        phases = list(self.phases())
        self._before = sum(each.epochs for each in phases[: [each.name for each in phases].index(phase.name)])
        returned = [
            group for name, member in self._active.items() for group in member.begin(self._of(name, phase), model)
        ]
        own = [group for group in returned if set(group) != {"params"}]
        taken = {id(parameter) for group in own for parameter in group["params"]}
        rest = [p for group in super().begin(phase, model) for p in group["params"] if id(p) not in taken]
        return [*own, {"params": rest}] if rest else own

    def loss(self, model: nn.Module, batch: Batch, criterion: Criterion) -> Tensor:
        """That of the method of several phases, and the penalties of the others."""
        leader = self._staged()
        own = (
            super().loss(model, batch, criterion)
            if leader is None
            else self._active[leader].loss(model, batch, criterion)
        )
        return own + sum(member.penalty() for name, member in self._active.items() if name != leader)

    def before_step(self) -> None:
        """Each on its layers."""
        for member in self._active.values():
            member.before_step()

    def after_step(self) -> None:
        """Each on its layers."""
        for member in self._active.values():
            member.after_step()

    def before_epoch(self, epoch: int) -> None:
        """A method of several phases counts epochs in each, the others in all."""
        for name, member in self._active.items():
            member.before_epoch(epoch if name == self._staged() else self._before + epoch)

    def after_epoch(self, epoch: int) -> None:
        """As `before_epoch`."""
        for name, member in self._active.items():
            member.after_epoch(epoch if name == self._staged() else self._before + epoch)

    def end(self, phase: Phase, model: nn.Module) -> None:
        """With the last phase all end, a method of several phases last, for it may remove channels."""
        leader = self._staged()
        if phase.name == self.phases()[-1].name:
            for name, member in self._active.items():
                if name != leader:
                    member.end(self._of(name, phase), model)
        if leader is not None:
            self._active[leader].end(phase, model)

    def metrics(self) -> dict[str, float]:
        """Those of each, by its name."""
        return {
            f"{name} {key}": value for name, member in self._active.items() for key, value in member.metrics().items()
        }

    def settled(self, model: nn.Module, plan: Plan) -> Plan:
        """As each of them left its layers."""
        layers = dict(plan.layers)
        for name, member in self._active.items():
            own = {layer: what for layer, what in plan.layers.items() if layer in self._own[name]}
            layers |= member.settled(model, Plan(own)).layers
        return Plan(layers)

    def quantization(self) -> Quantization | None:
        """That of a method that ends in whole numbers: the whole network does then."""
        found = [how for member in self._active.values() if (how := member.quantization()) is not None]
        return found[0] if found else None

    def options(self) -> dict[str, Any]:
        """Those of the training, and of each of them."""
        return super().options() | {"methods": {name: member.options() for name, member in self._members.items()}}

    def state_dict(self) -> dict[str, Any]:
        """Of each that has layers."""
        return {name: member.state_dict() for name, member in self._active.items()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Inverse of `state_dict`."""
        for name, member in self._active.items():
            member.load_state_dict(state[name])

    def _require_phases(self, name: str, training: Mapping[str, Any]) -> None:
        """`SpecError` for options that would change no phase, or ask for one that the whole training has not."""
        options, own = self.methods[name], TRAINING & set(self.methods[name])
        if name in STAGED and training:
            told = f"mixed: {name} has phases of its own, and {', '.join(sorted(training))} would change none of them"
            raise SpecError(f"{told}; give {name} its options")
        if isinstance(self._members[name], SinglePhase) and name not in STAGED and own:
            raise SpecError(f"mixed {name}: {', '.join(sorted(own))} belong to the whole training; give mixed them")
        if options.get("share_epochs"):
            told = f"mixed {name}: share_epochs are a phase after the others, and a mixed training has none"
            raise SpecError(f"{told}; values='codebook4' alone rounds at the end")

    def _require_channels(self) -> None:
        """`SpecError` where channels would be taken of layers that others train on, or that cannot lose any."""
        penni, others = self._members.get("penni"), [name for name in self._members if name != "penni"]
        asked = [option for option in REMOVING if getattr(penni, option, None)]
        if others and asked:
            told = f"mixed: penni with {', '.join(asked)} takes channels of layers that {', '.join(others)} train on"
            raise SpecError(f"{told}; give penni shrink=False, and neither channel_density nor macs_target")
        whole = [name for name in self._members if name in WHOLE]
        if whole and getattr(self._members.get("escalate"), "shrink", False):
            told = f"mixed: escalate with shrink may take channels of layers of {' and '.join(whole)}"
            raise SpecError(f"{told}, which cannot lose any; give escalate shrink=False")

    @staticmethod
    def _proposed(member: Method, model: nn.Module, example: Tensor) -> Mapping[str, Spec | Kept]:
        """What a method would do with the whole network; nothing where it must be told."""
        try:
            return member.plan(model, example).layers
        except SpecError:
            return {}

    def _owner(
        self, layer: str, what: Spec | Kept | None, proposed: Mapping[str, Mapping[str, Spec | Kept]]
    ) -> str | None:
        if isinstance(what, Kept):
            return None
        if what is None:
            return next((name for name in self._members if isinstance(proposed[name].get(layer), Spec)), None)
        owner = next((name for name in self._members if TRAINS[name](what)), None)
        if owner is None:
            raise SpecError(f"layer {layer!r}: none of {', '.join(self._members)} trains {what}; add one that does")
        return owner

    @staticmethod
    def _reason(layer: str, what: Spec | Kept | None, proposed: Mapping[str, Mapping[str, Spec | Kept]]) -> Kept:
        if isinstance(what, Kept):
            return what
        reasons = [kept for plan in proposed.values() if isinstance(kept := plan.get(layer), Kept)]
        return reasons[0] if reasons else Kept("not in the plan")

    def _staged(self) -> str | None:
        """The method of several phases."""
        found = [name for name in self._active if name in STAGED]
        if len(found) > 1:
            raise SpecError(f"mixed cannot train {' and '.join(found)} at once: both have several phases")
        return found[0] if found else None

    def _of(self, name: str, phase: Phase) -> Phase:
        """A phase as a method knows it: those that train along have one, of their name, over all epochs."""
        if name == self._staged():
            return phase
        return replace(phase, name=name, epochs=sum(each.epochs for each in self.phases()))

    def _tell_steps(self) -> None:
        for member in self._members.values():
            member.steps_per_epoch = self.steps_per_epoch
