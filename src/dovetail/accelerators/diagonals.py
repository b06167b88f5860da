"""Where a layer of permuted diagonals has numbers; any other layer is one of diagonals of size 1, which is dense.

W[p R + c, p G + d] is stored where d = (c + k[R, G]) mod p, so that column d of a block has its number in row
c = (d + p - k[R, G]) mod p (PermDNN, MICRO 2018, equations 1 and 4).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from dovetail.accelerators.workload import Counts, Mask, Workload

Numbers = NDArray[np.float64]
FORMAT: Final = "permuted_diagonal"
SEED_BITS: Final = 32


@dataclass(frozen=True, eq=False)
class Diagonals:
    """The diagonals of a layer.

    Attributes:
        size: p.
        index: k of each block, `(block rows, block columns)`.
        values: q, `(block rows, block columns, p, R, S)`.
        shape: of the weight, (K, C/groups).
        index_bits: of the index in the file: none where it follows from the place of a block.
        read_bits: of one k, where an engine reads it instead of counting blocks.
    """

    size: int
    index: Counts
    values: Numbers
    shape: tuple[int, int]
    index_bits: int
    read_bits: int

    @property
    def stored(self) -> int:
        """Numbers, with the filling of the last blocks."""
        return math.prod(self.values.shape)

    def mask(self) -> Mask:
        """True where the weight has numbers, `(K, C/groups)`."""
        p, (rows, columns) = self.size, self.index.shape
        tiles = np.zeros((rows, p, columns, p), np.bool_)
        c = np.arange(p)
        place = (c[:, None] + self.index[:, None, :]) % p
        np.put_along_axis(tiles, place[..., None], True, axis=3)
        return tiles.reshape(rows * p, columns * p)[: self.shape[0], : self.shape[1]]


def diagonals_of(layer: Workload) -> Diagonals:
    """The diagonals that the weight of a layer is packed as."""
    weight: Any = layer.weight
    shape = weight.shape[0], weight.shape[1]
    if weight.spec.format != FORMAT:
        dense = weight.dense().astype(np.float64).reshape(*shape, 1, *layer.kernel)
        return Diagonals(1, np.zeros(shape, np.int64), dense, shape, 0, 0)
    p, index, bits = weight.spec.size, weight.index(), math.ceil(math.log2(weight.spec.size))
    match weight.spec.index:
        case "natural":
            in_file, read = 0, 0
        case "random":
            in_file, read = SEED_BITS, bits
        case _:
            in_file, read = bits * index.size, bits
    return Diagonals(p, index, weight.blocks().astype(np.float64), shape, in_file, read)
