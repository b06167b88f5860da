"""A dense weight in numpy."""

from __future__ import annotations

from typing import Self

import numpy as np

from dovetail.formats.base import Geometry, Packed, as_weight
from dovetail.formats.dense.spec import DenseSpec
from dovetail.formats.values import FloatArray


class PackedDense(Packed):
    """One array, `weight`, of the weight's shape."""

    spec: DenseSpec

    @classmethod
    def from_dense(cls, weight: FloatArray, spec: DenseSpec) -> Self:
        """The weight itself, rounded to the value type."""
        weight = as_weight(weight)
        spec.check(weight.shape)
        return cls(spec, weight.shape, spec.values.encode("weight", weight))

    def dense(self) -> FloatArray:
        """The stored weight."""
        return self.decode("weight")

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
