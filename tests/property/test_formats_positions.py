"""Positions are stored without loss in the smaller encoding, and no other bytes are taken for positions."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dovetail.errors import ProgramError
from dovetail.formats import positions

masks = st.builds(
    lambda size, density, seed: np.random.default_rng(seed).random(size) < density,
    st.integers(0, 3000),
    st.sampled_from([0.0, 0.001, 0.02, 0.1, 0.125, 0.2, 0.5, 1.0]),
    st.integers(0, 2**16),
)


def gap_bytes(mask: np.ndarray) -> list[int]:
    """The encoding as its definition reads, one index at a time."""
    data, gap = [], 0
    for present in [*mask, True]:
        if not present:
            gap += 1
            continue
        data += [255] * (gap // 255) + [gap % 255]
        gap = 0
    return data


@given(mask=masks)
def test_round_trip_in_the_smaller_encoding(mask):
    arrays = positions.encode("x", mask)
    ((name, data),) = arrays.items()
    assert np.array_equal(positions.decode("x", arrays, mask.size), np.flatnonzero(mask))
    bitmap, gaps = (mask.size + 7) // 8, gap_bytes(mask)
    assert data.dtype == np.uint8
    assert data.nbytes == min(bitmap, len(gaps))
    assert name == ("x.bitmap" if bitmap <= len(gaps) else "x.gaps")
    if name == "x.gaps":
        assert data.tolist() == gaps


@given(mask=masks)
def test_both_encodings_mean_the_same(mask):
    bitmap = {"x.bitmap": np.packbits(mask, bitorder="little")}
    gaps = {"x.gaps": np.array(gap_bytes(mask), dtype=np.uint8)}
    want = np.flatnonzero(mask)
    assert np.array_equal(positions.decode("x", bitmap, mask.size), want)
    assert np.array_equal(positions.decode("x", gaps, mask.size), want)


@given(data=st.binary(max_size=40), size=st.integers(0, 400), kind=st.sampled_from(["bitmap", "gaps"]))
def test_bytes_are_refused_or_are_a_set_within_bounds(data, size, kind):
    arrays = {f"x.{kind}": np.frombuffer(data, dtype=np.uint8)}
    try:
        found = positions.decode("x", arrays, size)
    except ProgramError:
        return
    assert np.all(np.diff(found) > 0)
    assert np.all((found >= 0) & (found < size))
    mask = np.zeros(size, dtype=bool)
    mask[found] = True
    expected = np.packbits(mask, bitorder="little").tobytes() if kind == "bitmap" else bytes(gap_bytes(mask))
    assert data == expected


@pytest.mark.parametrize("gap", [0, 1, 254, 255, 256, 509, 510, 511, 765])
def test_gaps_around_the_escape(gap):
    mask = np.zeros(gap + 1 + 5000, dtype=bool)
    mask[gap] = True
    arrays = positions.encode("x", mask)
    assert arrays["x.gaps"].tolist() == [255] * (gap // 255) + [gap % 255] + [255] * 19 + [5000 - 19 * 255]
    assert positions.decode("x", arrays, mask.size).tolist() == [gap]


@pytest.mark.parametrize(
    "arrays, size",
    [
        ({}, 8),
        ({"x.bitmap": np.zeros(1, np.uint8), "x.gaps": np.array([8], np.uint8)}, 8),
        ({"x.bitmap": np.zeros(1, np.int8)}, 8),
        ({"x.bitmap": np.zeros((1, 1), np.uint8)}, 8),
        ({"x.bitmap": np.zeros(2, np.uint8)}, 8),
        ({"x.bitmap": np.zeros(1, np.uint8)}, 9),
        ({"x.bitmap": np.array([0b1000], np.uint8)}, 3),
        ({"x.gaps": np.array([], np.uint8)}, 3),
        ({"x.gaps": np.array([255], np.uint8)}, 255),
        ({"x.gaps": np.array([1, 2], np.uint8)}, 3),
        ({"x.gaps": np.array([1, 2], np.uint8)}, 5),
        ({"x.gaps": np.array([1, 2], np.int64)}, 4),
    ],
)
def test_damaged_positions(arrays, size):
    with pytest.raises(ProgramError, match="x"):
        positions.decode("x", arrays, size)
