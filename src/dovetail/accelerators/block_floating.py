"""Fourier transforms in whole numbers that share an exponent: what CirCNN's butterflies of 16 bits compute.

A block has whole numbers of `bits` bits and one exponent. The sums of a level of butterflies are brought back to the
bits by halving all of them as often as the largest asks for, with rounding, which the exponent remembers. A plainer
machine halves at every level whether the sums ask for it or not (`always`): simpler, and less exact.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final, Self

import numpy as np
from numpy.typing import NDArray

from dovetail.errors import MachineError

Whole = NDArray[np.int64]
Complex = NDArray[np.complex128]
LEAST: Final = 1e-100  # largest magnitude of a block that is not zero
TWIDDLE_BITS: Final = 2  # of a twiddle factor, before the binary point: 1 and -1 are exact


@dataclass(frozen=True, eq=False)
class Block:
    """Complex numbers `(real + i imaginary) 2^exponent`, of `bits` bits each; the last axis is transformed."""

    real: Whole
    imaginary: Whole
    exponent: int
    bits: int

    @classmethod
    def of(cls, values: NDArray, bits: int = 16) -> Self:
        """The nearest block; the largest magnitude fills the bits.

        Raises:
            MachineError: another count of bits, or numbers that are NaN, Inf or too large or small to be scaled.
        """
        if not 4 <= bits <= 24:
            raise MachineError(f"blocks of numbers have 4 to 24 bits here, not {bits}")
        numbers = np.asarray(values, np.complex128)
        largest = float(np.abs(numbers).max(initial=0))
        if largest and not LEAST <= largest <= 1 / LEAST:
            raise MachineError(
                f"a block of numbers up to {largest:g}; give finite ones from {LEAST:g} to {1 / LEAST:g}"
            )
        exponent = math.ceil(math.log2(largest / _most(bits))) if largest else 0
        scaled = numbers * 2.0**-exponent
        return cls(_round(scaled.real), _round(scaled.imag), exponent, bits)

    def numbers(self) -> Complex:
        """What the block stands for."""
        found = np.empty(self.real.shape, np.complex128)
        found.real, found.imag = self.real * 2.0**self.exponent, self.imaginary * 2.0**self.exponent
        return found


def transform(block: Block, inverse: bool = False, always: bool = False) -> Block:
    """Of the last axis, whose length is a power of two; level by level, in the order of the machine.

    Args:
        block: to be transformed.
        inverse: the inverse transform, with its division by the length.
        always: halve once at least at every level.

    Raises:
        MachineError: the length is no power of two.
    """
    size = block.real.shape[-1]
    if size & (size - 1) or not size:
        raise MachineError(f"a block of {size} numbers cannot be transformed; its length must be a power of two")
    order, levels = _reversed(size), size.bit_length() - 1
    real, imaginary = block.real[..., order], block.imaginary[..., order]
    exponent = block.exponent - (levels if inverse else 0)
    for level in range(levels):
        sums = _level(real, imaginary, 1 << level, block.bits, inverse)
        halvings = max(int(always), _halvings(max(int(np.abs(part).max(initial=0)) for part in sums), block.bits))
        most = _most(block.bits)
        real, imaginary = (np.clip(_shifted(part, halvings), -most, most) for part in sums)
        exponent += halvings
    return Block(real, imaginary, exponent, block.bits)


def product(columns: NDArray, inputs: NDArray, bits: int = 16) -> NDArray[np.float64]:
    """Circulant blocks times a vector in whole numbers; spectra are multiplied and summed exactly, then rounded.

    Args:
        columns: first columns, `(P, Q, k)`.
        inputs: `(Q, k)`.
        bits: of inputs, spectra and outputs.

    Returns:
        `(P, k)`.

    Raises:
        MachineError: the columns are not of these inputs.
    """
    if columns.ndim != 3 or columns.shape[1:] != inputs.shape:
        raise MachineError(f"columns of shape {columns.shape} take inputs of {columns.shape[1:]}, not {inputs.shape}")
    weights = Block.of(np.fft.fft(columns), bits).numbers()  # made before, in floating point
    spectra = transform(Block.of(inputs, bits)).numbers()
    sums = Block.of((weights * spectra[None]).sum(axis=1), bits)
    return transform(sums, inverse=True).numbers().real


def _level(real: Whole, imaginary: Whole, half: int, bits: int, inverse: bool) -> tuple[Whole, Whole]:
    """Sums of butterflies of numbers that are `half` apart, before they are brought back to the bits."""
    shift = bits - TWIDDLE_BITS
    turns = 2 * np.pi * np.arange(half) / (2 * half)
    cosines, sines = _round(np.cos(turns) * (1 << shift)), _round(np.sin(turns) * (1 << shift))
    sines = sines if inverse else -sines
    (a, b), (c, d) = (np.moveaxis(part.reshape(*part.shape[:-1], -1, 2, half), -2, 0) for part in (real, imaginary))
    turned = _shifted(b * cosines - d * sines, shift), _shifted(b * sines + d * cosines, shift)
    pairs = ((a, turned[0]), (c, turned[1]))
    sums = (np.stack([first + second, first - second], axis=-2).reshape(real.shape) for first, second in pairs)
    return next(sums), next(sums)


def _halvings(largest: int, bits: int) -> int:
    """How often a number is halved until it has so many bits, its sign with them."""
    return max(0, largest.bit_length() - (bits - 1))


def _reversed(size: int) -> Whole:
    """Places whose bits are in reverse order."""
    order = np.zeros(1, np.int64)
    while len(order) < size:
        order = np.concatenate([2 * order, 2 * order + 1])
    return order


def _shifted(numbers: Whole, bits: int) -> Whole:
    """Divided by 2^bits, rounded to nearest, halves to even."""
    return _round(numbers / (1 << bits))


def _round(numbers: NDArray[np.float64]) -> Whole:
    return np.rint(numbers).astype(np.int64)


def _most(bits: int) -> int:
    return (1 << (bits - 1)) - 1
