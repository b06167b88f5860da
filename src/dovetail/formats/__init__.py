"""How a layer's weights are stored and what product they mean. Importing this fills `FORMATS`, without torch."""

from dovetail.formats import block_circulant, block_sparse, dense, kernel_basis, permuted_diagonal, sparse, svd, tucker
from dovetail.formats.base import FORMATS, Format, Geometry, Packed, Spec, format_named, spec_from_json
from dovetail.formats.block_circulant import BlockCirculantSpec, PackedBlockCirculant
from dovetail.formats.block_sparse import BlockSparseSpec, PackedBlockSparse
from dovetail.formats.dense import DenseSpec, PackedDense
from dovetail.formats.kernel_basis import KernelBasisSpec, PackedKernelBasis
from dovetail.formats.permuted_diagonal import PackedPermutedDiagonal, PermutedDiagonalSpec
from dovetail.formats.sparse import PackedSparse, SparseSpec
from dovetail.formats.svd import PackedSvd, SvdSpec
from dovetail.formats.tucker import PackedTucker, TuckerSpec

__all__ = [
    "FORMATS",
    "BlockCirculantSpec",
    "BlockSparseSpec",
    "DenseSpec",
    "Format",
    "Geometry",
    "KernelBasisSpec",
    "Packed",
    "PackedBlockCirculant",
    "PackedBlockSparse",
    "PackedDense",
    "PackedKernelBasis",
    "PackedPermutedDiagonal",
    "PackedSparse",
    "PackedSvd",
    "PackedTucker",
    "PermutedDiagonalSpec",
    "SparseSpec",
    "Spec",
    "SvdSpec",
    "TuckerSpec",
    "block_circulant",
    "block_sparse",
    "dense",
    "format_named",
    "kernel_basis",
    "permuted_diagonal",
    "sparse",
    "spec_from_json",
    "svd",
    "tucker",
]
