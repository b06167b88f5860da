"""What a stored number may be. Every structure combines with every value type that it supports.

A value type turns a float32 array into the arrays that a file stores, and back. It knows nothing of structure.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Final

import numpy as np
from numpy.typing import NDArray

from dovetail.errors import ProgramError, SpecError

Array = NDArray[np.generic]
FloatArray = NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Rows:
    """Which numbers of an array share a scale.

    Attributes:
        index: of the scale that each number takes; broadcasts against the array.
        count: how many scales there are.
    """

    index: NDArray[np.int64]
    count: int


ONE_ROW: Final = Rows(np.zeros((), dtype=np.int64), 1)
THRESHOLD: Final = 0.05  # of the largest magnitude; up to it numbers become the zero of ternary ones


@dataclass(frozen=True)
class Values:
    """A value type: `encode` to stored arrays, `decode` back to float32.

    Subclasses set `name` (unique, stored in files) and `bits` (of one stored number, scales not included).
    """

    name: ClassVar[str]
    bits: ClassVar[int]

    def encode(self, name: str, array: FloatArray, rows: Rows | None = None) -> dict[str, Array]:
        """Store `array` under `name`; extra arrays (scales, code books) take `name + ".<part>"`.

        Types with scales give one to each of `rows`; None means each index of the first axis.
        """
        raise SpecError(f"value type {type(self).__name__} does not say how to store numbers")

    def decode(self, name: str, arrays: Mapping[str, Array], rows: Rows | None = None) -> FloatArray:
        """The float32 array that `encode` stored under `name`, with the same `rows`."""
        raise SpecError(f"value type {type(self).__name__} does not say how to read numbers")

    def stored(self, name: str) -> tuple[str, ...]:
        """Names of the arrays that `encode` writes for `name`."""
        return (name,)

    def round(self, array: FloatArray, rows: Rows | None = None) -> FloatArray:
        """`array` after one trip through storage."""
        return self.decode("x", self.encode("x", array, rows), rows)


@dataclass(frozen=True)
class Float32(Values):
    """IEEE single precision: stored as it is."""

    name: ClassVar[str] = "f32"
    bits: ClassVar[int] = 32

    def encode(self, name: str, array: FloatArray, rows: Rows | None = None) -> dict[str, Array]:
        """One float32 array."""
        return {name: np.ascontiguousarray(array, dtype=np.float32)}

    def decode(self, name: str, arrays: Mapping[str, Array], rows: Rows | None = None) -> FloatArray:
        """The stored array itself."""
        return _stored(name, arrays, np.float32).view(np.float32)


@dataclass(frozen=True)
class BFloat16(Values):
    """The upper half of a single: 8 exponent and 7 fraction bits, rounded to nearest even, stored as uint16."""

    name: ClassVar[str] = "bf16"
    bits: ClassVar[int] = 16

    def encode(self, name: str, array: FloatArray, rows: Rows | None = None) -> dict[str, Array]:
        """One uint16 array."""
        words = np.ascontiguousarray(array, dtype=np.float32).view(np.uint32)
        rounded = words + np.uint32(0x7FFF) + ((words >> np.uint32(16)) & np.uint32(1))
        return {name: (rounded >> np.uint32(16)).astype(np.uint16)}

    def decode(self, name: str, arrays: Mapping[str, Array], rows: Rows | None = None) -> FloatArray:
        """Exact: every bf16 number is a float32 number."""
        words = _stored(name, arrays, np.uint16).astype(np.uint32) << np.uint32(16)
        return words.view(np.float32)


@dataclass(frozen=True)
class Whole(Values):
    """Whole numbers of a byte, times a positive scale per row: `x = scale[row] * code`."""

    scales: ClassVar[type[np.floating]] = np.float32

    def codes(self, name: str, arrays: Mapping[str, Array], rows: Rows | None = None) -> NDArray[np.int8]:
        """The whole numbers that `encode` stored under `name`, with the same `rows`."""
        raise SpecError(f"value type {type(self).__name__} does not say how to read its codes")

    def decode(self, name: str, arrays: Mapping[str, Array], rows: Rows | None = None) -> FloatArray:
        """Codes times scales, in float32."""
        codes, scale = self.codes(name, arrays, rows), self.scale(name, arrays, rows)
        index = (rows or _first_axis(codes)).index
        if index.ndim and (index.ndim != codes.ndim or index.shape[0] != codes.shape[0]):
            raise ProgramError(f"stored array {name!r} has shape {codes.shape}, expected {index.shape[0]} rows")
        return (codes.astype(np.float32) * scale[index]).astype(np.float32)

    def stored(self, name: str) -> tuple[str, ...]:
        """Codes and scales."""
        return (name, f"{name}.scale")

    def scale(self, name: str, arrays: Mapping[str, Array], rows: Rows | None = None) -> FloatArray:
        """One positive number per row."""
        scale = _stored(f"{name}.scale", arrays, self.scales)
        count = (rows or _first_axis(arrays[name])).count
        if scale.shape != (count,):
            raise ProgramError(f"stored array {name + '.scale'!r} has shape {scale.shape}, expected ({count},)")
        if not (np.isfinite(scale.view(self.scales)) & (scale.view(self.scales) > 0)).all():
            raise ProgramError(f"stored array {name + '.scale'!r} has a scale that is not positive and finite")
        return scale.astype(np.float32)


@dataclass(frozen=True)
class Integer8(Whole):
    """Whole numbers from -127 to 127, times a positive float32 scale per row.

    The scale of a row is its largest magnitude over 127. A row of zeros takes the median scale of the others, so that
    what is added to it later (a bias in units of the scale) is about as fine there.
    """

    name: ClassVar[str] = "int8"
    bits: ClassVar[int] = 8

    def encode(self, name: str, array: FloatArray, rows: Rows | None = None) -> dict[str, Array]:
        """The int8 codes, and `name + ".scale"`, float32, one per row."""
        array = np.ascontiguousarray(array, dtype=np.float32)
        rows = rows or _first_axis(array)
        index = np.broadcast_to(rows.index, array.shape)
        most = np.zeros(rows.count, dtype=np.float32)
        np.maximum.at(most, index, np.abs(array))
        scale = _filled((most / np.float32(127)).astype(np.float32))
        codes = np.clip(np.rint(array / scale[index]), -127, 127).astype(np.int8)
        return {name: codes, f"{name}.scale": scale}

    def codes(self, name: str, arrays: Mapping[str, Array], rows: Rows | None = None) -> NDArray[np.int8]:
        """The whole numbers; `ProgramError` where one is -128, which has no opposite."""
        codes = _stored(name, arrays, np.int8).view(np.int8)
        if codes.size and codes.min() < -127:
            raise ProgramError(f"stored array {name!r} holds -128; codes go from -127 to 127")
        return codes


@dataclass(frozen=True)
class Ternary(Whole):
    """Signs of numbers that are not zero, times a positive float16 scale per row: with the zeros, -1, 0 and 1.

    Only lists of non-zeros are stored; `round` says which numbers of an array those are. The scale of a row is the mean
    of its magnitudes, which errs least. A row without non-zeros takes the median scale of the others, as in int8.
    """

    name: ClassVar[str] = "ternary"
    bits: ClassVar[int] = 1
    scales: ClassVar[type[np.floating]] = np.float16

    def encode(self, name: str, array: FloatArray, rows: Rows | None = None) -> dict[str, Array]:
        """A bit per number, set for negative ones, from the lowest of each byte on; and `name + ".scale"`, float16.

        Raises:
            SpecError: a number is zero, or the scale of a row is beyond float16: above 65504, or not above 0.
        """
        if rows is None or rows.index.shape != array.shape or array.ndim != 1 or not array.all():
            raise SpecError(f"ternary values are a list of numbers that are not zero, not an array of {array.shape}")
        means, counts = _row_means(array, rows)
        scale = _halves(means)
        if (wrong := (counts > 0) & ~(np.isfinite(scale) & (scale > 0))).any():
            row = int(np.argmax(wrong))
            raise SpecError(
                f"the ternary values of row {row} have the scale {means[row]:.3g}, which 16 bits do not hold; give "
                f"that factor to the layer's batch norm, or take another value type"
            )
        signs = np.packbits(array < 0, bitorder="little")
        return {name: signs, f"{name}.scale": _filled(scale)}

    def round(self, array: FloatArray, rows: Rows | None = None) -> FloatArray:
        """Zero where a magnitude is at most `THRESHOLD` of its row's largest, else the sign times the row's scale.

        What is ternary already stays as it is, but for its scales, which become float16; those too small for it zero.
        """
        rows = rows or _first_axis(array)
        index = np.broadcast_to(rows.index, array.shape)
        most = np.zeros(rows.count, dtype=np.float32)
        np.maximum.at(most, index, np.abs(array))
        kept = np.abs(array) > np.float32(THRESHOLD) * most[index]
        kept &= (_halves(_row_means(array[kept], Rows(index[kept], rows.count))[0]) > 0)[index]
        listed = Rows(index[kept], rows.count)
        made = np.zeros_like(array)
        made[kept] = self.decode("x", self.encode("x", array[kept], listed), listed)
        return made

    def codes(self, name: str, arrays: Mapping[str, Array], rows: Rows | None = None) -> NDArray[np.int8]:
        """-1 or 1 for each number of `rows`."""
        signs, count = _stored(name, arrays, np.uint8).view(np.uint8), 0 if rows is None else rows.index.size
        if signs.shape != ((count + 7) // 8,):
            want = f"{count} signs have {(count + 7) // 8} bytes"
            raise ProgramError(f"stored array {name!r} has shape {signs.shape}; {want}")
        bits = np.unpackbits(signs, bitorder="little")
        if bits[count:].any():
            raise ProgramError(f"stored array {name!r} has a sign after the last of {count}; the file is damaged")
        return (1 - 2 * bits[:count].astype(np.int8)).astype(np.int8)


@dataclass(frozen=True)
class Fixed16(Values):
    """16-bit fixed point: whole numbers from -32767 to 32767 over a power of two that the whole array shares."""

    name: ClassVar[str] = "fixed16"
    bits: ClassVar[int] = 16
    largest: ClassVar[int] = (1 << 15) - 1
    most_fraction: ClassVar[int] = 126

    def encode(self, name: str, array: FloatArray, rows: Rows | None = None) -> dict[str, Array]:
        """The int16 codes, and `name + ".fraction"`, int8 of shape (1,): how many bits stand behind the point."""
        array = np.ascontiguousarray(array, dtype=np.float32)
        most = float(np.abs(array).max(initial=0.0))
        fraction = math.floor(math.log2(self.largest / most)) if most else 15
        fraction = max(-self.most_fraction, min(self.most_fraction, fraction))
        codes = np.rint(np.ldexp(array.astype(np.float64), fraction)).astype(np.int16)
        return {name: codes, f"{name}.fraction": np.array([fraction], dtype=np.int8)}

    def decode(self, name: str, arrays: Mapping[str, Array], rows: Rows | None = None) -> FloatArray:
        """Codes over the power of two: exact in float32, which holds 24 bits."""
        codes, fraction = _stored(name, arrays, np.int16), _stored(f"{name}.fraction", arrays, np.int8)
        if fraction.shape != (1,) or abs(int(fraction[0])) > self.most_fraction:
            most = self.most_fraction
            raise ProgramError(f"stored array {name + '.fraction'!r} must be one number from -{most} to {most}")
        if codes.size and codes.min() < -self.largest:
            raise ProgramError(f"stored array {name!r} holds -32768; codes go from -32767 to 32767")
        return np.ldexp(codes.astype(np.float32), -int(fraction[0])).astype(np.float32)

    def stored(self, name: str) -> tuple[str, ...]:
        """Codes and the place of the point."""
        return (name, f"{name}.fraction")


@dataclass(frozen=True)
class CodeBook4(Values):
    """Weight sharing (Han et al., Deep Compression, 2016): 4-bit codes of 16 numbers that the whole array shares.

    The numbers are the means of the clusters that Lloyd's iteration finds from evenly spaced ones, stored as float16.
    An array of at most 16 different numbers keeps them, but for that rounding.
    """

    name: ClassVar[str] = "codebook4"
    bits: ClassVar[int] = 4
    size: ClassVar[int] = 16
    most_rounds: ClassVar[int] = 100

    def encode(self, name: str, array: FloatArray, rows: Rows | None = None) -> dict[str, Array]:
        """Two codes a byte, the first in the lower half, flattened; and `name + ".book"`, float16 of shape (16,).

        Raises:
            SpecError: a number is beyond float16, 65504.
        """
        array = np.ascontiguousarray(array, dtype=np.float32)
        if (most := float(np.abs(array).max(initial=0.0))) > float(np.finfo(np.float16).max):
            raise SpecError(f"values of {most:.3g} do not fit a code book of 16-bit numbers; take another value type")
        book = np.sort(self.cluster(array.ravel()).astype(np.float16))
        codes = nearest(book.astype(np.float32), array.ravel())
        codes = np.append(codes, np.zeros(codes.size % 2, dtype=np.uint8))
        return {name: codes[::2] | codes[1::2] << np.uint8(4), f"{name}.book": book}

    def cluster(self, numbers: FloatArray) -> NDArray[np.float64]:
        """16 numbers, rising, each the mean of those nearest to it."""
        ordered = np.sort(numbers.astype(np.float64))
        different = np.unique(ordered)
        if different.size <= self.size:
            last = different[-1:] if different.size else np.zeros(1)
            return np.concatenate([different, np.repeat(last, self.size - different.size)])
        sums = np.concatenate([[0.0], np.cumsum(ordered)])
        book = np.linspace(ordered[0], ordered[-1], self.size)
        for _ in range(self.most_rounds):
            edges = np.searchsorted(ordered, (book[1:] + book[:-1]) / 2, side="right")
            first, after = np.concatenate([[0], edges]), np.concatenate([edges, [ordered.size]])
            counts = after - first
            moved = np.where(counts > 0, (sums[after] - sums[first]) / np.maximum(counts, 1), book)
            if np.array_equal(moved, book):
                break
            book = moved
        return book

    def decode(self, name: str, arrays: Mapping[str, Array], rows: Rows | None = None) -> FloatArray:
        """Each number out of the book; `rows.index` has the shape of the array."""
        if rows is None:
            raise ProgramError(f"stored array {name!r} has codes of a book, whose shape must be known to read them")
        return self.book(name, arrays)[self.codes(name, arrays, rows)]

    def codes(self, name: str, arrays: Mapping[str, Array], rows: Rows) -> NDArray[np.uint8]:
        """Indices into the book, in the shape of `rows.index`."""
        halves, count = _stored(name, arrays, np.uint8).view(np.uint8), rows.index.size
        if halves.shape != ((count + 1) // 2,):
            want = f"{count} codes of 4 bits have {(count + 1) // 2} bytes"
            raise ProgramError(f"stored array {name!r} has shape {halves.shape}; {want}")
        codes = np.stack([halves & np.uint8(15), halves >> np.uint8(4)], axis=1).ravel()
        if codes[count:].any():
            raise ProgramError(f"stored array {name!r} has a code after the last of {count}; the file is damaged")
        return codes[:count].reshape(rows.index.shape)

    def book(self, name: str, arrays: Mapping[str, Array]) -> FloatArray:
        """The 16 numbers, rising; `ProgramError` for a book of another size or with NaN or Inf."""
        book = _stored(f"{name}.book", arrays, np.float16).view(np.float16)
        if book.shape != (self.size,) or not np.isfinite(book).all() or (book[1:] < book[:-1]).any():
            raise ProgramError(f"stored array {name + '.book'!r} must be {self.size} finite numbers that rise")
        return book.astype(np.float32)

    def stored(self, name: str) -> tuple[str, ...]:
        """Codes and the book."""
        return (name, f"{name}.book")


F32: Final = Float32()
BF16: Final = BFloat16()
INT8: Final = Integer8()
TERNARY: Final = Ternary()
FIXED16: Final = Fixed16()
CODEBOOK4: Final = CodeBook4()
VALUES: Final[dict[str, Values]] = {v.name: v for v in (F32, BF16, INT8, TERNARY, FIXED16, CODEBOOK4)}


def nearest(book: FloatArray, numbers: FloatArray) -> NDArray[np.uint8]:
    """Index of the number of `book`, which rises, that is nearest to each; of two as near, the lower."""
    middle = (book[1:].astype(np.float64) + book[:-1]) / 2
    return np.searchsorted(middle, numbers.astype(np.float64), side="left").astype(np.uint8)


def in_one_book(shape: tuple[int, ...]) -> Rows:
    """Rows of an array of that shape whose numbers share one book."""
    return Rows(np.broadcast_to(np.int64(0), shape), 1)


def values_named(name: str) -> Values:
    """The value type called `name`; `SpecError` lists the known ones."""
    if not isinstance(name, str) or name not in VALUES:
        raise SpecError(f"unknown value type {name!r}; known are {', '.join(VALUES)}")
    return VALUES[name]


def _first_axis(array: Array) -> Rows:
    if array.ndim == 0:
        raise ProgramError("a single number has no rows")
    return Rows(np.arange(array.shape[0]).reshape(-1, *(1,) * (array.ndim - 1)), array.shape[0])


def _filled(scale: NDArray[np.floating]) -> NDArray[np.floating]:
    """Rows of zeros take the median scale of the others."""
    scale[scale == 0] = np.median(scale[scale > 0]) if scale.any() else 1
    return scale


def _row_means(array: FloatArray, rows: Rows) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Mean magnitude of the numbers in each row, 0 where there are none; and how many there are."""
    counts = np.bincount(rows.index, minlength=rows.count)
    sums = np.bincount(rows.index, np.abs(array), minlength=rows.count)
    return sums / np.maximum(counts, 1), counts


def _halves(numbers: NDArray[np.floating]) -> NDArray[np.float16]:
    """The nearest of 16 bits, infinite beyond the largest."""
    with np.errstate(over="ignore"):
        return numbers.astype(np.float16)


def _stored(name: str, arrays: Mapping[str, Array], dtype: type[np.generic]) -> Array:
    if name not in arrays:
        raise ProgramError(f"stored weight lacks its array {name!r}; it has {', '.join(arrays) or 'none'}")
    array = arrays[name]
    if array.dtype != np.dtype(dtype):
        raise ProgramError(f"stored array {name!r} has type {array.dtype}, expected {np.dtype(dtype)}")
    return array
