"""Block-circulant weights in numpy: one vector for each block, or its spectrum."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Self, TypeVar

import numpy as np
from numpy.typing import NDArray

from dovetail.errors import ProgramError, SpecError
from dovetail.formats.base import NOT_REAL, Geometry, Packed, Shape, as_weight, kernel_size, scaled
from dovetail.formats.block_circulant.spec import BlockCirculantSpec
from dovetail.formats.values import CODEBOOK4, FloatArray, Integer8, Rows, Values, in_one_book

Number = TypeVar("Number", bound=np.generic)


class PackedBlockCirculant(Packed):
    """Array `weight` (rows, columns of blocks, size[, R, S]): the first columns of the blocks.

    All outputs of a row of blocks share their numbers, so they share the scale of int8 values, too. Where outputs have
    been multiplied by factors of their own (a batch norm's), `weight.gain`, float32 of shape (K,), has those.
    """

    spec: BlockCirculantSpec

    @classmethod
    def from_dense(cls, weight: FloatArray, spec: BlockCirculantSpec) -> Self:
        """The Frobenius optimum: each number is the mean of those whose place it takes.

        The filling of the last blocks is no part of the mean.
        """
        weight = as_weight(weight)
        spec.check(weight.shape)
        (rows, columns), k = spec.grid(weight.shape), spec.size
        sums, counts = np.zeros((rows, columns, k, *weight.shape[2:])), _counts(spec, weight.shape)
        np.add.at(sums, _places(spec, weight.shape), weight.astype(np.float64))
        means = sums / np.maximum(counts, 1).reshape(*counts.shape, *(1,) * (weight.ndim - 2))
        return cls.from_columns(means, spec, weight.shape)

    @classmethod
    def from_columns(
        cls, columns: np.ndarray, spec: BlockCirculantSpec, shape: Shape, gain: FloatArray | None = None
    ) -> Self:
        """From the first columns of the blocks, (rows, columns, size[, R, S]), a weight of `shape`.

        Output k is multiplied by `gain[k]`. Numbers that stand nowhere in the weight leave a code book to the others.

        Raises:
            SpecError: the columns or gains are not as many as the shape asks for, or one is not a real, finite number.
        """
        columns, wanted = as_weight(columns), (*spec.grid(shape), spec.size, *shape[2:])
        if columns.shape != wanted:
            raise SpecError(f"block_circulant: columns of shape {columns.shape}; a weight of {shape} has {wanted}")
        _check_gain(shape, gain)
        if spec.values == CODEBOOK4:
            used = _counts(spec, shape) > 0
            first = np.ravel(columns[used])[0]
            columns = np.where(used.reshape(*used.shape, *(1,) * (len(shape) - 2)), columns, first)
        arrays = spec.values.encode("weight", columns, _rows(spec, shape))
        if gain is not None and np.not_equal(gain, 1).any():
            arrays["weight.gain"] = np.ascontiguousarray(gain, dtype=np.float32)
        return cls(spec, shape, arrays)

    @classmethod
    def from_spectra(cls, spectra: NDArray[np.complexfloating], spec: BlockCirculantSpec, shape: Shape) -> Self:
        """From the real transforms of the first columns, (rows, columns, size // 2 + 1[, R, S]).

        Raises:
            SpecError: they are no array of numbers, have another shape, NaN or Inf, or are not those of real numbers:
                the first, and of an even size the last, must be real.
        """
        if not isinstance(spectra, np.ndarray) or spectra.dtype.kind in NOT_REAL - {"c"}:
            found = str(getattr(spectra, "dtype", type(spectra).__name__))
            raise SpecError(f"block_circulant: spectra must be a numpy array of complex numbers, not {found}")
        if not np.isfinite(spectra).all():
            raise SpecError(f"block_circulant: spectra of a weight of shape {shape} have NaN or Inf")
        want = (*spec.grid(shape), spec.size // 2 + 1, *shape[2:])
        if spectra.shape != want:
            raise SpecError(f"block_circulant: spectra of shape {spectra.shape}; {spec} takes {want}")
        ends = spectra[:, :, [0, -1] if spec.size % 2 == 0 else [0]]
        if np.abs(ends.imag).max(initial=0) > 1e-6 * np.abs(spectra).max(initial=0):
            raise SpecError(
                f"block_circulant: spectra of a weight of shape {shape} are not those of real numbers: the "
                f"first (and of an even size the last) of each block must be real"
            )
        return cls.from_columns(np.fft.irfft(spectra, spec.size, axis=2), spec, shape)

    @classmethod
    def random(cls, shape: Shape, spec: BlockCirculantSpec, random: np.random.Generator) -> Self:
        """Normal numbers (He et al., 2015): an output sees each of its inputs once."""
        spec.check(shape)
        deviation = np.float32(math.sqrt(2.0 / math.prod(shape[1:])))
        columns = random.standard_normal((*spec.grid(shape), spec.size, *shape[2:]), dtype=np.float32)
        return cls.from_columns(deviation * columns, spec, shape)

    def columns(self) -> FloatArray:
        """The first column of every block, (rows, columns, size[, R, S])."""
        return self.decode("weight")

    def blocks(self) -> FloatArray:
        """The same as (rows, columns, size, R, S); a linear layer counts as 1x1."""
        w = self.columns()
        return w.reshape(*w.shape[:3], *kernel_size(self.shape))

    def spectra(self) -> NDArray[np.complex128]:
        """Real transforms of the first columns, (rows, columns, size // 2 + 1[, R, S]): as many real numbers."""
        return np.fft.rfft(self.columns().astype(np.float64), axis=2)

    def gain(self) -> FloatArray:
        """The factor of each output, (K,)."""
        gain = self.arrays.get("weight.gain")
        return np.ones(self.shape[0], dtype=np.float32) if gain is None else gain.view(np.float32)

    def dense(self) -> FloatArray:
        """Every block's column in all its rotations, times the gain."""
        return scaled(_rotated(self.columns(), self.spec, self.shape), self.gain())

    def cast(self, values: Values, multiply: FloatArray | None = None) -> Self:
        """The same structure in another value type; the gain takes the factors."""
        _check_gain(self.shape, multiply)
        gain = self.gain() if multiply is None else (self.gain() * multiply).astype(np.float32)
        return type(self).from_columns(self.columns(), replace(self.spec, values=values), self.shape, gain)

    def integers(self) -> tuple[NDArray[np.int32], FloatArray] | None:
        """Codes in all their rotations and the scales of int8 values."""
        values = self.spec.values
        if not isinstance(values, Integer8):
            return None
        codes = values.codes("weight", self.arrays).astype(np.int32)
        scale = np.repeat(values.scale("weight", self.arrays), self.spec.size)[: self.shape[0]]
        return _rotated(codes, self.spec, self.shape), (scale * self.gain()).astype(np.float32)

    def rows(self, name: str) -> Rows | None:
        """One scale per row of blocks, one code book for all."""
        return _rows(self.spec, self.shape)

    def macs(self, at: Geometry) -> int:
        """Multiplications: K C R S H'W' directly, or those between real fast transforms where they are fewer."""
        direct = math.prod(self.shape) * at.outputs
        return min(direct, self._transformed(at)) if self.spec.size & (self.spec.size - 1) == 0 else direct

    def _transformed(self, at: Geometry) -> int:
        """4 for each butterfly and complex product, 2 for the two real ones of each pair of spectra.

        A real transform of k = 2^n numbers is a complex one of k/2, (k/4) log2(k/2) butterflies, and k/4 more that part
        the halves; up to k = 2 it only adds. Additions without a multiplication are not counted.
        """
        (rows, columns), k, taps = self.spec.grid(self.shape), self.spec.size, math.prod(self.shape[2:])
        transform = 4 * (k // 4) * (k.bit_length() - 1)
        products = 1 if k == 1 else 4 * (k // 2 - 1) + 2
        return transform * (columns * at.inputs + rows * at.outputs) + products * rows * columns * taps * at.outputs

    def nonzeros(self) -> int:
        """Stored numbers that are not zero."""
        return int(np.count_nonzero(self.columns()))

    def params(self) -> int:
        """K C R S / size, the last blocks filled up."""
        return math.prod(self.spec.grid(self.shape)) * self.spec.size * math.prod(self.shape[2:])

    def position_bits(self) -> int:
        """None: where a number stands follows from its place in the block, and gains are numbers."""
        return 0

    def validate_arrays(self) -> None:
        """One vector of `size` numbers for each block (and tap), and a finite gain for each output, if any."""
        gain = self.arrays.get("weight.gain")
        self.require_only("weight", besides=() if gain is None else ("weight.gain",))
        self.require("weight", (*self.spec.grid(self.shape), self.spec.size, *self.shape[2:]))
        if gain is None:
            return
        if gain.dtype != np.float32 or gain.shape != self.shape[:1] or not np.isfinite(gain).all():
            want = f"{self.shape[0]} finite float32 numbers"
            raise ProgramError(f"block_circulant weight of shape {self.shape}: its gain must be {want}")


def _check_gain(shape: Shape, gain: FloatArray | None) -> None:
    if gain is None:
        return
    given = np.asarray(gain)
    if given.shape != shape[:1] or given.dtype.kind in NOT_REAL or not np.isfinite(given).all():
        raise SpecError(f"block_circulant: a weight of shape {shape} takes {shape[0]} finite gains, one an output")


def _rows(spec: BlockCirculantSpec, shape: Shape) -> Rows | None:
    return in_one_book((*spec.grid(shape), spec.size, *shape[2:])) if spec.values == CODEBOOK4 else None


def _rotated(columns: NDArray[Number], spec: BlockCirculantSpec, shape: Shape) -> NDArray[Number]:
    return np.ascontiguousarray(columns[_places(spec, shape)])


def _places(spec: BlockCirculantSpec, shape: Shape) -> tuple[NDArray[np.intp], NDArray[np.intp], NDArray[np.intp]]:
    """(row, column, number) of each entry of the weight."""
    outputs, inputs = np.arange(shape[0])[:, None], np.arange(shape[1])[None]
    return outputs // spec.size, inputs // spec.size, (outputs - inputs) % spec.size


def _counts(spec: BlockCirculantSpec, shape: Shape) -> FloatArray:
    """(rows, columns, size): in how many entries of the weight each number stands."""
    counts = np.zeros((*spec.grid(shape), spec.size), np.float32)
    np.add.at(counts, _places(spec, shape), 1)
    return counts
