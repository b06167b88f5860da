"""Permuted diagonals: each block of a weight keeps one diagonal, shifted by a number of its own."""

from dovetail.formats.base import register
from dovetail.formats.permuted_diagonal.packed import PackedPermutedDiagonal
from dovetail.formats.permuted_diagonal.reach import Reach, reach
from dovetail.formats.permuted_diagonal.spec import PermutedDiagonalSpec

register(PermutedDiagonalSpec, PackedPermutedDiagonal)

__all__ = ["PackedPermutedDiagonal", "PermutedDiagonalSpec", "Reach", "reach"]
