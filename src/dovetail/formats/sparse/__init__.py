"""Unstructured sparsity: a weight of which only some entries are kept."""

from dovetail.formats.base import register
from dovetail.formats.sparse.packed import PackedSparse
from dovetail.formats.sparse.spec import SparseSpec

register(SparseSpec, PackedSparse)

__all__ = ["PackedSparse", "SparseSpec"]
