"""How a layer's weights are stored and what product they mean. Importing this fills `FORMATS`, without torch."""

from dovetail.formats import block_sparse, dense, kernel_basis, sparse, svd, tucker
from dovetail.formats.base import FORMATS, Format, Geometry, Packed, Spec, format_named, spec_from_json
from dovetail.formats.block_sparse import BlockSparseSpec, PackedBlockSparse
from dovetail.formats.dense import DenseSpec, PackedDense
from dovetail.formats.kernel_basis import KernelBasisSpec, PackedKernelBasis
from dovetail.formats.sparse import PackedSparse, SparseSpec
from dovetail.formats.svd import PackedSvd, SvdSpec
from dovetail.formats.tucker import PackedTucker, TuckerSpec

__all__ = [
    "FORMATS",
    "BlockSparseSpec",
    "DenseSpec",
    "Format",
    "Geometry",
    "KernelBasisSpec",
    "Packed",
    "PackedBlockSparse",
    "PackedDense",
    "PackedKernelBasis",
    "PackedSparse",
    "PackedSvd",
    "PackedTucker",
    "SparseSpec",
    "Spec",
    "SvdSpec",
    "TuckerSpec",
    "block_sparse",
    "dense",
    "format_named",
    "kernel_basis",
    "sparse",
    "spec_from_json",
    "svd",
    "tucker",
]
