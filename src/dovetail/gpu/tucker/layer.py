"""The Tucker layer that runs the kernels, and is the same in all else: parameters, gradients, packing."""

from __future__ import annotations

from torch import Tensor

from dovetail.formats.tucker.layer import TuckerConv2d
from dovetail.gpu.tucker import op
from dovetail.gpu.tucker.memory import crsn


class TuckerKernels(TuckerConv2d):
    """A `TuckerConv2d` whose forward is `dovetail::tucker` where there are kernels; see `use_kernels`."""

    kernel_precision: str = "ieee"
    kernel_tiles: str = "auto"

    def compute(self, x: Tensor) -> Tensor:
        """One op on a GPU, three convolutions elsewhere."""
        return op.tucker_conv2d(
            x, self.input, self.core, self.output, self.bias, self.stride, self.padding, self.dilation,
            precision=self.kernel_precision, tiles=self.kernel_tiles,
        )  # fmt: skip

    def lay_out(self) -> None:
        """Store the core in the order that kernels read; its numbers and shape stay what they are."""
        self.core.data = crsn(self.core.data)
