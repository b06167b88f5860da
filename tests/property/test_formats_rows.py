"""Sets of rows: every encoding as its definition reads, the smallest of them, and no other bytes taken for a set."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dovetail.errors import ProgramError
from dovetail.formats import positions
from dovetail.formats.encodings import ENCODINGS, GROUPS, RUNS

ORDER = [encoding.kind for encoding in ENCODINGS]
ROWS = [1, 3, 20, 63, 64, 100, 130]


@st.composite
def sets(draw: st.DrawFn) -> tuple[np.ndarray, int]:
    """A set and the length of its rows: random, in clusters, with rows of which none is there."""
    row, count = draw(st.sampled_from(ROWS)), draw(st.integers(0, 25))
    random = np.random.default_rng(draw(st.integers(0, 2**16)))
    density = draw(st.sampled_from([0.0, 0.003, 0.02, 0.1, 0.3, 0.9, 1.0]))
    cluster = draw(st.sampled_from([1, 1, 8, 30]))
    mask = np.repeat(random.random(row * count // cluster + 1) < density, cluster)[: row * count].reshape(count, row)
    return mask & (random.random((count, 1)) < draw(st.sampled_from([0.2, 1.0]))), row


def packed_bits(bits: str) -> list[int]:
    """The lowest bit first."""
    return [int(bits[i : i + 8][::-1], 2) for i in range(0, len(bits), 8)]


def number(value: int, width: int) -> str:
    return "".join(str(value >> i & 1) for i in range(width))


def bitmap(mask: np.ndarray) -> list[int]:
    return packed_bits("".join("01"[int(bit)] for bit in mask))


def counts(mask: np.ndarray, width: int) -> list[int]:
    """The largest count stands for as many absent indices, and the gap goes on."""
    made, gap, most = [], 0, 2**width - 1
    for present in [*mask, True]:
        if not present:
            gap += 1
            continue
        made += [most] * (gap // most) + [gap % most]
        gap = 0
    return made


def runs(mask: np.ndarray, width: int) -> list[int]:
    return [width, *packed_bits("".join(number(count, width) for count in counts(mask, width)))]


def groups(mask: np.ndarray, size: int) -> list[int]:
    parts = [list(mask[i : i + size]) + [False] * (i + size - len(mask)) for i in range(0, len(mask), size)]
    bits = "".join("01"[int(any(part))] for part in parts)
    bits += "".join("01"[int(bit)] for part in parts if any(part) for bit in part)
    return [size, *packed_bits(bits)]


def every_way(mask: np.ndarray) -> dict[str, list[int]]:
    """Each encoding of a flat set; of those with a parameter the smallest in bits, by the least parameter."""
    best_run = min(RUNS, key=lambda width: len(counts(mask, width)) * width)
    best_group = min(GROUPS, key=lambda g: -(-len(mask) // g) + g * len({i // g for i in np.flatnonzero(mask)}))
    return {
        "bitmap": bitmap(mask),
        "gaps": counts(mask, 8),
        "groups": groups(mask, best_group),
        "runs": runs(mask, best_run),
    }


def smallest(mask: np.ndarray, row: int) -> dict[str, list[int]]:
    """Without a mask of rows where that is as small."""
    ways = []
    some = mask.any(axis=1)
    for kept, rows in ((mask, {}), (mask[some], {"x.rows": bitmap(some)})):
        found = every_way(kept.ravel())
        kind = min(ORDER, key=lambda kind: len(found[kind]))
        ways.append(rows | {f"x.{kind}": found[kind]})
    return min(ways, key=lambda arrays: sum(map(len, arrays.values())))


@given(drawn=sets())
def test_round_trip_in_the_smallest_encoding(drawn: tuple[np.ndarray, int]) -> None:
    mask, row = drawn
    arrays = positions.encode("x", mask, row)
    assert {name: array.tolist() for name, array in arrays.items()} == smallest(mask, row)
    assert all(array.dtype == np.uint8 for array in arrays.values())
    assert np.array_equal(positions.decode("x", arrays, mask.size, row), np.flatnonzero(mask))


@given(drawn=sets(), width=st.sampled_from(RUNS), size=st.sampled_from(GROUPS), masked=st.booleans())
def test_all_encodings_mean_the_same(drawn: tuple[np.ndarray, int], width: int, size: int, masked: bool) -> None:
    mask, row = drawn
    some = mask.any(axis=1)
    flat = mask[some].ravel() if masked else mask.ravel()
    rows = {"x.rows": np.array(bitmap(some), np.uint8)} if masked else {}
    ways = {"bitmap": bitmap(flat), "gaps": counts(flat, 8), "groups": groups(flat, size), "runs": runs(flat, width)}
    for kind, data in ways.items():
        arrays = rows | {f"x.{kind}": np.array(data, np.uint8)}
        assert np.array_equal(positions.decode("x", arrays, mask.size, row), np.flatnonzero(mask)), kind


@given(
    data=st.binary(max_size=30),
    count=st.integers(0, 12),
    row=st.sampled_from([1, 3, 20]),
    kind=st.sampled_from(ORDER),
    rows=st.none() | st.binary(min_size=1, max_size=2),
)
def test_bytes_are_refused_or_are_a_set(data: bytes, count: int, row: int, kind: str, rows: bytes | None) -> None:
    """What is taken is what the definition writes, for the parameter that the first byte has."""
    stored = {f"x.{kind}": data} | ({} if rows is None else {"x.rows": rows})
    arrays = {name: np.frombuffer(part, np.uint8) for name, part in stored.items()}
    try:
        found = positions.decode("x", arrays, row * count, row)
    except ProgramError:
        return
    mask = np.zeros((count, row), dtype=bool)
    mask.ravel()[found] = True
    kept = mask if rows is None else mask[mask.any(axis=1)]
    write = {"bitmap": bitmap, "gaps": lambda flat: counts(flat, 8)}.get(
        kind, lambda flat: {"groups": groups, "runs": runs}[kind](flat, data[0])
    )
    assert write(kept.ravel()) == list(data)
    assert rows is None or bitmap(mask.any(axis=1)) == list(rows)


@pytest.mark.parametrize("width", RUNS)
def test_gaps_around_the_largest_count(width: int) -> None:
    most = 2**width - 1
    for gap, want in [
        (most - 1, [most - 1]),
        (most, [most, 0]),
        (most + 1, [most, 1]),
        (2 * most, [most, most, 0]),
        (2 * most + 2, [most, most, 2]),
    ]:
        mask = np.zeros(gap + 1, dtype=bool)
        mask[gap] = True
        assert counts(mask, width) == [*want, 0]
        assert positions.decode("x", {"x.runs": np.array(runs(mask, width), np.uint8)}, gap + 1, 1).tolist() == [gap]


@pytest.mark.parametrize("density", [0.2, 0.1, 0.05, 0.03, 0.01])
def test_bits_are_those_of_the_formulas(density: float) -> None:
    """Of independent positions: what ESCALATE's accounting expects, but that padding has no sign."""
    size = 1 << 20
    mask = np.random.default_rng(1).random(size) < density
    indices = np.flatnonzero(mask)
    p = len(indices) / size
    g = min(GROUPS, key=lambda g: 1 / g + 1 - (1 - p) ** g)
    escape = {b: (1 - p) ** (2**b - 1) for b in RUNS}
    b = min(RUNS, key=lambda b: p * b / (1 - escape[b]))
    expected = {"bitmap": 1, "groups": 1 / g + 1 - (1 - p) ** g, "runs": p * b / (1 - escape[b])}
    for encoding in ENCODINGS:
        if encoding.kind in expected:
            measured = 8 * encoding.cost(indices, size) / size
            assert measured == pytest.approx(expected[encoding.kind], rel=0.01), encoding.kind
            assert encoding.cost(indices, size) == len(encoding.write(indices, size))


