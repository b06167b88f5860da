"""What a stored number may be. Every structure combines with every value type that it supports.

A value type turns a float32 array into the arrays that a file stores, and back. It knows nothing of structure.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Final

import numpy as np
from numpy.typing import NDArray

from dovetail.errors import ProgramError, SpecError

Array = NDArray[np.generic]
FloatArray = NDArray[np.float32]


@dataclass(frozen=True)
class Values:
    """A value type: `encode` to stored arrays, `decode` back to float32.

    Subclasses set `name` (unique, stored in files) and `bits` (of one stored number, scales not included).
    """

    name: ClassVar[str]
    bits: ClassVar[int]

    def encode(self, name: str, array: FloatArray) -> dict[str, Array]:
        """Store `array` under `name`; extra arrays (scales, code books) take `name + ".<part>"`."""
        raise SpecError(f"value type {type(self).__name__} does not say how to store numbers")

    def decode(self, name: str, arrays: Mapping[str, Array]) -> FloatArray:
        """The float32 array that `encode` stored under `name`."""
        raise SpecError(f"value type {type(self).__name__} does not say how to read numbers")

    def stored(self, name: str) -> tuple[str, ...]:
        """Names of the arrays that `encode` writes for `name`."""
        return (name,)

    def round(self, array: FloatArray) -> FloatArray:
        """`array` after one trip through storage."""
        return self.decode("x", self.encode("x", array))


@dataclass(frozen=True)
class Float32(Values):
    """IEEE single precision: stored as it is."""

    name: ClassVar[str] = "f32"
    bits: ClassVar[int] = 32

    def encode(self, name: str, array: FloatArray) -> dict[str, Array]:
        """One float32 array."""
        return {name: np.ascontiguousarray(array, dtype=np.float32)}

    def decode(self, name: str, arrays: Mapping[str, Array]) -> FloatArray:
        """The stored array itself."""
        return _stored(name, arrays, np.float32).view(np.float32)


@dataclass(frozen=True)
class BFloat16(Values):
    """The upper half of a single: 8 exponent and 7 fraction bits, rounded to nearest even, stored as uint16."""

    name: ClassVar[str] = "bf16"
    bits: ClassVar[int] = 16

    def encode(self, name: str, array: FloatArray) -> dict[str, Array]:
        """One uint16 array."""
        words = np.ascontiguousarray(array, dtype=np.float32).view(np.uint32)
        rounded = words + np.uint32(0x7FFF) + ((words >> np.uint32(16)) & np.uint32(1))
        return {name: (rounded >> np.uint32(16)).astype(np.uint16)}

    def decode(self, name: str, arrays: Mapping[str, Array]) -> FloatArray:
        """Exact: every bf16 number is a float32 number."""
        words = _stored(name, arrays, np.uint16).astype(np.uint32) << np.uint32(16)
        return words.view(np.float32)


F32: Final = Float32()
BF16: Final = BFloat16()
VALUES: Final[dict[str, Values]] = {values.name: values for values in (F32, BF16)}


def values_named(name: str) -> Values:
    """The value type called `name`; `SpecError` lists the known ones."""
    if not isinstance(name, str) or name not in VALUES:
        raise SpecError(f"unknown value type {name!r}; known are {', '.join(VALUES)}")
    return VALUES[name]


def _stored(name: str, arrays: Mapping[str, Array], dtype: type[np.generic]) -> Array:
    if name not in arrays:
        raise ProgramError(f"stored weight lacks its array {name!r}; it has {', '.join(arrays) or 'none'}")
    array = arrays[name]
    if array.dtype != np.dtype(dtype):
        raise ProgramError(f"stored array {name!r} has type {array.dtype}, expected {np.dtype(dtype)}")
    return array
