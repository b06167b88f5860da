"""Block-circulant linear layers by way of spectra, which a plan has ready for the weights."""

from __future__ import annotations

import math
from typing import Final

import numpy as np

from dovetail.engine.builder import Builder, activation_fields
from dovetail.engine.classes import taken
from dovetail.engine.conv import Epilogue
from dovetail.engine.layout import View, round_up
from dovetail.engine.linear import linear_dense
from dovetail.formats.block_circulant import PackedBlockCirculant

TILE: Final = 4  # block rows in registers, as kSpectrumRows in native/kernels/circulant.inl


def linear_circulant(
    b: Builder, x: View, packed: PackedBlockCirculant, scale: np.ndarray | None, y: View, epilogue: Epilogue
) -> None:
    """Writes activation(scale * (x weight^T) + bias + residual) to `y`.

    The transforms of the blocks of x, and back of those of the sums, are products with matrices of sines and cosines:
    up to blocks of about 128 they take no longer than the products of spectra between them.
    """
    (rows, columns), size = packed.spec.grid(packed.shape), packed.spec.size
    batch, outputs = math.prod(x.shape[:-1]), packed.shape[0]
    weights = _spectra(packed, b.lanes)
    vectors = weights.shape[1]
    spectra = b.rows((batch * columns, vectors * 3 * b.lanes))
    linear_dense(b, _whole_blocks(b, x, columns * size, size), transform(size, b.lanes), spectra, Epilogue())
    sums = b.rows((batch * rows, vectors * 2 * b.lanes))
    b.emit(
        "linear_circulant_f32", {"x": spectra, "w": b.constant(weights)}, {"y": sums}, disjoint=True, batch=batch,
        rows=rows, columns=columns, vectors=vectors, work=2 * batch * weights.size,
    )  # fmt: skip
    made = b.rows((batch * rows, size))
    linear_dense(b, sums, inverse(size, b.lanes), made, Epilogue())
    _finish(b, made, rows * size, packed.gain() if scale is None else packed.gain() * scale, y, epilogue, outputs)


def transform(size: int, lanes: int) -> np.ndarray:
    """From a block to the vectors of its spectrum that the kernel reads, (vectors * 3 * lanes, size)."""
    turn = np.exp(-2j * np.pi * np.outer(np.arange(_places(size)), np.arange(size)) / size)
    real, imaginary, again = turn.real, turn.imag.copy(), turn.real.copy()
    imaginary[0], again[0] = 0, _middle(size)
    return _in_vectors([real, imaginary, again], lanes).transpose(0, 1, 3, 2).reshape(-1, size).astype(np.float32)


def inverse(size: int, lanes: int) -> np.ndarray:
    """From the two vectors of a spectrum to its block, (size, vectors * 2 * lanes)."""
    places = _places(size)
    turn = 2 / size * np.exp(2j * np.pi * np.outer(np.arange(places), np.arange(size)) / size)
    real, imaginary = turn.real.copy(), -turn.imag
    real[0], imaginary[0] = 1 / size, _middle(size) / size
    return _in_vectors([real, imaginary], lanes).transpose(0, 1, 3, 2).reshape(-1, size).T.astype(np.float32)


def _places(size: int) -> int:
    """Frequencies, the middle one of an even size not counted: it shares the place of 0."""
    return max(1, (size + 1) // 2)


def _middle(size: int) -> np.ndarray:
    """By what numbers are multiplied for the middle frequency; zeros where there is none."""
    turns: np.ndarray = np.cos(np.pi * np.arange(size))
    return turns if size % 2 == 0 else np.zeros(size)


def _in_vectors(parts: list[np.ndarray], lanes: int) -> np.ndarray:
    """(vectors, parts, rest, lanes) of parts (places, rest), filled up with zeros."""
    stacked = np.stack(parts)
    filled = np.pad(stacked, ((0, 0), (0, -stacked.shape[1] % lanes), (0, 0)))
    return filled.reshape(len(parts), -1, lanes, filled.shape[2]).transpose(1, 0, 3, 2)


def _spectra(packed: PackedBlockCirculant, lanes: int) -> np.ndarray:
    """Of the weights, (tiles, vectors, columns, TILE, 2, lanes)."""
    found, size = packed.spectra(), packed.spec.size
    rows, columns, places = len(found), found.shape[1], _places(size)
    imaginary = found.imag[:, :, :places].copy()
    imaginary[:, :, 0] = found.real[:, :, -1] if size % 2 == 0 else 0
    parts = np.stack([found.real[:, :, :places], imaginary])
    filled = np.pad(parts, ((0, 0), (0, round_up(rows, TILE) - rows), (0, 0), (0, -places % lanes)))
    tiles = filled.reshape(2, -1, TILE, columns, filled.shape[3] // lanes, lanes)
    return np.ascontiguousarray(tiles.transpose(1, 4, 3, 2, 0, 5).astype(np.float32))


def _whole_blocks(b: Builder, x: View, filled: int, size: int) -> View:
    """Blocks of x as rows, the last one filled up with zeros."""
    inputs = x.shape[-1]
    if filled != inputs:
        x = taken(b, x, np.where(np.arange(filled) < inputs, np.arange(filled), -1).astype(np.int32))
    return x.reshaped((math.prod(x.shape) // size, size))


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
