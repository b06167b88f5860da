"""Coefficients of -1, 0 and 1 (ESCALATE, MICRO 2021; the rule of trained ternary quantization, ICLR 2017)."""

from __future__ import annotations

import math

import numpy as np

from dovetail.errors import SpecError
from dovetail.formats.sparse.packed import largest
from dovetail.formats.values import THRESHOLD, FloatArray, Rows


def ternarise(
    coefficients: np.ndarray, threshold: float = THRESHOLD, shared: int = 1, density: float | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """-1, 0 or 1 for each of the `coefficients` (K, C, d), and the scale of each basis `(d,)`.

    Beyond zero are those of a magnitude above `threshold` times the largest of their basis, or the share `density` of
    all, the largest; `shared` neighbouring outputs stay together, by their mean magnitude. The scale, the mean of what
    is kept, errs least; it is 0 where there is nothing.
    """
    magnitudes = np.abs(coefficients)
    first = np.arange(0, len(coefficients), shared)
    means = np.add.reduceat(magnitudes, first) / np.diff([*first, len(coefficients)])[:, None, None]
    beyond = means > threshold * means.max(axis=(0, 1), initial=0) if density is None else most(means, density)
    kept = spread(beyond, shared, len(coefficients))
    scales = (magnitudes * kept).sum(axis=(0, 1)) / np.maximum(kept.sum(axis=(0, 1)), 1)
    return np.where(coefficients < 0, -1.0, 1.0) * kept, scales


def most(sizes: np.ndarray, density: float) -> np.ndarray:
    """Where the largest share `density` of `sizes` is; a half is rounded up, and one always stays."""
    return largest(sizes, max(1, math.floor(density * sizes.size + 0.5)))


def spread(pattern: np.ndarray, shared: int, outputs: int) -> np.ndarray:
    """What neighbouring outputs share (index of axis 0) for each of them."""
    return pattern.repeat(min(shared, outputs), axis=0)[:outputs]


def share_places(present: np.ndarray, shared: int) -> bool:
    """Whether each `shared` neighbours (index of axis 0) are present at the same places."""
    return bool((present == spread(present[::shared], shared, len(present))).all())


def shared_pattern(present: np.ndarray, shared: int) -> np.ndarray:
    """Of the places `(K, ...)` those of each `shared` outputs, `(ceil(K / shared), ...)`; inverse of `spread`.

    Raises:
        SpecError: outputs that should have theirs at the same places have not.
    """
    if share_places(present, shared):
        return present[::shared]
    pattern = np.logical_or.reduceat(present, np.arange(0, len(present), shared))
    wrong = (spread(pattern, shared, len(present)) != present).reshape(len(present), -1).any(axis=1)
    k = int(np.argmax(wrong))
    raise SpecError(
        f"output {k} lacks a coefficient that a neighbour has, and {shared} outputs share the places of theirs; take "
        f"shared=1, or from_dense, which makes them alike"
    )


def require_ternary(coefficients: FloatArray, rows: Rows) -> None:
    """`SpecError` unless the non-zero coefficients of each row, listed, have one magnitude."""
    most, least = np.zeros(rows.count, np.float32), np.full(rows.count, np.inf, np.float32)
    np.maximum.at(most, rows.index, np.abs(coefficients))
    np.minimum.at(least, rows.index, np.abs(coefficients))
    if (wrong := (most > 0) & (least != most)).any():
        k = int(np.argmax(wrong))
        raise SpecError(
            f"the coefficients of output {k} have magnitudes from {least[k]:.3g} to {most[k]:.3g}; ternary ones have "
            f"one: train them towards it, or take from_dense, which rounds them"
        )
