"""Formats for the layers of a network so that it meets a budget: candidates are priced, what they spoil is measured."""

from __future__ import annotations

import json
import logging
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from dovetail.accelerators.machine import machine_named
from dovetail.engine.cache import CACHE_VERSION, cache_file, cpu_model
from dovetail.engine.layer_times import LayerTimer
from dovetail.engine.native import choose_isa, cores, require_native
from dovetail.errors import BudgetError, SpecError
from dovetail.fitting.modelled import COSTS, Modelled, require_machine
from dovetail.fitting.rehearsals import Place, Rehearse, rehearsed
from dovetail.fitting.surveys import Survey
from dovetail.formats import (
    FORMATS,
    DenseSpec,
    KernelBasisSpec,
    PackedSvd,
    PackedTucker,
    PermutedDiagonalSpec,
    TuckerSpec,
)
from dovetail.formats.base import Packed, Spec
from dovetail.formats.layer import numpy
from dovetail.formats.values import INT8
from dovetail.methods import METHODS, Kept, Method, Plan
from dovetail.methods.base import weight_layers
from dovetail.methods.kernels import bases_of
from dovetail.methods.mixed import STAGED
from dovetail.peers.machine import machine
from dovetail.program.layers import LayerShape
from dovetail.program.quantize import whole_form
from dovetail.search import damage
from dovetail.search.budget import Budget
from dovetail.search.candidates import PROPOSERS, Target, geometry, propose, work
from dovetail.search.plan import Costs, Found, Priced, Rule, find, require_rule
from dovetail.search.table import CostTable, Entry
from dovetail.training.fingerprint import checksum

if TYPE_CHECKING:
    from torch import Tensor, nn

log = logging.getLogger("dovetail.fit")
_LOW = {"ratio": 0.25, "svd": True}
PROBES: Final[Mapping[str, Mapping[str, Any]]] = {
    "tucker": _LOW,
    "tdc": _LOW,
    "permdnn": {"size": 2},
    "circnn": {"size": 2},
}
"""Options with which a method says which layers it would change at all."""
BIAS: Final = 4
"""Bytes, of a layer in whole numbers."""
PART: Final = Kept("it runs as a part of another layer, in no time of its own")
UNPRICED: Final = "it has no price of its own: it runs over several rows, or not at all"


def open_table(threads: int | None, path: Path | None = None, *, int8: bool) -> CostTable:
    """The times of layers on this machine with so many threads; in the cache, if any, unless `path` says where.

    Raises:
        DataError: the file is of another machine, or of other kernels.
    """
    isa, values = choose_isa(), "int8" if int8 else "f32"
    here = {key: value for key, value in machine().items() if key in ("cores", "isa")}
    count = cores() if threads is None else threads
    conditions = {
        "cpu": cpu_model(),
        **here,
        "engine_isa": isa,
        "threads": count,
        "values": values,
        "batch": 1,
        "kernels": CACHE_VERSION,
    }
    label = f"{zlib.crc32(json.dumps(conditions, sort_keys=True).encode()):08x}"
    name = f"costs-{isa}-{values}-t{count}-{label}.json"
    if path is None and (kept := cache_file()) is not None:
        path = kept.with_name(name)
    return CostTable(conditions) if path is None else CostTable.open(path, conditions)


def measured_costs(table: CostTable, measured: Survey, report: Callable[[str], None] = log.info) -> Costs:
    """Latency of a layer in a format, as in the race: the dense layer's, times a ratio of the table or a new one."""
    timers: dict[LayerShape, LayerTimer] = {}

    def measure(shape: LayerShape, spec: Spec) -> Entry:
        if shape not in timers:
            timers.clear()  # one layer after the other: they hold their weights
            timers[shape] = LayerTimer(shape, int8=measured.int8, threads=measured.threads)
        found = timers[shape].ratio(spec)
        report(f"{shape}, {words(spec)}: {found.value:.3f} of dense, {found.kernels[0]}")
        return Entry(found.value, found.low, found.high, found.kernels[0])

    def costs(shape: LayerShape, spec: Spec | None) -> dict[str, float]:
        dense = measured.scale * measured.layers[shape.layers[0]]
        return {"latency": dense if spec is None else dense * table.measured(shape, spec, measure).value}

    return costs


def words(spec: Spec | None) -> str:
    """A format in a few words, such as "tucker, rank in 32, rank out 64"."""
    if spec is None:
        return "dense"
    told = {key: value for key, value in spec.to_json().items() if key not in ("format", "version", "values")}
    parts = [f"{key.replace('_', ' ')} {value}" for key, value in told.items() if value is not None]
    return ", ".join([spec.format, *parts])


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
    return isinstance(spec, KernelBasisSpec) and _filled(shape, spec, int8=True).spec.format == DenseSpec.format


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


