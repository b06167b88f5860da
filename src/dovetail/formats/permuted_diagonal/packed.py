"""Permuted diagonals in numpy: the values on the diagonals, and which diagonals they are."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Self, TypeVar

import numpy as np
from numpy.typing import NDArray

from dovetail.errors import ProgramError, SpecError
from dovetail.formats.base import Geometry, Packed, Shape, as_real, as_weight, kernel_size
from dovetail.formats.permuted_diagonal.spec import PermutedDiagonalSpec
from dovetail.formats.values import CODEBOOK4, Array, FloatArray, Integer8, Rows, Values, in_one_book

Shifts = NDArray[np.int64]
Number = TypeVar("Number", bound=np.generic)


class PackedPermutedDiagonal(Packed):
    """Arrays `weight` (rows, columns of blocks, size, R, S), the diagonals, and `weight.index` where it was searched.

    A linear layer's have no R and S. The index is a stream of bits: ceil(log2 size) for each block, row by row, lowest
    first.
    """

    spec: PermutedDiagonalSpec

    @classmethod
    def from_dense(cls, weight: FloatArray, spec: PermutedDiagonalSpec) -> Self:
        """The Frobenius optimum for the index of `spec`; a searched one takes each block's diagonal of largest norm.

        Of diagonals with equal norms the one with the smallest shift is taken.
        """
        weight = as_weight(weight)
        spec.check(weight.shape)
        tiles = _tiles(weight, spec)
        shifts = _best(tiles) if spec.index == "searched" else spec.shifts(weight.shape)
        return cls.from_diagonals(_take(tiles, shifts), spec, weight.shape, shifts)

    @classmethod
    def from_diagonals(cls, diagonals: FloatArray, spec: PermutedDiagonalSpec, shape: Shape, shifts: Shifts) -> Self:
        """From q of shape (rows, columns, size[, R, S]) and k of shape (rows, columns), a weight of `shape`.

        What lies beyond the weight becomes zero, or a number that the code book has anyway.

        Raises:
            SpecError: the diagonals or shifts are not as many as the blocks of the shape ask for, a shift is none, or
                is not that of an index that `spec` does not search; diagonals are not of real, finite numbers.
        """
        grid, diagonals = spec.grid(shape), as_real(diagonals)
        wanted = (*grid, spec.size, *shape[2:])
        if np.shape(diagonals) != wanted or np.shape(shifts) != grid:
            given = f"{np.shape(diagonals)} with shifts of {np.shape(shifts)}"
            raise SpecError(
                f"permuted_diagonal: a weight of shape {shape} has diagonals of {wanted} and shifts of {grid}, "
                f"not {given}"
            )
        shifts = _checked(np.asarray(shifts), spec, shape)
        inside = _inside(spec, shape, shifts)
        filling = np.ravel(diagonals[inside])[0] if spec.values == CODEBOOK4 else 0
        inside = inside.reshape(*inside.shape, *(1,) * (len(shape) - 2))
        diagonals = np.where(inside, diagonals, np.float32(filling))
        arrays = spec.values.encode("weight", as_weight(diagonals), _rows(spec, shape))
        if spec.index_bits:
            arrays["weight.index"] = _bits_of(shifts, spec.index_bits)
        return cls(spec, shape, arrays)

    @classmethod
    def random(cls, shape: Shape, spec: PermutedDiagonalSpec, random: np.random.Generator) -> Self:
        """Normal numbers (He et al., 2015, for C/size inputs) on the diagonals; a searched index is drawn, too."""
        spec.check(shape)
        rows, columns = spec.grid(shape)
        deviation = math.sqrt(2.0 / max(1.0, shape[1] / spec.size * math.prod(shape[2:])))
        diagonals = random.standard_normal((rows, columns, spec.size, *shape[2:]), dtype=np.float32)
        drawn = random.integers(0, spec.size, (rows, columns))
        shifts = drawn if spec.index == "searched" else spec.shifts(shape)
        return cls.from_diagonals(np.float32(deviation) * diagonals, spec, shape, shifts)

    def diagonals(self) -> FloatArray:
        """q, (rows, columns, size[, R, S])."""
        return self.decode("weight")

    def blocks(self) -> FloatArray:
        """q, (rows, columns, size, R, S); a linear layer counts as 1x1."""
        q = self.diagonals()
        return q.reshape(*q.shape[:3], *kernel_size(self.shape))

    def index(self) -> Shifts:
        """K of every block, (rows, columns)."""
        if not self.spec.index_bits:
            return self.spec.shifts(self.shape)
        return _numbers_of(self.arrays, self.spec.index_bits, self.spec.grid(self.shape), self.spec.size)

    def kept(self) -> NDArray[np.bool_]:
        """True on the diagonals."""
        return _put(np.ones((*self.spec.grid(self.shape), self.spec.size, *self.shape[2:]), np.bool_), self)

    def dense(self) -> FloatArray:
        """The values on their diagonals, zeros elsewhere."""
        return _put(self.diagonals(), self)

    def cast(self, values: Values, multiply: FloatArray | None = None) -> Self:
        """The same diagonals in another value type."""
        q = self.diagonals()
        if multiply is not None:
            rows, size = self.spec.grid(self.shape)[0], self.spec.size
            factors = np.pad(multiply, (0, rows * size - len(multiply))).reshape(rows, 1, size)
            q = q * factors.reshape(*factors.shape, *(1,) * (q.ndim - 3))
        return self.from_diagonals(q, replace(self.spec, values=values), self.shape, self.index())

    def integers(self) -> tuple[NDArray[np.int32], FloatArray] | None:
        """Codes on their diagonals and the scales of int8 values."""
        values, rows = self.spec.values, self.rows("weight")
        if not isinstance(values, Integer8):
            return None
        codes = values.codes("weight", self.arrays, rows).astype(np.int32)
        return _put(codes, self), values.scale("weight", self.arrays, rows)[: self.shape[0]]

    def rows(self, name: str) -> Rows:
        """One scale per output, one code book for all."""
        return _rows(self.spec, self.shape)

    def macs(self, at: Geometry) -> int:
        """About K C R S H'W' / size; the filling of the last blocks is not computed."""
        return int(_inside(self.spec, self.shape, self.index()).sum()) * math.prod(self.shape[2:]) * at.outputs

    def nonzeros(self) -> int:
        """Entries of the diagonals that are not zero."""
        return int(np.count_nonzero(self.diagonals()))

    def params(self) -> int:
        """Entries of the diagonals, with the filling of the last blocks."""
        return math.prod(self.spec.grid(self.shape)) * self.spec.size * math.prod(self.shape[2:])

    def validate_arrays(self) -> None:
        """Diagonals and index have the sizes that spec and shape imply; the filling of the last blocks is zero."""
        self.require_only("weight", besides=("weight.index",) if self.spec.index_bits else ())
        self.require("weight", (*self.spec.grid(self.shape), self.spec.size, *self.shape[2:]))
        outside = ~_inside(self.spec, self.shape, self.index())
        if self.spec.values != CODEBOOK4 and self.diagonals()[outside].any():
            raise ProgramError(f"permuted_diagonal weight of shape {self.shape} has values beyond its last channel")


def _checked(shifts: NDArray[Any], spec: PermutedDiagonalSpec, shape: Shape) -> Shifts:
    """The shifts as int64, if they are some, and those of the index of `spec`."""
    if shifts.dtype.kind not in "iu":
        raise SpecError(f"permuted_diagonal: shifts must be whole numbers, not {shifts.dtype}")
    if shifts.size and not 0 <= shifts.min() <= shifts.max() < spec.size:
        found = f"from {shifts.min()} to {shifts.max()}"
        raise SpecError(f"permuted_diagonal: shifts of blocks of {spec.size} are 0 to {spec.size - 1}, not {found}")
    checked = shifts.astype(np.int64)
    if spec.index != "searched" and (other := checked != (own := spec.shifts(shape))).any():
        row, column = np.argwhere(other)[0]
        raise SpecError(
            f"permuted_diagonal: a {spec.index} index shifts block ({row}, {column}) by {own[row, column]}, not by "
            f"{checked[row, column]}; index='searched' stores any shifts"
        )
    return checked


def _rows(spec: PermutedDiagonalSpec, shape: Shape) -> Rows:
    rows, columns = spec.grid(shape)
    if spec.values == CODEBOOK4:
        return in_one_book((rows, columns, spec.size, *shape[2:]))
    outputs = np.arange(rows * spec.size).reshape(rows, 1, spec.size, *(1,) * (len(shape) - 2))
    return Rows(outputs, rows * spec.size)


def _tiles(weight: FloatArray, spec: PermutedDiagonalSpec) -> FloatArray:
    """(rows, columns, size outputs, size inputs[, R, S]), zeros beyond the weight."""
    (rows, columns), p = spec.grid(weight.shape), spec.size
    missing = (rows * p - weight.shape[0], columns * p - weight.shape[1])
    padded = np.pad(weight, [(0, n) for n in missing] + [(0, 0)] * (weight.ndim - 2))
    return np.moveaxis(padded.reshape(rows, p, columns, p, *weight.shape[2:]), 2, 1)


def _best(tiles: FloatArray) -> Shifts:
    """Of each block the shift of the diagonal with the largest norm."""
    p = tiles.shape[2]
    squares = np.square(tiles.astype(np.float64)).reshape(*tiles.shape[:4], -1).sum(axis=4)
    place = np.arange(p)
    norms = np.stack([squares[:, :, place, (place + k) % p].sum(axis=2) for k in range(p)], axis=2)
    best: Shifts = norms.argmax(axis=2)
    return best


def columns_of(shifts: Shifts, size: int) -> Shifts:
    """(rows, columns, size): the input within its block that each output of a block reads."""
    return (np.arange(size) + shifts[:, :, None]) % size


def _take(tiles: FloatArray, shifts: Shifts) -> FloatArray:
    where = columns_of(shifts, tiles.shape[2])
    where = where.reshape(*where.shape, *(1,) * (tiles.ndim - 3))
    return np.take_along_axis(tiles, where, axis=3)[:, :, :, 0]


def _put(q: NDArray[Number], weight: PackedPermutedDiagonal) -> NDArray[Number]:
    """The values on their diagonals in an array of the weight's shape."""
    p, shape = weight.spec.size, weight.shape
    rows, columns = weight.spec.grid(shape)
    tiles = np.zeros((rows, columns, p, p, *shape[2:]), dtype=q.dtype)
    where = columns_of(weight.index(), p)[:, :, :, None]
    np.put_along_axis(tiles, where.reshape(*where.shape, *(1,) * (q.ndim - 3)), q[:, :, :, None], axis=3)
    whole = np.moveaxis(tiles, 1, 2).reshape(rows * p, columns * p, *shape[2:])
    return np.ascontiguousarray(whole[: shape[0], : shape[1]])


