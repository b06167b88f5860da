"""Transforms in whole numbers: by hand, against floating point within the bound, and circulant products of them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dovetail.accelerators.block_floating import Block, product, transform
from dovetail.errors import MachineError
from dovetail.formats import BlockCirculantSpec, PackedBlockCirculant

BOUND = 1e-3  # of the root mean square, for 16 bits and blocks of at most 256


def off(found: np.ndarray, want: np.ndarray) -> float:
    """Root mean square of the error over that of what is wanted."""
    return float(np.sqrt((np.abs(found - want) ** 2).sum() / (np.abs(want) ** 2).sum()))


def numbers(kind: str, *shape: int) -> np.ndarray:
    random = np.random.default_rng(len(kind) + shape[-1])
    match kind:
        case "normal":
            return random.standard_normal(shape)
        case "even":
            return random.uniform(-1, 1, shape)
        case "few":
            return random.standard_normal(shape) * (random.random(shape) < 0.1) + np.eye(1, shape[-1])
        case _:
            return (np.maximum(0, random.standard_normal(shape)) + np.eye(1, shape[-1])) * 1e-6


def test_two_numbers_by_hand():
    # 5 bits hold at most 15. 7 and 2 are 14 and 4 times a half, and sum up to 18 and 10 halves: halved once, 9 and 5.
    found = transform(Block.of(np.array([7.0, 2.0]), 5))
    assert (found.real.tolist(), found.exponent) == ([9, 5], 0)
    assert found.numbers().tolist() == [9, 5]
    # 3 and 0 are 12 and 0 quarters: 12 and 12, which need no halving unless it is always done.
    block = Block.of(np.array([3.0, 0.0]), 5)
    assert (transform(block).real.tolist(), transform(block).exponent) == ([12, 12], -2)
    halved = transform(block, always=True)
    assert (halved.real.tolist(), halved.exponent) == ([6, 6], -1)
    # The inverse divides by two.
    assert transform(block, inverse=True).numbers().tolist() == [1.5, 1.5]


@pytest.mark.parametrize("kind", ["normal", "even", "few", "tiny"])
@pytest.mark.parametrize("size", [2, 4, 8, 16, 32, 64, 128, 256])
def test_sixteen_bits_keep_to_the_bound(size, kind):
    for values in numbers(kind, 20, size):
        forward = transform(Block.of(values))
        assert max(np.abs(forward.real).max(), np.abs(forward.imaginary).max()) < 1 << 15
        assert off(forward.numbers(), np.fft.fft(values)) < BOUND
        spectrum = np.fft.fft(values)
        assert off(transform(Block.of(spectrum), inverse=True).numbers(), values) < BOUND


def test_halving_at_every_level_does_not_keep_to_it():
    # What is always halved has lost 4 bits of its root mean square after 8 levels: sqrt(2) a level.
    errors = {
        size: max(
            off(transform(Block.of(x), always=True).numbers(), np.fft.fft(x)) for x in numbers("normal", 20, size)
        )
        for size in (16, 256)
    }
    assert errors[16] < BOUND < errors[256]


def test_fewer_bits_are_less_exact():
    values = numbers("normal", 64)
    errors = [off(transform(Block.of(values, bits)).numbers(), np.fft.fft(values)) for bits in (8, 12, 16, 20)]
    assert errors == sorted(errors, reverse=True)
    assert errors[1] > BOUND > errors[2]


@given(
    seed=st.integers(0, 99), size=st.sampled_from([1, 2, 8, 64, 256]), rows=st.integers(1, 3), columns=st.integers(1, 3)
)
def test_products_of_circulant_blocks(seed, size, rows, columns):
    random = np.random.default_rng(seed)
    shape = rows * size, columns * size
    packed = PackedBlockCirculant.random(shape, BlockCirculantSpec(size=size), random)
    x = random.standard_normal(shape[1])
    found = product(packed.blocks()[..., 0, 0].astype(np.float64), x.reshape(columns, size))
    want = packed.dense().astype(np.float64) @ x
    scale = np.linalg.norm(packed.dense().astype(np.float64)) * np.linalg.norm(x) / np.sqrt(shape[1])
    assert np.abs(found.ravel() - want).max() <= BOUND * scale


def test_the_reference_vector():
    found = product(np.array([[[1.0, 2.0, 3.0, 4.0]]]), np.array([[1.0, 0.0, 2.0, 0.0]]))
    np.testing.assert_allclose(found, [[7, 10, 5, 8]], rtol=1e-3)


def test_blocks_that_cannot_be_are_refused():
    with pytest.raises(MachineError, match="a block of 6 numbers cannot be transformed"):
        transform(Block.of(np.ones(6)))
    with pytest.raises(MachineError, match="have 4 to 24 bits here, not 32"):
        Block.of(np.ones(4), 32)
    for number in (np.nan, np.inf, 5e-324):
        with pytest.raises(MachineError, match="a block of numbers up to"):
            Block.of(np.array([1.0 if number > 1 else 0.0, number]))
    with pytest.raises(MachineError, match=r"take inputs of \(2, 4\), not \(1, 4\)"):
        product(np.ones((1, 2, 4)), np.ones((1, 4)))
    assert not transform(Block.of(np.zeros(4))).numbers().any()
