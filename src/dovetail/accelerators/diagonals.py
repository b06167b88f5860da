"""Where a layer of permuted diagonals has numbers; any other layer is one of diagonals of size 1, which is dense.

W[p R + c, p G + d] is stored where d = (c + k[R, G]) mod p, so that column d of a block has its number in row
c = (d + p - k[R, G]) mod p (PermDNN, MICRO 2018, equations 1 and 4).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from dovetail.accelerators.workload import Counts, Mask, Workload
from dovetail.formats.permuted_diagonal import PackedPermutedDiagonal

Numbers = NDArray[np.float64]
SEED_BITS: Final = 32


@dataclass(frozen=True, eq=False)
class Diagonals:
    """The diagonals of a layer.

    Attributes:
        size: p.
        index: k of each block, `(block rows, block columns)`.
        shape: of the weight, (K, C/groups).
        taps: places of the kernel, R S.
        index_bits: of the index in the file: none where it follows from the place of a block.
        read_bits: of one k, where an engine reads it instead of counting blocks.
    """

    size: int
    index: Counts
    shape: tuple[int, int]
    taps: int
    index_bits: int
    read_bits: int

    @property
    def stored(self) -> int:
        """Numbers, with the filling of the last blocks."""
        return self.index.size * self.size * self.taps

    def mask(self) -> Mask:
        """True where the weight has numbers, `(K, C/groups)`."""
        if self.size == 1:
            return np.ones(self.shape, np.bool_)
        p, (rows, columns) = self.size, self.index.shape
        tiles = np.zeros((rows, p, columns, p), np.bool_)
        c = np.arange(p)
        place = (c[:, None] + self.index[:, None, :]) % p
        np.put_along_axis(tiles, place[..., None], True, axis=3)
        return tiles.reshape(rows * p, columns * p)[: self.shape[0], : self.shape[1]]


def diagonals_of(layer: Workload) -> Diagonals:
    """The diagonals that the weight of a layer is packed as."""
    weight, taps = layer.weight, math.prod(layer.kernel)
    shape = weight.shape[0], weight.shape[1]
    if not isinstance(weight, PackedPermutedDiagonal):
        return Diagonals(1, np.broadcast_to(np.int64(0), shape), shape, taps, 0, 0)
    p, index = weight.spec.size, weight.index()
    bits = math.ceil(math.log2(p))
    in_file = {"natural": 0, "random": SEED_BITS, "searched": bits * index.size}[weight.spec.index]
    return Diagonals(p, index, shape, taps, in_file, 0 if weight.spec.index == "natural" else bits)


def values_of(layer: Workload) -> Numbers:
    """q, `(block rows, block columns, p, R, S)`."""
    weight = layer.weight
    if isinstance(weight, PackedPermutedDiagonal):
        return weight.blocks().astype(np.float64)
    return weight.dense().astype(np.float64).reshape(*weight.shape[:2], 1, *layer.kernel)
