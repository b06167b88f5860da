"""The two stages lane by lane: what a layer computes on them, slowly. The twin of `stages.coef_first`.

An adding unit takes a window of a row at a time. It joins the mask of the coefficients and that of the inputs, spreads
the packed inputs out to the lanes of the window (dilution), drops lanes that only one of the masks has, moves the
others together (concentration) and gives them to the adders, subtracted where the sign says so. A multiplier takes the
sum of each position, unless it is zero, through the taps of its basis.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dovetail.accelerators.strips import Inputs
from dovetail.accelerators.ternary_rows import Codes, Rows, rows_of
from dovetail.accelerators.workload import Workload
from dovetail.errors import MachineError

Sums = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Result:
    """Whole sums `(N, K, E, F)`, and what was done for them.

    Attributes:
        sums: of codes, before scales and bias.
        additions: inputs added or subtracted.
        updates: products of a sum that is not zero, each given to an output.
    """

    sums: Sums
    additions: int
    updates: int


def run(layer: Workload, window: int, adders: int) -> Result:
    """The layer in whole numbers; its input must be codes.

    Raises:
        MachineError: the input is a mask, or floating point.
    """
    if layer.input.dtype.kind not in "iu":
        raise MachineError(
            f"layer {layer.name!r} has an input of {layer.input.dtype}; sums are computed of whole numbers: record a "
            f"quantised network"
        )
    rows, additions, updates = rows_of(layer, window), 0, 0
    inputs, sums = Inputs.of(layer, rows), np.zeros(layer.out_shape, np.int64)
    for n, h, w in np.ndindex(*inputs.values.shape[:3]):
        if not inputs.down[h] * inputs.across[w]:
            continue
        vector = inputs.values[n, h, w].ravel()
        for k, m in np.ndindex(*rows.codes.shape[:2]):
            found, added = add_up(rows, rows.codes[k, m], vector, adders)
            additions += added
            if found:
                updates += _multiply(layer, rows, sums[n, k], rows.bases[m], found, (h, w))
    return Result(sums, additions, updates)


def add_up(rows: Rows, row: Codes, vector: Sums, adders: int) -> tuple[int, int]:
    """U of a row at a position, and how many inputs were added for it."""
    total = added = 0
    for bit, plane in enumerate(rows.planes(row)):
        for start, stop in zip(rows.starts, [*rows.starts[1:], len(row)]):
            there = vector[start:stop] != 0
            lanes = zip(dilute(vector[start:stop][there], there), row[start:stop] < 0, there & plane[start:stop])
            concentrated = [-x if minus else x for x, minus, both in lanes if both]
            for first in range(0, len(concentrated), adders):
                total += sum(concentrated[first : first + adders]) << bit
            added += len(concentrated)
    return total, added


def dilute(packed: Sums, there: NDArray[np.bool_]) -> list[int]:
    """Packed inputs at the lanes where the mask has them: the n-th is where n lanes before are there."""
    before: Sums = np.cumsum(there) - there
    return [int(packed[before[lane]]) if present else 0 for lane, present in enumerate(there)]


def _multiply(layer: Workload, rows: Rows, plane: Sums, basis: Codes, found: int, at: tuple[int, int]) -> int:
    """Give a sum to each output that it belongs to, and count them."""
    if not rows.spatial:
        plane[at] += found * int(basis[0, 0])
        return 1
    (h, w), (top, _, left, _), updates = at, layer.padding, 0
    for r, s in np.ndindex(*basis.shape):
        (e, down), (f, across) = divmod(h + top - r, layer.stride[0]), divmod(w + left - s, layer.stride[1])
        if not down and not across and 0 <= e < plane.shape[0] and 0 <= f < plane.shape[1]:
            plane[e, f] += found * int(basis[r, s])
            updates += 1
    return updates
