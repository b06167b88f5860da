"""From costs and damages to a plan: which format each layer gets, and why the others stay dense."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Literal, get_args

from dovetail.errors import BudgetError
from dovetail.formats.base import Spec
from dovetail.methods.base import Kept, Plan
from dovetail.program.layers import LayerShape
from dovetail.search.allocate import UNKNOWN, Allocation, allocate, tdc_within
from dovetail.search.candidates import Candidate, Group, stored
from dovetail.search.table import Entry

Costs = Callable[[LayerShape, Spec | None], Mapping[str, float]]
Rule = Literal["knapsack", "tdc"]
THETA = {"knapsack": 0.1, "tdc": 0.15}
"""Margins by which a candidate must beat the dense layer: TDC's as reconstructed, ours chosen."""


@dataclass(frozen=True)
class Decision:
    """What becomes of one layer, with the numbers that decided.

    Attributes:
        spec: None where it stays dense, and then `reason` says why.
        dense, chosen: predicted cost, in the first limit's unit.
        best: of all candidates, those that were not worth it included; None where there are none.
        damage: expected, of the chosen one.
    """

    name: str
    shape: str
    spec: Spec | None
    reason: str
    dense: float
    chosen: float
    best: float | None
    damage: float

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        return asdict(self) | {"spec": None if self.spec is None else self.spec.to_json()}


@dataclass(frozen=True)
class Priced:
    """What was measured of the layers of one shape.

    Attributes:
        shape: with the names of the layers.
        dense: seconds of one of them, as it is.
        candidates: format → what it takes, over dense.
    """

    shape: LayerShape
    dense: float
    candidates: Mapping[Spec, Entry]

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        return {
            "shape": str(self.shape),
            "weight": list(self.shape.weight),
            "layers": list(self.shape.layers),
            "dense": self.dense,
            "candidates": [
                {"spec": spec.to_json(), "ratio": entry.value, "low": entry.low, "high": entry.high}
                for spec, entry in self.candidates.items()
            ],
        }


@dataclass(frozen=True)
class Found:
    """A plan and what it is predicted to cost.

    Attributes:
        decisions: of every weight layer that has a price, in order of execution.
        predicted, dense: cost → of the whole network.
        fixed: cost → of everything but the weight layers.
        limits: cost → what it must not exceed.
        damage: expected, of all layers together; None of a thinner network, of which nothing is known before training.
        rule: that decided.
        priced: the times behind the decisions, for whoever has measured some.
        rehearsals: seconds that were predicted from layers, and that a network of such a plan then took untrained, of
            each that ran; the prices are put right by them.
        width: share of the channels, where the plan is a thinner network and no layer has a format.
        unpriced: other weight layer → why it stays dense.
    """

    decisions: tuple[Decision, ...]
    predicted: Mapping[str, float]
    dense: Mapping[str, float]
    fixed: Mapping[str, float]
    limits: Mapping[str, float]
    damage: float | None
    rule: str
    margin: float
    priced: tuple[Priced, ...] = ()
    rehearsals: tuple[tuple[float, float], ...] = ()
    width: float | None = None
    unpriced: Mapping[str, str] = field(default_factory=dict)

    def plan(self) -> Plan:
        """For a method: layer → spec, or why it stays dense."""
        decided = {d.name: Kept(d.reason) if d.spec is None else d.spec for d in self.decisions}
        return Plan({**decided, **{name: Kept(reason) for name, reason in self.unpriced.items()}})

    @property
    def changed(self) -> tuple[Decision, ...]:
        """The layers that get a format; none where there is nothing to gain, or where a thinner network is the plan."""
        return tuple(decision for decision in self.decisions if decision.spec is not None)

    @property
    def gains(self) -> bool:
        """Whether there is a network to train."""
        return self.width is not None or bool(self.changed)

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        own = {f.name: getattr(self, f.name) for f in fields(self)}
        return own | {
            "decisions": [decision.to_json() for decision in self.decisions],
            "priced": [priced.to_json() for priced in self.priced],
        }


def require_rule(rule: Rule, margin: float | None, limits: Mapping[str, Any]) -> float:
    """The margin that holds: the given one or the rule's own.

    Raises:
        BudgetError: there is no such rule or margin, or the rule does not take these limits.
    """
    if rule not in get_args(Rule):
        raise BudgetError(f"unknown rule {rule!r}; known are {', '.join(get_args(Rule))}")
    if rule == "tdc" and len(limits) > 1:
        raise BudgetError(f"TDC's rule holds one limit, not {', '.join(limits)}; take the knapsack for several")
    found = THETA[rule] if margin is None else margin
    if not 0 <= found < 1:
        raise BudgetError(f"a margin of {margin} is none; give a share of the dense cost, from 0 to below 1")
    return found


