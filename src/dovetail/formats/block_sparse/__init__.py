"""Sparsity in blocks of neighbouring input channels, free or n of every m."""

from dovetail.formats.base import register
from dovetail.formats.block_sparse.packed import PackedBlockSparse
from dovetail.formats.block_sparse.spec import BlockSparseSpec

register(BlockSparseSpec, PackedBlockSparse)

__all__ = ["BlockSparseSpec", "PackedBlockSparse"]
