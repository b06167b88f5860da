"""Kernel basis as torch layers: one product with the recomposed weight, or a depthwise convolution and a 1x1."""

from __future__ import annotations

from dataclasses import replace
from typing import Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dovetail.errors import SpecError
from dovetail.formats.kernel_basis.packed import PackedKernelBasis
from dovetail.formats.kernel_basis.spec import KernelBasisSpec
from dovetail.formats.kernel_basis.ternary import LEAST
from dovetail.formats.layer import (
    FormatConv2d,
    FormatLayer,
    FormatLinear,
    first_parameter,
    numpy,
    parameter,
    straight,
)

SMALLEST = 1e-30  # keeps a basis without coefficients from dividing by zero


class KernelBasisLayer(FormatLayer):
    """Parameters `bases` (d, R, S) and `coefficients` (K, C/groups, d); buffer `mask`, None until `prune`.

    Where the boolean mask, of the coefficients' shape, is false, coefficients count as zero and get no gradient.

    Attributes:
        latent: in training: `bases` and `coefficients` are the real numbers behind the ones that the layer computes
            with. Where the spec says ternary these are those of `trained_ternary`; gradients pass straight through,
            also to coefficients that the mask makes zero. Else both factors are rounded as int8 stores them, straight
            through. `settle_latent` ends it.
        blend: of a latent layer of ternary coefficients in training mode: how much of these is ternary, the rest being
            the real ones that are kept. Evaluated or packed, it has the ternary ones alone. A tensor of no axes is
            read anew in a step that is replayed.
    """

    spec: KernelBasisSpec
    mask: Tensor | None
    latent: bool = False
    blend: float | Tensor = 1.0

    @classmethod
    def from_dense(cls, layer: nn.Conv2d | nn.Linear, spec: KernelBasisSpec) -> Self:
        """Truncated SVD of the layer's kernels; of the coefficients those that the spec keeps."""
        return cls(layer, PackedKernelBasis.from_dense(numpy(layer.weight), spec))

    def _hold(self, packed: PackedKernelBasis, like: nn.Module) -> None:
        bases, coefficients = packed.factors()
        self.bases = parameter(bases, first_parameter(like))
        self.coefficients = parameter(coefficients, first_parameter(like))
        self.register_buffer("mask", None)

    @property
    def has_factored_form(self) -> bool:
        """Always."""
        return True

    def live_coefficients(self) -> Tensor:
        """(K, C/groups, d), zero where masked out."""
        return self.live_factors()[1]

    def live_factors(self) -> tuple[Tensor, Tensor]:
        """Bases (d, R, S) and coefficients (K, C/groups, d) that the layer computes with."""
        return self._factors(1.0)

    def weight(self) -> Tensor:
        """The dense weight, recomposed."""
        return self._recomposed(*self.live_factors())

    def weight_in_use(self) -> Tensor:
        """That of the next step: in training of the blended coefficients."""
        return self._recomposed(*self._factors(self.blend if self.latent and self.training else 1.0))

    def pack(self) -> PackedKernelBasis:
        """Bases and coefficients as numpy."""
        bases, coefficients = self.live_factors()
        return PackedKernelBasis.from_factors(numpy(bases), numpy(coefficients), self.spec, self.weight_shape)

    @torch.no_grad()
    def settle_latent(self) -> None:
        """From now on the parameters are the numbers that the latent layer computed with; no-op for any other."""
        bases, coefficients = self.live_factors()
        self.bases.copy_(bases)
        self.coefficients.copy_(coefficients)
        self.latent = False

    @torch.no_grad()
    def prune(self, mask: Tensor) -> None:
        """From now on keep only the coefficients where `mask` (K, C/groups, d) is true; the others become zero.

        Latent ones stay what they are behind their zeros, so that a later mask may bring them back.
        """
        if mask.shape != self.coefficients.shape or mask.dtype != torch.bool:
            want = tuple(self.coefficients.shape)
            raise SpecError(f"layer {self.name!r}: the mask must be boolean of shape {want}, not {tuple(mask.shape)}")
        if self.mask is None or self.mask.shape != mask.shape:
            self.mask = mask.to(self.coefficients.device, copy=True)
        else:  # where it is: a recorded step reads it there
            self.mask.copy_(mask)
        if not self.latent:
            self.coefficients.mul_(self.mask)

    @torch.no_grad()
    def normalise_bases(self) -> None:
        """Give every basis norm 1 and move its norm into the coefficients, in place; the weight stays the same.

        Raises:
            SpecError: the coefficients are ternary, and an output has one magnitude.
        """
        if self.spec.coefficients == "ternary":
            raise SpecError(f"layer {self.name!r}: bases of ternary coefficients keep their norms")
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

    def _factors(self, blend: float | Tensor) -> tuple[Tensor, Tensor]:
        if self.latent and self.spec.coefficients == "ternary":
            place = self.spec.shared, self.spec.block
            return trained_ternary(self.bases, self.coefficients, self.mask, blend, self.spec.asymmetric, place)
        coefficients = self.coefficients if self.mask is None else self.coefficients * self.mask
        if not self.latent:
            return self.bases, coefficients
        rows = coefficients.detach().abs().flatten(1).amax(1)[:, None, None]
        return straight(self.bases, _on_one_grid(self.bases)), straight(coefficients, _on_grid(coefficients, rows))

    def _recomposed(self, bases: Tensor, coefficients: Tensor) -> Tensor:
        return (coefficients.flatten(0, 1) @ bases.flatten(1)).view(self.weight_shape)

    def _slice(self, out: Tensor, into: Tensor) -> None:
        mask = None if self.mask is None else self.mask[out][:, into]
        if not _stay_together(out, self.spec.shared):
            self.spec = replace(self.spec, shared=1)
        if not _stay_together(into, self.spec.block):
            self.spec = replace(self.spec, block=1)
        self._take(self.coefficients[out][:, into], mask)

    def _take(self, coefficients: Tensor, mask: Tensor | None) -> None:
        self.coefficients = parameter(coefficients, self.coefficients)
        self.mask = mask


