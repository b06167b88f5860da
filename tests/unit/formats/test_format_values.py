"""Value types on their own: what they store, and what they refuse."""

from __future__ import annotations

import numpy as np
import pytest

from dovetail.errors import ProgramError
from dovetail.formats.values import INT8, ONE_ROW, Rows


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
