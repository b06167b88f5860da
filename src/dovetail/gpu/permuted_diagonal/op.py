"""A linear layer of permuted diagonals as a torch op, `dovetail::permuted_diagonal`.

On a CUDA device it runs the Triton kernels; elsewhere, and for types that the kernels do not take, it is one product
with the dense weight. The backward pass is always made of torch's ops.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor

from dovetail.gpu.blocks.check import check_layer, flattened, grid_of, require
from dovetail.gpu.blocks.plan import MOST_SPLITS
from dovetail.gpu.blocks.settings import plan_of, require_plan
from dovetail.gpu.launching import autocast, kernels_take, runs, under_autocast
from dovetail.gpu.permuted_diagonal.choice import DiagonalProblem, ways_of
from dovetail.gpu.permuted_diagonal.plain import gradients, plain

_library: Any = torch.library.Library("dovetail", "FRAGMENT")  # type: ignore[no-untyped-call]
_library.define(
    "permuted_diagonal(Tensor x, Tensor values, Tensor? shifts, Tensor? bias, int size, int outputs, "
    "str precision, str tiles) -> Tensor",
    tags=(torch.Tag.pt2_compliant_tag,),
)


def permuted_diagonal_linear(
    x: Tensor,
    values: Tensor,
    size: int,
    outputs: int,
    bias: Tensor | None = None,
    *,
    shifts: Tensor | None = None,
    precision: str = "ieee",
    tiles: str = "auto",
) -> Tensor:
    """`y[size R + c] = sum over G of q[R, G, c] x[size G + (c + k[R, G]) mod size]` (PermDNN, MICRO 2018, equation 2).

    Args:
        x: (..., C).
        values: q as (rows, columns of blocks x size).
        size: p, of a block.
        outputs: K.
        bias: (K,) or None.
        shifts: k, whole numbers of any type from 0 to size - 1, (rows, columns); None for the natural index, the number
            of the block, row by row, mod size.
        precision: of products of float32 on matrix units: "ieee" (in full), "tf32x3" or "tf32".
        tiles: "model", "oracle" ("exhaustive" is the same here) or "auto", see `tucker_conv2d`; or a plan: "direct
            1x1x64:4:4", "grouped 1x16x32x64:1:4:3" (natural index) or "dense".

    Raises:
        InputError: shapes, types or devices do not fit.
        GpuError: there is no such plan, whether kernels would run here or not.
    """
    require_plan(tiles, ways_of(size, natural=shifts is None))
    device = x.device.type
    if under_autocast(device):
        x, values = autocast(x, device), autocast(values, device)
        bias = None if bias is None else autocast(bias, device)
    flat = flattened(x)
    if kernels_take(x):
        y: Tensor = torch.ops.dovetail.permuted_diagonal(flat, values, shifts, bias, size, outputs, precision, tiles)
    else:
        _check(flat, values, shifts, bias, size, outputs, precision)
        y = plain(flat, values, shifts, bias, size, outputs)
    return y.view(*x.shape[:-1], outputs)


def _check(
    x: Tensor, values: Tensor, shifts: Tensor | None, bias: Tensor | None, size: int, outputs: int, precision: str
) -> None:
    check_layer(x, values, bias, size, outputs, precision)
    if shifts is not None:
        whole = not shifts.dtype.is_floating_point and not shifts.dtype.is_complex and shifts.dtype != torch.bool
        require(whole, f"shifts are whole numbers, not {shifts.dtype}")
        grid = grid_of(x, size, outputs)
        require(tuple(shifts.shape) == grid, f"shifts of shape {tuple(shifts.shape)} for {grid} blocks")
        require(shifts.device == x.device, f"shifts are on {shifts.device}, the inputs on {x.device}; move them")


def _run(
    x: Tensor, values: Tensor, shifts: Tensor | None, bias: Tensor | None, size: int, outputs: int,
    precision: str, tiles: str,
) -> Tensor:  # fmt: skip
    from dovetail.gpu.permuted_diagonal import launch

    require_plan(tiles, ways_of(size, natural=shifts is None))
    _check(x, values, shifts, bias, size, outputs, precision)
    if runs(x, values.numel(), len(x) * outputs * MOST_SPLITS):
        dtype = str(x.dtype).removeprefix("torch.")
        problem = DiagonalProblem(len(x), outputs, x.shape[1], size, shifts is None, dtype, precision)
        plan = plan_of(problem, x.device, tiles, partial(launch.trial, problem, x.device))
        if runs(x, len(x) * outputs * plan.splits):
            return launch.layer(x, values, shifts, bias, problem, plan)
    return plain(x, values, shifts, bias, size, outputs)


def _fake(
    x: Tensor, values: Tensor, shifts: Tensor | None, bias: Tensor | None, size: int, outputs: int,
    precision: str, tiles: str,
) -> Tensor:  # fmt: skip
    _check(x, values, shifts, bias, size, outputs, precision)
    return x.new_empty((x.shape[0], outputs))


def _remember(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, values, shifts, bias, ctx.size, *_ = inputs
    ctx.save_for_backward(x, values, shifts)
    ctx.biased = bias is not None


def _backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
    x, values, shifts = ctx.saved_tensors
    wants = ctx.needs_input_grad
    by_x, by_values = gradients(grad, x, values, shifts, ctx.size, wants[:2])
    by_bias = grad.sum(0) if ctx.biased and wants[3] else None
    return by_x, by_values, None, by_bias, *[None] * 4


for _device in ("CPU", "CUDA"):
    _library.impl("permuted_diagonal", _run, _device)
torch.library.register_fake("dovetail::permuted_diagonal", _fake, lib=_library)
torch.library.register_autograd("dovetail::permuted_diagonal", _backward, setup_context=_remember, lib=_library)
