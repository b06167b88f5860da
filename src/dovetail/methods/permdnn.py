"""PermDNN: permuted-diagonal weights, from scratch or from the nearest ones of a trained network.

Source: "PermDNN: efficient compressed DNN architecture with permuted diagonal matrices", MICRO 2018. The search for the
best diagonal of each block is not in the paper.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence, Set
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any, ClassVar, Literal

from torch import nn

from dovetail.errors import SpecError
from dovetail.formats.base import Spec
from dovetail.formats.layer import first_parameter
from dovetail.formats.permuted_diagonal import PermutedDiagonalSpec, Reach, reach
from dovetail.methods.base import Kept, Plan
from dovetail.methods.structured import Structured

log = logging.getLogger("dovetail.methods")


@dataclass(kw_only=True, eq=False)
class PermDnn(Structured):
    """Each block of `size` x `size` weights keeps one diagonal.

    Attributes:
        index: which diagonal. "natural" follows from the block's place, needs no storage, and makes the layer `size`
            dense products for the engine; a layer whose like would never mix all its inputs when stacked, or that does
            not mix those of the layer before, takes a random index instead, and a warning says so. "random" draws from
            `seed`. "searched" takes the diagonal of largest norm of the trained weight (with start="pretrained").
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

    def _in_order(self, plan: Plan, model: nn.Module, order: Sequence[str], given: Set[str]) -> Plan:
        """Random indices where natural ones would not mix, and a warning for each; of given ones only the warning."""
        layers = dict(plan.layers)
        for name, spec in plan.specs():
            if self.index == "natural" and _index(spec) == "random" and name not in given:
                inputs = first_parameter(model.get_submodule(name)).shape[1]
                log.warning(
                    "layer %r takes a random index: with the natural one of size %d, layers of %d inputs one after "
                    "another never mix them all; sizes={%r: ...} gives it another size",
                    *(name, spec.size, inputs, name),
                )
        for before, name in pairwise(name for name in order if not _depthwise(model.get_submodule(name))):
            first, spec = layers[before], layers[name]
            reached = _reached(first, model.get_submodule(before), spec, model.get_submodule(name))
            if reached is None or reached.mixes:
                continue
            does = "keeps its natural index" if name in given else "takes a random index"
            log.warning(
                "layer %r %s: with natural ones of size %d after %d of layer %r, an output reaches %.2g of what its "
                "inputs could; sizes={%r: ...} gives it another size",
                *(name, does, spec.size, first.size, before, reached.found / reached.best, name),
            )
            if name not in given:
                layers[name] = replace(spec, index="random", seed=self.seed)
        return Plan(layers)

    def _spec(self, size: int, layer: Any) -> Spec:
        if self.index != "natural":
            return PermutedDiagonalSpec(size=size, index=self.index, seed=self.seed if self.index == "random" else None)
        return PermutedDiagonalSpec(size=size).mixing(tuple(layer.weight.shape), self.seed)


def _index(spec: Spec | Kept) -> str:
    return spec.index if isinstance(spec, PermutedDiagonalSpec) else ""


def _depthwise(layer: Any) -> bool:
    """Whether every channel stays by itself, so that the layers around it follow one another."""
    return isinstance(layer, nn.Conv2d) and layer.groups == layer.in_channels == layer.out_channels > 1


def _reached(first: Spec | Kept, before: nn.Module, spec: Spec | Kept, layer: nn.Module) -> Reach | None:
    """How far a layer reaches into the one before; None where they have no natural classes or are no neighbours.

    Neighbours have as many channels between them, or maps that a linear layer reads flattened.
    """
    if not isinstance(first, PermutedDiagonalSpec) or not isinstance(spec, PermutedDiagonalSpec):
        return None
    shape, after = tuple(first_parameter(before).shape), tuple(first_parameter(layer).shape)
    flattened = (len(shape), len(after)) == (4, 2) and after[1] % shape[0] == 0
    if (first.index, spec.index) != ("natural", "natural") or not (flattened or after[1] == shape[0]):
        return None
    return reach(first, shape, spec, after)
