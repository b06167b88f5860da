"""Block sparsity in numpy: the kept blocks and where they stand."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Self

import numpy as np
from numpy.typing import NDArray

from dovetail.errors import ProgramError
from dovetail.formats import positions
from dovetail.formats.base import Geometry, Packed, Shape, as_weight, scaled
from dovetail.formats.block_sparse.spec import BlockSparseSpec
from dovetail.formats.sparse.packed import largest
from dovetail.formats.values import FloatArray, Integer8, Rows, Values

Bools = NDArray[np.bool_]


class PackedBlockSparse(Packed):
    """Arrays `weight` (n, block), the kept blocks in the order of `(K, C, taps)`, and `weight.bitmap` or `weight.gaps`.

    Blocks that reach beyond the last input channel are filled up with zeros.
    """

    spec: BlockSparseSpec

    @classmethod
    def from_dense(cls, weight: FloatArray, spec: BlockSparseSpec) -> Self:
        """Keep the blocks of largest norm; of equal ones the first. Blocks of zeros are never stored."""
        weight = as_weight(weight)
        spec.check(weight.shape)
        blocks = to_blocks(weight, spec.block)
        norms = np.square(blocks, dtype=np.float64).sum(axis=-1)
        present = _chosen(norms, spec, weight.shape) & to_blocks(spec.values.round(weight) != 0, spec.block).any(-1)
        rows = _output_of(np.flatnonzero(present), spec.grid(weight.shape))
        arrays = {**spec.values.encode("weight", blocks[present], rows), **positions.encode("weight", present)}
        return cls(spec, weight.shape, arrays)

    def dense(self) -> FloatArray:
        """The kept blocks in place, zeros elsewhere."""
        return self._in_place(self.decode("weight"))

    def kept(self) -> Bools:
        """True at the entries of kept blocks."""
        return self._in_place(np.ones((len(self.indices()), self.spec.block), dtype=np.bool_))

    def indices(self) -> positions.Indices:
        """Indices of the kept blocks into the flattened grid `(K, blocks, taps)`, rising."""
        return positions.decode("weight", self.arrays, math.prod(self.spec.grid(self.shape)))

    def cast(self, values: Values, multiply: FloatArray | None = None) -> Self:
        """The kept blocks in another value type; those that become zero there are dropped."""
        return type(self).from_dense(scaled(self.dense(), multiply), replace(self.spec, values=values))

    def integers(self) -> tuple[NDArray[np.int32], FloatArray] | None:
        """Codes in place, zeros elsewhere, and the scales of int8 values."""
        values = self.spec.values
        if not isinstance(values, Integer8):
            return None
        codes = self._in_place(values.codes("weight", self.arrays).astype(np.int32))
        return codes, values.scale("weight", self.arrays, self.rows("weight"))

    def rows(self, name: str) -> Rows:
        """One scale per output channel."""
        return _output_of(self.indices(), self.spec.grid(self.shape))

    def macs(self, at: Geometry) -> int:
        """One per entry of a kept block and output position, zeros inside of it included, filling not."""
        return int(np.count_nonzero(self.kept())) * at.outputs

    def nonzeros(self) -> int:
        """Entries of kept blocks that are not zero."""
        return int(np.count_nonzero(self.decode("weight")))

    def params(self) -> int:
        """Entries of kept blocks, zeros inside of them and filling included."""
        return self.decode("weight").size

    def validate_arrays(self) -> None:
        """One block per position, positions within the weight, no more than the spec allows, zeros as filling."""
        self.require_only("weight", besides=positions.stored_as("weight", self.arrays))
        indices, grid = self.indices(), self.spec.grid(self.shape)
        self.require("weight", (len(indices), self.spec.block))
        present = np.zeros(math.prod(grid), dtype=np.bool_)
        present[indices] = True
        where = f"block_sparse weight of shape {self.shape}"
        if len(indices) > self.spec.most(self.shape) or not _allowed(present.reshape(grid), self.spec):
            told = f"density {self.spec.density}" if self.spec.keep is None else f"keep={self.spec.keep}"
            raise ProgramError(f"{where} keeps {len(indices)} blocks; its {told} does not allow them")
        beyond = indices // grid[2] % grid[1] == grid[1] - 1
        if self.decode("weight")[beyond, (self.shape[1] - 1) % self.spec.block + 1 :].any():
            raise ProgramError(f"{where} has weights beyond its last input channel; the file is damaged")

    def _in_place(self, blocks: NDArray[np.generic]) -> NDArray:
        """`(n, block)` to the weight's shape, zeros elsewhere."""
        grid = self.spec.grid(self.shape)
        flat = np.zeros((math.prod(grid), self.spec.block), dtype=blocks.dtype)
        flat[self.indices()] = blocks
        filled = flat.reshape(*grid, self.spec.block).transpose(0, 1, 3, 2).reshape(grid[0], -1, grid[2])
        return np.ascontiguousarray(filled[:, : self.shape[1]]).reshape(self.shape)


def to_blocks(weight: NDArray[np.generic], block: int) -> NDArray:
    """`(K, C, ...)` to `(K, blocks, taps, block)`, the last block filled up with zeros."""
    flat = weight.reshape(*weight.shape[:2], -1)
    filled = np.pad(flat, ((0, 0), (0, -flat.shape[1] % block), (0, 0)))
    return filled.reshape(len(flat), -1, block, flat.shape[2]).transpose(0, 1, 3, 2)


def _chosen(norms: NDArray[np.float64], spec: BlockSparseSpec, shape: Shape) -> Bools:
    """The blocks of largest norm that the spec allows."""
    if spec.keep is None:
        return largest(norms, spec.most(shape))
    n, m = spec.keep
    groups = _groups(norms, m)
    order = np.argsort(-groups, axis=2, kind="stable")
    kept = np.zeros(groups.shape, dtype=np.bool_)
    np.put_along_axis(kept, order[:, :, :n], True, axis=2)
    return kept.reshape(len(norms), -1, norms.shape[2])[:, : norms.shape[1]]


def _allowed(present: Bools, spec: BlockSparseSpec) -> bool:
    return spec.keep is None or bool((_groups(present, spec.keep[1]).sum(axis=2) <= spec.keep[0]).all())


def _groups(grid: NDArray, size: int) -> NDArray:
    """`(K, blocks, taps)` to `(K, groups, size, taps)`; what fills up the last group is less than any norm."""
    low = False if grid.dtype == np.bool_ else -1
    filled = np.pad(grid, ((0, 0), (0, -grid.shape[1] % size), (0, 0)), constant_values=low)
    return filled.reshape(len(grid), -1, size, grid.shape[2])


def _output_of(indices: positions.Indices, grid: Shape) -> Rows:
    """Each block's output channel, beside the entries of the block."""
    return Rows((indices // math.prod(grid[1:]))[:, None], grid[0])
