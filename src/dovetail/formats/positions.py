"""Sets of indices as bytes, in the smallest of the encodings that `encodings.py` has.

The values that stand at the positions are stored under a name such as `"coefficients"`; the positions are a uint8 array
beside it whose name tells the encoding, such as `"coefficients.gaps"`.

Indices may lie in rows of the same length. Then `"coefficients.rows"` may stand beside it, a bitmap of the rows in
which any index stands; the other array has the indices as if there were no other rows.

Sets without rows are bitmaps or gaps: a set of density p in n indices costs n bits as bitmap and about 8 p n bits as
gaps, so gaps win below p = 1/8. Sets of rows, whose values are small, are in whichever encoding is the smallest.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import numpy as np
from numpy.typing import NDArray

from dovetail.errors import ProgramError
from dovetail.formats.encodings import ENCODINGS, Bytes, Encoding, Indices
from dovetail.formats.values import Array

__all__ = ["Indices", "decode", "encode", "stored_as"]

ROWS: Final = "rows"
PLAIN: Final = tuple(encoding for encoding in ENCODINGS if encoding.kind in ("bitmap", "gaps"))
_BITMAP: Final = ENCODINGS[0]


def encode(name: str, present: NDArray[np.bool_], row: int | None = None) -> dict[str, Array]:
    """The set of the true entries of `present` (flattened), in rows of `row` indices where that is given.

    Of encodings that are equally small the first of `ENCODINGS` is taken, and no rows are left out in vain.
    """
    flat = np.ascontiguousarray(present, dtype=np.bool_).ravel()
    indices = np.flatnonzero(flat)
    if row is None:
        return _smallest(name, indices, flat.size, PLAIN)
    some = np.bincount(indices // row, minlength=flat.size // row) > 0
    rows = {f"{name}.{ROWS}": _BITMAP.write(np.flatnonzero(some), some.size)}
    whole = _smallest(name, indices, flat.size, ENCODINGS)
    kept = rows | _smallest(name, _without(indices, some, row), int(some.sum()) * row, ENCODINGS)
    return min(whole, kept, key=_size)


def decode(name: str, arrays: Mapping[str, Array], size: int, row: int | None = None) -> Indices:
    """The rising indices stored for `name`, all below `size`; `ProgramError` where the bytes cannot mean that."""
    *masks, stored = stored_as(name, arrays, row)
    encoding = next(e for e in ENCODINGS if stored == f"{name}.{e.kind}")
    if row is None or not masks:
        return encoding.read(stored, _checked(stored, arrays), size)
    some = _BITMAP.read(masks[0], _checked(masks[0], arrays), size // row)
    indices = encoding.read(stored, _checked(stored, arrays), len(some) * row)
    within, place = np.divmod(indices, row)
    if len(np.unique(within)) < len(some):
        raise ProgramError(f"positions {masks[0]!r} have a row of none that is said to have some; the file is damaged")
    return some[within] * row + place


def stored_as(name: str, arrays: Mapping[str, Array], row: int | None = None) -> tuple[str, ...]:
    """Names of the arrays that hold the positions of `name`: the mask of rows, where there is one, comes first."""
    kinds = [encoding.kind for encoding in (PLAIN if row is None else ENCODINGS)]
    found = [f"{name}.{kind}" for kind in kinds if f"{name}.{kind}" in arrays]
    if len(found) != 1:
        raise ProgramError(f"{name!r} needs its positions as one of {', '.join(kinds)}; it has {found or 'none'}")
    mask = f"{name}.{ROWS}"
    return (mask, *found) if row is not None and mask in arrays else (*found,)


def _smallest(name: str, indices: Indices, size: int, encodings: tuple[Encoding, ...]) -> dict[str, Array]:
    best = min(encodings, key=lambda encoding: encoding.cost(indices, size))
    return {f"{name}.{best.kind}": best.write(indices, size)}


def _without(indices: Indices, some: NDArray[np.bool_], row: int) -> Indices:
    """The indices as if only `some` of the rows were there."""
    number = np.cumsum(some) - 1
    shifted: Indices = number[indices // row] * row + indices % row
    return shifted


def _size(arrays: Mapping[str, Array]) -> int:
    return sum(array.nbytes for array in arrays.values())


def _checked(stored: str, arrays: Mapping[str, Array]) -> Bytes:
    data = arrays[stored]
    if data.dtype != np.uint8 or data.ndim != 1:
        raise ProgramError(f"positions {stored!r} are a {data.ndim}-D array of {data.dtype}; expected 1-D uint8")
    return data.view(np.uint8)