def mask_of(*indices: int, size: int = 12) -> np.ndarray:
    mask = np.zeros(size, dtype=bool)
    mask[list(indices)] = True
    return mask


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"x.rows": [1]}, "needs its positions"),
        ({"x.runs": runs(mask_of(1), 2), "x.bitmap": bitmap(mask_of(1))}, "needs its positions"),
        ({"x.runs": []}, "counts of 0 bits; they may have 2 to 12"),
        ({"x.runs": [13, *runs(mask_of(1), 2)[1:]]}, "counts of 13 bits"),
        ({"x.groups": [1, 0]}, "groups of 1 places; they may have 2 to 64"),
        ({"x.runs": runs(mask_of(1, size=13), 2)}, "are of 13 indices, expected 12"),
        ({"x.runs": runs(mask_of(1), 2)[:-1]}, "are of . indices, expected 12"),
        ({"x.runs": [*runs(mask_of(1), 2), 0]}, "go on after their end"),
        ({"x.runs": [*runs(mask_of(11), 3)[:-1], runs(mask_of(11), 3)[-1] | 128]}, "go on after their end"),
        ({"x.groups": groups(mask_of(1), 4)[:-1]}, "of 3 groups take"),
        ({"x.groups": [*groups(mask_of(1), 4), 0]}, "of 3 groups take"),
        ({"x.groups": [4, 0b10000001]}, "go on after their end"),
        ({"x.groups": [4, 0b00000001]}, "a group of none that is said to have some"),
        ({"x.groups": groups(mask_of(1, 12, size=13), 5)}, "a bit set past the last of 12"),
        ({"x.rows": [0b0111], "x.bitmap": [0b0111, 0]}, "a row of none that is said to have some"),
        ({"x.rows": [0b10001], "x.bitmap": [0b11]}, "a bit set past the last of 4"),
        ({"x.rows": [1, 0], "x.bitmap": [1]}, "a bitmap of 4 bits"),
    ],
)
def test_damaged_sets(arrays: dict[str, list[int]], message: str) -> None:
    stored = {name: np.array(data, np.uint8) for name, data in arrays.items()}
    with pytest.raises(ProgramError, match=message):
        positions.decode("x", stored, 12, 3)


def test_sets_without_rows_are_bitmaps_or_gaps() -> None:
    """As in files that are there already, whose weights are packed again byte for byte."""
    mask = np.zeros(6000, dtype=bool)
    mask[:100] = True
    assert set(positions.encode("x", mask)) == {"x.gaps"}
    assert set(positions.encode("x", mask, 100)) == {"x.rows", "x.bitmap"}
    with pytest.raises(ProgramError, match=r"one of bitmap, gaps; it has none"):
        positions.decode("x", {"x.runs": np.array(runs(mask, 3), np.uint8)}, mask.size)
