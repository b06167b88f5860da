"""Value types on their own: what they store, and what they refuse."""

from __future__ import annotations

import numpy as np
import pytest

from dovetail.errors import ProgramError, SpecError
from dovetail.formats.values import CODEBOOK4, FIXED16, INT8, ONE_ROW, Rows, in_one_book, nearest


def test_int8_takes_one_scale_per_row() -> None:
    array = np.array([[127, -64, 1], [0.5, 0.25, -1.27]], dtype=np.float32)
    stored = INT8.encode("w", array)
    np.testing.assert_allclose(stored["w.scale"], [1, 0.01], rtol=1e-6)
    np.testing.assert_array_equal(stored["w"], [[127, -64, 1], [50, 25, -127]])
    np.testing.assert_allclose(INT8.decode("w", stored), array, rtol=1e-6)


def test_int8_of_given_rows() -> None:
    array = np.array([1, -10, 2], dtype=np.float32)
    rows = Rows(np.array([0, 2, 0]), 3)
    stored = INT8.encode("w", array, rows)
    np.testing.assert_allclose(stored["w.scale"], np.array([2, 6, 10]) / 127, rtol=1e-6)
    assert np.abs(INT8.decode("w", stored, rows) - array).max() <= 10 / 254
    assert INT8.encode("w", array, ONE_ROW)["w.scale"].shape == (1,)


def test_int8_rounds_halves_to_even_and_never_to_minus_128() -> None:
    array = np.array([[127, 2.5, 3.5, -0.5, -127]], dtype=np.float32)
    np.testing.assert_array_equal(INT8.encode("w", array)["w"], [[127, 2, 4, 0, -127]])


def test_int8_rows_of_zeros_take_the_median_scale() -> None:
    array = np.array([[0, 0], [127, 1], [254, 0], [1e-30, 0]], dtype=np.float32)
    np.testing.assert_allclose(INT8.encode("w", array)["w.scale"][:3], [1, 1, 2])
    np.testing.assert_array_equal(INT8.encode("w", 0 * array)["w.scale"], [1, 1, 1, 1])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"w": np.array([[-128, 0]], np.int8)}, "-128"),
        ({"w": np.array([[1, 0]], np.int16)}, "int16"),
        ({"w.scale": np.array([0], np.float32)}, "positive"),
        ({"w.scale": np.array([np.nan], np.float32)}, "positive"),
        ({"w.scale": np.array([1, 1], np.float32)}, "shape"),
    ],
)
def test_int8_refuses_what_it_would_not_write(change: dict[str, np.ndarray], message: str) -> None:
    stored = INT8.encode("w", np.array([[3, 4]], np.float32)) | change
    with pytest.raises(ProgramError, match=message):
        INT8.decode("w", stored)


def test_fixed_point_takes_the_finest_power_of_two() -> None:
    array = np.array([[0.5, -0.999], [3.0, 0.25]], dtype=np.float32)
    stored = FIXED16.encode("w", array)
    assert stored["w.fraction"].tolist() == [13]  # 3 * 2^13 = 24576, twice that is too much
    assert stored["w"].tolist() == [[4096, -8184], [24576, 2048]]
    assert np.abs(FIXED16.decode("w", stored) - array).max() <= 2.0**-14
    assert np.array_equal(FIXED16.round(FIXED16.round(array)), FIXED16.round(array))
    assert not FIXED16.round(np.zeros(3, np.float32)).any()
    for change, message in (
        ({"w": np.array([-32768], np.int16)}, "-32768; codes go from"),
        ({"w.fraction": np.array([-128], np.int8)}, "one number from -126 to 126"),
        ({"w.fraction": np.array([1, 1], np.int8)}, "one number from -126 to 126"),
    ):
        with pytest.raises(ProgramError, match=message):
            FIXED16.decode("w", {**stored, **change})


def test_a_code_book_keeps_sixteen_numbers_as_they_are() -> None:
    numbers = np.linspace(-2, 1.75, 16, dtype=np.float32)
    array = np.random.default_rng(0).permutation(np.resize(numbers, 35)).reshape(5, 7)
    rows = in_one_book((5, 7))
    stored = CODEBOOK4.encode("w", array, rows)
    assert stored["w"].shape == (18,)
    assert np.array_equal(stored["w.book"], numbers)
    assert np.array_equal(CODEBOOK4.decode("w", stored, rows), array)
    assert not CODEBOOK4.round(np.zeros((2, 3), np.float32), in_one_book((2, 3))).any()


def test_a_code_book_has_the_means_of_its_clusters() -> None:
    """Lloyd's iteration ends where every number is the mean of what is nearest to it."""
    array = np.random.default_rng(1).standard_normal(5000).astype(np.float32)
    book = CODEBOOK4.cluster(array)
    codes = nearest(book.astype(np.float32), array)
    assert set(codes) == set(range(16))
    means = [array[codes == i].astype(np.float64).mean() for i in range(16)]
    assert np.abs(book - means).max() < 2e-3
    even = np.linspace(array.min(), array.max(), 16, dtype=np.float32)
    rows = in_one_book((5000,))
    error = np.square(CODEBOOK4.round(array, rows) - array).sum()
    assert error < 0.8 * np.square(even[nearest(even, array)] - array).sum()
    again = CODEBOOK4.round(array, rows)
    assert np.array_equal(CODEBOOK4.round(again, rows), again)


def test_damaged_code_books_are_refused() -> None:
    rows = in_one_book((3,))
    stored = CODEBOOK4.encode("w", np.array([1, 2, 3], np.float32), rows)
    for change, message in (
        ({"w": stored["w"][:1]}, "3 codes of 4 bits have 2 bytes"),
        ({"w": stored["w"] | np.array([0, 16], np.uint8)}, "a code after the last of 3"),
        ({"w.book": stored["w.book"][:15]}, "16 finite numbers that rise"),
        ({"w.book": stored["w.book"][::-1].copy()}, "16 finite numbers that rise"),
        ({"w.book": np.append(stored["w.book"][:15], np.float16(np.inf))}, "16 finite numbers that rise"),
    ):
        with pytest.raises(ProgramError, match=message):
            CODEBOOK4.decode("w", {**stored, **change}, rows)
    with pytest.raises(SpecError, match="do not fit a code book of 16-bit numbers"):
        CODEBOOK4.encode("w", np.array([1e6], np.float32), in_one_book((1,)))