def _inside(spec: PermutedDiagonalSpec, shape: Shape, shifts: Shifts) -> NDArray[np.bool_]:
    """(rows, columns, size): which entries stand within the weight."""
    (rows, columns), p = spec.grid(shape), spec.size
    outputs = np.arange(rows * p).reshape(rows, 1, p)
    inputs = np.arange(columns).reshape(1, columns, 1) * p + columns_of(shifts, p)
    return (outputs < shape[0]) & (inputs < shape[1])


def _bits_of(shifts: Shifts, width: int) -> NDArray[np.uint8]:
    bits = shifts.ravel()[:, None] >> np.arange(width) & 1
    return np.packbits(bits.astype(np.uint8), bitorder="little")


def _numbers_of(arrays: Mapping[str, Array], width: int, grid: tuple[int, int], size: int) -> Shifts:
    stored, count = arrays.get("weight.index"), math.prod(grid)
    bytes_ = -(-count * width // 8)
    if stored is None or stored.dtype != np.uint8 or stored.shape != (bytes_,):
        found = "there is none" if stored is None else f"it is {stored.dtype} of shape {stored.shape}"
        raise ProgramError(
            f"permuted_diagonal: an index of {count} shifts, {width} bits each, is {bytes_} bytes; {found}"
        )
    bits = np.unpackbits(stored.view(np.uint8), bitorder="little")
    shifts = bits[: count * width].reshape(count, width).astype(np.int64) @ (1 << np.arange(width))
    if bits[count * width :].any() or (shifts >= size).any():
        raise ProgramError(f"permuted_diagonal: the index has shifts of {size} or more, or bits after the last one")
    return shifts.reshape(grid)
