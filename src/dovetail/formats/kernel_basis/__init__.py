"""Kernel basis: every kernel of a convolution is a combination of a few shared ones."""

from dovetail.formats.base import register
from dovetail.formats.kernel_basis.packed import PackedKernelBasis
from dovetail.formats.kernel_basis.spec import KernelBasisSpec

register(KernelBasisSpec, PackedKernelBasis)

__all__ = ["KernelBasisSpec", "PackedKernelBasis"]
