"""Block-circulant weights: the example by hand, transforms against rotations, and the nearest weight."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from dovetail.errors import ProgramError, SpecError
from dovetail.formats import BlockCirculantSpec, Geometry, PackedBlockCirculant
from dovetail.formats import layer as layers
from dovetail.formats.values import CODEBOOK4, F32, INT8, Values

RANDOM = np.random.default_rng(12)


def test_the_example_of_the_specification() -> None:
    columns = np.array([1, 2, 3, 4], np.float32).reshape(1, 1, 4)
    weight = PackedBlockCirculant.from_columns(columns, BlockCirculantSpec(size=4), (4, 4))
    assert weight.dense()[:, 0].tolist() == [1, 2, 3, 4]
    layer = layers.from_packed(nn.Linear(4, 4, bias=False), weight)
    x = torch.tensor([1.0, 0, 2, 0], requires_grad=True)
    y = layer(x)
    assert y.tolist() == [7, 10, 5, 8]
    y.backward(torch.tensor([1.0, 0, 0, 1]))
    assert x.grad is not None
    assert x.grad.tolist() == [5, 7, 5, 3]
    assert layer.values.grad.tolist() == [[1, 2, 2, 1]]


@pytest.mark.parametrize(
    "size, outputs, inputs",
    [
        *((size, *shape) for size in (1, 2, 3, 4, 5, 8, 16, 64) for shape in ((64, 96), (33, 70))),
        *((size, 1024, 1024) for size in (2, 16, 32, 128, 256, 512, 1024)),
    ],
)
def test_products_of_spectra_are_products_with_the_weight(size: int, outputs: int, inputs: int) -> None:
    """Equation 1: transforms of the inputs once, sums over spectra, one inverse a row of blocks."""
    spec = BlockCirculantSpec(size=size)
    weight = PackedBlockCirculant.random((outputs, inputs), spec, RANDOM)
    rows, columns = spec.grid(weight.shape)
    x = RANDOM.standard_normal((3, inputs))
    blocks = np.fft.rfft(np.pad(x, ((0, 0), (0, columns * size - inputs))).reshape(3, columns, size), axis=2)
    sums = np.einsum("pqf,bqf->bpf", weight.spectra(), blocks)
    y = np.fft.irfft(sums, size, axis=2).reshape(3, rows * size)[:, :outputs]
    want = x @ weight.dense().astype(np.float64).T
    assert np.abs(y - want).max() <= 1e-11 * max(1, np.abs(want).max())
    once_each = np.fft.irfft(weight.spectra()[None] * blocks[:, None], size, axis=3).sum(axis=2)
    assert np.abs(once_each.reshape(3, -1)[:, :outputs] - want).max() <= 1e-11 * max(1, np.abs(want).max())


def test_a_block_of_one_is_dense_and_a_block_of_all_one_circulant() -> None:
    dense = RANDOM.standard_normal((5, 5)).astype(np.float32)
    assert np.array_equal(PackedBlockCirculant.from_dense(dense, BlockCirculantSpec(size=1)).dense(), dense)
    whole = PackedBlockCirculant.from_dense(dense, BlockCirculantSpec(size=5)).dense()
    assert all(np.array_equal(np.roll(whole[:, 0], j), whole[:, j]) for j in range(5))


@pytest.mark.parametrize("shape, size", [((8, 12), 4), ((7, 10), 4), ((6, 9, 3, 2), 3)])
def test_projection_is_the_nearest(shape: tuple[int, ...], size: int) -> None:
    """Any step away from it errs more; and it is no step for what is circulant already."""
    spec = BlockCirculantSpec(size=size)
    weight = RANDOM.standard_normal(shape).astype(np.float32)
    packed = PackedBlockCirculant.from_dense(weight, spec)
    error = np.square(weight - packed.dense()).sum()
    for place in np.ndindex(packed.columns().shape):
        moved = packed.columns().copy()
        moved[place] += 0.05
        other = PackedBlockCirculant.from_columns(moved, spec, shape)
        if np.array_equal(other.dense(), packed.dense()):
            continue  # stands beyond the weight
        assert np.square(weight - other.dense()).sum() > error
    again = PackedBlockCirculant.from_dense(packed.dense(), spec)
    assert np.abs(again.dense() - packed.dense()).max() < 1e-6


@pytest.mark.parametrize("size", [1, 2, 3, 8, 32])
def test_spectra_are_as_many_numbers_and_give_the_weight_back(size: int) -> None:
    weight = PackedBlockCirculant.random((64, 32, 3, 3), BlockCirculantSpec(size=size), RANDOM)
    spectra = weight.spectra()
    again = PackedBlockCirculant.from_spectra(spectra, weight.spec, weight.shape)
    assert np.abs(again.dense() - weight.dense()).max() < 1e-6
    free = 2 * spectra.size - (1 if size == 1 else 2 - size % 2) * spectra[:, :, 0].size
    assert free == weight.params()
    assert size == 3 or free == 64 * 32 * 9 // size
    with pytest.raises(SpecError, match="NaN or Inf"):
        PackedBlockCirculant.from_spectra(
            np.where(spectra == spectra[0, 0, 0, 0, 0], np.nan, spectra), weight.spec, weight.shape
        )
    for other in (spectra[:, :, :0], spectra[..., :2], spectra[..., 0]):
        with pytest.raises(SpecError, match="spectra of shape"):
            PackedBlockCirculant.from_spectra(other, weight.spec, weight.shape)
    turned = spectra.copy()
    turned[1, 0, 0] += 0.1j
    with pytest.raises(SpecError, match="not those of real numbers"):
        PackedBlockCirculant.from_spectra(turned, weight.spec, weight.shape)


def test_numbers_that_stand_nowhere_leave_a_code_book_to_the_others() -> None:
    """9 x 15 in blocks of 8 of the numbers 1, 1.0625, ...: the last row of blocks is one output high."""
    spec, random = BlockCirculantSpec(size=8, values=CODEBOOK4), np.random.default_rng(3)
    book = 1 + np.arange(16) / 16
    for shape in ((9, 15), (9, 15, 1, 2)):
        columns = random.choice(book, (2, 2, 8, *shape[2:]))
        weight = PackedBlockCirculant.from_columns(columns, BlockCirculantSpec(size=8), shape)
        again = PackedBlockCirculant.from_dense(weight.dense(), spec)
        assert np.array_equal(again.dense(), weight.dense())
        assert np.array_equal(weight.cast(CODEBOOK4).dense(), weight.dense())


@pytest.mark.parametrize(
    "columns, gain, message",
    [
        ((2, 2, 3), None, "columns of shape"),
        ((2, 2, 4), np.ones(3), "8 finite gains"),
        ((2, 2, 4), np.full(8, np.nan), "8 finite gains"),
        ((2, 2, 4), np.full(8, 1 + 1j), "8 finite gains"),
    ],
)
def test_columns_and_gains_are_as_many_as_the_weight_has(
    columns: tuple[int, ...], gain: np.ndarray | None, message: str
) -> None:
    with pytest.raises(SpecError, match=message):
        PackedBlockCirculant.from_columns(np.ones(columns), BlockCirculantSpec(size=4), (8, 8), gain)
    whole = PackedBlockCirculant.from_columns(np.ones((2, 2, 4)), BlockCirculantSpec(size=4), (8, 8))
    if gain is not None:
        with pytest.raises(SpecError, match=message):
            whole.cast(INT8, gain)


@pytest.mark.parametrize("values", [F32, CODEBOOK4])
def test_columns_that_are_no_real_numbers_are_refused(values: Values) -> None:
    spec, shape = BlockCirculantSpec(size=4, values=values), (8, 8)
    with pytest.raises(SpecError, match=r"a weight of shape \(2, 2, 4\) must be of real numbers, not of complex128"):
        PackedBlockCirculant.from_columns(np.ones((2, 2, 4)) * 1j, spec, shape)
    with pytest.raises(SpecError, match="must be of real numbers, not of <U1"):
        PackedBlockCirculant.from_columns(np.full((2, 2, 4), "1"), spec, shape)
    listed = PackedBlockCirculant.from_columns(np.ones((2, 2, 4)).tolist(), spec, shape)  # type: ignore[arg-type]
    assert (listed.dense() == 1).all()


@pytest.mark.parametrize(
    "spectra, found",
    [
        (np.ones((2, 2, 3), complex).tolist(), "list"),
        (None, "NoneType"),
        (np.full((2, 2, 3), None), "object"),
        (np.full((2, 2, 3), "1"), "<U1"),
    ],
)
def test_spectra_that_are_no_array_of_numbers_are_refused(spectra: Any, found: str) -> None:
    with pytest.raises(SpecError, match=f"must be a numpy array of complex numbers, not {found}"):
        PackedBlockCirculant.from_spectra(spectra, BlockCirculantSpec(size=4), (8, 8))


def test_multiplications_of_a_large_layer_are_the_published_share() -> None:
    """AlexNet's fc6 in blocks of 8, 32, 128, 512: CirCNN's storage ratio k, and about half of it in multiplications."""
    for size, ratio in ((8, 4.6), (32, 16.1), (128, 55.6), (512, 141)):
        spec, shape = BlockCirculantSpec(size=size), (4096, 9216)
        columns = np.zeros((*spec.grid(shape), size), np.float32)
        weight = PackedBlockCirculant.from_columns(columns, spec, shape)
        assert weight.params() * size == 4096 * 9216
        assert 4096 * 9216 / weight.macs(Geometry()) == pytest.approx(ratio, rel=0.012)


def test_factors_of_outputs_become_a_gain() -> None:
    weight = PackedBlockCirculant.random((6, 8), BlockCirculantSpec(size=4), RANDOM)
    factors = RANDOM.uniform(0.5, 2, 6).astype(np.float32)
    cast = weight.cast(INT8, factors)
    codes, scale = cast.integers() or pytest.fail("int8 has whole numbers")
    assert np.abs(codes * scale[:, None] - cast.dense()).max() < 1e-6
    assert np.abs(cast.dense() - weight.dense() * factors[:, None]).max() < 0.02
    layer = layers.from_packed(nn.Linear(8, 6), cast)
    assert np.array_equal(layer.pack().gain(), factors)
    assert np.abs(layer.weight().detach().numpy() - cast.dense()).max() < 1e-6
    for bad in (factors[:5], factors.astype(np.float64), np.full(6, np.nan, np.float32)):
        with pytest.raises(ProgramError, match="gain must be 6 finite float32 numbers"):
            PackedBlockCirculant(cast.spec, cast.shape, {**cast.arrays, "weight.gain": bad}).validate()


def test_a_size_above_the_layer_is_refused() -> None:
    with pytest.raises(SpecError, match=r"layer 'fc': circulant blocks of size 128 in a 10 x 64 weight; at most 64"):
        layers.from_dense(nn.Linear(64, 10), BlockCirculantSpec(size=128), "fc")
    with pytest.raises(SpecError, match="size must be a whole number of at least 1, not 0"):
        BlockCirculantSpec(size=0)
