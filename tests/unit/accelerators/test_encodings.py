"""Bits of encodings equal what a plain encoder writes, and what it writes reads back."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dovetail.accelerators.encodings import packed_run_length_bits, run_length_entries

masks = st.builds(
    lambda streams, length, density, seed: np.random.default_rng(seed).random((streams, length)) < density,
    st.integers(1, 4),
    st.integers(0, 300),
    st.sampled_from([0.0, 0.01, 0.1, 0.5, 1.0]),
    st.integers(0, 999),
)


def encode(row: np.ndarray, run_bits: int) -> list[tuple[int, int]]:
    """Pairs of (zeros before, value), a value of zero where the run is full."""
    pairs, run = [], 0
    for value in np.trim_zeros(row.astype(int), "b").tolist():
        if value or run == (1 << run_bits) - 1:
            pairs.append((run, value))
            run = 0
        else:
            run += 1
    return pairs


def decode(pairs: list[tuple[int, int]], length: int) -> list[int]:
    values = [v for run, value in pairs for v in [0] * run + [value]]
    return values + [0] * (length - len(values))


@given(mask=masks, run_bits=st.integers(1, 5))
def test_run_length_entries_are_those_of_an_encoder(mask, run_bits):
    coded = [encode(row, run_bits) for row in mask]
    assert run_length_entries(mask, run_bits).tolist() == [len(pairs) for pairs in coded]
    assert [decode(pairs, mask.shape[1]) for pairs in coded] == mask.astype(int).tolist()


@pytest.mark.parametrize(("gap", "entries"), [(0, 1), (3, 1), (4, 2), (7, 2), (8, 3)])
def test_gaps_around_a_full_run(gap, entries):
    mask = np.zeros((1, gap + 1), np.bool_)
    mask[0, -1] = True
    assert run_length_entries(mask, 2).tolist() == [entries]


def test_three_pairs_and_a_flag_fill_a_word():
    mask = np.ones((2, 4), np.bool_)
    assert packed_run_length_bits(mask) == 2 * 2 * 64  # 4 pairs are 2 words, in each of 2 streams
    assert packed_run_length_bits(np.zeros((2, 4), np.bool_)) == 0
