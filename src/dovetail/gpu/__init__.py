"""Triton kernels of the formats, and a model of the tiles that a published kernel takes.

    from dovetail.gpu import use_kernels

    with use_kernels(model):      # its layers of formats run on kernels wherever their tensors lie on a GPU
        y = model(x)

Without Triton, or without a GPU, everything can be imported, and layers run in torch's ops.
"""

from dovetail.gpu.block_circulant.op import block_circulant_linear
from dovetail.gpu.layers import Kernels, use_kernels
from dovetail.gpu.permuted_diagonal.op import permuted_diagonal_linear
from dovetail.gpu.tucker.choice import Tiles, TuckerTiles
from dovetail.gpu.tucker.op import tucker_conv2d, tucker_core

__all__ = [
    "Kernels",
    "Tiles",
    "TuckerTiles",
    "block_circulant_linear",
    "permuted_diagonal_linear",
    "tucker_conv2d",
    "tucker_core",
    "use_kernels",
]
