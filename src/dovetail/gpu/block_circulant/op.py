"""A linear layer of circulant blocks as a torch op, `dovetail::block_circulant`.

On a CUDA device it runs the Triton kernel or torch's transforms, whichever its plan says; elsewhere, and for types that
the kernel does not take, it is one product with the dense weight. The backward pass is always made of transforms.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor

from dovetail.gpu.block_circulant.choice import WAYS, CirculantProblem
from dovetail.gpu.block_circulant.plain import gradients, plain
from dovetail.gpu.blocks.check import check_layer, flattened, grid_of, require
from dovetail.gpu.blocks.plan import MOST_SPLITS, Plan
from dovetail.gpu.blocks.settings import plan_of, require_plan
from dovetail.gpu.launching import autocast, kernels_take, runs, under_autocast

_library: Any = torch.library.Library("dovetail", "FRAGMENT")  # type: ignore[no-untyped-call]
_library.define(
    "block_circulant(Tensor x, Tensor values, Tensor? bias, Tensor? spectra, int size, int outputs, "
    "str precision, str tiles) -> Tensor",
    tags=(torch.Tag.pt2_compliant_tag,),
)


def block_circulant_linear(
    x: Tensor,
    values: Tensor,
    size: int,
    outputs: int,
    bias: Tensor | None = None,
    *,
    spectra: Tensor | None = None,
    precision: str = "ieee",
    tiles: str = "auto",
) -> Tensor:
    """`y[size R + r] = sum over G, c of w[R, G, (r - c) mod size] x[size G + c]` (CirCNN, MICRO 2017, section 3).

    Args:
        x: (..., C).
        values: w, the first columns of the blocks, as (rows, columns of blocks x size).
        size: k, of a block.
        outputs: K.
        bias: (K,) or None.
        spectra: of `values`, as `spectra_of` makes them, to save that work where the layer runs by transforms.
        precision: of products of float32 on matrix units: "ieee" (in full), "tf32x3" or "tf32".
        tiles: "model", "oracle" ("exhaustive" is the same here) or "auto", see `tucker_conv2d`; or a plan: "direct
            1x64x16x64:8:4:3" or "fft".

    Raises:
        InputError: shapes, types or devices do not fit.
        GpuError: there is no such plan, whether kernels would run here or not.
    """
    require_plan(tiles, WAYS)
    device = x.device.type
    if under_autocast(device):
        x, values = autocast(x, device), autocast(values, device)
        bias = None if bias is None else autocast(bias, device)
    flat = flattened(x)
    if kernels_take(x):
        y: Tensor = torch.ops.dovetail.block_circulant(flat, values, bias, spectra, size, outputs, precision, tiles)
    else:
        _check(flat, values, bias, spectra, size, outputs, precision)
        y = plain(flat, values, bias, size, outputs)
    return y.view(*x.shape[:-1], outputs)


def chosen(x: Tensor, size: int, outputs: int, precision: str, tiles: str) -> tuple[CirculantProblem, Plan]:
    """What a layer has to do for inputs (N, C), and how."""
    from dovetail.gpu.block_circulant import launch

    dtype = str(x.dtype).removeprefix("torch.")
    problem = CirculantProblem(len(x), outputs, x.shape[1], size, dtype, precision)
    return problem, plan_of(problem, x.device, tiles, partial(launch.trial, problem, x.device))


def _check(
    x: Tensor, values: Tensor, bias: Tensor | None, spectra: Tensor | None, size: int, outputs: int, precision: str
) -> None:
    check_layer(x, values, bias, size, outputs, precision)
    if spectra is not None:
        rows, columns = grid_of(x, size, outputs)
        want = (size // 2 + 1, columns, rows)
        require(tuple(spectra.shape) == want, f"spectra of shape {tuple(spectra.shape)}; these values have {want}")
        fits = spectra.device == x.device and spectra.dtype in (torch.complex64, torch.complex128)
        require(fits, f"spectra are {spectra.dtype} on {spectra.device}; make them by spectra_of on {x.device}")


def _run(
    x: Tensor, values: Tensor, bias: Tensor | None, spectra: Tensor | None, size: int, outputs: int,
    precision: str, tiles: str,
) -> Tensor:  # fmt: skip
    from dovetail.gpu.block_circulant import launch

    require_plan(tiles, WAYS)
    _check(x, values, bias, spectra, size, outputs, precision)
    if runs(x, values.numel(), len(x) * outputs * MOST_SPLITS):
        problem, plan = chosen(x, size, outputs, precision, tiles)
        if runs(x, len(x) * outputs * plan.splits):
            return launch.layer(x, values, bias, spectra, problem, plan)
    return plain(x, values, bias, size, outputs)


def _fake(
    x: Tensor, values: Tensor, bias: Tensor | None, spectra: Tensor | None, size: int, outputs: int,
    precision: str, tiles: str,
) -> Tensor:  # fmt: skip
    _check(x, values, bias, spectra, size, outputs, precision)
    return x.new_empty((x.shape[0], outputs))


def _remember(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, values, bias, _, ctx.size, *_ = inputs
    ctx.save_for_backward(x, values)
    ctx.biased = bias is not None


def _backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
    x, values = ctx.saved_tensors
    wants = ctx.needs_input_grad
    by_x, by_values = gradients(grad, x, values, ctx.size, wants[:2])
    by_bias = grad.sum(0) if ctx.biased and wants[2] else None
    return by_x, by_values, by_bias, *[None] * 5


for _device in ("CPU", "CUDA"):
    _library.impl("block_circulant", _run, _device)
torch.library.register_fake("dovetail::block_circulant", _fake, lib=_library)
torch.library.register_autograd("dovetail::block_circulant", _backward, setup_context=_remember, lib=_library)
