"""Tucker-2 as a torch layer: three convolutions, or one with the recomposed weight."""

from __future__ import annotations

from dataclasses import replace
from typing import Self

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dovetail.formats.layer import FormatConv2d, first_parameter, numpy, parameter, require_ungrouped
from dovetail.formats.tucker.packed import PackedTucker
from dovetail.formats.tucker.spec import TuckerSpec


class TuckerConv2d(FormatConv2d):
    """Parameters `input` (D1, C), `core` (D2, D1, R, S), `output` (K, D2); no norm or activation in between.

    A factor that the spec folds into the core is None.
    """

    spec: TuckerSpec
    input: nn.Parameter | None
    output: nn.Parameter | None

    def __init__(self, like: nn.Conv2d | FormatConv2d, packed: PackedTucker) -> None:
        require_ungrouped(like, packed.spec)
        super().__init__(like, packed.spec)
        output, core, inputs = (parameter(factor, first_parameter(like)) for factor in packed.factors())
        into, out = packed.spec.folds(packed.shape)
        self.register_parameter("input", None if into else inputs)
        self.core = core
        self.register_parameter("output", None if out else output)

    @classmethod
    def from_dense(cls, layer: nn.Conv2d, spec: TuckerSpec) -> Self:
        """HOSVD + HOOI of the layer's weight; the layer must have groups = 1."""
        require_ungrouped(layer, spec)
        return cls(layer, PackedTucker.from_dense(numpy(layer.weight), spec))

    def weight(self) -> Tensor:
        """(K, C, R, S), recomposed."""
        weight: Tensor = self.core
        if self.input is not None:
            weight = torch.einsum("bars,ac->bcrs", weight, self.input)
        return weight if self.output is None else torch.einsum("kb,bcrs->kcrs", self.output, weight)

    def factored(self, x: Tensor) -> Tensor:
        """1x1, core, 1x1; stride, padding and dilation belong to the core."""
        if self.input is not None:
            x = F.conv2d(x, self.input[:, :, None, None])
        last = self.output is None
        x = F.conv2d(x, self.core, self.bias if last else None, self.stride, self.padding, self.dilation)
        return x if self.output is None else F.conv2d(x, self.output[:, :, None, None], self.bias)

    def compute(self, x: Tensor) -> Tensor:
        """Training runs the factored form: it is cheaper than recomposing."""
        return self.factored(x)

    def pack(self) -> PackedTucker:
        """The factors as numpy."""
        k, c = self.weight_shape[:2]
        output = np.eye(k, dtype=np.float32) if self.output is None else numpy(self.output)
        inputs = np.eye(c, dtype=np.float32) if self.input is None else numpy(self.input)
        return PackedTucker.from_factors(output, numpy(self.core), inputs, self.spec)

    def _slice(self, out: Tensor, into: Tensor) -> None:
        """Rows of `output`, columns of `input`; a rank above the channels that are left is taken into the core.

        So is one that is as large as they are, where the spec folds such.
        """
        core, fold = self.core.detach(), self.spec.fold
        inputs = None if self.input is None else self.input.detach()[:, into]
        output = None if self.output is None else self.output.detach()[out]
        core = core[:, into] if inputs is None else core
        core = core[out] if output is None else core
        if inputs is not None and len(inputs) >= inputs.shape[1] + (not fold):
            core = torch.einsum("bars,ac->bcrs", core, inputs)
            inputs = None if fold else torch.eye(inputs.shape[1]).to(inputs)
        if output is not None and output.shape[1] >= len(output) + (not fold):
            core = torch.einsum("kb,bars->kars", output, core)
            output = None if fold else torch.eye(len(output)).to(output)
        self.output, self.input = _held(output, self.core), _held(inputs, self.core)
        self.core = parameter(core, self.core)
        self.spec = replace(self.spec, rank_in=core.shape[1], rank_out=core.shape[0])


def _held(factor: Tensor | None, like: Tensor) -> nn.Parameter | None:
    return None if factor is None else parameter(factor, like)


from_dense = TuckerConv2d.from_dense
from_packed = TuckerConv2d.from_packed
