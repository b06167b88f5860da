"""The dense format: a weight as it is."""

from dovetail.formats.base import register
from dovetail.formats.dense.packed import PackedDense
from dovetail.formats.dense.spec import DenseSpec

register(DenseSpec, PackedDense)

__all__ = ["DenseSpec", "PackedDense"]
