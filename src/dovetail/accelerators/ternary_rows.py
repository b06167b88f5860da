"""Rows of coefficients of -1, 0 and 1: what is added up at a position before anything is multiplied.

A decomposed layer has a row for each output and basis, over the channels of an input position. Any other layer has one
for each output, over the window of an output position in the order (r, s, c), and one basis of one number. A row of
8-bit coefficients is seven ternary ones, one for each bit of their magnitudes, whose sums are shifted and added.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from dovetail.accelerators.workload import Counts, Mask, Workload
from dovetail.formats import positions
from dovetail.formats.base import Packed
from dovetail.formats.kernel_basis import PackedKernelBasis
from dovetail.formats.values import INT8, ONE_ROW, TERNARY, FloatArray, Integer8

Codes = NDArray[np.int8]
CODE_BITS: Final = 8
MAGNITUDE_BITS: Final = 7
SCALE_BITS: Final = 32  # of the bases
TAG_BITS: Final = 2  # which encoding the coefficients have


@dataclass(frozen=True, eq=False)
class Rows:
    """The coefficients of a layer.

    Attributes:
        codes: whole numbers `(K, M, places)`; zero where a row reads nothing, as in the channels of other groups.
        bits: of their magnitudes: 1 if they are ternary.
        bases: whole numbers `(M, R, S)`.
        spatial: sums are convolved with the bases; otherwise a sum is an output already.
        starts: first place of each window of a row.
        stored_bits: of coefficients and bases as they are stored.
    """

    codes: Codes
    bits: int
    bases: Codes
    spatial: bool
    starts: Counts
    stored_bits: int

    @property
    def bases_count(self) -> int:
        """M."""
        return int(self.codes.shape[1])

    @property
    def places(self) -> int:
        """Inputs of a position."""
        return int(self.codes.shape[2])

    def planes(self, codes: Codes) -> Iterator[Mask]:
        """Of some of the codes: where each bit of a magnitude is set, from the lowest on."""
        magnitudes = np.abs(codes)
        for bit in range(self.bits):
            yield (magnitudes >> bit & 1).astype(np.bool_)


def rows_of(layer: Workload, window: int) -> Rows:
    """The rows of a layer, cut into windows of so many channels."""
    weight = layer.weight
    if isinstance(weight, PackedKernelBasis) and layer.kernel != (1, 1):
        codes, ternary = _coefficients(weight)
        codes = codes.transpose(0, 2, 1)
        bases = _bases(weight)
        starts = window_starts(layer.channels, 1, window)
        bits = _stored_bits(codes, ternary, weight.spec.shared, weight.spec.block) + CODE_BITS * bases.size + SCALE_BITS
        return Rows(_spread(codes, layer.groups), _magnitude(ternary), bases, True, starts, bits)
    codes, ternary = _whole(weight)
    codes = codes.reshape(*codes.shape[:2], *layer.kernel)
    bases = _bases(weight) if isinstance(weight, PackedKernelBasis) else np.ones((1, 1, 1), np.int8)
    shared, block = (weight.spec.shared, weight.spec.block) if isinstance(weight, PackedKernelBasis) else (1, 1)
    bits = _stored_bits(codes.reshape(len(codes), 1, -1), ternary, shared, block)
    spread = _spread(codes.transpose(0, 2, 3, 1), layer.groups).reshape(len(codes), 1, -1)
    starts = window_starts(layer.channels, math.prod(layer.kernel), window)
    return Rows(spread, _magnitude(ternary), bases, False, starts, bits)


def window_starts(channels: int, taps: int, window: int) -> Counts:
    """First place of each window of a vector of taps and channels, c fastest.

    Where there are as many channels as a window has places, each tap starts a window; else the vector is cut without
    gaps.
    """
    if channels < window:
        return np.arange(0, taps * channels, window)
    starts: Counts = (channels * np.arange(taps)[:, None] + np.arange(0, channels, window)).ravel()
    return starts


def _coefficients(weight: PackedKernelBasis) -> tuple[Codes, bool]:
    """`(K, C/groups, M)` as whole numbers, and whether these are ternary.

    Those of two scales are numbers of 8 bits here: a sum would need two partial ones and a multiplier between them.
    """
    ternary = weight.spec.coefficients == "ternary" and not weight.spec.asymmetric
    if isinstance(weight.spec.values, Integer8) and not weight.spec.asymmetric:
        return weight.codes()[1], ternary
    coefficients = weight.factors()[1]
    return (np.sign(coefficients).astype(np.int8) if ternary else rounded(coefficients)), ternary


def _bases(weight: PackedKernelBasis) -> Codes:
    if isinstance(weight.spec.values, Integer8) and not weight.spec.asymmetric:
        return weight.codes()[0]
    return INT8.codes("x", INT8.encode("x", weight.factors()[0], ONE_ROW))


def _whole(weight: Packed) -> tuple[Codes, bool]:
    """A weight of one basis, or of none, as whole numbers of its shape, and whether these are ternary."""
    if isinstance(weight, PackedKernelBasis):
        codes, ternary = _coefficients(weight)
        return codes, ternary  # one basis of one number: (K, C/groups, 1)
    integers = weight.integers()
    if integers is not None and np.abs(integers[0]).max(initial=0) < 1 << MAGNITUDE_BITS:
        return integers[0].astype(np.int8), weight.spec.values == TERNARY
    return rounded(weight.dense()), False


def rounded(weight: FloatArray) -> Codes:
    """Floating point numbers as whole ones of 8 bits, with a scale for each output."""
    return INT8.codes("x", INT8.encode("x", weight))


def _magnitude(ternary: bool) -> int:
    return 1 if ternary else MAGNITUDE_BITS


def _stored_bits(codes: Codes, ternary: bool, shared: int, block: int) -> int:
    """Of coefficients `(K, M, places of a group)`, in whichever way is the smallest.

    Signs or codes of those that are not zero, and their positions (see `formats.positions`), once for outputs that
    share them; or all codes.
    """
    nonzeros = int(np.count_nonzero(codes))
    plain = CODE_BITS * codes.size
    if not ternary and nonzeros + codes.size // CODE_BITS >= codes.size:
        return plain
    present = codes[::shared, :, ::block] != 0
    where = positions.encode("x", present, present.shape[2])
    bits = 8 * sum(array.nbytes for array in where.values()) + (1 if ternary else CODE_BITS) * nonzeros + TAG_BITS
    return bits if ternary else min(bits, plain)


def _spread(codes: Codes, groups: int) -> Codes:
    """From the channels of a group, the last axis, to those of all: zeros in the other groups'."""
    if groups == 1:
        return np.ascontiguousarray(codes)
    k, channels = codes.shape[0], codes.shape[-1]
    grouped = codes.reshape(groups, k // groups, *codes.shape[1:])
    spread = np.zeros((*grouped.shape[:-1], groups, channels), np.int8)
    for g in range(groups):
        spread[g, ..., g, :] = grouped[g]
    return spread.reshape(k, *codes.shape[1:-1], groups * channels)
