"""Parameters of the unstructured sparse format."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from dovetail.errors import SpecError
from dovetail.formats.base import Shape, Spec, check_rank
from dovetail.formats.values import TERNARY, Values


@dataclass(frozen=True, kw_only=True)
class SparseSpec(Spec):
    """Any entry of the weight may be zero. `density` is the fraction kept; None keeps exactly the non-zeros given.

    Of ternary values the non-zeros are those beyond a threshold: see `values.Ternary`.
    """

    format: ClassVar[str] = "sparse"
    holds: ClassVar[tuple[Values, ...]] = (*Spec.holds, TERNARY)
    density: float | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.density is None:
            return
        if isinstance(self.density, bool | str) or not 0 < float(self.density) <= 1:
            raise SpecError(f"sparse density must lie above 0 and not above 1, not {self.density!r}")
        object.__setattr__(self, "density", float(self.density))

    def check(self, shape: Shape, name: str = "") -> None:
        """Any convolution or linear layer."""
        check_rank(shape, (2, 4), self, name)

    def most(self, size: int) -> int:
        """How many of `size` entries may be kept: a half is rounded up, and one may always stay."""
        return size if self.density is None else max(1, math.floor(self.density * size + 0.5))
