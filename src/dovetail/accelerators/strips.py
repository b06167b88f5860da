"""The positions at which a layer adds up its rows, strip by strip, and how many taps of the kernel each serves."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dovetail.accelerators.ternary_rows import Rows
from dovetail.accelerators.workload import Counts, Workload
from dovetail.program.functions import windows


@dataclass(frozen=True, eq=False)
class Inputs:
    """What rows read, position by position.

    Attributes:
        values: `(N, H, W, …)`, the places of a position in the last axes: whole numbers, or a mask.
        whole: they are numbers.
        down: taps of the kernel that a row of positions serves.
        across: those of a column.
    """

    values: NDArray[Any]
    whole: bool
    down: Counts
    across: Counts

    @classmethod
    def of(cls, layer: Workload, rows: Rows) -> Inputs:
        """Positions of the input for bases, of the output for windows."""
        whole = layer.input.dtype.kind in "iu"
        values = layer.input.astype(np.int32) - layer.zero if whole else layer.mask
        top, bottom, left, right = layer.padding
        if rows.spatial:
            down, across = (
                taps_along(size, out, kernel, stride, before)
                for size, out, kernel, stride, before in zip(
                    layer.size, layer.out_size, layer.kernel, layer.stride, (top, left)
                )
            )
            return cls(values.transpose(0, 2, 3, 1), whole, down, across)
        padded = np.pad(values, ((0, 0), (0, 0), (top, bottom), (left, right)))
        seen = windows(padded, layer.kernel, layer.stride, layer.dilation).transpose(0, 2, 3, 4, 5, 1)
        return cls(seen, whole, *(np.ones(size, np.int64) for size in layer.out_size))

    @property
    def positions(self) -> int:
        """Of an image, that any output reads; no others are broadcast."""
        return int(np.count_nonzero(self.down) * np.count_nonzero(self.across))

    def strips(self, columns: int) -> list[Counts]:
        """The columns of each strip that any output reads; no strip is without."""
        starts = range(0, len(self.across), columns) if self.down.any() else ()
        parts = [start + np.flatnonzero(self.across[start : start + columns]) for start in starts]
        return [part for part in parts if len(part)]

    def at(self, images: slice, columns: Counts) -> NDArray[Any]:
        """The positions of a strip of some images, `(images, positions, places)`."""
        found = self.values[images, np.flatnonzero(self.down)[:, None], columns]
        return found.reshape(len(found), found.shape[1] * found.shape[2], -1)

    def taps(self, columns: Counts) -> Counts:
        """Of each of these positions."""
        taps: Counts = np.outer(self.down[self.down > 0], self.across[columns]).ravel()
        return taps


def taps_along(size: int, out: int, kernel: int, stride: int, before: int) -> Counts:
    """How many taps of a kernel each of `size` inputs serves, along an axis with `before` places of border."""
    at = np.arange(size)[:, None] + before - np.arange(kernel)
    taps: Counts = ((at >= 0) & (at % stride == 0) & (at < stride * out)).sum(axis=1)
    return taps
