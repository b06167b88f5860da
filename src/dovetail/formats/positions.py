"""Sets of indices as bytes: a bitmap, or run-length gaps; whichever is smaller.

The values that stand at the positions are stored under a name such as `"coefficients"`; the positions are one uint8
array beside it whose name tells the encoding:

- `"coefficients.bitmap"`: bit `i % 8` of byte `i // 8` says whether index `i` is in the set; unused bits are zero.
- `"coefficients.gaps"`: per index, in rising order, the count of absent indices before it since the one before. A byte
  below 255 is a gap and ends with a present index; 255 stands for 255 absent ones and the gap goes on. The last gap
  ends at the size of the whole set, as if one more index stood there, so that the bytes fit one size only.

A set of density p in n indices costs n bits as bitmap and about 8 p n bits as gaps, so gaps win below p = 1/8.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import numpy as np
from numpy.typing import NDArray

from dovetail.errors import ProgramError
from dovetail.formats.values import Array

Indices = NDArray[np.int64]
Bytes = NDArray[np.uint8]
KINDS: Final = ("bitmap", "gaps")
ESCAPE: Final = 255


def encode(name: str, present: NDArray[np.bool_]) -> dict[str, Array]:
    """The set of the true entries of `present` (flattened) as one array; the bitmap where both are equally small."""
    flat = np.ascontiguousarray(present, dtype=np.bool_).ravel()
    bitmap, gaps = np.packbits(flat, bitorder="little"), _to_gaps(np.flatnonzero(flat), flat.size)
    return {f"{name}.bitmap": bitmap} if bitmap.nbytes <= gaps.nbytes else {f"{name}.gaps": gaps}


def decode(name: str, arrays: Mapping[str, Array], size: int) -> Indices:
    """The rising indices stored for `name`, all below `size`; `ProgramError` where the bytes cannot mean that."""
    stored = stored_as(name, arrays)
    data = arrays[stored]
    if data.dtype != np.uint8 or data.ndim != 1:
        raise ProgramError(f"positions {stored!r} are a {data.ndim}-D array of {data.dtype}; expected 1-D uint8")
    read = _from_bitmap if stored.endswith(".bitmap") else _from_gaps
    return read(stored, data.view(np.uint8), size)


def stored_as(name: str, arrays: Mapping[str, Array]) -> str:
    """Name of the one array that holds the positions of `name`."""
    found = [f"{name}.{kind}" for kind in KINDS if f"{name}.{kind}" in arrays]
    if len(found) != 1:
        raise ProgramError(
            f"{name!r} needs its positions as either {name}.bitmap or {name}.gaps; it has {found or 'none'}"
        )
    return found[0]


def _to_gaps(indices: Indices, size: int) -> Bytes:
    gaps = np.diff(indices, prepend=-1, append=size) - 1
    escapes = gaps // ESCAPE
    ends = np.cumsum(escapes + 1) - 1
    data = np.full(ends[-1] + 1, ESCAPE, dtype=np.uint8)
    data[ends] = gaps % ESCAPE
    return data


def _from_gaps(name: str, data: Bytes, size: int) -> Indices:
    if not len(data) or data[-1] == ESCAPE:
        raise ProgramError(f"positions {name!r} end inside a gap; the file is damaged")
    ends = data != ESCAPE
    indices: Indices = np.cumsum(data.astype(np.int64) + ends)[ends] - 1
    if indices[-1] != size:
        raise ProgramError(f"positions {name!r} are of {indices[-1]} indices, expected {size}")
    return indices[:-1]


def _from_bitmap(name: str, data: Bytes, size: int) -> Indices:
    if len(data) != (size + 7) // 8:
        raise ProgramError(f"positions {name!r} have {len(data)} bytes; a bitmap of {size} bits has {(size + 7) // 8}")
    indices = np.flatnonzero(np.unpackbits(data, bitorder="little"))
    if len(indices) and indices[-1] >= size:
        raise ProgramError(f"positions {name!r} have a bit set past the last of {size} indices; the file is damaged")
    return indices