class KernelBasisConv2d(KernelBasisLayer, FormatConv2d):
    """A convolution; groups are allowed."""

    def __init__(self, like: nn.Conv2d | FormatConv2d, packed: PackedKernelBasis) -> None:
        super().__init__(like, packed.spec)
        self._hold(packed, like)

    def compute(self, x: Tensor) -> Tensor:
        """One convolution with the recomposed weight; in training that of the blended coefficients."""
        return self.convolve(x, self.weight_in_use(), self.bias)

    def factored(self, x: Tensor) -> Tensor:
        """Every channel meets its d bases (channel c, basis b at map c d + b), then a 1x1 combines the maps."""
        bases, coefficients = self.live_factors()
        per_channel = bases.repeat(self.in_channels, 1, 1).unsqueeze(1)
        maps = F.conv2d(x, per_channel, None, self.stride, self.padding, self.dilation, groups=self.in_channels)
        combine = coefficients.flatten(1)[:, :, None, None]
        return F.conv2d(maps, combine, self.bias, groups=self.groups)


class KernelBasisLinear(KernelBasisLayer, FormatLinear):
    """A linear layer, whose one basis is a number."""

    def __init__(self, like: nn.Linear | FormatLinear, packed: PackedKernelBasis) -> None:
        super().__init__(like, packed.spec)
        self._hold(packed, like)

    def compute(self, x: Tensor) -> Tensor:
        """One product with the recomposed weight; in training that of the blended coefficients."""
        return F.linear(x, self.weight_in_use(), self.bias)

    def factored(self, x: Tensor) -> Tensor:
        """The coefficients, then the one number of the basis."""
        bases, coefficients = self.live_factors()
        y = F.linear(x, coefficients[:, :, 0]) * bases[0, 0, 0]
        return y if self.bias is None else y + self.bias


