"""Block circulant: each block of a weight is one vector, rotated by one place from column to column."""

from dovetail.formats.base import register
from dovetail.formats.block_circulant.packed import PackedBlockCirculant
from dovetail.formats.block_circulant.spec import BlockCirculantSpec

register(BlockCirculantSpec, PackedBlockCirculant)

__all__ = ["BlockCirculantSpec", "PackedBlockCirculant"]
