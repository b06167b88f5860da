"""Parameters of the block-sparse format."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from dovetail.errors import SpecError
from dovetail.formats.base import Shape, Spec, check_rank


@dataclass(frozen=True, kw_only=True)
class BlockSparseSpec(Spec):
    """Weights are kept or dropped in blocks: `block` neighbouring input channels of one output channel and one tap.

    Blocks of four are one 32-bit word of int8 weights, and what four-way dot products of bytes multiply at once.

    Attributes:
        block: input channels of a block; the last block of a row may have fewer.
        density: the share of blocks that is kept; None keeps exactly the blocks that are not zero.
        keep: (n, m): of every m neighbouring blocks of an output channel and tap at most n are kept. `block=1` with
            `keep=(2, 4)` is 2:4 sparsity.
    """

    format: ClassVar[str] = "block_sparse"
    block: int = 4
    density: float | None = None
    keep: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if isinstance(self.block, bool) or not isinstance(self.block, int) or self.block < 1:
            raise SpecError(f"block_sparse block must be a whole number from 1, not {self.block!r}")
        if self.density is not None:
            if isinstance(self.density, bool | str) or not 0 < float(self.density) <= 1:
                raise SpecError(f"block_sparse density must lie above 0 and not above 1, not {self.density!r}")
            object.__setattr__(self, "density", float(self.density))
        if self.keep is not None:
            object.__setattr__(self, "keep", _pair(self.keep))
            if self.density is not None:
                raise SpecError(f"block_sparse takes a density or keep={self.keep}, which fixes it, not both")

    def check(self, shape: Shape, name: str = "") -> None:
        """Any convolution or linear layer."""
        check_rank(shape, (2, 4), self, name)

    def grid(self, shape: Shape) -> Shape:
        """`(K, blocks, taps)` of a weight."""
        return (shape[0], -(-shape[1] // self.block), math.prod(shape[2:]))

    def most(self, shape: Shape) -> int:
        """How many blocks may be kept: of a density a half is rounded up, and one may always stay."""
        outputs, blocks, taps = self.grid(shape)
        if self.keep is not None:
            n, m = self.keep
            return outputs * taps * (blocks // m * n + min(n, blocks % m))
        count = outputs * blocks * taps
        return count if self.density is None else max(1, math.floor(self.density * count + 0.5))


def _pair(keep: object) -> tuple[int, int]:
    whole = isinstance(keep, tuple | list) and len(keep) == 2 and all(type(n) is int for n in keep)
    if not whole or not 1 <= keep[0] <= keep[1]:  # type: ignore[index]
        raise SpecError(f"block_sparse keep must be (n, m) with 1 <= n <= m, not {keep!r}")
    return (keep[0], keep[1])  # type: ignore[index]