def choose(
    model: nn.Module,
    images: np.ndarray,
    asked: Asked,
    measured: Survey,
    *,
    table: CostTable,
    modelled: Modelled | None = None,
    memory: Path | None = None,
    held_out: Sequence[Tensor] | None = None,
    rehearse: Rehearse | None = None,
    report: Callable[[str], None] = log.info,
) -> Found:
    """Formats for the layers of a network so that it meets the budget; nothing is trained.

    Args:
        model: dense, on the CPU; it is not changed.
        images: normalised `(N, C, H, W)`.
        asked: budget, method and rule.
        measured: of this network.
        table: of the times of layers; what it lacks is measured and kept.
        modelled: of this network, too, where cycles or energy are limited.
        memory: file of the sensitivities, so that a stopped search goes on; None keeps none.
        held_out: batches on which sensitivity is measured; `images` by default.
        rehearse: runs the network of a plan untrained; where latency is limited, plans are made anew until what their
            networks take agrees with the limit. None takes the sum of the layers for it.
        report: called with one line per step.

    Raises:
        BudgetError: the budget cannot be met.
        SpecError: the method does not take the plan.
    """
    import torch

    whole = references(measured, modelled)
    limits = asked.budget.bounds(whole)
    if modelled is not None:  # zeros differ from layer to layer, whatever their shape
        measured = replace(measured, shapes=tuple(alone(measured.shapes)))
    first = torch.from_numpy(images[:1])
    candidates = _candidates(asked, model, first, measured, limits)
    open_ = {name: specs for name, specs in candidates.items() if not isinstance(specs, Kept) and specs}
    price = _priced(table, measured, modelled, limits, report)
    _price_all(measured, candidates, price, report)
    fixed = {name: _beyond(name, measured, modelled, price) for name in limits}

    def found_with(spoils: Callable[[str, Spec], float], price: Costs, fixed: Mapping[str, float]) -> Found:
        return find(
            measured.shapes, candidates, price, spoils, limits, rule=asked.rule, margin=asked.margin, fixed=fixed,
            order=tuple(measured.layers), references=whole,
        )  # fmt: skip

    found_with(lambda *_: 0.0, price, fixed)  # what cannot be met is refused before more is measured
    batches = [torch.from_numpy(images)] if held_out is None else held_out
    spoils = _damage(model, batches, open_, memory, report)
    plan, factors = found_with(spoils, price, fixed), dict[Place, float]()
    if rehearse is not None and "latency" in limits:
        again = partial(found_with, spoils)
        plan, factors = rehearsed(plan, rehearse, again, price, measured.shapes, candidates, report)
    priced = _times_behind(measured, candidates, table, factors) if "latency" in limits else ()
    unpriced = {name: UNPRICED for name in weight_layers(model) if name not in measured.layers}
    plan = replace(plan, priced=priced, unpriced=unpriced)
    if plan.changed:
        asked.trainer().plan(model, first, plan.plan())  # what it would refuse is refused now
    return plan


def _candidates(
    asked: Asked, model: nn.Module, example: Tensor, measured: Survey, limits: Mapping[str, float]
) -> dict[str, Sequence[Spec] | Kept]:
    """In steps of this machine's vectors; where time is limited, none for a layer without a time of its own."""
    lanes = require_native().lanes(choose_isa())
    found = asked.candidates(model, example, measured.shapes, Target(step=lanes))
    parts = {name: PART for name, seconds in measured.layers.items() if not seconds} if "latency" in limits else {}
    return found | parts


def references(measured: Survey, modelled: Modelled | None) -> dict[str, float]:
    """What shares of a budget are of."""
    return measured.references | ({} if modelled is None else modelled.references)


def _damage(
    model: nn.Module,
    batches: Sequence[Tensor],
    candidates: Mapping[str, Sequence[Spec]],
    memory: Path | None,
    report: Callable[[str], None],
) -> Callable[[str, Spec], float]:
    """What a layer in a format is expected to spoil."""
    found, spoilt = _sensitivities(model, batches, candidates, memory, report), _errors(model, candidates)
    return lambda name, spec: found[name, spec.format].damage(spoilt[name, spec])


def alone(shapes: Sequence[LayerShape]) -> list[LayerShape]:
    """Every layer by itself."""
    return [replace(shape, layers=(name,)) for shape in shapes for name in shape.layers]


def _beyond(cost: str, measured: Survey, modelled: Modelled | None, price: Costs) -> float:
    """What the network costs beyond the layers that have a price; a model of a machine knows layers alone."""
    if cost == "latency":
        return measured.rest
    if modelled is not None and cost in COSTS:
        return sum((modelled.costs(name, None)[cost] for name in modelled.layers if name not in measured.layers), 0.0)
    whole = measured.bytes if cost == "bytes" else measured.macs
    return whole - sum(price(shape, None)[cost] * shape.count for shape in measured.shapes)


