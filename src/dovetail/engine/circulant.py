"""Block-circulant linear layers by way of spectra, which a plan has ready for the weights.

A spectrum of k real numbers is k real numbers, in this order: frequency 0, of an even size the middle one, then the
real and the imaginary part of every other one (`transform`).
"""

from __future__ import annotations

import itertools
import math
from typing import Final

import numpy as np

from dovetail.engine.builder import Builder, activation_fields
from dovetail.engine.classes import taken
from dovetail.engine.conv import Epilogue, evenly
from dovetail.engine.layout import View, round_up
from dovetail.engine.linear import linear_dense
from dovetail.formats.block_circulant import PackedBlockCirculant

MOST_VECTORS: Final = 4  # of block rows in registers, as kSpectrumVectors in native/kernels/circulant.inl


def linear_circulant(
    b: Builder, x: View, packed: PackedBlockCirculant, scale: np.ndarray | None, y: View, epilogue: Epilogue
) -> None:
    """Writes activation(scale * (x weight^T) + bias + residual) to `y`.

    The transforms of the blocks of x, and back of those of the sums, are products with matrices of sines and cosines:
    up to blocks of about 64 they take no longer than the products of spectra between them.
    """
    (rows, columns), size = packed.spec.grid(packed.shape), packed.spec.size
    batch, outputs = math.prod(x.shape[:-1]), packed.shape[0]
    spectra, sums, made = (b.rows((batch * count, size)) for count in (columns, rows, rows))
    _each_block(b, _filled(b, x, columns * size), transform(size), spectra, columns)
    weights, blocks = spectra_of(packed, b.lanes)
    b.emit(
        "linear_circulant_f32", {"x": spectra, "w": b.constant(weights), "blocks": b.constant(blocks)}, {"y": sums},
        disjoint=True, batch=batch, rows=rows, columns=columns, size=size, block_count=len(blocks),
        vectors=int(blocks[:, 1].sum()), work=2 * batch * weights.size,
    )  # fmt: skip
    _each_block(b, sums, inverse(size), made, rows)
    _finish(b, made, rows * size, packed.gain() if scale is None else packed.gain() * scale, y, epilogue, outputs)


def transform(size: int) -> np.ndarray:
    """From a block to its spectrum, (size, size)."""
    turns = np.fft.rfft(np.eye(size), axis=0)
    return numbers(turns.real, turns.imag, size).astype(np.float32)


def inverse(size: int) -> np.ndarray:
    """From a spectrum to its block, (size, size); a complex frequency stands for two."""
    share = np.full(size // 2 + 1, 2 / size)
    share[0] = 1 / size
    if size % 2 == 0:
        share[-1] = 1 / size
    return np.ascontiguousarray(transform(size).T * numbers(share, share, size)).astype(np.float32)


def numbers(real: np.ndarray, imaginary: np.ndarray, size: int) -> np.ndarray:
    """The numbers of spectra, (size, …), of their parts, (size // 2 + 1, …) each."""
    pairs = np.stack([real, imaginary], axis=1)[1 : (size + 1) // 2]
    ends = real[[0, -1]] if size % 2 == 0 else real[:1]
    return np.concatenate([ends, pairs.reshape(-1, *real.shape[1:])])


def spectra_of(packed: PackedBlockCirculant, lanes: int) -> tuple[np.ndarray, np.ndarray]:
    """Per frequency and block of vectors [columns][its numbers][vectors][lanes]; and the records of the blocks."""
    found, size = np.moveaxis(packed.spectra(), 2, 0), packed.spec.size
    rows, columns = found.shape[1:]
    filled = np.pad(numbers(found.real, found.imag, size), ((0, 0), (0, round_up(rows, lanes) - rows), (0, 0)))
    filled = filled.reshape(size, -1, lanes, columns).astype(np.float32)
    sizes = evenly(filled.shape[1], MOST_VECTORS)
    firsts = np.cumsum([0, *sizes[:-1]])
    edges = [0, *range(size % 2 or 2, size, 2), size]
    pieces = [
        filled[start:stop, first : first + count].transpose(3, 0, 1, 2).ravel()
        for start, stop in itertools.pairwise(edges)
        for first, count in zip(firsts, sizes)
    ]
    return np.concatenate(pieces), np.stack([firsts, sizes], axis=1).astype(np.int32)


def _each_block(b: Builder, x: View, matrix: np.ndarray, y: View, count: int) -> None:
    """Rows of `y`: `matrix` times the blocks of `x`, several blocks side by side where they fill no vectors alone.

    Those are of the `count` blocks of one vector: by way of the zeros between them NaN in one reaches all others.
    """
    blocks, size = y.shape
    most = max(1, 4 * b.lanes // size)
    beside = max(n for n in range(1, most + 1) if count % n == 0)
    shape = blocks // beside, beside * size
    linear_dense(b, x.reshaped(shape), np.kron(np.eye(beside, dtype=np.float32), matrix), y.reshaped(shape), Epilogue())


def _filled(b: Builder, x: View, filled: int) -> View:
    """Rows of x, filled up with zeros."""
    inputs = x.shape[-1]
    if filled == inputs:
        return x
    return taken(b, x, np.where(np.arange(filled) < inputs, np.arange(filled), -1).astype(np.int32))


def _finish(
    b: Builder, made: View, width: int, scale: np.ndarray, y: View, epilogue: Epilogue, outputs: int
) -> None:  # fmt: skip
    """The epilogue of sums whose rows are `width` long."""
    batch, residual = math.prod(made.shape) // width, epilogue.residual
    bias = None if epilogue.bias is None else b.constant(epilogue.bias.astype(np.float32))
    b.emit(
        "pointwise_f32",
        {"x": made, "r": residual, "scale": None if (scale == 1).all() else b.constant(scale.astype(np.float32)),
         "bias": bias},
        {"y": y}, disjoint=True, size=(1, 1, 1, 1, batch, outputs), x_stride=(0, 0, 0, 0, width, 1),
        r_stride=(0, 0, 0, 0, outputs, 1), c_stride=(0, 0, 0, 0, 0, 1), y_stride=(0, 0, 0, 0, outputs, 1),
        multiply=0, **activation_fields(epilogue.activation),
    )  # fmt: skip
