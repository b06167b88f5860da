"""Parameters of the block-circulant format."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from dovetail.errors import SpecError
from dovetail.formats.base import Shape, Spec, check_rank
from dovetail.formats.values import CODEBOOK4, FIXED16, Values


@dataclass(frozen=True, kw_only=True)
class BlockCirculantSpec(Spec):
    """Blocks of `size` outputs by `size` inputs, each one vector w, its first column, and that column rotated.

    `W[size R + r, size G + c] = w[R, G, (r - c) mod size]` (CirCNN, MICRO 2017, section 3; the paper has w as the first
    row, which is the same with the order of its numbers reversed). What is missing of the last blocks is filled up with
    zeros. A convolution has a block of its own at every tap.

    Attributes:
        size: k; the weight has 1/k of its numbers left. Any whole number; only powers of two have fast transforms.
    """

    format: ClassVar[str] = "block_circulant"
    holds: ClassVar[tuple[Values, ...]] = (*Spec.holds, FIXED16, CODEBOOK4)
    size: int

    def __post_init__(self) -> None:
        super().__post_init__()
        self.whole("size")

    def check(self, shape: Shape, name: str = "") -> None:
        """Any convolution or linear layer with at least `size` outputs or inputs."""
        check_rank(shape, (2, 4), self, name)
        if self.size > max(shape[:2]):
            raise SpecError(
                f"layer {name!r}: circulant blocks of size {self.size} in a {shape[0]} x {shape[1]} weight; "
                f"at most {max(shape[:2])}"
            )

    def grid(self, shape: Shape) -> tuple[int, int]:
        """Rows and columns of blocks."""
        return -(-shape[0] // self.size), -(-shape[1] // self.size)
