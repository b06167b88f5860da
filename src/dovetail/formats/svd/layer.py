"""Low rank as torch layers: two linear maps, or two 1x1 convolutions."""

from __future__ import annotations

from dataclasses import replace
from typing import Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dovetail.formats.layer import (
    FormatConv2d,
    FormatLayer,
    FormatLinear,
    first_parameter,
    numpy,
    parameter,
    require_ungrouped,
)
from dovetail.formats.svd.packed import PackedSvd
from dovetail.formats.svd.spec import SvdSpec


class _LowRank(FormatLayer):
    """What both layers share: parameters `input` (rank, C) and `output` (K, rank)."""

    spec: SvdSpec

    def _hold(self, packed: PackedSvd, like: nn.Module) -> None:
        output, inputs = packed.factors()
        self.input = parameter(inputs, first_parameter(like))
        self.output = parameter(output, first_parameter(like))

    def weight(self) -> Tensor:
        """The product of the factors, in the shape of the dense weight."""
        return (self.output @ self.input).view(self.weight_shape)

    def pack(self) -> PackedSvd:
        """The two factors as numpy."""
        return PackedSvd.from_factors(numpy(self.output), numpy(self.input), self.spec, self.weight_shape)

    def _slice(self, out: Tensor, into: Tensor) -> None:
        output, inputs = shrink_rank(self.output.detach()[out], self.input.detach()[:, into])
        self.output, self.input = parameter(output, self.output), parameter(inputs, self.input)
        self.spec = replace(self.spec, rank=len(inputs))


class SvdLinear(_LowRank, FormatLinear):
    """Two linear maps with nothing in between: C to rank, rank to K."""

    def __init__(self, like: nn.Linear | FormatLinear, packed: PackedSvd) -> None:
        super().__init__(like, packed.spec)
        self._hold(packed, like)

    @classmethod
    def from_dense(cls, layer: nn.Linear, spec: SvdSpec) -> Self:
        """Truncated SVD of the layer's weight."""
        return cls(layer, PackedSvd.from_dense(numpy(layer.weight), spec))

    def compute(self, x: Tensor) -> Tensor:
        """Training runs the factored form: it is cheaper than recomposing."""
        return self.factored(x)

    def factored(self, x: Tensor) -> Tensor:
        """`(..., C)` to `(..., rank)` to `(..., K)`."""
        return F.linear(F.linear(x, self.input), self.output, self.bias)


class SvdConv2d(_LowRank, FormatConv2d):
    """Two 1x1 convolutions with nothing in between; stride and padding belong to the first."""

    def __init__(self, like: nn.Conv2d | FormatConv2d, packed: PackedSvd) -> None:
        require_ungrouped(like, packed.spec)
        super().__init__(like, packed.spec)
        self._hold(packed, like)

    @classmethod
    def from_dense(cls, layer: nn.Conv2d, spec: SvdSpec) -> Self:
        """Truncated SVD of the layer's weight; the layer must be 1x1 with groups = 1."""
        return cls(layer, PackedSvd.from_dense(numpy(layer.weight), spec))

    def compute(self, x: Tensor) -> Tensor:
        """Training runs the factored form: it is cheaper than recomposing."""
        return self.factored(x)

    def factored(self, x: Tensor) -> Tensor:
        """`(N, C, H, W)` to `(N, rank, H', W')` to `(N, K, H', W')`."""
        x = F.conv2d(x, self.input[:, :, None, None], None, self.stride, self.padding)
        return F.conv2d(x, self.output[:, :, None, None], self.bias)


def shrink_rank(output: Tensor, inputs: Tensor) -> tuple[Tensor, Tensor]:
    """The same product `(K, r) @ (r, C)` with r no larger than K and C: one factor takes the other in."""
    if inputs.shape[0] > inputs.shape[1]:
        output, inputs = output @ inputs, torch.eye(inputs.shape[1]).to(inputs)
    if output.shape[1] > output.shape[0]:
        output, inputs = torch.eye(output.shape[0]).to(output), output @ inputs
    return output, inputs


def from_dense(layer: nn.Conv2d | nn.Linear, spec: SvdSpec) -> SvdLinear | SvdConv2d:
    """The layer with its weight truncated to the rank of `spec`."""
    return SvdLinear.from_dense(layer, spec) if isinstance(layer, nn.Linear) else SvdConv2d.from_dense(layer, spec)


def from_packed(like: nn.Module, packed: PackedSvd) -> SvdLinear | SvdConv2d:
    """A layer that holds `packed`, with the bias and geometry of `like`."""
    return (SvdLinear if len(packed.shape) == 2 else SvdConv2d).from_packed(like, packed)
