"""Numbers for layers as a user hands them in, such as what they cost, and what a budget then keeps."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from dovetail.errors import SpecError
from dovetail.methods.base import Kept, Plan


def require_positive(cost: Mapping[str, float] | None, method: str) -> None:
    """`SpecError` for a cost that is no positive number."""
    for name, value in (cost or {}).items():
        if not 0 < value < float("inf"):
            raise SpecError(f"{method} cost of {name!r} must be a positive number, not {value!r}")


def by_layer(plan: Plan, numbers: Mapping[str, float], model: nn.Module, what: str) -> dict[str, float]:
    """The number that belongs to every planned layer, by its name or a glob, later ones winning.

    Args:
        plan: of the layers.
        numbers: by name or glob.
        model: whose layers they are.
        what: the numbers are, for messages.

    Raises:
        SpecError: a name matches nothing, or a layer is not named.
    """
    known = {name: value for pattern, value in numbers.items() for name in Plan({pattern: Kept("")}).resolve(model)}
    if missing := [name for name, _ in plan.specs() if name not in known]:
        raise SpecError(f"{what} says nothing of {', '.join(missing)}; name them, or keep them dense")
    return {name: known[name] for name, _ in plan.specs()}


def without_densities(plan: Plan) -> tuple[Plan, dict[str, float]]:
    """The plan with specs that keep whatever is left in the end, and the densities that some of its layers have."""
    found = {name: getattr(spec, "density", None) for name, spec in plan.specs()}
    own = {name: float(density) for name, density in found.items() if density is not None}
    layers: Mapping[str, Any] = plan.layers
    return Plan({name: replace(what, density=None) if name in own else what for name, what in layers.items()}), own


def within_budget(sizes: Tensor, prices: Tensor, share: float) -> Tensor:
    """True at the largest sizes over root of price that together cost at most `share` of all; one at least."""
    order = (sizes / prices.sqrt()).argsort(descending=True, stable=True)
    spent = prices[order].double().cumsum(0)
    count = max(1, int((spent <= share * float(spent[-1]) * (1 + 1e-9)).sum()))
    kept = torch.zeros_like(sizes, dtype=torch.bool)
    kept[order[:count]] = True
    return kept
