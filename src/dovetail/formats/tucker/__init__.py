"""Tucker-2: a convolution as 1x1, core, 1x1 with small inner channel counts."""

from dovetail.formats.base import register
from dovetail.formats.tucker.packed import PackedTucker
from dovetail.formats.tucker.spec import TuckerSpec

register(TuckerSpec, PackedTucker)

__all__ = ["PackedTucker", "TuckerSpec"]
