"""Parameters of the kernel basis format."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, ClassVar, Literal, get_args

from dovetail.errors import SpecError
from dovetail.formats.base import Shape, Spec, check_rank, kernel_size

Coefficients = Literal["dense", "sparse", "ternary"]


@dataclass(frozen=True, kw_only=True)
class KernelBasisSpec(Spec):
    """A convolution whose R x S kernels are combinations of `bases` shared ones (d of the PENNI paper).

    A linear layer has kernels of 1x1, and so one basis, of one number.

    `coefficients` says how the combinations are stored: all of them, or the non-zero ones and their positions, or the
    signs of these, positions and a scale per output channel. The value type of ternary ones is that of the bases alone.
    Of ternary ones `shared` neighbouring output channels, counted from the first, may have theirs at the same places,
    each with signs of its own: then the positions are stored once for all of them. Or those of `block` neighbouring
    input channels, counted from the first of a group, stand at a place together. `asymmetric` ternary coefficients have
    two scales per output channel, one of those above zero and one of those below: they are no whole numbers.

    Attributes:
        density: the share of the coefficients (or of the places that some share) that `from_dense` keeps, the
            largest; None keeps all sparse ones, and the ternary ones beyond a threshold. The packed spec lacks it.
    """

    format: ClassVar[str] = "kernel_basis"
    younger: ClassVar[Mapping[str, Any]] = MappingProxyType(
        {"shared": 1, "block": 1, "asymmetric": False, "density": None}
    )
    bases: int
    coefficients: Coefficients = "dense"
    shared: int = 1
    block: int = 1
    asymmetric: bool = False
    density: float | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        self.whole("bases")
        self.whole("shared")
        self.whole("block")
        if self.coefficients not in get_args(Coefficients):
            known = "'dense', 'sparse' or 'ternary'"
            raise SpecError(f"kernel_basis coefficients are {known}, not {self.coefficients!r}")
        if self.shared > 1 and self.coefficients != "ternary":
            raise SpecError(f"kernel_basis shares places among outputs of ternary coefficients only, not {self}")
        if self.block > 1 and self.coefficients != "ternary":
            raise SpecError(f"kernel_basis has blocks of ternary coefficients only, not {self}")
        if self.block > 1 and self.shared > 1:
            raise SpecError(f"kernel_basis shares places among outputs or within blocks of inputs, not both: {self}")
        if not isinstance(self.asymmetric, bool):
            raise SpecError(f"kernel_basis asymmetric must be true or false, not {self.asymmetric!r}")
        if self.asymmetric and self.coefficients != "ternary":
            raise SpecError(f"kernel_basis has scales of both signs for ternary coefficients only, not {self}")
        if self.density is not None:
            if self.coefficients == "dense":
                raise SpecError(f"kernel_basis keeps all dense coefficients, not a share of {self.density!r}")
            if isinstance(self.density, bool | str) or not 0 < float(self.density) <= 1:
                raise SpecError(f"kernel_basis density must lie above 0 and not above 1, not {self.density!r}")
            object.__setattr__(self, "density", float(self.density))

    def check(self, shape: Shape, name: str = "") -> None:
        """There are at most R S independent kernels."""
        check_rank(shape, (2, 4), self, name)
        r, s = kernel_size(shape)
        if self.bases > r * s:
            raise SpecError(f"layer {name!r}: {self.bases} bases for {r}x{s} kernels; at most {r * s} are independent")
