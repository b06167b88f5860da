"""Kernel basis in numpy: W[k,c] = sum over b of coefficients[k,c,b] bases[b] (PENNI, section 3)."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Literal, Self

import numpy as np
from numpy.typing import NDArray

from dovetail.errors import ProgramError, SpecError
from dovetail.formats import positions
from dovetail.formats.base import Geometry, Packed, Shape, as_weight, kernel_size, scaled
from dovetail.formats.kernel_basis.spec import KernelBasisSpec
from dovetail.formats.values import ONE_ROW, FloatArray, Integer8, Rows, Values

Init = Literal["svd", "pca_nomean"]


class PackedKernelBasis(Packed):
    """Arrays `bases` (d, R, S) and `coefficients` (K, C/groups, d).

    With sparse coefficients `coefficients` holds only the non-zero ones, in the order of the flattened
    (K, C/groups, d), and `coefficients.bitmap` or `coefficients.gaps` says where they stand.
    """

    spec: KernelBasisSpec

    @classmethod
    def from_dense(cls, weight: FloatArray, spec: KernelBasisSpec) -> Self:
        """The truncated SVD of the (K C, R S) matrix of kernels: the Frobenius optimum for `spec.bases`."""
        weight = as_weight(weight)
        spec.check(weight.shape)
        bases, coefficients = decompose(weight, spec.bases)
        return cls.from_factors(bases, coefficients, spec)

    @classmethod
    def from_factors(cls, bases: np.ndarray, coefficients: np.ndarray, spec: KernelBasisSpec) -> Self:
        """From `bases` (d, R, S) and `coefficients` (K, C/groups, d), zeros included."""
        bases, stored = as_weight(bases), as_weight(coefficients)
        arrays, rows = spec.values.encode("bases", bases, ONE_ROW), None
        if spec.coefficients == "sparse":
            present = spec.values.round(stored) != 0
            arrays |= positions.encode("coefficients", present)
            rows, stored = _output_of(np.flatnonzero(present), stored.shape), stored[present]
        arrays |= spec.values.encode("coefficients", stored, rows)
        return cls(spec, (*coefficients.shape[:2], *bases.shape[1:]), arrays)

    def factors(self) -> tuple[FloatArray, FloatArray]:
        """`bases` (d, R, S) and `coefficients` (K, C/groups, d) as float32, zeros filled in."""
        bases, stored = self.decode("bases"), self.decode("coefficients")
        if self.spec.coefficients == "dense":
            return bases, stored
        coefficients = np.zeros(self._grid, dtype=np.float32)
        coefficients.ravel()[self._positions()] = stored
        return bases, coefficients

    def dense(self) -> FloatArray:
        """W[k,c,r,s] = sum over b of coefficients[k,c,b] bases[b,r,s]."""
        bases, coefficients = (factor.astype(np.float64) for factor in self.factors())
        return np.tensordot(coefficients, bases, axes=1).astype(np.float32)

    def cast(self, values: Values, multiply: FloatArray | None = None) -> Self:
        """Bases and coefficients in another value type; the coefficients take the factors of the outputs."""
        bases, coefficients = self.factors()
        return type(self).from_factors(bases, scaled(coefficients, multiply), replace(self.spec, values=values))

    def integers(self) -> tuple[NDArray[np.int32], FloatArray] | None:
        """Codes of the coefficients times codes of the bases, which have one scale for all (int8 values)."""
        values = self.spec.values
        if not isinstance(values, Integer8):
            return None
        bases, coefficients = self.codes()
        weight = np.tensordot(coefficients.astype(np.int32), bases.astype(np.int32), axes=1)
        scale = values.scale("coefficients", self.arrays, self.rows("coefficients"))
        return weight, scale * values.scale("bases", self.arrays, ONE_ROW)

    def codes(self) -> tuple[NDArray[np.int8], NDArray[np.int8]]:
        """`bases` (d, R, S) and `coefficients` (K, C/groups, d) of int8 values, as they are stored, zeros filled in."""
        values = self.spec.values
        if not isinstance(values, Integer8):
            raise ProgramError(f"a weight of {values.name} values has no codes")
        bases, stored = values.codes("bases", self.arrays), values.codes("coefficients", self.arrays)
        if self.spec.coefficients == "dense":
            return bases, stored
        coefficients = np.zeros(self._grid, dtype=np.int8)
        coefficients.ravel()[self._positions()] = stored
        return bases, coefficients

    def rows(self, name: str) -> Rows | None:
        """One scale for all bases; of the coefficients, one per output channel."""
        if name == "bases":
            return ONE_ROW
        return _output_of(self._positions(), self._grid) if self.spec.coefficients == "sparse" else None

    def macs(self, at: Geometry) -> int:
        """Of the cheapest exact order: see `least_macs`."""
        return least_macs(self.shape, self.spec.bases, self.stored_coefficients(), self.live_kernels(), at)

    def stored_coefficients(self) -> int:
        """How many coefficients the file holds."""
        return self.decode("coefficients").size

    def live_kernels(self) -> int:
        """How many of the K C kernels have a stored coefficient."""
        if self.spec.coefficients == "dense":
            return self.shape[0] * self.shape[1]
        return len(np.unique(self._positions() // self.spec.bases))

    def nonzeros(self) -> int:
        """Non-zero coefficients and entries of the bases."""
        return sum(int(np.count_nonzero(self.decode(name))) for name in ("bases", "coefficients"))

    def params(self) -> int:
        """The bases, d R S, and the stored coefficients."""
        return self.decode("bases").size + self.stored_coefficients()

    def validate_arrays(self) -> None:
        """Shapes must be those that spec and weight shape imply; positions must lie within (K, C/groups, d)."""
        self.require("bases", (self.spec.bases, *self.shape[2:]))
        if self.spec.coefficients == "dense":
            self.require_only("bases", "coefficients")
            self.require("coefficients", self._grid)
            return
        where = positions.stored_as("coefficients", self.arrays)
        self.require_only("bases", "coefficients", besides=(where,))
        self.require("coefficients", (len(self._positions()),))

    @property
    def _grid(self) -> Shape:
        return (*self.shape[:2], self.spec.bases)

    def _positions(self) -> positions.Indices:
        return positions.decode("coefficients", self.arrays, math.prod(self._grid))


def least_macs(shape: Shape, d: int, n: int, live: int, at: Geometry) -> int:
    """The least of three exact orders, for C channels over all groups, d bases, and n coefficients in `live` kernels.

    conv-first: C d RS H'W' + n H'W' (each channel meets each basis, then a sparse 1x1);
    coef-first: n HW + K d RS H'W' (a sparse 1x1, then each basis per output channel);
    recomposed: RS H'W' per kernel that has a stored coefficient.
    """
    (k, c), (r, s) = shape[:2], kernel_size(shape)
    conv_first = (c * at.groups * d * r * s + n) * at.outputs
    coef_first = n * at.inputs + k * d * r * s * at.outputs
    return min(conv_first, coef_first, live * r * s * at.outputs)


def _output_of(indices: positions.Indices, grid: Shape) -> Rows:
    return Rows(indices // math.prod(grid[1:]), grid[0])


def decompose(weight: np.ndarray, bases: int, init: Init = "svd") -> tuple[np.ndarray, np.ndarray]:
    """Orthonormal `bases` (d, R, S), the most important first, and `coefficients` (K, C, d), both float64.

    `"svd"` is the optimum: coefficients U_d S_d, bases V_d^T of the uncentred (K C, R S) matrix. `"pca_nomean"` does
    what the code released with PENNI does: the principal directions of the kernels, their mean then dropped.
    """
    if init not in ("svd", "pca_nomean"):
        raise SpecError(f"unknown way {init!r} to start a kernel basis; known are svd, pca_nomean")
    kernels = weight.reshape(-1, weight.shape[2] * weight.shape[3]).astype(np.float64)
    if init == "pca_nomean":
        kernels = kernels - kernels.mean(axis=0)
    _, vectors = np.linalg.eigh(kernels.T @ kernels)
    directions = vectors[:, ::-1][:, :bases]
    return directions.T.reshape(bases, *weight.shape[2:]), (kernels @ directions).reshape(*weight.shape[:2], bases)
