"""Masks packed 64 to a word, and the count of what two of them share."""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

Words = NDArray[np.uint64]
WORD: Final = 64


def pack(mask: NDArray[np.bool_]) -> Words:
    """The last axis, of a multiple of 64, as words."""
    return np.packbits(np.ascontiguousarray(mask), axis=-1, bitorder="little").view(np.uint64)


def popcount(words: Words) -> NDArray[np.uint8]:
    """Bits set in each word."""
    if hasattr(np, "bitwise_count"):
        counted: NDArray[np.uint8] = np.bitwise_count(words)
        return counted
    return _popcount(words)


def _popcount(words: Words) -> NDArray[np.uint8]:
    """The same for numpy 1: sums of neighbouring 1, 2 and 4 bits, then of bytes."""
    pairs, nibbles, octets, ones = (np.uint64(int(digits * 8, 16)) for digits in ("55", "33", "0f", "01"))
    words = words - ((words >> np.uint64(1)) & pairs)
    words = (words & nibbles) + ((words >> np.uint64(2)) & nibbles)
    words = (words + (words >> np.uint64(4))) & octets
    return ((words * ones) >> np.uint64(56)).astype(np.uint8)
