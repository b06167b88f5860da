"""Running a linear layer of circulant blocks on tensors that were checked before."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from dovetail.gpu.block_circulant import kernels
from dovetail.gpu.block_circulant.choice import CirculantProblem
from dovetail.gpu.block_circulant.plain import spectra_of, transformed
from dovetail.gpu.blocks.launch import finished
from dovetail.gpu.blocks.plan import Plan, share
from dovetail.gpu.launching import options
from dovetail.gpu.tucker.choice import Tiles


def layer(
    x: Tensor, values: Tensor, bias: Tensor | None, spectra: Tensor | None, problem: CirculantProblem, plan: Plan
) -> Tensor:
    """(N, K) of (N, C)."""
    if plan.way == "fft":
        return transformed(x, values, bias, problem.size, problem.outputs, spectra)
    return _direct(x.contiguous(), values.contiguous(), bias, problem, plan.tiles)


def trial(problem: CirculantProblem, device: torch.device) -> Callable[[Plan], Tensor]:
    """Runs plans on random numbers, with spectra that are there already."""
    dtype = getattr(torch, problem.dtype)
    x = torch.randn((problem.batch, problem.inputs), dtype=dtype, device=device)
    values = torch.randn((problem.rows, problem.columns * problem.size), dtype=dtype, device=device)
    spectra = spectra_of(values, problem.size)
    return lambda plan: layer(x, values, None, spectra, problem, plan)


def _direct(x: Tensor, values: Tensor, bias: Tensor | None, problem: CirculantProblem, tiles: Tiles) -> Tensor:
    numbers = problem.columns * problem.size
    across, down = -(-problem.batch * problem.size // tiles.pixels), -(-problem.rows // tiles.outputs)
    chunks = share(numbers, tiles.inputs, tiles.splits)

    def work(y: Tensor, bias: Tensor | None) -> None:
        kernels.rotated[across, down, tiles.splits](
            x, values, y if bias is None else bias, y, problem.batch, problem.rows, problem.columns, problem.inputs,
            problem.outputs, chunks, K=problem.size, BIAS=bias is not None, TM=tiles.pixels, TN=tiles.outputs,
            TC=tiles.inputs, PRECISION=problem.precision, **options(tiles),
        )  # fmt: skip

    return finished(x, problem.outputs, bias, tiles.splits, work)