def find(
    shapes: Sequence[LayerShape],
    candidates: Mapping[str, Sequence[Spec] | Kept],
    costs: Costs,
    damage: Callable[[str, Spec], float],
    limits: Mapping[str, float],
    *,
    rule: Rule = "knapsack",
    margin: float | None = None,
    fixed: Mapping[str, float] | None = None,
    order: Sequence[str] = (),
    references: Mapping[str, float] = UNKNOWN,
) -> Found:
    """Choose a candidate for every layer.

    Args:
        shapes: the network's distinct layers, with the names of those that have them.
        candidates: layer → what it could become, or why it may not change; layers that are not named stay dense.
        costs: of one layer in a format, dense for None, with every limited cost.
        damage: of a layer in a format.
        limits: cost → its bound.
        rule: "knapsack" over costs and damage, or TDC's own, which takes one limit.
        margin: by which a candidate must beat the dense layer, as a share; the rule's own where None.
        fixed: costs of everything but the weight layers.
        order: of the layers in the result, as they run; by default that of `shapes`.
        references: costs of which errors tell shares.

    Raises:
        BudgetError: the limits cannot be met, or the rule does not take them.
    """
    margin = require_rule(rule, margin, limits)
    fixed = dict.fromkeys(limits, 0.0) | dict(fixed or {})
    of = {name: shape for shape in shapes for name in shape.layers}
    groups = [_group(name, of[name], candidates.get(name, Kept("not in the search")), costs, damage) for name in of]
    allocation, first = _allocated(groups, limits, rule, margin, fixed, references), next(iter(limits))
    dense = {name: fixed[name] + sum(group.dense.costs[name] for group in groups) for name in limits}
    needed = any(dense[name] > limit for name, limit in limits.items())
    reasons = {name: what.reason for name, what in candidates.items() if isinstance(what, Kept)}
    decisions = {}
    for group in groups:
        chosen = allocation.chosen[group.name]
        kept = reasons.get(group.name) or _reason(group, first, margin, needed=needed)
        told = "" if chosen.spec is not None else kept
        decisions[group.name] = _decision(group, of[group.name], chosen, first, told)
    return Found(
        tuple(decisions[name] for name in (order or of)),
        {name: allocation.cost(name) for name in limits},
        dense,
        fixed,
        dict(limits),
        allocation.damage,
        rule,
        margin,
    )


def _group(
    name: str,
    shape: LayerShape,
    candidates: Sequence[Spec] | Kept,
    costs: Costs,
    damage: Callable[[str, Spec], float],
) -> Group:
    specs = () if isinstance(candidates, Kept) else candidates
    return Group(
        name,
        Candidate(None, costs(shape, None), 0.0, stored(None, shape)),
        tuple(Candidate(s, costs(shape, s), damage(name, s), stored(s, shape)) for s in specs),
    )


def _allocated(
    groups: Sequence[Group],
    limits: Mapping[str, float],
    rule: Rule,
    margin: float,
    fixed: Mapping[str, float],
    references: Mapping[str, float],
) -> Allocation:
    if rule == "knapsack":
        return allocate(groups, limits, margin=margin, fixed=fixed, references=references)
    ((name, limit),) = limits.items()
    return tdc_within(groups, name, limit, theta=margin, fixed=fixed, references=references)


def _reason(group: Group, cost: str, margin: float, *, needed: bool) -> str:
    """Why a layer stays dense that could change; `needed`: the dense network does not keep the budget."""
    if not group.others:
        return "no format takes fewer multiplications"
    best = min(candidate.costs[cost] for candidate in group.others) / group.dense.costs[cost]
    if best > 1 - margin:
        return f"nothing gains {margin:.0%}: the best takes {best:.0%} of the dense layer"
    if needed:
        return f"other layers spoil less for what they save (the best here would take {best:.0%})"
    return f"not needed: dense is within the budget (the best would take {best:.0%})"


def _decision(group: Group, shape: LayerShape, chosen: Candidate, cost: str, reason: str) -> Decision:
    best = min((candidate.costs[cost] for candidate in group.others), default=None)
    dense = group.dense.costs[cost]
    return Decision(group.name, str(shape), chosen.spec, reason, dense, chosen.costs[cost], best, chosen.damage)
