"""The dense format has no parameters."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from dovetail.formats.base import Shape, Spec, check_rank
from dovetail.formats.values import CODEBOOK4, FIXED16, Values


@dataclass(frozen=True, kw_only=True)
class DenseSpec(Spec):
    """The weight as it is."""

    format: ClassVar[str] = "dense"
    holds: ClassVar[tuple[Values, ...]] = (*Spec.holds, FIXED16, CODEBOOK4)

    def check(self, shape: Shape, name: str = "") -> None:
        """Any convolution or linear layer."""
        check_rank(shape, (2, 4), self, name)
