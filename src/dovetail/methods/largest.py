"""Which entries of a tensor are kept: the same ones, and as many, as the sparse format keeps of an array."""

from __future__ import annotations

import torch
from torch import Tensor

from dovetail.formats.sparse import SparseSpec


def largest(values: Tensor, count: int) -> Tensor:
    """True at the `count` largest entries of a vector; of equal ones the first are taken."""
    if count <= 0 or count >= len(values):
        return torch.full_like(values, count > 0, dtype=torch.bool)
    threshold = values.kthvalue(len(values) - count + 1).values
    kept = values > threshold
    ties = (values == threshold).nonzero().flatten()
    kept[ties[: count - int(kept.sum())]] = True
    return kept


def densest(values: Tensor, density: float) -> Tensor:
    """True at the largest share `density` of a vector's entries: halves are rounded up, and one is always kept."""
    return largest(values, SparseSpec(density=density).most(len(values)))
