"""How many bits sparse data take in the encodings of accelerators, counted on the real pattern."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

Mask = NDArray[np.bool_]


def run_length_entries(mask: Mask, run_bits: int) -> NDArray[np.int64]:
    """Entries of each row of a mask `(streams, length)` that a run-length code stores.

    An entry is the count of zeros before it and a value. A gap of `2**run_bits` zeros or more takes entries whose value
    is zero, each of which stands for `2**run_bits` of them. Zeros after the last value are not stored.
    """
    streams, places = np.nonzero(mask)
    before = np.concatenate(([-1], places[:-1]))[: len(places)]
    starts = np.concatenate(([True], streams[1:] != streams[:-1]))[: len(places)]
    gaps = places - np.where(starts, -1, before) - 1
    entries = np.bincount(streams, 1 + (gaps >> run_bits), minlength=len(mask))
    return entries.astype(np.int64)


def packed_run_length_bits(mask: Mask, run_bits: int = 5, per_word: int = 3, word: int = 64) -> int:
    """Bits of streams whose entries are packed several to a word, as Eyeriss does: three pairs and a flag in 64."""
    return word * int(sum(math.ceil(n / per_word) for n in run_length_entries(mask, run_bits).tolist()))
