"""How the weight of a core lies in memory."""

from __future__ import annotations

from torch import Tensor


def laid_out(core: Tensor) -> Tensor:
    """The weight (D2, D1, R, S) with either kind of channel side by side; a copy in the order R S D1 D2 where not."""
    if 1 in (core.stride(0), core.stride(1)) or 1 in core.shape[:2]:
        return core
    return crsn(core)


def crsn(core: Tensor) -> Tensor:
    """The same numbers and shape, in memory tap by tap, and the output channels of an input side by side."""
    return core.permute(2, 3, 1, 0).contiguous().permute(3, 2, 0, 1)
