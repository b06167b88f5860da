"""Formats for the layers of a network so that it meets a budget: candidates are priced, what they spoil is measured."""

from __future__ import annotations

import logging
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np

from dovetail.engine.native import choose_isa, require_native
from dovetail.fitting.modelled import Modelled
from dovetail.fitting.offers import Asked
from dovetail.fitting.prices import alone, beyond, costs_of, price_all, references, times_behind
from dovetail.fitting.rehearsals import Place, Rehearse, rehearsed
from dovetail.fitting.surveys import Survey
from dovetail.formats.base import Spec
from dovetail.formats.layer import numpy
from dovetail.methods import Kept
from dovetail.methods.base import weight_layers
from dovetail.search import damage
from dovetail.search.candidates import Target
from dovetail.search.plan import Costs, Found, find
from dovetail.search.table import CostTable
from dovetail.training.fingerprint import checksum

if TYPE_CHECKING:
    from torch import Tensor, nn

log = logging.getLogger("dovetail.fit")
PART: Final = Kept("it runs as a part of another layer, in no time of its own")
UNPRICED: Final = "it has no price of its own: it runs over several rows, or not at all"


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
    price = costs_of(table, measured, modelled, limits, report)
    price_all(measured, candidates, price, report)
    fixed = {name: beyond(name, measured, modelled, price) for name in limits}

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
    priced = times_behind(measured, candidates, table, factors) if "latency" in limits else ()
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
