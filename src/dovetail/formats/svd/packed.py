"""Low rank in numpy: the truncated singular value decomposition."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Self

import numpy as np

from dovetail.formats.base import Geometry, Packed, Shape, as_weight, scaled
from dovetail.formats.svd.spec import SvdSpec
from dovetail.formats.values import FloatArray, Values


class PackedSvd(Packed):
    """Arrays `output` (K, rank) and `input` (rank, C); the weight is their product."""

    spec: SvdSpec

    @classmethod
    def from_dense(cls, weight: FloatArray, spec: SvdSpec) -> Self:
        """The Frobenius optimum; both factors carry the square roots of the singular values."""
        weight = as_weight(weight)
        spec.check(weight.shape)
        u, sigma, vt = np.linalg.svd(weight.reshape(weight.shape[:2]).astype(np.float64), full_matrices=False)
        root = np.sqrt(sigma[: spec.rank])
        return cls.from_factors(u[:, : spec.rank] * root, root[:, None] * vt[: spec.rank], spec, weight.shape)

    @classmethod
    def from_factors(cls, output: np.ndarray, inputs: np.ndarray, spec: SvdSpec, shape: Shape | None = None) -> Self:
        """From `output` (K, rank) and `inputs` (rank, C); `shape` is that of the weight, (K, C) unless given."""
        arrays = {**spec.values.encode("output", as_weight(output)), **spec.values.encode("input", as_weight(inputs))}
        return cls(spec, shape or (output.shape[0], inputs.shape[1]), arrays)

    @classmethod
    def random(cls, shape: Shape, spec: SvdSpec, random: np.random.Generator) -> Self:
        """Random factors, without a decomposition."""
        spec.check(shape)
        (k, c), rank = shape[:2], spec.rank
        output, inputs = (random.standard_normal(n) * n[1] ** -0.5 for n in ((k, rank), (rank, c)))
        return cls.from_factors(math.sqrt(2.0) * output, inputs, spec, shape)

    def factors(self) -> tuple[FloatArray, FloatArray]:
        """`output` (K, rank) and `input` (rank, C) as float32."""
        return self.decode("output"), self.decode("input")

    def stages(self) -> dict[str, FloatArray]:
        """The two linear layers or 1x1 convolutions, in order: weights of each, by the factor's name."""
        output, inputs = self.factors()
        point = (1,) * (len(self.shape) - 2)
        return {name: f.reshape(*f.shape, *point) for name, f in (("input", inputs), ("output", output))}

    def dense(self) -> FloatArray:
        """Output times input."""
        output, inputs = (factor.astype(np.float64) for factor in self.factors())
        return (output @ inputs).astype(np.float32).reshape(self.shape)

    def cast(self, values: Values, multiply: FloatArray | None = None) -> Self:
        """Both factors in another value type; `output` takes the factors of the outputs."""
        output, inputs = self.factors()
        return type(self).from_factors(scaled(output, multiply), inputs, replace(self.spec, values=values), self.shape)

    def macs(self, at: Geometry) -> int:
        """(C + K) rank H'W': a stride is taken in the first product."""
        return self.params() * at.outputs

    def nonzeros(self) -> int:
        """Non-zero entries of both factors."""
        return sum(int(np.count_nonzero(factor)) for factor in self.factors())

    def params(self) -> int:
        """(C + K) rank."""
        return sum(factor.size for factor in self.factors())

    def validate_arrays(self) -> None:
        """The factors have the shapes that rank and weight shape imply."""
        self.require_only("input", "output")
        self.require("output", (self.shape[0], self.spec.rank))
        self.require("input", (self.spec.rank, self.shape[1]))
