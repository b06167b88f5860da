"""Permuted diagonals as torch layers: the values train, the diagonals stay where they are."""

from __future__ import annotations

from typing import Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dovetail.errors import SpecError
from dovetail.formats.layer import (
    FormatConv2d,
    FormatLayer,
    FormatLinear,
    first_parameter,
    numpy,
    parameter,
    require_ungrouped,
)
from dovetail.formats.permuted_diagonal.packed import PackedPermutedDiagonal
from dovetail.formats.permuted_diagonal.spec import PermutedDiagonalSpec


class _PermutedDiagonal(FormatLayer):
    """What both layers share: parameter `values` (rows, columns of blocks x size[, R, S]), buffer `index` of shifts.

    The values have as many axes as the weight, so that memory formats fit them.
    """

    spec: PermutedDiagonalSpec
    index: Tensor

    def _hold(self, packed: PackedPermutedDiagonal, like: nn.Module) -> None:
        lender = first_parameter(like)
        self.values = parameter(packed.diagonals().reshape(len(packed.index()), -1, *packed.shape[2:]), lender)
        self.register_buffer("index", torch.from_numpy(packed.index()).to(lender.device))

    @property
    def has_factored_form(self) -> bool:
        """Under a natural index."""
        return self.spec.index == "natural"

    def diagonals(self) -> Tensor:
        """q, (rows, columns, size[, R, S])."""
        return self.values.reshape(*self.index.shape, self.spec.size, *self.weight_shape[2:])

    def weight(self) -> Tensor:
        """The values on their diagonals, zeros elsewhere."""
        p, (rows, columns), kernel = self.spec.size, self.index.shape, self.weight_shape[2:]
        where = (torch.arange(p, device=self.index.device) + self.index[:, :, None]) % p
        where = where.view(rows, columns, p, 1, *(1,) * len(kernel)).expand(-1, -1, -1, -1, *kernel)
        tiles = self.values.new_zeros(rows, columns, p, p, *kernel).scatter(3, where, self.diagonals().unsqueeze(3))
        whole = tiles.transpose(1, 2).reshape(rows * p, columns * p, *kernel)
        return whole[: self.weight_shape[0], : self.weight_shape[1]]

    def pack(self) -> PackedPermutedDiagonal:
        """The values as numpy; those beyond the last channel are zero."""
        shifts = self.index.cpu().numpy()
        return PackedPermutedDiagonal.from_diagonals(numpy(self.diagonals()), self.spec, self.weight_shape, shifts)

    def places(self) -> tuple[Tensor, Tensor, Tensor]:
        """Under a natural index: inputs in order of their class, weights by class, and where each output then is."""
        found = self.spec.classes(self.weight_shape)
        inputs, _, places = (torch.from_numpy(numbers).to(self.index.device) for numbers in found)
        size, (rows, columns) = self.spec.size, self.index.shape
        row, output = (torch.arange(n, device=self.index.device) for n in (rows, self.weight_shape[0]))
        block = output // size
        return inputs.flatten(), self.diagonals()[row, :, places], (output + columns * block) % size * rows + block

    def _slice(self, out: Tensor, into: Tensor) -> None:
        raise SpecError(
            f"layer {self.name!r}: permuted diagonals of size {self.spec.size} cannot lose single channels; remove "
            f"channels before the layer takes this format"
        )


class PermutedDiagonalLinear(_PermutedDiagonal, FormatLinear):
    """Parameter `values` (rows, columns x size)."""

    def __init__(self, like: nn.Linear | FormatLinear, packed: PackedPermutedDiagonal) -> None:
        super().__init__(like, packed.spec)
        self._hold(packed, like)

    @classmethod
    def from_dense(cls, layer: nn.Linear, spec: PermutedDiagonalSpec) -> Self:
        """The layer's numbers on the diagonals of `spec`."""
        return cls(layer, PackedPermutedDiagonal.from_dense(numpy(layer.weight), spec))

    def factored(self, x: Tensor) -> Tensor:
        """Under a natural index a product of each class, between two permutations; else with the recomposed weight."""
        if not self.has_factored_form:
            return self.compute(x)
        inputs, weights, outputs = self.places()
        p, columns = weights.shape[0], weights.shape[2]
        rows = _padded(x, p * columns - self.in_features, 0).reshape(-1, p * columns).index_select(1, inputs)
        products = torch.matmul(rows.view(-1, p, 1, columns), weights.transpose(1, 2))
        y = products.flatten(1).index_select(1, outputs).reshape(*x.shape[:-1], self.out_features)
        return y if self.bias is None else y + self.bias


class PermutedDiagonalConv2d(_PermutedDiagonal, FormatConv2d):
    """Parameter `values` (rows, columns x size, R, S)."""

    def __init__(self, like: nn.Conv2d | FormatConv2d, packed: PackedPermutedDiagonal) -> None:
        require_ungrouped(like, packed.spec)
        super().__init__(like, packed.spec)
        self._hold(packed, like)

    @classmethod
    def from_dense(cls, layer: nn.Conv2d, spec: PermutedDiagonalSpec) -> Self:
        """The layer's kernels on the diagonals of `spec`; the layer must have groups = 1."""
        require_ungrouped(layer, spec)
        return cls(layer, PackedPermutedDiagonal.from_dense(numpy(layer.weight), spec))

    def factored(self, x: Tensor) -> Tensor:
        """Under a natural index a grouped convolution between two permutations; else with the recomposed weight."""
        if not self.has_factored_form:
            return self.compute(x)
        inputs, weights, outputs = self.places()
        p, columns = weights.shape[0], weights.shape[2]
        x = _padded(x, p * columns - self.in_channels, 2).index_select(1, inputs)
        y = F.conv2d(x, weights.flatten(0, 1), None, self.stride, self.padding, self.dilation, p)
        y = y.index_select(1, outputs)
        return y if self.bias is None else y + self.bias.view(-1, 1, 1)


def from_dense(
    layer: nn.Conv2d | nn.Linear, spec: PermutedDiagonalSpec
) -> PermutedDiagonalConv2d | PermutedDiagonalLinear:
    """The layer with its numbers on the diagonals of `spec`."""
    if isinstance(layer, nn.Linear):
        return PermutedDiagonalLinear.from_dense(layer, spec)
    return PermutedDiagonalConv2d.from_dense(layer, spec)


def from_packed(like: nn.Module, packed: PackedPermutedDiagonal) -> PermutedDiagonalConv2d | PermutedDiagonalLinear:
    """A layer that holds `packed`, with the bias and geometry of `like`."""
    return (PermutedDiagonalLinear if len(packed.shape) == 2 else PermutedDiagonalConv2d).from_packed(like, packed)


def _padded(x: Tensor, missing: int, behind: int) -> Tensor:
    """With so many channels of zeros more, which have `behind` axes behind them; no op where none are missing."""
    return F.pad(x, (0, 0) * behind + (0, missing)) if missing else x