def _priced(
    table: CostTable,
    measured: Survey,
    modelled: Modelled | None,
    limits: Mapping[str, float],
    report: Callable[[str], None],
) -> Costs:
    """All limited costs of a layer."""
    times = measured_costs(table, measured, report)
    sizes: dict[tuple[LayerShape, Spec | None], float] = {}
    works: dict[tuple[LayerShape, Spec | None], float] = {}

    def price(shape: LayerShape, spec: Spec | None) -> dict[str, float]:
        found = dict(times(shape, spec)) if "latency" in limits else {}
        if "bytes" in limits:
            if (shape, spec) not in sizes:
                sizes[shape, spec] = weight_bytes(shape, spec, int8=measured.int8)
            found["bytes"] = sizes[shape, spec]
        if "macs" in limits:
            if (shape, spec) not in works:
                works[shape, spec] = float(_filled(shape, spec, int8=measured.int8).macs(geometry(shape)))
            found["macs"] = works[shape, spec]
        if modelled is not None:
            counted = modelled.costs(shape.layers[0], spec, report)
            found |= {cost: value for cost, value in counted.items() if cost in limits}
        return {cost: found[cost] for cost in limits}

    return price


def weight_bytes(shape: LayerShape, spec: Spec | None, *, int8: bool) -> float:
    """Bytes of a layer's weight in the file, with random numbers at random places.

    In whole numbers a layer of factors becomes one layer for each, and what lies between them has biases.
    """
    packed = _filled(shape, spec, int8=int8)
    if not int8:
        return packed.bits() / 8
    factors = list(packed.stages().values()) if isinstance(packed, PackedTucker | PackedSvd) else []
    return packed.cast(INT8).bits() / 8 + BIAS * sum(map(len, factors[:-1]))


def _filled(shape: LayerShape, spec: Spec | None, *, int8: bool) -> Packed:
    """A layer's weight with random numbers at random places, in the form that becomes whole numbers where it does."""
    chosen = DenseSpec() if spec is None else spec
    packed: Packed = FORMATS[chosen.format].packed.random(shape.weight, chosen, np.random.default_rng(0))
    return whole_form(packed, shape.groups) if int8 else packed


def _price_all(
    measured: Survey,
    candidates: Mapping[str, Sequence[Spec] | Kept],
    price: Costs,
    report: Callable[[str], None],
) -> None:
    """Price every distinct layer in every format now, so that it is said how far that has come."""
    for number, shape in enumerate(measured.shapes, 1):
        specs = _specs_of(shape, candidates)
        report(f"layer {number} of {len(measured.shapes)}: {shape}, {len(specs)} candidates")
        for spec in (None, *specs):
            price(shape, spec)


def _specs_of(shape: LayerShape, candidates: Mapping[str, Sequence[Spec] | Kept]) -> list[Spec]:
    """What layers of one shape could become, in an order that is always the same."""
    return sorted({s for name in shape.layers if not isinstance(some := candidates[name], Kept) for s in some}, key=str)


def _times_behind(
    measured: Survey,
    candidates: Mapping[str, Sequence[Spec] | Kept],
    table: CostTable,
    factors: Mapping[Place, float],
) -> tuple[Priced, ...]:
    """Of every distinct layer what the table says of its candidates, put right, for the report."""
    found = []
    for shape in measured.shapes:
        known = {}
        for spec in _specs_of(shape, candidates):
            if (entry := table.get(shape, spec)) is not None:
                factor = factors.get((shape, spec.format), 1.0)
                right = (factor * seconds for seconds in (entry.value, entry.low, entry.high))
                known[spec] = Entry(*right, entry.detail)
        found.append(Priced(shape, measured.scale * measured.layers[shape.layers[0]], known))
    return tuple(found)


def _sensitivities(
    model: nn.Module,
    batches: Sequence[Tensor],
    candidates: Mapping[str, Sequence[Spec]],
    memory: Path | None,
    report: Callable[[str], None],
) -> damage.Known:
    """What the file knows of this network, and what it lacks, which it then knows."""
    seen = zlib.crc32(b"".join(numpy(batch).tobytes() for batch in batches))
    of = f"{checksum(model)}, images {seen:08x}"
    known = {} if memory is None else damage.load(memory, of)

    def keep(name: str, format: str, one: damage.Sensitivity) -> None:
        report(f"{name} in {format}: {one.divergence:.2g} nats where {one.error:.0%} of its energy is lost")
        known[name, format] = one
        if memory is not None:
            damage.save(known, memory, of)

    return damage.sensitivities(model, batches, candidates, known=known, report=keep)


def _errors(model: nn.Module, candidates: Mapping[str, Sequence[Spec]]) -> dict[tuple[str, Spec], float]:
    found = {}
    for name, specs in candidates.items():
        weight = numpy(model.get_submodule(name).get_parameter("weight"))
        found |= {(name, spec): error for spec, error in zip(specs, damage.errors(weight, specs))}
    return found
