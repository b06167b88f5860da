"""Block-circulant weights as torch layers: the first columns train."""

from __future__ import annotations

from typing import Self

import torch
from torch import Tensor, nn

from dovetail.errors import SpecError
from dovetail.formats.block_circulant.packed import PackedBlockCirculant
from dovetail.formats.block_circulant.spec import BlockCirculantSpec
from dovetail.formats.layer import (
    FormatConv2d,
    FormatLayer,
    FormatLinear,
    first_parameter,
    numpy,
    parameter,
    require_ungrouped,
)


class _BlockCirculant(FormatLayer):
    """What both layers share.

    Parameter `values` (rows, columns of blocks x size[, R, S]), with as many axes as the weight, so that memory formats
    fit it; buffer `gain` (K,), or None.
    """

    spec: BlockCirculantSpec
    gain: Tensor | None

    def _hold(self, packed: PackedBlockCirculant, like: nn.Module) -> None:
        lender = first_parameter(like)
        columns = packed.columns()
        self.values = parameter(columns.reshape(len(columns), -1, *packed.shape[2:]), lender)
        gain = torch.from_numpy(packed.gain().copy()).to(lender) if "weight.gain" in packed.arrays else None
        self.register_buffer("gain", gain)

    def columns(self) -> Tensor:
        """The first column of every block, (rows, columns, size[, R, S])."""
        return self.values.reshape(len(self.values), -1, self.spec.size, *self.weight_shape[2:])

    def weight(self) -> Tensor:
        """Every block's column in all its rotations, times the gain."""
        first, k, kernel = self.columns(), self.spec.size, self.weight_shape[2:]
        (rows, columns), place = first.shape[:2], torch.arange(k, device=first.device)
        turned = first[:, :, (place[:, None] - place) % k]
        whole = turned.transpose(1, 2).reshape(rows * k, columns * k, *kernel)
        weight = whole[: self.weight_shape[0], : self.weight_shape[1]]
        return weight if self.gain is None else weight * self.gain.view(-1, *(1,) * (weight.dim() - 1))

    def pack(self) -> PackedBlockCirculant:
        """The columns as numpy."""
        gain = None if self.gain is None else numpy(self.gain)
        return PackedBlockCirculant.from_columns(numpy(self.columns()), self.spec, self.weight_shape, gain)

    def _slice(self, out: Tensor, into: Tensor) -> None:
        raise SpecError(
            f"layer {self.name!r}: circulant blocks of size {self.spec.size} cannot lose single channels; remove "
            f"channels before the layer takes this format"
        )


class BlockCirculantLinear(_BlockCirculant, FormatLinear):
    """Parameter `values` (rows, columns x size)."""

    def __init__(self, like: nn.Linear | FormatLinear, packed: PackedBlockCirculant) -> None:
        super().__init__(like, packed.spec)
        self._hold(packed, like)

    @classmethod
    def from_dense(cls, layer: nn.Linear, spec: BlockCirculantSpec) -> Self:
        """The nearest block-circulant weight."""
        return cls(layer, PackedBlockCirculant.from_dense(numpy(layer.weight), spec))


class BlockCirculantConv2d(_BlockCirculant, FormatConv2d):
    """Parameter `values` (rows, columns x size, R, S)."""

    def __init__(self, like: nn.Conv2d | FormatConv2d, packed: PackedBlockCirculant) -> None:
        require_ungrouped(like, packed.spec)
        super().__init__(like, packed.spec)
        self._hold(packed, like)

    @classmethod
    def from_dense(cls, layer: nn.Conv2d, spec: BlockCirculantSpec) -> Self:
        """The nearest block-circulant weight; the layer must have groups = 1."""
        require_ungrouped(layer, spec)
        return cls(layer, PackedBlockCirculant.from_dense(numpy(layer.weight), spec))


def from_dense(layer: nn.Conv2d | nn.Linear, spec: BlockCirculantSpec) -> BlockCirculantConv2d | BlockCirculantLinear:
    """The layer with its nearest block-circulant weight."""
    if isinstance(layer, nn.Linear):
        return BlockCirculantLinear.from_dense(layer, spec)
    return BlockCirculantConv2d.from_dense(layer, spec)


def from_packed(like: nn.Module, packed: PackedBlockCirculant) -> BlockCirculantConv2d | BlockCirculantLinear:
    """A layer that holds `packed`, with the bias and geometry of `like`."""
    return (BlockCirculantLinear if len(packed.shape) == 2 else BlockCirculantConv2d).from_packed(like, packed)
