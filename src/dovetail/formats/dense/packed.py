"""A dense weight in numpy."""

from __future__ import annotations

from dataclasses import replace
from typing import Self

import numpy as np
from numpy.typing import NDArray

from dovetail.formats.base import Geometry, Packed, as_weight, scaled
from dovetail.formats.dense.spec import DenseSpec
from dovetail.formats.values import CODEBOOK4, FloatArray, Integer8, Rows, Values, in_one_book


class PackedDense(Packed):
    """One array, `weight`, of the weight's shape."""

    spec: DenseSpec

    @classmethod
    def from_dense(cls, weight: FloatArray, spec: DenseSpec) -> Self:
        """The weight itself, rounded to the value type."""
        weight = as_weight(weight)
        spec.check(weight.shape)
        return cls(spec, weight.shape, spec.values.encode("weight", weight))

    def rows(self, name: str) -> Rows | None:
        """One scale per output, one code book for all."""
        return in_one_book(self.shape) if self.spec.values == CODEBOOK4 else None

    def dense(self) -> FloatArray:
        """The stored weight."""
        return self.decode("weight")

    def cast(self, values: Values, multiply: FloatArray | None = None) -> Self:
        """The stored weight in another value type."""
        return type(self).from_dense(scaled(self.dense(), multiply), replace(self.spec, values=values))

    def integers(self) -> tuple[NDArray[np.int32], FloatArray] | None:
        """Codes and scales of int8 values."""
        values = self.spec.values
        if not isinstance(values, Integer8):
            return None
        return values.codes("weight", self.arrays).astype(np.int32), values.scale("weight", self.arrays)

    def macs(self, at: Geometry) -> int:
        """K C/groups R S H'W'."""
        return self.params() * at.outputs

    def nonzeros(self) -> int:
        """Entries that are not zero."""
        return int(np.count_nonzero(self.dense()))

    def params(self) -> int:
        """K C/groups R S."""
        return self.dense().size

    def validate_arrays(self) -> None:
        """The array has the weight's shape."""
        self.require_only("weight")
        self.require("weight", self.shape)
