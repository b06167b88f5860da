"""Allocators: of every group's candidates one, so that the costs stay within their limits and little is spoilt.

`allocate` is a multiple-choice knapsack over measured costs; `tdc_rule` is the rule of TDC (PPoPP 2023), which decides
layer by layer. Both leave a group dense where a candidate does not beat the dense layer by a margin.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Final

import numpy as np

from dovetail.errors import BudgetError
from dovetail.search.budget import told
from dovetail.search.candidates import Candidate, Group

BINS = 4096
"""Into which the first limit is divided; a cost is rounded up to them, and what that loses is given back in the end."""
ROUNDS = 24
"""Halvings of a price while a further limit is brought in."""
TIE = 0.01
"""Share of the cheapest cost by which TDC's rule takes another candidate for equal."""
UNKNOWN: Final[Mapping[str, float]] = MappingProxyType({})


@dataclass(frozen=True)
class Allocation:
    """A candidate for every group.

    Attributes:
        chosen: by group, in order.
        fixed: costs of everything that is in no group.
    """

    chosen: Mapping[str, Candidate]
    fixed: Mapping[str, float]

    def cost(self, name: str) -> float:
        """In all."""
        return self.fixed.get(name, 0.0) + sum(candidate.costs[name] for candidate in self.chosen.values())

    @property
    def damage(self) -> float:
        """Expected, added up."""
        return sum(candidate.damage for candidate in self.chosen.values())


def worthwhile(group: Group, cost: str, margin: float) -> Group:
    """The group without candidates that do not beat its dense layer in `cost` by `margin`, a share of it."""
    most = (1.0 - margin) * group.dense.costs[cost]
    kept = tuple(candidate for candidate in group.others if candidate.costs[cost] <= most)
    return replace(group, others=kept)


def allocate(
    groups: Sequence[Group],
    limits: Mapping[str, float],
    *,
    margin: float = 0.1,
    fixed: Mapping[str, float] | None = None,
    references: Mapping[str, float] = UNKNOWN,
) -> Allocation:
    """Least damage within the limits: exact for one limit but for the rounding of costs to `BINS` parts of it.

    Of several limits the first is kept so; the others get prices, which rise until they hold, too. So with several
    there may be a better allocation.

    Args:
        groups: with all costs that are limited.
        limits: cost → its bound, in the unit of the costs.
        margin: a candidate must be cheaper than dense by this share, in the first limited cost.
        fixed: costs of everything that is in no group.
        references: costs of which errors tell shares.

    Raises:
        BudgetError: nothing meets a limit; it says the least that there is, and which group holds it up most.
    """
    fixed = dict.fromkeys(limits, 0.0) | dict(fixed or {})
    first, *others = limits
    groups = [worthwhile(group, first, margin) for group in groups]
    for name, limit in limits.items():
        _require_possible(groups, name, limit, fixed[name], references)
    prices = dict.fromkeys(others, 0.0)
    found = _priced(groups, first, limits[first] - fixed[first], prices, fixed)
    for name in others:
        found = _with_price(groups, limits, name, prices, found, fixed)
    for name, limit in limits.items():
        if found.cost(name) > limit * (1 + 1e-9):
            raise BudgetError(
                "no allocation was found that holds all limits at once: "
                f"{name} comes to {told(name, found.cost(name), references)} of at most "
                f"{told(name, limit, references)}; relax one of {', '.join(limits)}"
            )
    return found


def tdc_rule(
    groups: Sequence[Group],
    cost: str,
    *,
    theta: float = 0.15,
    fixed: Mapping[str, float] | None = None,
) -> Allocation:
    """TDC's own: the cheapest of the candidates, layer by layer.

    Among those within `TIE` of the cheapest the one that stores most is taken: it costs nothing and spoils least. A
    layer that would gain less than `theta` of its dense cost stays dense. No budget and no damage is asked for.

    Source: TDC (PPoPP 2023), section on rank selection; theta and the tie as reconstructed. The saving of
    multiplications that is demanded there is not: more of it leaves fewer candidates, never cheaper ones.
    """
    chosen = {}
    for group in groups:
        best = min((candidate.costs[cost] for candidate in group.others), default=np.inf)
        equal = [candidate for candidate in group.others if candidate.costs[cost] <= best * (1 + TIE)]
        gain = (group.dense.costs[cost] - best) / group.dense.costs[cost] if equal else 0.0
        chosen[group.name] = max(equal, key=lambda c: c.size) if equal and gain >= theta else group.dense
    return Allocation(chosen, {cost: 0.0} | dict(fixed or {}))


