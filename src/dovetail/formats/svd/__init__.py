"""Low rank: a linear layer or 1x1 convolution as two thinner ones."""

from dovetail.formats.base import register
from dovetail.formats.svd.packed import PackedSvd
from dovetail.formats.svd.spec import SvdSpec

register(SvdSpec, PackedSvd)

__all__ = ["PackedSvd", "SvdSpec"]
