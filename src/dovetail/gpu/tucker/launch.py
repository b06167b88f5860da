"""Launching the kernels of a Tucker layer on tensors that were checked before."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from dovetail.gpu.launching import on, options
from dovetail.gpu.tucker import kernels
from dovetail.gpu.tucker.choice import Problem, Tiles, TuckerTiles
from dovetail.gpu.tucker.memory import laid_out


def problem_of(x: Tensor, core: Tensor, stride: Any, padding: Any, dilation: Any, precision: str) -> Problem:
    """The core convolution of a layer whose input is `x`."""
    outputs, inputs, r, s = core.shape
    pairs = (tuple(stride), tuple(padding), tuple(dilation))
    dtype = str(x.dtype).removeprefix("torch.")
    return Problem(x.shape[0], inputs, outputs, x.shape[2], x.shape[3], (r, s), *pairs, dtype, precision)


def layer(
    x: Tensor,
    weights: tuple[Tensor, Tensor, Tensor],
    bias: Tensor | None,
    residual: Tensor | None,
    problem: Problem,
    tiles: TuckerTiles,
    relu: bool,
) -> Tensor:
    """A whole layer in two or three launches; `problem` is that of its core."""
    first, core, last = weights
    bias = None if bias is None else bias.contiguous()
    y = images(x, last.shape[0], problem)
    with on(x):
        z = pointwise(channels_last(x), first, tiles.first, problem, splits=1)
        if tiles.fused:
            fused(z, core, last, bias, residual, y, problem, tiles, relu)
        else:
            z = core_product(z, core, problem, tiles.core)
            pointwise(z, last, tiles.last, problem, splits=tiles.core.splits, y=y, bias=bias, residual=residual,
                      relu=relu)  # fmt: skip
    return y


def core_alone(x: Tensor, core: Tensor, problem: Problem, tiles: Tiles) -> Tensor:
    """The core convolution alone."""
    with on(x):
        sums = core_product(channels_last(x), core, problem, tiles)
    z = sums[0] if tiles.splits == 1 else sums.sum(0).to(x.dtype)
    height, width = problem.out
    return z.view(problem.batch, height, width, problem.outputs).permute(0, 3, 1, 2)


def images(x: Tensor, channels: int, problem: Problem) -> Tensor:
    """An empty result, channels last."""
    return torch.empty(
        (problem.batch, channels, *problem.out), dtype=x.dtype, device=x.device, memory_format=torch.channels_last
    )


def channels_last(x: Tensor) -> Tensor:
    """The same images; a copy unless they lie so already."""
    return x.contiguous(memory_format=torch.channels_last)


def core_product(x: Tensor, core: Tensor, problem: Problem, tiles: Tiles) -> Tensor:
    """(splits, pixels, D2): one result of the tensors' type, or several of float32 that are to be added up."""
    dtype = x.dtype if tiles.splits == 1 else torch.float32
    y = torch.empty((tiles.splits, problem.pixels, problem.outputs), dtype=dtype, device=x.device)
    grid = (_pixel_tiles(problem, tiles), -(-problem.outputs // tiles.outputs), tiles.splits)
    chunks = -(-problem.chunks(tiles.inputs) // tiles.splits)
    core = laid_out(core)
    kernels.core[grid](
        x, core, y, problem.rows, problem.height, problem.width, *problem.out, problem.inputs, problem.outputs, chunks,
        *_strides(core), **_geometry(problem, tiles), PRECISION=problem.precision,
        **options(tiles),
    )  # fmt: skip
    return y


def fused(
    x: Tensor,
    core: Tensor,
    last: Tensor,
    bias: Tensor | None,
    residual: Tensor | None,
    y: Tensor,
    problem: Problem,
    tiles: TuckerTiles,
    relu: bool,
) -> None:
    """Core and last product into `y`."""
    outputs, core = last.shape[0], laid_out(core)
    kernels.fused[(_pixel_tiles(problem, tiles.core),)](
        x, core, last, y if bias is None else bias, y if residual is None else channels_last(residual), y,
        problem.rows, problem.height, problem.width, *problem.out, problem.inputs, problem.outputs, outputs,
        problem.chunks(tiles.core.inputs), *_strides(core), *last.stride()[:2],
        **_geometry(problem, tiles.core), TK=tiles.last.outputs, PRECISION=problem.precision,
        BIAS=bias is not None, RESIDUAL=residual is not None, RELU=relu,
        **options(tiles.core),
    )  # fmt: skip


def pointwise(
    x: Tensor,
    weight: Tensor,
    tiles: Tiles,
    problem: Problem,
    *,
    splits: int,
    y: Tensor | None = None,
    bias: Tensor | None = None,
    residual: Tensor | None = None,
    relu: bool = False,
) -> Tensor:
    """Pixels times the weight (outputs, inputs), into `y` or a new tensor (pixels, outputs)."""
    outputs, inputs = weight.shape
    pixels = x.numel() // (splits * inputs)
    if y is None:
        y = torch.empty((pixels, outputs), dtype=weight.dtype, device=x.device)
    grid = (-(-pixels // tiles.pixels), -(-outputs // tiles.outputs))
    kernels.pointwise[grid](
        x, weight, y if bias is None else bias, y if residual is None else channels_last(residual), y,
        pixels, inputs, outputs, *weight.stride(),
        SPLITS=splits, TM=tiles.pixels, TN=tiles.outputs, TC=tiles.inputs, PRECISION=problem.precision,
        BIAS=bias is not None, RESIDUAL=residual is not None, RELU=relu,
        **options(tiles),
    )  # fmt: skip
    return y


def _pixel_tiles(problem: Problem, tiles: Tiles) -> int:
    return -(-problem.rows // tiles.rows) * -(-problem.out[1] // tiles.columns)


def _strides(core: Tensor) -> tuple[int, ...]:
    """Of outputs, inputs, rows and columns of the weight."""
    return core.stride()


def _geometry(problem: Problem, tiles: Tiles) -> dict[str, int]:
    pairs = {"STRIDE": problem.stride, "PAD": problem.padding, "DILATION": problem.dilation}
    both = {f"{name}_{axis}": pair[i] for name, pair in pairs.items() for i, axis in enumerate("HW")}
    r, s = problem.kernel
    return {"R": r, "S": s, **both, "TH": tiles.rows, "TW": tiles.columns, "TN": tiles.outputs, "TC": tiles.inputs}