def tdc_within(
    groups: Sequence[Group],
    cost: str,
    limit: float,
    *,
    theta: float = 0.15,
    fixed: Mapping[str, float] | None = None,
    references: Mapping[str, float] = UNKNOWN,
) -> Allocation:
    """What TDC's rule chooses, if that keeps the limit.

    Raises:
        BudgetError: it does not.
    """
    _require_possible(groups, cost, limit, dict(fixed or {}).get(cost, 0.0), references)
    found = tdc_rule(groups, cost, theta=theta, fixed=fixed)
    if found.cost(cost) > limit * (1 + 1e-9):
        least = {group.name: min(candidate.costs[cost] for candidate in group.all) for group in groups}
        lost = {name: chosen.costs[cost] - least[name] for name, chosen in found.chosen.items()}
        held = max(lost, key=lambda name: lost[name])
        raise BudgetError(
            f"TDC's rule comes to {cost} {told(cost, found.cost(cost), references)}, more than "
            f"{told(cost, limit, references)}: layers that gain less than {theta:.0%} stay dense; most could "
            f"be had from {held!r} ({told(cost, found.chosen[held].costs[cost])}, {told(cost, least[held])} at best); "
            "relax the budget or the margin"
        )
    return found


def _require_possible(
    groups: Sequence[Group], name: str, limit: float, fixed: float, references: Mapping[str, float]
) -> None:
    least = {group.name: min(candidate.costs[name] for candidate in group.all) for group in groups}
    best = fixed + sum(least.values())
    if best <= limit * (1 + 1e-9):
        return
    held = max(least, key=lambda group: least[group], default="")
    rest = f", {told(name, fixed)} of it outside of all layers that could change" if fixed > 0 else ""
    layer = f"; most of it is held by {held!r} ({told(name, least[held])})" if held else ""
    wanted, least_of_all = (told(name, value, references) for value in (limit, best))
    raise BudgetError(f"{name} of {wanted} cannot be met: the best that can is {least_of_all}{rest}{layer}")


def _priced(
    groups: Sequence[Group], first: str, room: float, prices: Mapping[str, float], fixed: Mapping[str, float]
) -> Allocation:
    """Least damage plus priced costs, within `room` of the first cost."""

    def loss(candidate: Candidate) -> float:
        return candidate.damage + sum(price * candidate.costs[name] for name, price in prices.items())

    chosen = _knapsack([group.all for group in groups], lambda c: c.costs[first], loss, room)
    return Allocation(dict(zip((group.name for group in groups), chosen)), fixed)


def _with_price(
    groups: Sequence[Group],
    limits: Mapping[str, float],
    name: str,
    prices: dict[str, float],
    found: Allocation,
    fixed: Mapping[str, float],
) -> Allocation:
    """With the least price at which the further limit called `name` holds; `prices` keeps it."""
    if found.cost(name) <= limits[name]:
        return found
    first = next(iter(limits))

    def at(price: float) -> Allocation:
        return _priced(groups, first, limits[first] - fixed[first], {**prices, name: price}, fixed)

    low, high = 0.0, 1.0 / max(limits[name], 1e-300)
    while (found := at(high)).cost(name) > limits[name] and high < 1e30 / max(limits[name], 1e-300):
        low, high = high, 16 * high
    for _ in range(ROUNDS):
        middle = (low * high) ** 0.5 if low > 0 else high / 16
        trial = at(middle)
        low, high, found = (low, middle, trial) if trial.cost(name) <= limits[name] else (middle, high, found)
    prices[name] = high
    return found


def _knapsack(
    choices: Sequence[Sequence[Candidate]],
    cost: Callable[[Candidate], float],
    loss: Callable[[Candidate], float],
    room: float,
) -> list[Candidate]:
    """One of each so that the losses add up to least and the costs to at most `room`; there is such a choice.

    By dynamic programming over the room in `BINS` parts, costs rounded up; where rounding alone forbids everything the
    cheapest are taken. What is left of the room then buys the best exchanges, one at a time.
    """
    unit = room / BINS if room > 0 else 1.0
    best = np.zeros(BINS + 1)
    taken: list[np.ndarray] = []
    for some in choices:
        rows = np.full((len(some), BINS + 1), np.inf)
        for row, candidate in zip(rows, some):
            need = int(np.ceil(cost(candidate) / unit - 1e-9))
            if need <= BINS:
                row[need:] = best[: BINS + 1 - need] + loss(candidate)
        taken.append(rows.argmin(axis=0))
        best = rows.min(axis=0)
    if not np.isfinite(best[BINS]):
        chosen = [min(some, key=cost) for some in choices]
    else:
        chosen, left = [], BINS
        for some, picks in zip(choices[::-1], taken[::-1]):
            chosen.append(some[int(picks[left])])
            left -= int(np.ceil(cost(chosen[-1]) / unit - 1e-9))
        chosen.reverse()
    return _exchanged(choices, chosen, cost, loss, room)


def _exchanged(
    choices: Sequence[Sequence[Candidate]],
    chosen: list[Candidate],
    cost: Callable[[Candidate], float],
    loss: Callable[[Candidate], float],
    room: float,
) -> list[Candidate]:
    """Exchanges of single candidates that lessen the loss within the room, the greatest gain first, until none does."""
    while True:
        left = room - sum(map(cost, chosen))
        gains = [
            (loss(now) - loss(other), i, other)
            for i, (now, some) in enumerate(zip(chosen, choices))
            for other in some
            if loss(other) < loss(now) and cost(other) - cost(now) <= left
        ]
        if not gains:
            return chosen
        _, i, other = max(gains, key=lambda gain: gain[0])
        chosen[i] = other
