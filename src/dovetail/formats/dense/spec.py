"""The dense format has no parameters."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from dovetail.formats.base import Shape, Spec, check_rank


@dataclass(frozen=True, kw_only=True)
class DenseSpec(Spec):
    """The weight as it is."""

    format: ClassVar[str] = "dense"

    def check(self, shape: Shape, name: str = "") -> None:
        """Any convolution or linear layer."""
        check_rank(shape, (2, 4), self, name)
