"""What a packed weight says of itself, against what it stores and against loops that count."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from dovetail.formats import (
    Geometry,
)
from samples import (
    ONE_ROW_EACH,
    SAMPLES,
    Case,
    each_held,
    is_ternary,
    packed,
)

PER_ENTRY = {"ternary": 8, "codebook4": 2}  # numbers in a stored byte


@each_held(ONE_ROW_EACH)
def test_counts_are_of_what_is_stored(name: str, case: Case, number: int, values: Any) -> None:
    weight = packed(name, case, number, values)
    weight.validate()
    numbers = [key for key in weight.arrays if "." not in key]
    sizes = {key: weight.decode(key).size for key in numbers}
    for key, size in sizes.items():
        stored = weight.arrays[key]
        assert stored.size == -(-size // PER_ENTRY.get(weight.values_of(key).name, 1))
    assert weight.params() == sum(sizes.values())
    assert weight.nonzeros() == sum(np.count_nonzero(weight.decode(key)) for key in numbers)
    assert weight.bits() == 8 * sum(len(array.tobytes()) for array in weight.arrays.values())
    assert weight.bits() >= sum(size * weight.values_of(key).bits for key, size in sizes.items())
    assert weight.dense().dtype == np.float32
    assert weight.dense().shape == case.shape


class Meter:
    """Convolves by plain loops and counts every multiplication by a stored number, zero padding included.

    Numbers of one magnitude per output are `signs`: they add or subtract, and what they make is scaled in the end.
    """

    def __init__(self) -> None:
        self.macs = self.additions = 0

    @property
    def work(self) -> tuple[int, int]:
        return self.macs, self.additions

    def conv(
        self,
        x: np.ndarray,
        weight: np.ndarray,
        *,
        stride: int = 1,
        padding: int = 0,
        groups: int = 1,
        signs: bool = False,
    ) -> np.ndarray:
        """`weight` holds NaN where nothing is stored."""
        k, c, r, s = weight.shape
        x = np.pad(x, ((0, 0), (padding, padding), (padding, padding)))
        h, w = (x.shape[1] - r) // stride + 1, (x.shape[2] - s) // stride + 1
        y = np.zeros((k, h, w))
        for out, channel, row, column in zip(*np.nonzero(~np.isnan(weight))):
            source = x[out // (k // groups) * c + channel]
            for i in range(h):
                for j in range(w):
                    y[out, i, j] += weight[out, channel, row, column] * source[i * stride + row, j * stride + column]
                    self.additions += signs
                    self.macs += not signs
        return y

    def transform(self, x: np.ndarray) -> np.ndarray:
        """Real transforms (blocks, k, H, W) along the second axis, as complex ones of half the length, counted."""
        k = x.shape[1]
        self.macs += self.multiplications(k) * x.size // k
        return np.fft.rfft(x, axis=1)

    def multiplications(self, k: int) -> int:
        """Of a real transform: butterflies of a complex one of k/2, each a complex product, and k/4 to part it."""
        half, butterflies = k // 2, 0
        while half > 1:
            butterflies, half = butterflies + k // 4, half // 2
        return 4 * (butterflies + k // 4) if k > 2 else 0


def stored_coefficients(weight: Any) -> np.ndarray:
    """(K, C, d), NaN where nothing is stored."""
    coefficients = weight.factors()[1].astype(np.float64)
    if weight.spec.coefficients != "dense":
        coefficients[coefficients == 0] = np.nan
    return coefficients


def plain(weight: Any, x: np.ndarray, case: Case) -> Iterator[tuple[np.ndarray, tuple[int, int]]]:
    meter, dense = Meter(), weight.dense().astype(np.float64).reshape(*case.shape[:2], *(case.shape[2:] or (1, 1)))
    if weight.spec.format in ("sparse", "block_sparse", "permuted_diagonal"):
        dense[~weight.kept().reshape(dense.shape)] = np.nan
    place = {"stride": case.stride, "padding": case.padding, "groups": case.groups}
    yield meter.conv(x, dense, **place, signs=is_ternary(weight.spec)), meter.work


def low_rank(weight: Any, x: np.ndarray, case: Case) -> Iterator[tuple[np.ndarray, tuple[int, int]]]:
    meter, (output, inputs) = Meter(), weight.factors()
    z = meter.conv(x, inputs[:, :, None, None], stride=case.stride, padding=case.padding)
    yield meter.conv(z, output[:, :, None, None]), meter.work


def tucker(weight: Any, x: np.ndarray, case: Case) -> Iterator[tuple[np.ndarray, tuple[int, int]]]:
    """1x1, core, 1x1; a factor without an array of its own is in the core."""
    meter, (output, core, inputs) = Meter(), weight.factors()
    z = meter.conv(x, inputs[:, :, None, None]) if "input" in weight.arrays else x
    z = meter.conv(z, core, stride=case.stride, padding=case.padding)
    yield meter.conv(z, output[:, :, None, None]) if "output" in weight.arrays else z, meter.work


def kernel_basis(weight: Any, x: np.ndarray, case: Case) -> Iterator[tuple[np.ndarray, tuple[int, int]]]:
    """The three orders: conv-first, coefficients-first, recomposed."""
    (k, c), bases, coefficients = case.shape[:2], weight.factors()[0], stored_coefficients(weight)
    d, place, signs = len(bases), {"stride": case.stride, "padding": case.padding}, is_ternary(weight.spec)
    meter = Meter()
    maps = meter.conv(x, np.tile(bases, (case.channels, 1, 1))[:, None], groups=case.channels, **place)
    yield meter.conv(maps, coefficients.reshape(k, c * d, 1, 1), groups=case.groups, signs=signs), meter.work
    meter = Meter()
    mixed = meter.conv(x, coefficients.transpose(0, 2, 1).reshape(k * d, c, 1, 1), groups=case.groups, signs=signs)
    yield meter.conv(mixed, np.tile(bases, (k, 1, 1)).reshape(k, d, *bases.shape[1:]), groups=k, **place), meter.work
    meter, dense = Meter(), weight.dense().astype(np.float64).reshape(k, c, *bases.shape[1:])
    dense[np.isnan(coefficients).all(axis=2)] = np.nan
    yield meter.conv(x, dense, groups=case.groups, **place), meter.work


def circulant(weight: Any, x: np.ndarray, case: Case) -> Iterator[tuple[np.ndarray, tuple[int, int]]]:
    """Direct; and where the size is a power of two, over the spectra of every pixel's channels."""
    yield from plain(weight, x, case)
    if (k := weight.spec.size) & (k - 1):
        return
    meter, (rows, columns) = Meter(), weight.spec.grid(weight.shape)
    x = np.pad(x, ((0, columns * k - len(x)), (0, 0), (0, 0))).reshape(columns, k, *x.shape[1:])
    spectra = meter.transform(x)
    spectra = np.pad(spectra, ((0, 0), (0, 0), *[(case.padding, case.padding)] * 2))
    weights = np.moveaxis(np.fft.rfft(weight.blocks().astype(np.float64), axis=2), 2, 0)
    r, s = weights.shape[3:]
    h, w = ((n - m) // case.stride + 1 for n, m in zip(spectra.shape[2:], (r, s)))
    sums = np.zeros((rows, k // 2 + 1, h, w), dtype=complex)
    for out, inner, row, column, i, j in np.ndindex(rows, columns, r, s, h, w):
        pixel = spectra[inner, :, i * case.stride + row, j * case.stride + column]
        sums[out, :, i, j] += weights[:, out, inner, row, column] * pixel
        meter.macs += min(2, k) + 4 * max(0, k // 2 - 1)
    y = np.stack([np.fft.irfft(block, k, axis=0) for block in sums]).reshape(rows * k, h, w)
    meter.macs += meter.multiplications(k) * rows * h * w
    yield y[: weight.shape[0]], meter.work


ORDERS = {
    "dense": plain,
    "permuted_diagonal": plain,
    "block_circulant": circulant,
    "block_sparse": plain,
    "sparse": plain,
    "svd": low_rank,
    "tucker": tucker,
    "kernel_basis": kernel_basis,
}
COUNTED = [
    Case((3, 2), size=(1, 1)),
    Case((3, 4, 1, 1), stride=2, size=(5, 4)),
    Case((2, 5, 3, 3), padding=1, size=(4, 4)),
    Case((5, 2, 3, 3), stride=2, padding=1, size=(4, 5)),
    Case((4, 2, 3, 3), groups=2, padding=1, size=(4, 3)),
]


@pytest.mark.parametrize("thinned", [False, True], ids=["as-is", "thinned"])
@pytest.mark.parametrize(
    "name, case, number",
    [
        pytest.param(name, case, number, id=f"{name}-{case}-{number}")
        for name, sample in SAMPLES.items()
        for case in COUNTED
        if sample.holds(case.shape, case.groups)
        for number in range(len(sample.specs(case.shape)))
    ],
)
def test_macs_by_brute_force(name: str, case: Case, number: int, thinned: bool) -> None:
    """Every order that is counted is run by loops: it gives the oracle's output, and the least work is what is said.

    Of orders with equal sums of multiplications and additions, that is the one that multiplies least.
    """
    weight = packed(name, case, number)
    if thinned and name == "kernel_basis":
        bases, coefficients = weight.factors()
        (outputs, inputs, count), shared, block = coefficients.shape, weight.spec.shared, weight.spec.block
        kept = np.random.default_rng(1).random((-(-outputs // shared), -(-inputs // block), count)) < 0.2
        kept = kept.repeat(shared, 0)[:outputs].repeat(block, 1)[:, :inputs]
        weight = type(weight).from_factors(bases, coefficients * kept, weight.spec, case.shape)
    x = np.random.default_rng(2).standard_normal((case.channels, *case.size))
    dense = torch.from_numpy(weight.dense().astype(np.float64)).reshape(*case.shape[:2], *(case.shape[2:] or (1, 1)))
    oracle = F.conv2d(torch.from_numpy(x)[None], dense, None, case.stride, case.padding, 1, case.groups)[0].numpy()
    counts = []
    for y, work in ORDERS[name](weight, x, case):
        assert np.abs(y - oracle).max() <= 1e-5
        counts.append(work)
    at = Geometry(inputs=x[0].size, outputs=oracle[0].size, groups=case.groups)
    assert (weight.macs(at), weight.additions(at)) == min(counts, key=lambda work: (sum(work), work))
    assert is_ternary(weight.spec) or weight.additions(at) == 0
