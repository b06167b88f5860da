"""Parameters of the Tucker-2 format."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, ClassVar

from dovetail.errors import SpecError
from dovetail.formats.base import Shape, Spec, check_rank


@dataclass(frozen=True, kw_only=True)
class TuckerSpec(Spec):
    """Ranks of the input and output modes of a convolution `(K, C, R, S)`.

    `rank_in` is D1 and `rank_out` is D2 of the TDC paper; the factors are `(D1, C)`, `(D2, D1, R, S)`, `(K, D2)`.

    Attributes:
        fold: a side whose rank is its number of channels has no factor of its own, for the core has taken it in: the
            same weights by less work. The published counts do without.
    """

    format: ClassVar[str] = "tucker"
    younger: ClassVar[Mapping[str, Any]] = MappingProxyType({"fold": False})
    rank_in: int
    rank_out: int
    fold: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        self.whole("rank_in")
        self.whole("rank_out")
        if not isinstance(self.fold, bool):
            raise SpecError(f"tucker spec: fold must be true or false, not {self.fold!r}")

    def folds(self, shape: Shape) -> tuple[bool, bool]:
        """Whether the factors of the input and of the output side of a weight of `shape` are in its core."""
        return self.fold and self.rank_in == shape[1], self.fold and self.rank_out == shape[0]

    def check(self, shape: Shape, name: str = "") -> None:
        """Ranks must lie between 1 and the channel counts."""
        check_rank(shape, (4,), self, name)
        for rank, channels, side in ((self.rank_in, shape[1], "input"), (self.rank_out, shape[0], "output")):
            if not 1 <= rank <= channels:
                raise SpecError(
                    f"layer {name!r}: Tucker rank {rank} of the {side} side must lie between 1 and {channels} channels"
                )
