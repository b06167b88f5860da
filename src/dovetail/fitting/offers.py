"""What a plan is wanted for, and what the methods offer for each layer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache, partial
from typing import TYPE_CHECKING, Any, Final

from dovetail.accelerators.machine import machine_named
from dovetail.errors import BudgetError, SpecError
from dovetail.fitting.modelled import COSTS, require_machine
from dovetail.fitting.prices import filled
from dovetail.formats import DenseSpec, KernelBasisSpec, PermutedDiagonalSpec, TuckerSpec
from dovetail.formats.base import Spec
from dovetail.methods import METHODS, Kept, Method, Plan
from dovetail.methods.kernels import bases_of
from dovetail.methods.mixed import STAGED
from dovetail.program.layers import LayerShape
from dovetail.search.budget import Budget
from dovetail.search.candidates import PROPOSERS, Target, propose, work
from dovetail.search.plan import Rule, require_rule

if TYPE_CHECKING:
    from torch import Tensor, nn

_LOW = {"ratio": 0.25, "svd": True}
PROBES: Final[Mapping[str, Mapping[str, Any]]] = {
    "tucker": _LOW,
    "tdc": _LOW,
    "permdnn": {"size": 2},
    "circnn": {"size": 2},
}
"""Options with which a method says which layers it would change at all."""


@dataclass(frozen=True)
class Asked:
    """What a plan is wanted for: checked before anything is measured.

    Attributes:
        budget: that it keeps.
        method: that trains it, and its options.
        rule, margin: as in `search.plan.find`.
        int8: the network computes in whole numbers in the end.
        machine: of `dovetail.accelerators.MACHINES`, on whose model cycles and energy are counted.
    """

    budget: Budget
    method: str
    options: Mapping[str, Any] = field(default_factory=dict)
    rule: Rule = "knapsack"
    margin: float | None = None
    int8: bool = True
    machine: str | None = None

    def __post_init__(self) -> None:
        """BudgetError, SpecError or MachineError for what cannot be: a method, rule, margin, limit, option, machine."""
        require_machine(self.budget.limits(), self.machine)
        if self.machine is not None:
            machine_named(self.machine)
        require_rule(self.rule, self.margin, self.budget.limits())
        if self.method == "thin":
            _require_width(self)
        known = [name for name in PROPOSERS if name in METHODS]
        for name, options in self.makers.items():
            if name not in known:
                raise SpecError(
                    f"fit knows no candidates for method {name!r}; known are {', '.join(known)}, mixed, thin"
                )
            if options.get("keep") is not None:
                raise SpecError("keep=(n, m) is alike in every layer, and fit chooses layer by layer; leave it out")
            if name == "penni":
                _require_penni(options)
            if name == "escalate" and options.get("depthwise") is not None:
                raise SpecError("escalate depthwise is for layers that fit has no candidates for; leave it out")
        if len(staged := [name for name in self.makers if name in STAGED]) > 1:
            raise SpecError(f"{' and '.join(staged)} have several phases each and cannot be mixed; leave one out")
        self.trainer()
        for name, options in self.makers.items():
            if not self.int8 and METHODS[name](**options).quantization() is not None:
                raise SpecError(f"method {name} ends in whole numbers; ask for int8 values, or for another method")

    @property
    def makers(self) -> dict[str, Mapping[str, Any]]:
        """Methods whose formats are candidates, with their options: of `mixed` those that it mixes, of `thin` none."""
        if self.method == "thin":
            return {}
        if self.method != "mixed":
            return {self.method: self.options}
        return dict(self.options.get("methods", {}))

    def trainer(self) -> Method:
        """The method, made anew.

        Raises:
            SpecError: it does not take these options.
        """
        try:
            return METHODS[self.method](**self.options)
        except TypeError as error:
            raise SpecError(f"{self.method}: {error}") from None

    def require(self, model: nn.Module, example: Tensor) -> None:
        """`SpecError` where a method does not take this network with its options; nothing is measured for that."""
        for name, options in self.makers.items():
            _plan(name, options, model, example)

    def candidates(
        self, model: nn.Module, example: Tensor, shapes: Sequence[LayerShape], target: Target
    ) -> dict[str, Sequence[Spec] | Kept]:
        """Layer → what the methods could make of it, or why they leave it alone, options considered."""
        int8 = self.int8
        proposed = [
            _proposed(name, options, model, example, shapes, target, int8=int8) for name, options in self.makers.items()
        ]
        found: dict[str, Sequence[Spec] | Kept] = {}
        for layer in (name for shape in shapes for name in shape.layers):
            lists = [what for plan in proposed if not isinstance(what := plan[layer], Kept)]
            specs = list(dict.fromkeys(spec for some in lists for spec in some))
            found[layer] = specs if lists else proposed[0][layer]
        return found


def _proposed(
    name: str,
    options: Mapping[str, Any],
    model: nn.Module,
    example: Tensor,
    shapes: Sequence[LayerShape],
    target: Target,
    *,
    int8: bool,
) -> dict[str, Sequence[Spec] | Kept]:
    """What one method could make of each layer; which it would change at all is for its own plan to say."""
    planned, block = _plan(name, options, model, example).layers, options.get("block", target.block)
    found: dict[str, Sequence[Spec] | Kept] = {}
    for shape in shapes:
        specs = cache(partial(_usable, name, options, shape, replace(target, block=block), int8))
        for layer in shape.layers:
            what = planned.get(layer, Kept("the method does not know it"))
            found[layer] = what if isinstance(what, Kept) else specs(_bases(layer, what, options))
    return found


def _usable(
    name: str, options: Mapping[str, Any], shape: LayerShape, target: Target, int8: bool, bases: int | None
) -> list[Spec]:
    """What one method could make of layers of one shape, with so many shared kernels where that is asked for."""
    wanted = _as_wanted(propose(name, shape, target), options, bases)
    saving = [spec for spec in wanted if work(spec, shape) < shape.macs]
    return [spec for spec in saving if not (int8 and _runs_dense(shape, spec))]


def _bases(layer: str, planned: Spec, options: Mapping[str, Any]) -> int | None:
    """How many shared kernels a layer has by the options, as its method reads them; None leaves it to the search."""
    wanted = options.get("bases")
    if wanted is None or not isinstance(planned, KernelBasisSpec):
        return None
    return planned.bases if bases_of(layer, wanted, 0) else None


def _plan(name: str, options: Mapping[str, Any], model: nn.Module, example: Tensor) -> Plan:
    """Which layers the method would change, as far as its options say."""
    return METHODS[name](**{**PROBES.get(name, {}), **options}).plan(model, example)


def _runs_dense(shape: LayerShape, spec: Spec) -> bool:
    """Whether a network in whole numbers runs the dense weight instead: such a candidate only spoils."""
    return isinstance(spec, KernelBasisSpec) and filled(shape, spec, int8=True).spec.format == DenseSpec.format


def _require_width(asked: Asked) -> None:
    """`BudgetError` for what a width cannot be chosen by."""
    if counted := [name for name in asked.budget.limits() if name in COSTS]:
        raise BudgetError(f"a width is chosen by latency, bytes and macs, and not by {' and '.join(counted)}")
    if asked.rule != "knapsack" or asked.margin is not None:
        raise BudgetError("a width is the widest within the budget, without a rule or a margin; leave them out")


def _require_penni(options: Mapping[str, Any]) -> None:
    """`SpecError` for options with which PENNI's layers would not be what was priced."""
    if (finish := options.get("finish", "kernel_basis")) != "kernel_basis":
        raise SpecError(f"penni finish={finish!r} makes layers dense that fit has given shared kernels; leave it out")
    if options.get("init") == "pca_mean":
        raise SpecError("penni init='pca_mean' keeps a coefficient of every kernel, and fit prices none; leave it out")


def _as_wanted(specs: Sequence[Spec], options: Mapping[str, Any], bases: int | None) -> list[Spec]:
    """Formats as the method's options want them: Tucker's sides folded or not, shared places, scales, bases, shifts."""
    found: list[Spec] = []
    for spec in specs:
        if isinstance(spec, TuckerSpec) and spec.fold and not options.get("fold", True):
            continue
        if isinstance(spec, KernelBasisSpec):
            own = {name: options[name] for name in ("shared", "asymmetric") if name in options}
            if own.get("shared", 1) > 1 and "block" not in options:
                own["block"] = 1  # of both one at most is more
            if spec.bases > 1 and bases is not None:
                own["bases"] = bases
            spec = replace(spec, **own)
        if isinstance(spec, PermutedDiagonalSpec) and (index := options.get("index", "natural")) != "natural":
            spec = replace(spec, index=index, seed=options.get("seed", 0) if index == "random" else None)
        found.append(spec)
    return list(dict.fromkeys(found))
