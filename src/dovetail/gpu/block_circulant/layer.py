"""The linear layer of circulant blocks that runs the kernels, and is the same in all else."""

from __future__ import annotations

from typing import Any, Self

import torch
from torch import Tensor

from dovetail.formats.block_circulant.layer import BlockCirculantLinear
from dovetail.gpu.block_circulant.choice import WAYS
from dovetail.gpu.block_circulant.op import block_circulant_linear, chosen
from dovetail.gpu.block_circulant.plain import spectra_of
from dovetail.gpu.blocks.check import flattened
from dovetail.gpu.blocks.settings import require_plan
from dovetail.gpu.launching import kernels_take, under_autocast


class BlockCirculantKernels(BlockCirculantLinear):
    """A `BlockCirculantLinear` whose forward is `dovetail::block_circulant`; see `use_kernels`.

    Where it runs by transforms without gradients, the spectra of its numbers are kept until these change, as torch
    counts changes in place; those through `.data` it does not count, and a call of `train` forgets them.
    """

    kernel_precision: str = "ieee"
    kernel_tiles: str = "auto"
    kernel_spectra: tuple[Any, Tensor] | None = None

    @staticmethod
    def require_tiles(layer: BlockCirculantLinear, tiles: str) -> None:
        """`GpuError` for what is no plan of such layers."""
        require_plan(tiles, WAYS)

    def compute(self, x: Tensor) -> Tensor:
        """One op; the gain, where there is one, comes after it and before the bias."""
        bias = self.bias if self.gain is None else None
        y = block_circulant_linear(
            x, self.values, self.spec.size, self.out_features, bias, spectra=self._spectra(x),
            precision=self.kernel_precision, tiles=self.kernel_tiles,
        )  # fmt: skip
        if self.gain is None:
            return y
        y = y * self.gain
        return y if self.bias is None else y + self.bias

    def train(self, mode: bool = True) -> Self:
        """As of every module."""
        self.__dict__.pop("kernel_spectra", None)
        return super().train(mode)

    def _spectra(self, x: Tensor) -> Tensor | None:
        """What was kept, or made now; None in training, under torch.compile, and where no transform is taken."""
        if torch.compiler.is_compiling() or torch.is_grad_enabled() or under_autocast(x.device.type):
            return None
        if not kernels_take(x) or x.numel() == 0 or self.values.is_inference():
            return None
        _, plan = chosen(flattened(x), self.spec.size, self.out_features, self.kernel_precision, self.kernel_tiles)
        if plan.way != "fft":
            return None
        now = (self.values.data_ptr(), self.values._version, self.values.dtype, self.values.device)
        if self.kernel_spectra is None or self.kernel_spectra[0] != now:
            with torch.inference_mode(False):
                self.kernel_spectra = now, spectra_of(self.values.detach(), self.spec.size)
        return self.kernel_spectra[1]
