"""Block-circulant convolutions by way of spectra: one small convolution for each frequency, between two transforms.

The channels of every block and pixel are transformed, k numbers to k numbers, by a 1x1 convolution in groups. Planes
then lie frequency by frequency, so that a frequency is a convolution of neighbouring planes alone: of C/k to K/k where
it is real, of 2C/k to 2K/k where real and imaginary parts meet, with weights [[re, -im], [im, re]]. Another 1x1
convolution leads back.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from weakref import WeakKeyDictionary

import numpy as np

from dovetail.engine.builder import Builder
from dovetail.engine.circulant import inverse, transform
from dovetail.engine.conv import Epilogue, Geometry, Group, conv_dense, conv_groups
from dovetail.engine.layout import View
from dovetail.engine.winograd import relative_error
from dovetail.formats.base import Packed
from dovetail.formats.block_circulant import PackedBlockCirculant

Conv = Callable[[Builder, View, np.ndarray, View, Geometry, Epilogue], None]


def conv_circulant(
    b: Builder, x: View, packed: PackedBlockCirculant, scale: np.ndarray | None, y: View, at: Geometry,
    epilogue: Epilogue, conv: Conv = conv_dense, *, grouped: bool = True,
) -> None:  # fmt: skip
    """Writes activation(scale * conv(x, weight) + bias + residual) to `y`.

    `conv` runs the frequencies: all that are alike as one convolution in groups, or each for itself.
    """
    (rows, columns), size = packed.spec.grid(packed.shape), packed.spec.size
    gain = packed.gain() if scale is None else packed.gain() * scale
    spectra = b.planar((x.shape[0], columns * size, *x.shape[2:]))
    conv_groups(b, x, _into(size, columns, packed.shape[1]), spectra, Geometry(), Epilogue())
    sums = b.planar((x.shape[0], rows * size, *y.shape[2:]), y.planes)
    ends, others = frequencies(packed)
    calls = [part for part in (ends, others) if part] if grouped else [[weight] for weight in (*ends, *others)]
    first = 0
    for weights in calls:
        last = first + len(weights) * weights[0].shape[1] // columns  # numbers of a spectrum
        conv(
            b, spectra.sliced(1, first * columns, last * columns, 1), np.concatenate(weights),
            sums.sliced(1, first * rows, last * rows, 1), replace(at, groups=len(weights)), Epilogue(),
        )  # fmt: skip
        first = last
    conv_groups(b, sums, _back(size, rows, gain), y, Geometry(), epilogue)


def frequencies(packed: PackedBlockCirculant) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """The convolutions of the real frequencies, (K/k, C/k, R, S), and of the others, (2K/k, 2C/k, R, S)."""
    found, size = np.moveaxis(packed.spectra(), 2, 0), packed.spec.size
    ends = [found[0].real, *([found[-1].real] if size % 2 == 0 else [])]
    others = [
        np.concatenate([np.concatenate([w.real, -w.imag], axis=1), np.concatenate([w.imag, w.real], axis=1)])
        for w in found[1 : (size + 1) // 2]
    ]
    return [w.astype(np.float32) for w in ends], [w.astype(np.float32) for w in others]


_ERRORS: WeakKeyDictionary[Packed, dict[int, float]] = WeakKeyDictionary()


def filtering_error(packed: PackedBlockCirculant, tile: int) -> float:
    """`relative_error` of F(tile, 3) in the frequency where it is largest.

    Transforms keep lengths but for a factor, so the ratio of the whole layer's errors is no larger.
    """
    known = _ERRORS.setdefault(packed, {})
    if tile not in known:
        known[tile] = max(relative_error(weight, tile) for part in frequencies(packed) for weight in part)
    return known[tile]


def _into(size: int, columns: int, inputs: int) -> list[Group]:
    """From the channels of each block to its spectrum, number by number over all blocks."""
    matrix, groups = transform(size)[:, :, None, None], []
    for block in range(columns):
        reads = np.arange(size) + size * block
        weight = np.where((reads < inputs)[:, None, None], matrix, np.float32(0))
        groups.append(Group(weight, np.minimum(reads, inputs - 1), np.arange(size) * columns + block))
    return groups


def _back(size: int, rows: int, gain: np.ndarray) -> list[Group]:
    """From spectra to the outputs, times the gain."""
    groups = []
    for block in range(rows):
        factors = gain[size * block : size * (block + 1)]
        weight = inverse(size)[: len(factors)] * factors[:, None]
        made = size * block + np.arange(len(factors))
        groups.append(Group(weight[:, :, None, None], np.arange(size) * rows + block, made))
    return groups
