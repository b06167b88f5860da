"""Parameters of the SVD format."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from dovetail.errors import SpecError
from dovetail.formats.base import Shape, Spec, check_rank, kernel_size


@dataclass(frozen=True, kw_only=True)
class SvdSpec(Spec):
    """A linear layer or 1x1 convolution (K, C) as the product of (K, rank) and (rank, C)."""

    format: ClassVar[str] = "svd"
    rank: int

    def __post_init__(self) -> None:
        super().__post_init__()
        self.whole("rank")

    def check(self, shape: Shape, name: str = "") -> None:
        """Kernels are 1x1; the rank is at most the smaller channel count."""
        check_rank(shape, (2, 4), self, name)
        r, s = kernel_size(shape)
        if (r, s) != (1, 1):
            raise SpecError(f"layer {name!r}: SVD holds 1x1 convolutions, not {r}x{s}; use tucker or kernel_basis")
        if self.rank > min(shape[:2]):
            raise SpecError(
                f"layer {name!r}: rank {self.rank} of a {shape[0]} x {shape[1]} weight; at most {min(shape[:2])}"
            )
