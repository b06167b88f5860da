"""The Tucker layer that runs the kernels, and is the same in all else: parameters, gradients, packing."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from dovetail.formats.tucker.layer import TuckerConv2d
from dovetail.gpu.tucker import op
from dovetail.gpu.tucker.memory import crsn
from dovetail.gpu.tucker.settings import require_core_tiles, require_plan


class TuckerKernels(TuckerConv2d):
    """A `TuckerConv2d` whose forward is `dovetail::tucker` where there are kernels; see `use_kernels`."""

    kernel_precision: str = "ieee"
    kernel_tiles: str = "auto"
    kernel_strides: tuple[int, ...] | None = None

    @staticmethod
    def require_tiles(layer: TuckerConv2d, tiles: str) -> None:
        """`GpuError` for what is no plan; of a folded layer the core's tiles are one, as no other kernel runs."""
        folded = layer.input is None or layer.output is None
        (require_core_tiles if folded else require_plan)(tiles)

    def compute(self, x: Tensor) -> Tensor:
        """One op on a GPU, three convolutions elsewhere; of a folded side there is none, and the core runs alone."""
        if self.input is None or self.output is None:
            return self._folded(x, self.input, self.output)
        return op.tucker_conv2d(
            x, self.input, self.core, self.output, self.bias, self.stride, self.padding, self.dilation,
            precision=self.kernel_precision, tiles=self.kernel_tiles,
        )  # fmt: skip

    def _folded(self, x: Tensor, inputs: Tensor | None, output: Tensor | None) -> Tensor:
        x = x if inputs is None else F.conv2d(x, inputs[:, :, None, None])
        x = op.tucker_core(
            x, self.core, self.stride, self.padding, self.dilation,
            precision=self.kernel_precision, tiles=self.kernel_tiles,
        )  # fmt: skip
        if output is not None:
            return F.conv2d(x, output[:, :, None, None], self.bias)
        return x if self.bias is None else x + self.bias[:, None, None]

    def lay_out(self) -> None:
        """Store the core in the order that kernels read; its numbers and shape stay what they are."""
        self.kernel_strides = self.core.stride()
        self.core.data = crsn(self.core.data)

    def lay_back(self) -> None:
        """Store the core as it lay before."""
        if self.kernel_strides is not None:
            core, strides = self.core.data, self.kernel_strides
            laid = torch.empty_strided(core.shape, strides, dtype=core.dtype, device=core.device)
            self.core.data = laid.copy_(core)
