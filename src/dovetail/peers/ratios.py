"""From timed blocks to claims."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

Blocks = Sequence[np.ndarray]


@dataclass(frozen=True)
class Summary:
    """Milliseconds over all runs of all blocks."""

    median: float
    p10: float
    p90: float
    runs: int


@dataclass(frozen=True)
class Paired:
    """Peer's time over ours, from blocks that stood side by side."""

    median: float
    p10: float

    @property
    def value(self) -> float:
        """The claim: the smaller of the two."""
        return min(self.median, self.p10)


def summarise(blocks: Blocks) -> Summary:
    """Median, 10th and 90th percentile of every single run."""
    p10, median, p90 = np.percentile(np.concatenate(blocks), (10, 50, 90))
    return Summary(float(median), float(p10), float(p90), sum(len(block) for block in blocks))


def paired(peer: Blocks, ours: Blocks) -> Paired:
    """Ratios of the n-th block of one to the n-th of the other; the median over all n.

    A ratio is formed for the medians and for the 10th percentiles of the blocks; both are above 1 where we are faster.
    """
    return Paired(_ratio(peer, ours, 50), _ratio(peer, ours, 10))


def _ratio(peer: Blocks, ours: Blocks, percentile: float) -> float:
    return float(
        np.median(
            [np.percentile(p, percentile) / np.percentile(o, percentile) for p, o in zip(peer, ours, strict=True)]
        )
    )
