"""Triton kernels of the formats, and a model of the tiles that a published kernel takes.

    from dovetail.gpu import use_kernels

    with use_kernels(model):      # its Tucker layers run on kernels wherever their tensors lie on a GPU
        y = model(x)

Without Triton, or without a GPU, everything can be imported, and layers run as three convolutions of torch.
"""

from dovetail.gpu.layers import Kernels, use_kernels
from dovetail.gpu.tucker.choice import Tiles, TuckerTiles
from dovetail.gpu.tucker.op import tucker_conv2d, tucker_core

__all__ = ["Kernels", "Tiles", "TuckerTiles", "tucker_conv2d", "tucker_core", "use_kernels"]
