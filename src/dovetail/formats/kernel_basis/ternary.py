"""Coefficients of -1, 0 and 1 (ESCALATE, MICRO 2021; the rule of trained ternary quantization, ICLR 2017)."""

from __future__ import annotations

import numpy as np

from dovetail.errors import SpecError
from dovetail.formats.values import THRESHOLD, FloatArray, Rows


def ternarise(coefficients: np.ndarray, threshold: float = THRESHOLD) -> tuple[np.ndarray, np.ndarray]:
    """-1, 0 or 1 for each of the `coefficients` (K, C, d), and the scale of each basis `(d,)`.

    Beyond zero are those of a magnitude above `threshold` times the largest of their basis. The scale, the mean of
    these magnitudes, errs least; it is 0 where there are none.
    """
    magnitudes = np.abs(coefficients)
    kept = magnitudes > threshold * magnitudes.max(axis=(0, 1), initial=0)
    scales = (magnitudes * kept).sum(axis=(0, 1)) / np.maximum(kept.sum(axis=(0, 1)), 1)
    return np.sign(coefficients) * kept, scales


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
