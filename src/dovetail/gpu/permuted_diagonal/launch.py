"""Launching the kernels of permuted diagonals on tensors that were checked before."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from dovetail.gpu.blocks.launch import finished
from dovetail.gpu.blocks.plan import Plan, Strip, share
from dovetail.gpu.launching import options
from dovetail.gpu.permuted_diagonal import kernels
from dovetail.gpu.permuted_diagonal.choice import DiagonalProblem
from dovetail.gpu.permuted_diagonal.plain import plain
from dovetail.gpu.tucker.choice import Tiles


def layer(
    x: Tensor, q: Tensor, shifts: Tensor | None, bias: Tensor | None, problem: DiagonalProblem, plan: Plan
) -> Tensor:
    """(N, K) of (N, C)."""
    if plan.way == "dense":
        return plain(x, q, shifts, bias, problem.size, problem.outputs)
    x, q = x.contiguous(), q.contiguous()
    if plan.way == "grouped":
        return _grouped(x, q, bias, problem, plan.tiles)
    return _direct(x, q, None if shifts is None else shifts.contiguous(), bias, problem, plan.tiles)


def trial(problem: DiagonalProblem, device: torch.device) -> Callable[[Plan], Tensor]:
    """Runs plans on random numbers."""
    dtype = getattr(torch, problem.dtype)
    x = torch.randn((problem.batch, problem.inputs), dtype=dtype, device=device)
    q = torch.randn((problem.rows, problem.columns * problem.size), dtype=dtype, device=device)
    grid = (problem.rows, problem.columns)
    shifts = None if problem.natural else torch.randint(problem.size, grid, device=device)
    return lambda plan: layer(x, q, shifts, None, problem, plan)


def _direct(
    x: Tensor, q: Tensor, shifts: Tensor | None, bias: Tensor | None, problem: DiagonalProblem, strip: Strip
) -> Tensor:
    grid = (-(-problem.rows // strip.rows), -(-problem.batch // strip.batch), strip.splits)
    lanes = 1 << (problem.size - 1).bit_length()

    def work(y: Tensor, bias: Tensor | None) -> None:
        kernels.direct[grid](
            x, q, q if shifts is None else shifts, y if bias is None else bias, y, *_sizes(problem),
            share(problem.columns, strip.columns, strip.splits), P=problem.size, NATURAL=shifts is None,
            BIAS=bias is not None, TB=strip.batch, TR=strip.rows, TG=strip.columns, TP=lanes, **options(strip),
        )  # fmt: skip

    return finished(x, problem.outputs, bias, strip.splits, work)


def _grouped(x: Tensor, q: Tensor, bias: Tensor | None, problem: DiagonalProblem, tiles: Tiles) -> Tensor:
    grid = (-(-problem.rows // tiles.outputs) * problem.size, -(-problem.batch // tiles.pixels), tiles.splits)

    def work(y: Tensor, bias: Tensor | None) -> None:
        kernels.grouped[grid](
            x, q, y if bias is None else bias, y, *_sizes(problem),
            share(problem.columns, tiles.inputs, tiles.splits), P=problem.size, BIAS=bias is not None,
            TM=tiles.pixels, TN=tiles.outputs, TC=tiles.inputs, PRECISION=problem.precision, **options(tiles),
        )  # fmt: skip

    return finished(x, problem.outputs, bias, tiles.splits, work)


def _sizes(problem: DiagonalProblem) -> tuple[int, ...]:
    return problem.batch, problem.rows, problem.columns, problem.inputs, problem.outputs