def _stay_together(kept: Tensor, count: int) -> bool:
    """Whether each `count` of the kept channels, counted anew, were together before."""
    groups = (kept // count).tolist()
    return all(len(set(groups[i : i + count])) == 1 for i in range(0, len(groups), count))


def trained_ternary(
    bases: Tensor,
    latent: Tensor,
    mask: Tensor | None,
    blend: float | Tensor = 1.0,
    asymmetric: bool = False,
    place: tuple[int, int] = (1, 1),
) -> tuple[Tensor, Tensor]:
    """Bases (d, R, S) on one int8 grid, and coefficients gamma_k T (K, C/groups, d) with T in -1, 0, 1.

    T is the sign of the latent coefficient, 0 where the mask is false. Where neighbours, so many outputs and inputs,
    stand at a `place` together, T is 0 where all of them are; a zero among others has the sign of 1, as the place has
    one for each. alpha_m, the mean magnitude of the others of a basis (of all where the mask leaves none, so that they
    may return), becomes a factor of the basis; gamma_k is the mean of |latent| / alpha_m of an output, as float16 holds
    it. Being means, the scales move with their latent numbers just as their own gradients would move them. `asymmetric`
    coefficients have a gamma of those above zero and one of those below, each the mean of its own (trained ternary
    quantization, ICLR 2017).

    With a `blend` below 1 that much of the coefficients is ternary and the rest the latent ones that are kept, in the
    same units: at 0 they combine the bases as before anything was ternary. Gradients are the same with any blend.

    Source: ESCALATE (MICRO 2021) with symmetric scales, in the manner of ternary weight networks (Li et al., 2016).
    """
    kept = _any_at(latent != 0, place)
    kept = kept if mask is None else kept & mask
    sizes = latent.abs() * kept
    every = _mean(latent.abs(), torch.ones_like(kept), (0, 1))
    alpha = torch.where(kept.any(0).any(0), _mean(sizes, kept, (0, 1)), every)
    units, negative = sizes / alpha.clamp_min(SMALLEST), latent < 0
    if asymmetric:
        plus, minus = ~negative & kept, negative & kept
        gamma = torch.where(negative, _gamma(units * minus, minus), _gamma(units * plus, plus))
    else:
        gamma = _gamma(units, kept)
    made = torch.where(negative, -1.0, 1.0) * kept * gamma
    scaled, real = bases * alpha[:, None, None], latent / alpha.clamp_min(SMALLEST)
    if _blends(blend):
        made = blend * made + (1 - blend) * real.detach() * kept
    return straight(scaled, _on_one_grid(scaled)), straight(real, made)


def _any_at(present: Tensor, place: tuple[int, int]) -> Tensor:
    """Where (K, C, d) any of the outputs and inputs that stand at a place together is present."""
    if place == (1, 1):
        return present
    (outputs, inputs, _), (shared, block) = present.shape, place
    places = F.max_pool2d(present.permute(2, 0, 1).float(), place, ceil_mode=True) > 0
    spread = places.repeat_interleave(shared, 1)[:, :outputs].repeat_interleave(block, 2)[..., :inputs]
    return spread.permute(1, 2, 0)


def _blends(blend: float | Tensor) -> bool:
    """Whether real coefficients may have a part: a tensor is not looked at, for that would wait for the GPU."""
    return isinstance(blend, Tensor) or blend < 1


def _gamma(units: Tensor, kept: Tensor) -> Tensor:
    """Of each output, (K, 1, 1): the mean of what is kept, as float16 holds it."""
    return _mean(units, kept, (1, 2)).clamp_min(LEAST).half().float()[:, None, None]


def _mean(sizes: Tensor, kept: Tensor, over: tuple[int, int]) -> Tensor:
    return sizes.detach().sum(over) / kept.sum(over).clamp_min(1)


def _on_one_grid(bases: Tensor) -> Tensor:
    """As int8 with one scale for all bases stores them."""
    return _on_grid(bases, bases.detach().abs().max())


def _on_grid(values: Tensor, most: Tensor) -> Tensor:
    """The nearest of 255 numbers, the same apart, from minus to plus `most`."""
    scale = (most / 127).clamp_min(SMALLEST)
    return torch.round(values / scale).clamp(-127, 127) * scale


def from_dense(layer: nn.Conv2d | nn.Linear, spec: KernelBasisSpec) -> KernelBasisConv2d | KernelBasisLinear:
    """The layer with its kernels combined of those that `spec` says."""
    return (KernelBasisLinear if isinstance(layer, nn.Linear) else KernelBasisConv2d).from_dense(layer, spec)


def from_packed(like: nn.Module, packed: PackedKernelBasis) -> KernelBasisConv2d | KernelBasisLinear:
    """A layer that holds `packed`, with the bias and geometry of `like`."""
    return (KernelBasisLinear if len(packed.shape) == 2 else KernelBasisConv2d).from_packed(like, packed)
