"""PermDNN: permuted-diagonal weights, from scratch or from the nearest ones of a trained network.

Source: "PermDNN: efficient compressed DNN architecture with permuted diagonal matrices", MICRO 2018. The search for the
best diagonal of each block is not in the paper.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from torch import Tensor, nn

from dovetail.errors import SpecError
from dovetail.formats.base import Spec
from dovetail.formats.layer import first_parameter
from dovetail.formats.permuted_diagonal import PermutedDiagonalSpec
from dovetail.methods.base import Plan
from dovetail.methods.structured import Structured

log = logging.getLogger("dovetail.methods")


@dataclass(kw_only=True, eq=False)
class PermDnn(Structured):
    """Each block of `size` x `size` weights keeps one diagonal.

    Attributes:
        index: which diagonal. "natural" follows from the block's place, needs no storage, and makes the layer `size`
            dense products for the engine; a layer whose like would never mix all its inputs when stacked takes a random
            index instead, and a warning says so. "random" draws from `seed`. "searched" takes the diagonal of largest
            norm of the trained weight (with start="pretrained").
        seed: of random indices.
    """

    name = "permdnn"
    format: ClassVar[str] = "permuted_diagonal"

    index: Literal["natural", "random", "searched"] = "natural"
    seed: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.index == "searched" and self.start == "scratch":
            raise SpecError("permdnn searches the best diagonals of trained weights; start='scratch' has none")
        PermutedDiagonalSpec(size=self.size, index=self.index, seed=self.seed if self.index == "random" else None)

    def plan(self, model: nn.Module, example: Tensor, given: Plan | None = None) -> Plan:
        """See `Structured.plan`; says which layers take a random index in place of the natural one."""
        plan = super().plan(model, example, given)
        for name, spec in plan.specs():
            if self.index == "natural" and isinstance(spec, PermutedDiagonalSpec) and spec.index == "random":
                inputs = first_parameter(model.get_submodule(name)).shape[1]
                log.warning(
                    "layer %r takes a random index: with the natural one of size %d, layers of %d inputs one after "
                    "another never mix them all; sizes={%r: ...} gives it another size",
                    *(name, spec.size, inputs, name),
                )
        return plan

    def _spec(self, size: int, layer: Any) -> Spec:
        if self.index != "natural":
            return PermutedDiagonalSpec(size=size, index=self.index, seed=self.seed if self.index == "random" else None)
        return PermutedDiagonalSpec(size=size).mixing(tuple(layer.weight.shape), self.seed)
