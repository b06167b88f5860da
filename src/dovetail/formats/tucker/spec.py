"""Parameters of the Tucker-2 format."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from dovetail.errors import SpecError
from dovetail.formats.base import Shape, Spec, check_rank


@dataclass(frozen=True, kw_only=True)
class TuckerSpec(Spec):
    """Ranks of the input and output modes of a convolution `(K, C, R, S)`.

    `rank_in` is D1 and `rank_out` is D2 of the TDC paper; the factors are `(D1, C)`, `(D2, D1, R, S)`, `(K, D2)`.
    """

    format: ClassVar[str] = "tucker"
    rank_in: int
    rank_out: int

    def __post_init__(self) -> None:
        super().__post_init__()
        self.whole("rank_in")
        self.whole("rank_out")

    def check(self, shape: Shape, name: str = "") -> None:
        """Ranks must lie between 1 and the channel counts."""
        check_rank(shape, (4,), self, name)
        for rank, channels, side in ((self.rank_in, shape[1], "input"), (self.rank_out, shape[0], "output")):
            if not 1 <= rank <= channels:
                raise SpecError(
                    f"layer {name!r}: Tucker rank {rank} of the {side} side must lie between 1 and {channels} channels"
                )
