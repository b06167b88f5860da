"""Unstructured sparsity in numpy: the non-zero entries and where they stand."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Self

import numpy as np
from numpy.typing import NDArray

from dovetail.errors import ProgramError
from dovetail.formats import positions
from dovetail.formats.base import Geometry, Packed, Shape, as_weight, scaled
from dovetail.formats.sparse.spec import SparseSpec
from dovetail.formats.values import TERNARY, FloatArray, Rows, Values, Whole


class PackedSparse(Packed):
    """Arrays `weight` (n,), the kept entries in flattened order, and their positions, `weight.bitmap` or `weight.gaps`.

    Of ternary values `weight` has their signs, a bit each, and the positions are a set of rows, one per output.
    """

    spec: SparseSpec

    @classmethod
    def from_dense(cls, weight: FloatArray, spec: SparseSpec) -> Self:
        """Keep the entries of largest magnitude; of equal ones the first. Zeros are never stored."""
        weight = as_weight(weight)
        spec.check(weight.shape)
        present = largest(weight, spec.most(weight.size)) & (spec.values.round(weight) != 0)
        rows = _output_of(np.flatnonzero(present), weight.shape)
        where = positions.encode("weight", present, _row(spec, weight.shape))
        return cls(spec, weight.shape, {**spec.values.encode("weight", weight[present], rows), **where})

    def dense(self) -> FloatArray:
        """The kept entries in place, zeros elsewhere."""
        weight = np.zeros(self.shape, dtype=np.float32)
        weight.ravel()[self.indices()] = self.decode("weight")
        return weight

    def kept(self) -> NDArray[np.bool_]:
        """True at the kept entries."""
        kept = np.zeros(self.shape, dtype=np.bool_)
        kept.ravel()[self.indices()] = True
        return kept

    def indices(self) -> positions.Indices:
        """Indices of the kept entries into the flattened weight, rising."""
        return positions.decode("weight", self.arrays, math.prod(self.shape), _row(self.spec, self.shape))

    def cast(self, values: Values, multiply: FloatArray | None = None) -> Self:
        """The kept entries in another value type; those that become zero there are dropped."""
        return type(self).from_dense(scaled(self.dense(), multiply), replace(self.spec, values=values))

    def integers(self) -> tuple[NDArray[np.int32], FloatArray] | None:
        """Codes in place, zeros elsewhere, and the scales of int8 and ternary values."""
        values, rows = self.spec.values, self.rows("weight")
        if not isinstance(values, Whole):
            return None
        weight = np.zeros(self.shape, dtype=np.int32)
        weight.ravel()[self.indices()] = values.codes("weight", self.arrays, rows)
        return weight, values.scale("weight", self.arrays, rows)

    def rows(self, name: str) -> Rows:
        """One scale per output channel."""
        return _output_of(self.indices(), self.shape)

    def macs(self, at: Geometry) -> int:
        """One per kept entry and output position; none of ternary ones, which are added or subtracted."""
        return 0 if self.spec.values == TERNARY else self.params() * at.outputs

    def additions(self, at: Geometry) -> int:
        """One per kept ternary entry and output position."""
        return self.params() * at.outputs if self.spec.values == TERNARY else 0

    def nonzeros(self) -> int:
        """Kept entries that are not zero."""
        return int(np.count_nonzero(self.decode("weight")))

    def params(self) -> int:
        """Kept entries."""
        return self.decode("weight").size

    def validate_arrays(self) -> None:
        """One value per position, positions within the weight, no more of them than the density allows."""
        where = positions.stored_as("weight", self.arrays, _row(self.spec, self.shape))
        self.require_only("weight", besides=where)
        kept, most = len(self.indices()), self.spec.most(math.prod(self.shape))
        self.require("weight", (kept,))
        if kept > most:
            raise ProgramError(f"sparse weight of shape {self.shape} keeps {kept} entries; its density allows {most}")


def _row(spec: SparseSpec, shape: Shape) -> int | None:
    """How many entries an output has, where the positions are a set of rows."""
    return math.prod(shape[1:]) if spec.values == TERNARY else None


def _output_of(indices: positions.Indices, shape: Shape) -> Rows:
    return Rows(indices // math.prod(shape[1:]), shape[0])


def largest(weight: np.ndarray, count: int) -> NDArray[np.bool_]:
    """True at the `count` entries of largest magnitude; of equal magnitudes the lower index is taken."""
    kept = np.zeros(weight.size, dtype=np.bool_)
    kept[np.argsort(-np.abs(weight).ravel(), kind="stable")[:count]] = True
    return kept.reshape(weight.shape)
