"""Kernel basis as a torch layer: one convolution with the recomposed weight, or a depthwise one and a 1x1."""

from __future__ import annotations

from dataclasses import replace
from typing import Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dovetail.errors import SpecError
from dovetail.formats.kernel_basis.packed import PackedKernelBasis
from dovetail.formats.kernel_basis.spec import KernelBasisSpec
from dovetail.formats.layer import FormatConv2d, first_parameter, numpy, parameter


class KernelBasisConv2d(FormatConv2d):
    """Parameters `bases` (d, R, S) and `coefficients` (K, C/groups, d); buffer `mask`, None until `prune`.

    Where the boolean mask, of the coefficients' shape, is false, coefficients count as zero and get no gradient.
    """

    spec: KernelBasisSpec
    mask: Tensor | None

    def __init__(self, like: nn.Conv2d | FormatConv2d, packed: PackedKernelBasis) -> None:
        super().__init__(like, packed.spec)
        bases, coefficients = packed.factors()
        self.bases = parameter(bases, first_parameter(like))
        self.coefficients = parameter(coefficients, first_parameter(like))
        self.register_buffer("mask", None)

    @classmethod
    def from_dense(cls, layer: nn.Conv2d, spec: KernelBasisSpec) -> Self:
        """Truncated SVD of the layer's kernels; groups are allowed."""
        return cls(layer, PackedKernelBasis.from_dense(numpy(layer.weight), spec))

    def live_coefficients(self) -> Tensor:
        """(K, C/groups, d), zero where masked out."""
        return self.coefficients if self.mask is None else self.coefficients * self.mask

    def weight(self) -> Tensor:
        """(K, C/groups, R, S), recomposed."""
        flat = self.live_coefficients().flatten(0, 1) @ self.bases.flatten(1)
        return flat.view(self.weight_shape)

    def factored(self, x: Tensor) -> Tensor:
        """Every channel meets its d bases (channel c, basis b at map c d + b), then a 1x1 combines the maps."""
        per_channel = self.bases.repeat(self.in_channels, 1, 1).unsqueeze(1)
        maps = F.conv2d(x, per_channel, None, self.stride, self.padding, self.dilation, groups=self.in_channels)
        combine = self.live_coefficients().flatten(1)[:, :, None, None]
        return F.conv2d(maps, combine, self.bias, groups=self.groups)

    def pack(self) -> PackedKernelBasis:
        """Bases and coefficients as numpy."""
        return PackedKernelBasis.from_factors(numpy(self.bases), numpy(self.live_coefficients()), self.spec)

    @torch.no_grad()
    def prune(self, mask: Tensor) -> None:
        """From now on keep only the coefficients where `mask` (K, C/groups, d) is true; the others become zero."""
        if mask.shape != self.coefficients.shape or mask.dtype != torch.bool:
            want = tuple(self.coefficients.shape)
            raise SpecError(f"layer {self.name!r}: the mask must be boolean of shape {want}, not {tuple(mask.shape)}")
        self.mask = mask.to(self.coefficients.device, copy=True)
        self.coefficients.mul_(self.mask)

    @torch.no_grad()
    def normalise_bases(self) -> None:
        """Give every basis norm 1 and move its norm into the coefficients, in place; the weight stays the same."""
        norms = self.bases.flatten(1).norm(dim=1)
        norms = torch.where(norms > 0, norms, torch.ones_like(norms))
        self.bases.div_(norms[:, None, None])
        self.coefficients.mul_(norms)

    def drop_bases(self, keep: Tensor) -> Self:
        """Keep only the bases where the boolean `keep` (d,) is true, in place, and return the layer.

        Both parameters are replaced, so an optimizer must be built anew. Where nothing is kept, the first basis stays.
        """
        keep = torch.as_tensor(keep, device=self.bases.device).clone()
        if keep.shape != (self.spec.bases,) or keep.dtype != torch.bool:
            raise SpecError(f"layer {self.name!r}: the bases to keep must be {self.spec.bases} booleans, not {keep}")
        if not keep.any():
            keep[0] = True
        self.bases = parameter(self.bases[keep], self.bases)
        self._take(self.coefficients[:, :, keep], None if self.mask is None else self.mask[:, :, keep])
        self.spec = replace(self.spec, bases=int(keep.sum()))
        return self

    def _slice(self, out: Tensor, into: Tensor) -> None:
        mask = None if self.mask is None else self.mask[out][:, into]
        self._take(self.coefficients[out][:, into], mask)

    def _take(self, coefficients: Tensor, mask: Tensor | None) -> None:
        self.coefficients = parameter(coefficients, self.coefficients)
        self.mask = mask


from_dense = KernelBasisConv2d.from_dense
from_packed = KernelBasisConv2d.from_packed
