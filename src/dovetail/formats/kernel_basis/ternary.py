"""Coefficients of -1, 0 and 1 (ESCALATE, MICRO 2021; the rule of trained ternary quantization, ICLR 2017)."""

from __future__ import annotations

import math

import numpy as np

from dovetail.errors import SpecError
from dovetail.formats.sparse.packed import largest
from dovetail.formats.values import THRESHOLD, FloatArray, Rows

LEAST = 2.0**-14  # of the scale of an output: float16 holds it with all its digits


def ternarise(
    coefficients: np.ndarray,
    threshold: float = THRESHOLD,
    shared: int = 1,
    block: int = 1,
    density: float | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """-1, 0 or 1 for each of the `coefficients` (K, C, d), and the scale of each basis `(d,)`.

    Beyond zero are those of a magnitude above `threshold` times the largest of their basis, or the share `density` of
    all, the largest that are not zero. `shared` neighbouring outputs, and `block` neighbouring inputs, stay together,
    by their mean magnitude; a zero among those that are kept becomes 1, as each of them has a sign. The scale, the mean
    of what is kept, errs least; it is 0 where there is nothing.
    """
    magnitudes = np.abs(coefficients)
    sizes = means(means(magnitudes, shared, 0), block, 1)
    beyond = sizes > threshold * sizes.max(axis=(0, 1), initial=0) if density is None else most(sizes, density)
    beyond &= sizes > 0
    kept = spread(spread(beyond, block, coefficients.shape[1], axis=1), shared, len(coefficients))
    scales = (magnitudes * kept).sum(axis=(0, 1)) / np.maximum(kept.sum(axis=(0, 1)), 1)
    return np.where(coefficients < 0, -1.0, 1.0) * kept, scales


def with_scales_of_both_signs(signs: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """The `signs` (K, C, d), each times the mean of the `sizes` that belong to that sign of its output."""
    made = np.zeros_like(sizes)
    for sign in (1, -1):
        there = signs == sign
        mean = (sizes * there).sum(axis=(1, 2)) / np.maximum(there.sum(axis=(1, 2)), 1)
        made += sign * there * np.maximum(mean, LEAST)[:, None, None]
    return made


def of_both_signs(rows: Rows, negative: np.ndarray) -> Rows:
    """Two rows for each, one after the other: of its numbers above zero, and of those below."""
    return Rows(2 * rows.index + negative, 2 * rows.count)


def most(sizes: np.ndarray, density: float) -> np.ndarray:
    """Where the largest share `density` of `sizes` is; a half is rounded up, and one always stays."""
    return largest(sizes, max(1, math.floor(density * sizes.size + 0.5)))


def means(sizes: np.ndarray, count: int, axis: int) -> np.ndarray:
    """Of each `count` neighbours along an axis; the last may have fewer."""
    first, shape = np.arange(0, sizes.shape[axis], count), [1] * sizes.ndim
    shape[axis] = len(first)
    counts = np.diff([*first, sizes.shape[axis]]).reshape(shape)
    return np.add.reduceat(sizes, first, axis=axis) / counts if count > 1 else sizes


def spread(pattern: np.ndarray, count: int, size: int, axis: int = 0) -> np.ndarray:
    """What `count` neighbours along an axis share, for each of the `size` there are."""
    return pattern.repeat(min(count, size), axis=axis).take(np.arange(size), axis=axis)


def share_places(present: np.ndarray, count: int, axis: int = 0) -> bool:
    """Whether each `count` neighbours along an axis are present at the same places."""
    first = present.take(np.arange(0, present.shape[axis], count), axis=axis)
    return bool((present == spread(first, count, present.shape[axis], axis)).all())


def shared_pattern(present: np.ndarray, shared: int, block: int) -> np.ndarray:
    """Of the places `(K, d, C)` those of each `shared` outputs and `block` inputs; inverse of `spread` on both axes.

    Raises:
        SpecError: outputs or inputs that should have theirs at the same places have not.
    """
    for axis, count, those, field in ((0, shared, "outputs", "shared"), (2, block, "inputs", "block")):
        if not share_places(present, count, axis):
            first = np.arange(0, present.shape[axis], count)
            whole = spread(np.logical_or.reduceat(present, first, axis=axis), count, present.shape[axis], axis)
            others = tuple(other for other in range(3) if other != axis)
            at = int(np.argmax((whole != present).any(axis=others)))
            raise SpecError(
                f"{those[:-1]} {at} lacks a coefficient that a neighbour has, and {count} {those} share the places of "
                f"theirs; take {field}=1, or from_dense, which makes them alike"
            )
        present = present.take(np.arange(0, present.shape[axis], count), axis=axis)
    return present


def require_ternary(coefficients: FloatArray, rows: Rows, signs: int = 1) -> None:
    """`SpecError` unless the non-zero coefficients of each row, listed, have one magnitude.

    An output has one row, or two of different `signs`.
    """
    most, least = np.zeros(rows.count, np.float32), np.full(rows.count, np.inf, np.float32)
    np.maximum.at(most, rows.index, np.abs(coefficients))
    np.minimum.at(least, rows.index, np.abs(coefficients))
    if (wrong := (most > 0) & (least != most)).any():
        row = int(np.argmax(wrong))
        of_one_sign = "" if signs == 1 else ("positive ", "negative ")[row % 2]
        raise SpecError(
            f"the {of_one_sign}coefficients of output {row // signs} have magnitudes from {least[row]:.3g} to "
            f"{most[row]:.3g}; ternary ones have one: train them towards it, or take from_dense, which rounds them"
        )
