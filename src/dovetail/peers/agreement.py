"""Do two targets compute the same network?"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

Outputs = Sequence[np.ndarray]
F32_TOLERANCE = 1e-3
OWN_TOLERANCE = 1e-4


def max_error(got: Outputs, want: Outputs) -> float:
    """The largest difference, relative to the range of the wanted output; infinite for NaN, Inf or another shape."""
    if len(got) != len(want):
        return float("inf")
    return max((_error(g, w) for g, w in zip(got, want)), default=0.0)


def _error(got: np.ndarray, want: np.ndarray) -> float:
    if got.shape != want.shape or not np.isfinite(got).all():
        return float("inf")
    span = float(np.ptp(want)) or float(np.abs(want).max()) or 1.0
    return float(np.abs(got.astype(np.float64) - want).max()) / span


def top1_agreement(got: Outputs, want: Outputs) -> float:
    """Percentage of rows with the same largest entry in the first output."""
    return percent(got[0].argmax(-1) == want[0].argmax(-1))


def accuracy(outputs: Outputs, labels: np.ndarray) -> float:
    """Top-1 accuracy of the first output in percent; rows beyond the labels are padding."""
    return percent(outputs[0][: len(labels)].argmax(-1) == labels)


def percent(hits: np.ndarray) -> float:
    """How many of `hits` are true, in percent."""
    return 100.0 * float(np.mean(hits))
