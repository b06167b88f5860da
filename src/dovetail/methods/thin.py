"""The control that every table needs: a network trained as it is."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass

from torch import Tensor, nn

from dovetail.errors import SpecError
from dovetail.methods.base import Kept, Plan, SinglePhase, weight_layers


@dataclass(kw_only=True, eq=False)
class Thin(SinglePhase):
    """Trains the network that the caller supplies, all layers dense: same epochs, losses and teacher as the others.

    A thinner network (fewer channels or layers) is the rival of every compressed one. The *original* network trained so
    is the dense control, whose accuracy the others are measured against.
    """

    name = "thin"

    def plan(self, model: nn.Module, example: Tensor, given: Plan | None = None) -> Plan:
        """Every layer is kept; a given plan that changes one is a `SpecError`."""
        if given is not None and any(given.specs()):
            raise SpecError("thin trains a network as it is and takes no formats; leave the plan out")
        return Plan(dict.fromkeys(weight_layers(model), Kept("trained as it is")))

    def recordable(self) -> Hashable:
        """The loss reads nothing but the model."""
        return ()
