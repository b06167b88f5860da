"""Unstructured sparsity as torch layers: a full weight under a mask."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn

from dovetail.errors import SpecError
from dovetail.formats.base import Packed
from dovetail.formats.layer import FormatConv2d, FormatLayer, FormatLinear, first_parameter, numpy, parameter
from dovetail.formats.sparse.packed import PackedSparse
from dovetail.formats.sparse.spec import SparseSpec


class Masked(FormatLayer):
    """What masked layers share: parameter `values` of the weight's shape, and the boolean buffer `mask` beside it."""

    stores: ClassVar[type[Packed]] = PackedSparse
    mask: Tensor

    def _hold(self, values: Tensor, mask: Tensor, like: Tensor) -> None:
        self.values = parameter(values, like)
        self.register_buffer("mask", mask.to(like.device, copy=True))

    def _unpack(self, packed: Any, like: nn.Module) -> None:
        self._hold(torch.from_numpy(packed.dense()), torch.from_numpy(packed.kept()), first_parameter(like))

    def weight(self) -> Tensor:
        """The values where the mask is true, zeros elsewhere."""
        return self.values * self.mask

    def pack(self) -> Packed:
        """Exactly what is not zero: the spec of the answer has no density."""
        return self.stores.from_dense(numpy(self.weight()), self._free_spec())

    def _free_spec(self) -> Any:
        """A spec that the weight meets as it is."""
        spec: Any = self.spec
        return replace(spec, density=None)

    @torch.no_grad()
    def prune(self, mask: Tensor) -> None:
        """From now on keep only the entries where `mask` is true; the others become zero."""
        if mask.shape != self.mask.shape or mask.dtype != torch.bool:
            want = tuple(self.mask.shape)
            raise SpecError(f"layer {self.name!r}: the mask must be boolean of shape {want}, not {tuple(mask.shape)}")
        self.mask.copy_(mask)
        self.values.mul_(self.mask)

    def _slice(self, out: Tensor, into: Tensor) -> None:
        self._hold(self.values[out][:, into], self.mask[out][:, into], self.values)


class SparseConv2d(Masked, FormatConv2d):
    """Parameter `values` (K, C/groups, R, S) and boolean buffer `mask`; the weight is their product."""

    def __init__(self, like: nn.Conv2d | FormatConv2d, packed: PackedSparse) -> None:
        super().__init__(like, packed.spec)
        self._unpack(packed, like)

    @classmethod
    def from_dense(cls, layer: nn.Conv2d, spec: SparseSpec) -> Self:
        """The entries of largest magnitude; groups are allowed."""
        return cls(layer, PackedSparse.from_dense(numpy(layer.weight), spec))


class SparseLinear(Masked, FormatLinear):
    """Parameter `values` (K, C) and boolean buffer `mask`; the weight is their product."""

    def __init__(self, like: nn.Linear | FormatLinear, packed: PackedSparse) -> None:
        super().__init__(like, packed.spec)
        self._unpack(packed, like)

    @classmethod
    def from_dense(cls, layer: nn.Linear, spec: SparseSpec) -> Self:
        """The entries of largest magnitude."""
        return cls(layer, PackedSparse.from_dense(numpy(layer.weight), spec))


def from_dense(layer: nn.Conv2d | nn.Linear, spec: SparseSpec) -> SparseConv2d | SparseLinear:
    """The layer with its entries of largest magnitude."""
    if isinstance(layer, nn.Linear):
        return SparseLinear.from_dense(layer, spec)
    return SparseConv2d.from_dense(layer, spec)


def from_packed(like: nn.Module, packed: PackedSparse) -> SparseConv2d | SparseLinear:
    """A layer that holds `packed`, with the bias and geometry of `like`."""
    return (SparseLinear if len(packed.shape) == 2 else SparseConv2d).from_packed(like, packed)
