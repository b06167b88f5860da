"""CirCNN: block-circulant weights, from scratch or from the nearest ones of a trained network.

Source: "CirCNN: accelerating and compressing deep neural networks using block-circulant weight matrices", MICRO 2017.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from torch import nn

from dovetail.formats.base import Spec
from dovetail.formats.block_circulant import BlockCirculantSpec
from dovetail.methods.base import ParamGroups, Phase
from dovetail.methods.structured import Structured


@dataclass(kw_only=True, eq=False)
class CirCnn(Structured):
    """Each block of `size` x `size` weights is one vector in all its rotations.

    A stored number stands in `size` places of its block, so its gradient is a sum of so many: with SGD its learning
    rate is the phase's over `size`. That is the step of the dense weight, brought to the nearest circulant one, where
    blocks are whole and no weight decays; numbers that stand in fewer places of a cut block step less far, and the
    decay, too, is divided by `size`. It is our choice, as the paper's schedules are not known.
    """

    name = "circnn"
    format: ClassVar[str] = "block_circulant"

    def _spec(self, size: int, layer: Any) -> Spec:
        return BlockCirculantSpec(size=size)

    def _groups(self, phase: Phase, model: nn.Module) -> ParamGroups:
        if phase.optimizer != "sgd":
            return super()._groups(phase, model)
        groups: ParamGroups = [
            {"params": [layer.values], "lr": phase.learning_rate / layer.spec.size} for layer in self._layers.values()
        ]
        own = {id(layer.values) for layer in self._layers.values()}
        rest = [p for p in model.parameters() if p.requires_grad and id(p) not in own]
        return [*groups, {"params": rest}] if rest else groups
