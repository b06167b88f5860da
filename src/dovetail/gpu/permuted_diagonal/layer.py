"""The linear layer of permuted diagonals that runs the kernels, and is the same in all else."""

from __future__ import annotations

from torch import Tensor

from dovetail.formats.permuted_diagonal.layer import PermutedDiagonalLinear
from dovetail.gpu.blocks.settings import require_plan
from dovetail.gpu.permuted_diagonal.choice import ways_of
from dovetail.gpu.permuted_diagonal.op import permuted_diagonal_linear


class PermutedDiagonalKernels(PermutedDiagonalLinear):
    """A `PermutedDiagonalLinear` whose forward is `dovetail::permuted_diagonal`; see `use_kernels`."""

    kernel_precision: str = "ieee"
    kernel_tiles: str = "auto"

    @staticmethod
    def require_tiles(layer: PermutedDiagonalLinear, tiles: str) -> None:
        """`GpuError` for what is no plan of such a layer."""
        require_plan(tiles, ways_of(layer.spec.size, natural=layer.spec.index == "natural"))

    def compute(self, x: Tensor) -> Tensor:
        """One op; a natural index is computed, others are read."""
        return permuted_diagonal_linear(
            x, self.values, self.spec.size, self.out_features, self.bias,
            shifts=None if self.spec.index == "natural" else self.index,
            precision=self.kernel_precision, tiles=self.kernel_tiles,
        )  # fmt: skip
