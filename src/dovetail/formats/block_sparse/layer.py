"""Block sparsity as torch layers: a full weight under a mask of blocks."""

from __future__ import annotations

from dataclasses import replace
from typing import Self

import numpy as np
from torch import nn

from dovetail.formats.block_sparse.packed import PackedBlockSparse
from dovetail.formats.block_sparse.spec import BlockSparseSpec
from dovetail.formats.layer import FormatConv2d, FormatLinear, numpy
from dovetail.formats.sparse.layer import Masked


class _MaskedBlocks(Masked):
    spec: BlockSparseSpec
    stores = PackedBlockSparse

    def _free_spec(self) -> BlockSparseSpec:
        """Where channels were removed, blocks have other neighbours: then without n:m."""
        spec = replace(self.spec, density=None)
        if spec.keep is None:
            return spec
        weight = numpy(self.weight())
        kept = self.stores.from_dense(weight, spec)
        return spec if np.array_equal(kept.dense(), weight) else replace(spec, keep=None)


class BlockSparseConv2d(_MaskedBlocks, FormatConv2d):
    """Parameter `values` (K, C/groups, R, S) and boolean buffer `mask`; the weight is their product."""

    def __init__(self, like: nn.Conv2d | FormatConv2d, packed: PackedBlockSparse) -> None:
        super().__init__(like, packed.spec)
        self._unpack(packed, like)

    @classmethod
    def from_dense(cls, layer: nn.Conv2d, spec: BlockSparseSpec) -> Self:
        """The blocks of largest norm; groups are allowed."""
        return cls(layer, PackedBlockSparse.from_dense(numpy(layer.weight), spec))


class BlockSparseLinear(_MaskedBlocks, FormatLinear):
    """Parameter `values` (K, C) and boolean buffer `mask`; the weight is their product."""

    def __init__(self, like: nn.Linear | FormatLinear, packed: PackedBlockSparse) -> None:
        super().__init__(like, packed.spec)
        self._unpack(packed, like)

    @classmethod
    def from_dense(cls, layer: nn.Linear, spec: BlockSparseSpec) -> Self:
        """The blocks of largest norm."""
        return cls(layer, PackedBlockSparse.from_dense(numpy(layer.weight), spec))


def from_dense(layer: nn.Conv2d | nn.Linear, spec: BlockSparseSpec) -> BlockSparseConv2d | BlockSparseLinear:
    """The layer with its blocks of largest norm."""
    if isinstance(layer, nn.Linear):
        return BlockSparseLinear.from_dense(layer, spec)
    return BlockSparseConv2d.from_dense(layer, spec)


def from_packed(like: nn.Module, packed: PackedBlockSparse) -> BlockSparseConv2d | BlockSparseLinear:
    """A layer that holds `packed`, with the bias and geometry of `like`."""
    return (BlockSparseLinear if len(packed.shape) == 2 else BlockSparseConv2d).from_packed(like, packed)
