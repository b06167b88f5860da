"""Kernel basis in numpy: W[k,c] = sum over b of coefficients[k,c,b] bases[b] (PENNI, section 3)."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Literal, Self, TypeVar

import numpy as np
from numpy.typing import NDArray

from dovetail.errors import ProgramError, SpecError
from dovetail.formats import positions
from dovetail.formats.base import Geometry, Packed, Shape, as_weight, kernel_size, scaled
from dovetail.formats.kernel_basis.spec import KernelBasisSpec
from dovetail.formats.kernel_basis.ternary import (
    most,
    of_both_signs,
    require_ternary,
    share_places,
    shared_pattern,
    spread,
    ternarise,
    with_scales_of_both_signs,
)
from dovetail.formats.values import ONE_ROW, TERNARY, FloatArray, Integer8, Rows, Values, Whole

Init = Literal["svd", "pca_nomean"]
Work = tuple[int, int]  # with the bases, and with the coefficients
T = TypeVar("T", bound=np.generic)


class PackedKernelBasis(Packed):
    """Arrays `bases` (d, R, S) and `coefficients` (K, C/groups, d); those of a linear layer have R = S = d = 1.

    With sparse coefficients `coefficients` holds only the non-zero ones, in the order of the flattened
    (K, C/groups, d), and `coefficients.bitmap` or `coefficients.gaps` says where they stand. With ternary ones it holds
    their signs, in the order of (K, d, C/groups), and the positions are a set of rows, one for each basis and output
    (or `spec.shared` outputs), of ceil(C/groups / `spec.block`) places each. Each output has a scale, or two if
    `spec.asymmetric`: of its coefficients above zero, then of those below.
    """

    spec: KernelBasisSpec

    @classmethod
    def from_dense(cls, weight: FloatArray, spec: KernelBasisSpec) -> Self:
        """The truncated SVD of the (K C, R S) matrix of kernels: the Frobenius optimum for `spec.bases`.

        Of the coefficients the largest are kept, as many as `spec.density` says. Ternary ones are then those of
        `ternarise`, and the bases take their scales; asymmetric ones also keep, for either sign of an output, the mean
        of their magnitudes in units of those.
        """
        weight = as_weight(weight)
        spec.check(weight.shape)
        bases, coefficients = decompose(_as_kernels(weight), spec.bases)
        if spec.coefficients == "ternary":
            together = {"shared": spec.shared, "block": spec.block}
            signs, scales = ternarise(coefficients, density=spec.density, **together)
            if spec.asymmetric:
                sizes = np.abs(coefficients) / np.where(scales > 0, scales, 1)
                signs = with_scales_of_both_signs(signs, sizes)
            bases, coefficients = bases * scales[:, None, None], signs
        elif spec.density is not None:
            coefficients = coefficients * most(coefficients, spec.density)
        return cls.from_factors(bases, coefficients, replace(spec, density=None), weight.shape)

    @classmethod
    def from_factors(
        cls, bases: np.ndarray, coefficients: np.ndarray, spec: KernelBasisSpec, shape: Shape | None = None
    ) -> Self:
        """From `bases` (d, R, S) and `coefficients` (K, C/groups, d), zeros included.

        `shape` is that of the weight, (K, C/groups, R, S) unless given.

        Raises:
            SpecError: ternary coefficients of an output (of either sign, if asymmetric) have several magnitudes, or one
                that float16 does not hold, or stand elsewhere than those of outputs or inputs that share their places.
        """
        bases, stored = as_weight(bases), as_weight(coefficients)
        arrays, rows = spec.values.encode("bases", bases, ONE_ROW), None
        values = _values_of_coefficients(spec)
        if spec.coefficients != "dense":
            stored = _ordered(stored, spec)
            present = stored != 0 if values == TERNARY else values.round(stored) != 0
            pattern = shared_pattern(present, spec.shared, spec.block) if values == TERNARY else present
            arrays |= positions.encode("coefficients", pattern, _row(spec, coefficients.shape[1]))
            rows, stored = _output_of(np.flatnonzero(present), stored.shape), stored[present]
            if spec.asymmetric:
                rows = of_both_signs(rows, stored < 0)
            if values == TERNARY:
                require_ternary(stored, rows, signs=1 + spec.asymmetric)
        arrays |= values.encode("coefficients", stored, rows)
        return cls(spec, shape or (*coefficients.shape[:2], *bases.shape[1:]), arrays)

    def factors(self) -> tuple[FloatArray, FloatArray]:
        """`bases` (d, R, S) and `coefficients` (K, C/groups, d) as float32, zeros filled in."""
        return self.decode("bases"), self._in_place(self.decode("coefficients"))

    def dense(self) -> FloatArray:
        """W[k,c,r,s] = sum over b of coefficients[k,c,b] bases[b,r,s]."""
        bases, coefficients = (factor.astype(np.float64) for factor in self.factors())
        return np.tensordot(coefficients, bases, axes=1).astype(np.float32).reshape(self.shape)

    def cast(self, values: Values, multiply: FloatArray | None = None) -> Self:
        """Bases and coefficients in another value type; the coefficients take the factors of the outputs.

        Ternary ones stay what they are, but for those of outputs whose scale becomes too small for float16: they are
        zero, and where other outputs, or inputs of a block, shared their places, each has its own from then on.
        """
        bases, coefficients = self.factors()
        coefficients, spec = scaled(coefficients, multiply), replace(self.spec, values=values)
        if spec.coefficients == "ternary":
            coefficients = TERNARY.round(coefficients, _rows_of(coefficients, spec))
            if not share_places(coefficients != 0, spec.shared):
                spec = replace(spec, shared=1)
            if not share_places(coefficients != 0, spec.block, axis=1):
                spec = replace(spec, block=1)
        return type(self).from_factors(bases, coefficients, spec, self.shape)

    def integers(self) -> tuple[NDArray[np.int32], FloatArray] | None:
        """Codes of the coefficients times codes of the bases, which have one scale for all (int8 values).

        None also where an output has two scales.
        """
        values, others = self.spec.values, self.values_of("coefficients")
        if self.spec.asymmetric or not (isinstance(values, Integer8) and isinstance(others, Whole)):
            return None
        bases, coefficients = self.codes()
        weight = np.tensordot(coefficients.astype(np.int32), bases.astype(np.int32), axes=1)
        scale = others.scale("coefficients", self.arrays, self.rows("coefficients"))
        return weight.reshape(self.shape), scale * values.scale("bases", self.arrays, ONE_ROW)

    def codes(self) -> tuple[NDArray[np.int8], NDArray[np.int8]]:
        """`bases` (d, R, S) and `coefficients` (K, C/groups, d) of int8 values, as they are stored, zeros filled in."""
        values, others = self.spec.values, self.values_of("coefficients")
        if self.spec.asymmetric:
            raise ProgramError("asymmetric ternary coefficients are no whole numbers: their signs differ in scale")
        if not (isinstance(values, Integer8) and isinstance(others, Whole)):
            raise ProgramError(f"a weight of {values.name} values has no codes")
        stored = others.codes("coefficients", self.arrays, self.rows("coefficients"))
        return values.codes("bases", self.arrays), self._in_place(stored)

    def values_of(self, name: str) -> Values:
        """Those of the spec, but for ternary coefficients."""
        return self.spec.values if name == "bases" else _values_of_coefficients(self.spec)

    def rows(self, name: str) -> Rows | None:
        """One scale for all bases; of the coefficients, one per output channel, or two if they are asymmetric."""
        if name == "bases":
            return ONE_ROW
        if self.spec.coefficients == "dense":
            return None
        rows = _output_of(self._positions(), self._grid)
        return of_both_signs(rows, TERNARY.codes(name, self.arrays, rows) < 0) if self.spec.asymmetric else rows

    def macs(self, at: Geometry) -> int:
        """Of the cheapest exact order: see `least_macs`. Ternary coefficients multiply nothing.

        Asymmetric ones multiply once whatever they add up to: what is taken away by the ratio of the scales.
        """
        with_bases, with_coefficients = self._cheapest(at)
        return with_bases + (with_coefficients if self.spec.coefficients != "ternary" else 0)

    def additions(self, at: Geometry) -> int:
        """What ternary coefficients add or subtract, in the same order of evaluation."""
        return self._cheapest(at)[1] if self.spec.coefficients == "ternary" else 0

    def stored_coefficients(self) -> int:
        """How many coefficients the file holds."""
        return self.decode("coefficients").size

    def live_kernels(self) -> int:
        """How many of the K C kernels have a stored coefficient."""
        if self.spec.coefficients == "dense":
            return self.shape[0] * self.shape[1]
        alive = np.zeros(self._grid, dtype=np.bool_)
        alive.ravel()[self._positions()] = True
        return int(alive.any(axis=1 if self.spec.coefficients == "ternary" else 2).sum())

    def nonzeros(self) -> int:
        """Non-zero coefficients and entries of the bases."""
        return sum(int(np.count_nonzero(self.decode(name))) for name in ("bases", "coefficients"))

    def params(self) -> int:
        """The bases, d R S, and the stored coefficients."""
        return self.decode("bases").size + self.stored_coefficients()

    def validate_arrays(self) -> None:
        """Shapes must be those that spec and weight shape imply; positions must lie within (K, C/groups, d)."""
        self.require("bases", (self.spec.bases, *kernel_size(self.shape)))
        if self.spec.coefficients == "dense":
            self.require_only("bases", "coefficients")
            self.require("coefficients", self._grid)
            return
        where = positions.stored_as("coefficients", self.arrays, _row(self.spec, self.shape[1]))
        self.require_only("bases", "coefficients", besides=where)
        self.require("coefficients", (len(self._positions()),))

    @property
    def _grid(self) -> Shape:
        """Of the coefficients, in the order in which they are stored."""
        k, c = self.shape[:2]
        return (k, self.spec.bases, c) if self.spec.coefficients == "ternary" else (k, c, self.spec.bases)

    def _positions(self) -> positions.Indices:
        row, shared, block = _row(self.spec, self.shape[1]), self.spec.shared, self.spec.block
        k, middle, c = self._grid
        grid = (-(-k // shared), middle, -(-c // block))
        stored = positions.decode("coefficients", self.arrays, math.prod(grid), row)
        if shared == block == 1:
            return stored
        pattern = np.zeros(grid, dtype=np.bool_)
        pattern.ravel()[stored] = True
        return np.flatnonzero(spread(spread(pattern, block, c, axis=2), shared, k))

    def _in_place(self, stored: NDArray[T]) -> NDArray[T]:
        """The stored coefficients as (K, C/groups, d), zeros filled in."""
        if self.spec.coefficients == "dense":
            return stored
        coefficients = np.zeros(self._grid, dtype=stored.dtype)
        coefficients.ravel()[self._positions()] = stored
        return _ordered(coefficients, self.spec)

    def _cheapest(self, at: Geometry) -> Work:
        """Of equally cheap orders the one that multiplies least."""
        orders = orders_of(self.shape, self.spec.bases, self.stored_coefficients(), self.live_kernels(), at)
        if self.spec.asymmetric:
            sums = (self.shape[0] * at.outputs, self.shape[0] * self.spec.bases * at.inputs, 0)
            orders = [(bases + more, others) for (bases, others), more in zip(orders, sums, strict=True)]
        return min(orders, key=lambda work: (sum(work), work[0]))


def least_macs(shape: Shape, d: int, n: int, live: int, at: Geometry) -> int:
    """The least of three exact orders: see `orders_of`."""
    return min(map(sum, orders_of(shape, d, n, live, at)))


def orders_of(shape: Shape, d: int, n: int, live: int, at: Geometry) -> list[Work]:
    """Three exact orders, for C channels over all groups, d bases, and n coefficients in `live` kernels.

    conv-first: C d RS H'W' and n H'W' (each channel meets each basis, then a sparse 1x1);
    coef-first: K d RS H'W' and n HW (a sparse 1x1, then each basis per output channel);
    recomposed: RS H'W' per kernel that has a stored coefficient.
    """
    (k, c), (r, s) = shape[:2], kernel_size(shape)
    conv_first = (c * at.groups * d * r * s * at.outputs, n * at.outputs)
    coef_first = (k * d * r * s * at.outputs, n * at.inputs)
    return [conv_first, coef_first, (live * r * s * at.outputs, 0)]


def _as_kernels(weight: FloatArray) -> FloatArray:
    """The weight of a linear layer as that of a 1x1 convolution."""
    return weight.reshape(*weight.shape[:2], *kernel_size(weight.shape))


def _values_of_coefficients(spec: KernelBasisSpec) -> Values:
    return TERNARY if spec.coefficients == "ternary" else spec.values


def _row(spec: KernelBasisSpec, channels: int) -> int | None:
    """How many places an output has for a basis, where positions are a set of rows."""
    return -(-channels // spec.block) if spec.coefficients == "ternary" else None


def _rows_of(coefficients: FloatArray, spec: KernelBasisSpec) -> Rows | None:
    """Which ternary `coefficients` (K, C/groups, d) share a scale; None: those of an output."""
    if not spec.asymmetric:
        return None
    outputs = np.arange(len(coefficients))[:, None, None]
    return of_both_signs(Rows(outputs, len(coefficients)), coefficients < 0)


def _ordered(coefficients: NDArray[T], spec: KernelBasisSpec) -> NDArray[T]:
    """From (K, C/groups, d) to the order of storage, or back."""
    return np.ascontiguousarray(coefficients.swapaxes(1, 2)) if spec.coefficients == "ternary" else coefficients


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
