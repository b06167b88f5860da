"""Tucker-2 as a torch layer: three convolutions, or one with the recomposed weight."""

from __future__ import annotations

from dataclasses import replace
from typing import Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dovetail.formats.layer import FormatConv2d, first_parameter, numpy, parameter, require_ungrouped
from dovetail.formats.tucker.packed import PackedTucker
from dovetail.formats.tucker.spec import TuckerSpec


class TuckerConv2d(FormatConv2d):
    """Parameters `input` (D1, C), `core` (D2, D1, R, S), `output` (K, D2); no norm or activation in between."""

    spec: TuckerSpec

    def __init__(self, like: nn.Conv2d | FormatConv2d, packed: PackedTucker) -> None:
        require_ungrouped(like, packed.spec)
        super().__init__(like, packed.spec)
        output, core, inputs = (parameter(factor, first_parameter(like)) for factor in packed.factors())
        self.input, self.core, self.output = inputs, core, output

    @classmethod
    def from_dense(cls, layer: nn.Conv2d, spec: TuckerSpec) -> Self:
        """HOSVD + HOOI of the layer's weight; the layer must have groups = 1."""
        require_ungrouped(layer, spec)
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

    def _slice(self, out: Tensor, into: Tensor) -> None:
        """Rows of `output`, columns of `input`; a rank above the channels that are left is taken into the core."""
        output, core, inputs = self.output.detach()[out], self.core.detach(), self.input.detach()[:, into]
        if inputs.shape[0] > inputs.shape[1]:
            core, inputs = torch.einsum("bars,ac->bcrs", core, inputs), torch.eye(inputs.shape[1]).to(inputs)
        if output.shape[1] > output.shape[0]:
            core, output = torch.einsum("kb,bars->kars", output, core), torch.eye(output.shape[0]).to(output)
        self.output, self.core = parameter(output, self.output), parameter(core, self.core)
        self.input = parameter(inputs, self.input)
        self.spec = replace(self.spec, rank_in=inputs.shape[0], rank_out=output.shape[1])


from_dense = TuckerConv2d.from_dense
from_packed = TuckerConv2d.from_packed
