"""Four ways to write a set of indices below a size as bytes. Each says beforehand how many bytes it takes.

Bits fill a byte from its lowest on, and those that are left over are zero:

- `bitmap`: bit `i` says whether index `i` is in the set.
- `gaps`: per index, in rising order, the count of absent indices before it since the one before. A byte below 255 is a
  gap and ends with a present index; 255 stands for 255 absent ones and the gap goes on. The last gap ends at the size,
  as if one more index stood there, so that the bytes fit one size only.
- `groups`: a byte G; a bit for every G indices, the last of which may lack some, that says whether any of them is in
  the set; then G bits for each group of which it says so.
- `runs`: a byte b; then gaps as above, of b bits each, in which the largest count, 2^b - 1, stands for so many absent
  indices.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from dovetail.errors import ProgramError

Indices = NDArray[np.int64]
Bytes = NDArray[np.uint8]
GAP: Final = 8  # bits
GROUPS: Final = range(2, 65)  # places in a group
RUNS: Final = range(2, 13)  # bits of a count


@dataclass(frozen=True)
class Encoding:
    """One way to write a set.

    Attributes:
        kind: under which files know it.
        cost: bytes for these rising indices below a size.
        write: those bytes.
        read: the indices again; `ProgramError`, with the name given first, where bytes cannot mean a set of that size.
    """

    kind: str
    cost: Callable[[Indices, int], int]
    write: Callable[[Indices, int], Bytes]
    read: Callable[[str, Bytes, int], Indices]


def _bitmap_cost(indices: Indices, size: int) -> int:
    return _bytes(size)


def _to_bitmap(indices: Indices, size: int) -> Bytes:
    present = np.zeros(size, dtype=np.bool_)
    present[indices] = True
    return np.packbits(present, bitorder="little")


def _from_bitmap(name: str, data: Bytes, size: int) -> Indices:
    if len(data) != _bytes(size):
        raise ProgramError(f"positions {name!r} have {len(data)} bytes; a bitmap of {size} bits has {_bytes(size)}")
    indices = np.flatnonzero(_bits(data))
    _require_within(name, indices, size)
    return indices


def _gaps_cost(indices: Indices, size: int) -> int:
    return _counts(indices, size, GAP)


def _to_gaps(indices: Indices, size: int) -> Bytes:
    return _escaped(indices, size, GAP).astype(np.uint8)


def _from_gaps(name: str, data: Bytes, size: int) -> Indices:
    if not len(data) or data[-1] == _escape(GAP):
        raise ProgramError(f"positions {name!r} end inside a gap; the file is damaged")
    indices = _ends(data, GAP)
    if indices[-1] != size:
        raise ProgramError(f"positions {name!r} are of {indices[-1]} indices, expected {size}")
    return indices[:-1]


def _groups_cost(indices: Indices, size: int) -> int:
    return 1 + _bytes(_best_group(indices, size)[0])


def _to_groups(indices: Indices, size: int) -> Bytes:
    group = _best_group(indices, size)[1]
    places = np.zeros((-(-size // group), group), dtype=np.bool_)
    places.ravel()[indices] = True
    some = places.any(axis=1)
    bits = np.concatenate([some, places[some].ravel()])
    return np.concatenate([[np.uint8(group)], np.packbits(bits, bitorder="little")])


def _from_groups(name: str, data: Bytes, size: int) -> Indices:
    group = _parameter(name, data, GROUPS, "groups of {} places")
    bits, count = _bits(data[1:]), -(-size // group)
    some = np.flatnonzero(bits[:count])
    want = 1 + _bytes(count + len(some) * group)
    if len(data) != want:
        raise ProgramError(f"positions {name!r} have {len(data)} bytes; {len(some)} of {count} groups take {want}")
    _require_end(name, bits, count + len(some) * group)
    places = bits[count : count + len(some) * group].reshape(-1, group)
    if not places.any(axis=1).all():
        raise ProgramError(f"positions {name!r} have a group of none that is said to have some; the file is damaged")
    within, place = np.nonzero(places)
    indices = some[within] * group + place
    _require_within(name, indices, size)
    return indices


def _runs_cost(indices: Indices, size: int) -> int:
    return 1 + _bytes(_best_run(indices, size)[0])


def _to_runs(indices: Indices, size: int) -> Bytes:
    width = _best_run(indices, size)[1]
    counts = _escaped(indices, size, width)
    bits = (counts[:, None] >> np.arange(width) & 1).astype(np.bool_)
    return np.concatenate([[np.uint8(width)], np.packbits(bits, bitorder="little")])


def _from_runs(name: str, data: Bytes, size: int) -> Indices:
    width = _parameter(name, data, RUNS, "counts of {} bits")
    bits = _bits(data[1:])
    counts = bits[: len(bits) // width * width].reshape(-1, width) @ (1 << np.arange(width))
    indices = _ends(counts, width)
    end = int(np.searchsorted(indices, size))
    if end == len(indices) or indices[end] != size:
        reached = indices[min(end, len(indices) - 1)] if len(indices) else 0
        raise ProgramError(f"positions {name!r} are of {reached} indices, expected {size}")
    _require_end(name, bits, (int(np.flatnonzero(counts != _escape(width))[end]) + 1) * width)
    return indices[:end]


ENCODINGS: Final = (
    Encoding("bitmap", _bitmap_cost, _to_bitmap, _from_bitmap),
    Encoding("gaps", _gaps_cost, _to_gaps, _from_gaps),
    Encoding("groups", _groups_cost, _to_groups, _from_groups),
    Encoding("runs", _runs_cost, _to_runs, _from_runs),
)


def _best_group(indices: Indices, size: int) -> tuple[int, int]:
    """Least number of bits, and the places of a group that give it."""
    return min((-(-size // g) + g * _distinct(indices // g), g) for g in GROUPS)


def _best_run(indices: Indices, size: int) -> tuple[int, int]:
    """Least number of bits, and the bits of a count that give it."""
    return min((_counts(indices, size, width) * width, width) for width in RUNS)


def _escape(width: int) -> int:
    """The count that does not end a gap."""
    return (1 << width) - 1


def _counts(indices: Indices, size: int, width: int) -> int:
    """How many counts the gaps take."""
    gaps = np.diff(indices, prepend=-1, append=size) - 1
    return len(gaps) + int((gaps // _escape(width)).sum())


def _escaped(indices: Indices, size: int, width: int) -> Indices:
    """The counts."""
    gaps = np.diff(indices, prepend=-1, append=size) - 1
    ends = np.cumsum(gaps // _escape(width) + 1) - 1
    counts = np.full(ends[-1] + 1, _escape(width), dtype=np.int64)
    counts[ends] = gaps % _escape(width)
    return counts


def _ends(counts: NDArray[np.integer], width: int) -> Indices:
    """Where each gap ends; behind the last index that is at the size."""
    ends = counts != _escape(width)
    indices: Indices = np.cumsum(counts.astype(np.int64) + ends)[ends] - 1
    return indices


def _distinct(rising: Indices) -> int:
    return int(np.count_nonzero(np.diff(rising))) + (len(rising) > 0)


def _bytes(bits: int) -> int:
    return -(-bits // 8)


def _bits(data: Bytes) -> Bytes:
    return np.unpackbits(data, bitorder="little")


def _parameter(name: str, data: Bytes, allowed: range, of: str) -> int:
    """The first byte."""
    found = int(data[0]) if len(data) else 0
    if found not in allowed:
        raise ProgramError(f"positions {name!r} have {of.format(found)}; they may have {allowed[0]} to {allowed[-1]}")
    return found


def _require_within(name: str, indices: Indices, size: int) -> None:
    if len(indices) and indices[-1] >= size:
        raise ProgramError(f"positions {name!r} have a bit set past the last of {size} indices; the file is damaged")


def _require_end(name: str, bits: Bytes, used: int) -> None:
    """Less than a byte may follow, and no bit of it be set."""
    if len(bits) - used >= 8 or bits[used:].any():
        raise ProgramError(f"positions {name!r} go on after their end, at bit {used}; the file is damaged")
