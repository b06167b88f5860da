"""Tucker-2 as a torch layer: three convolutions, or one with the recomposed weight."""

from __future__ import annotations

from typing import Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dovetail.formats.layer import FormatConv2d, numpy
from dovetail.formats.tucker.packed import PackedTucker
from dovetail.formats.tucker.spec import TuckerSpec


class TuckerConv2d(FormatConv2d):
    """Parameters `input` (D1, C), `core` (D2, D1, R, S), `output` (K, D2); no norm or activation in between."""

    spec: TuckerSpec

    def __init__(self, like: nn.Conv2d, packed: PackedTucker) -> None:
        super().__init__(like, packed.spec)
        output, core, inputs = (nn.Parameter(torch.from_numpy(factor.copy()).to(like.weight)) for factor in packed.factors())
        self.input, self.core, self.output = inputs, core, output

    @classmethod
    def from_dense(cls, layer: nn.Conv2d, spec: TuckerSpec) -> Self:
        """HOSVD + HOOI of the layer's weight; the layer must have groups = 1."""
        spec.check(tuple(layer.weight.shape))
        return cls(layer, PackedTucker.from_dense(numpy(layer.weight), spec))

    def weight(self) -> Tensor:
        """(K, C, R, S), recomposed."""
        return torch.einsum("kb,bars,ac->kcrs", self.output, self.core, self.input)

    def factored(self, x: Tensor) -> Tensor:
        """1x1, core, 1x1; stride, padding and dilation belong to the core."""
        x = F.conv2d(x, self.input[:, :, None, None])
        x = F.conv2d(x, self.core, None, self.stride, self.padding, self.dilation)
        return F.conv2d(x, self.output[:, :, None, None], self.bias)

    def compute(self, x: Tensor) -> Tensor:
        """Training runs the factored form: it is cheaper than recomposing."""
        return self.factored(x)

    def pack(self) -> PackedTucker:
        """The three factors as numpy."""
        return PackedTucker.from_factors(numpy(self.output), numpy(self.core), numpy(self.input), self.spec)
