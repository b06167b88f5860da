"""A Tucker layer as torch ops, `dovetail::tucker` and, for its core alone, `dovetail::tucker_core`.

On a CUDA device they run the Triton kernels; elsewhere, and for types that the kernels do not take, they are the three
convolutions of torch. The backward pass is always made of torch's convolutions. Results lie channels last.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from dovetail.gpu.launching import autocast, kernels_take, runs, under_autocast
from dovetail.gpu.tucker.check import check_core, check_layer
from dovetail.gpu.tucker.settings import plan_of, require_core_tiles, require_plan

Pair = tuple[int, int]
Size = int | Sequence[int]

_library: Any = torch.library.Library("dovetail", "FRAGMENT")  # type: ignore[no-untyped-call]
_GEOMETRY = "int[2] stride, int[2] padding, int[2] dilation"
_library.define(
    "tucker(Tensor x, Tensor input, Tensor core, Tensor output, Tensor? bias, Tensor? residual, "
    f"{_GEOMETRY}, bool relu, str precision, str tiles) -> Tensor",
    tags=(torch.Tag.pt2_compliant_tag,),
)
_library.define(
    f"tucker_core(Tensor x, Tensor core, {_GEOMETRY}, str precision, str tiles) -> Tensor",
    tags=(torch.Tag.pt2_compliant_tag,),
)


def tucker_conv2d(
    x: Tensor,
    input: Tensor,
    core: Tensor,
    output: Tensor,
    bias: Tensor | None = None,
    stride: Size = 1,
    padding: Size = 0,
    dilation: Size = 1,
    *,
    residual: Tensor | None = None,
    relu: bool = False,
    precision: str = "ieee",
    tiles: str = "auto",
) -> Tensor:
    """1x1, core and 1x1 convolution of a Tucker layer, then bias, residual and ReLU.

    Args:
        x: images (N, C, H, W) in any layout; channels last saves a copy.
        input: (D1, C).
        core: (D2, D1, R, S); channels side by side (see `crsn`) save a copy.
        output: (K, D2).
        bias: (K,) or None.
        stride: of the core.
        padding: of the core, with zeros.
        dilation: of the core.
        residual: (N, K, H', W'), added before the ReLU.
        relu: whether there is one.
        precision: of products of float32 on matrix units: "ieee" (in full), "tf32x3" or "tf32".
        tiles: "model" chooses by the analytical model; "oracle" times the most promising ones, "exhaustive" all of the
            core (for minutes), once, and the fastest is kept on disk; "auto" takes what was kept, else the model's; or
            a plan, as `str(TuckerTiles)` writes it.

    Raises:
        InputError: shapes, types or devices do not fit.
        GpuError: there are no such tiles, whether kernels would run here or not.
    """
    require_plan(tiles)
    device = x.device.type
    if under_autocast(device):
        x, input, core, output = (autocast(tensor, device) for tensor in (x, input, core, output))
        bias = None if bias is None else autocast(bias, device)
        residual = None if residual is None else autocast(residual, device)
    geometry = (_pair(stride), _pair(padding), _pair(dilation))
    if not kernels_take(x):
        check_layer(x, input, core, output, bias, residual, *geometry, precision)
        return plain(x, input, core, output, bias, residual, *geometry, relu)
    y: Tensor = torch.ops.dovetail.tucker(x, input, core, output, bias, residual, *geometry, relu, precision, tiles)
    return y


def tucker_core(
    x: Tensor,
    core: Tensor,
    stride: Size = 1,
    padding: Size = 0,
    dilation: Size = 1,
    *,
    precision: str = "ieee",
    tiles: str = "auto",
) -> Tensor:
    """The core convolution alone, of images (N, D1, H, W) with (D2, D1, R, S); arguments as of `tucker_conv2d`."""
    require_core_tiles(tiles)
    geometry = (_pair(stride), _pair(padding), _pair(dilation))
    if not kernels_take(x):
        check_core(x, core, *geometry, precision)
        return convolved(x, core, *geometry)
    y: Tensor = torch.ops.dovetail.tucker_core(x, core, *geometry, precision, tiles)
    return y


def plain(
    x: Tensor,
    input: Tensor,
    core: Tensor,
    output: Tensor,
    bias: Tensor | None,
    residual: Tensor | None,
    stride: Pair,
    padding: Pair,
    dilation: Pair,
    relu: bool,
) -> Tensor:
    """The slow twin: torch's three convolutions and what follows them."""
    x = F.conv2d(x, input[:, :, None, None])
    x = convolved(x, core, stride, padding, dilation)
    x = F.conv2d(x, output[:, :, None, None], bias)
    x = x if residual is None else x + residual
    return F.relu(x) if relu else x


def convolved(x: Tensor, core: Tensor, stride: Pair, padding: Pair, dilation: Pair) -> Tensor:
    """The core convolution in torch."""
    return F.conv2d(x, core, None, stride, padding, dilation)


def _pair(size: Size) -> Pair:
    first, second = (size, size) if isinstance(size, int) else size
    return first, second


def _run(
    x: Tensor,
    input: Tensor,
    core: Tensor,
    output: Tensor,
    bias: Tensor | None,
    residual: Tensor | None,
    stride: Pair,
    padding: Pair,
    dilation: Pair,
    relu: bool,
    precision: str,
    tiles: str,
) -> Tensor:
    from dovetail.gpu.tucker import launch

    require_plan(tiles)
    weights = (input, core, output)
    shape = check_layer(x, *weights, bias, residual, stride, padding, dilation, precision)
    problem = launch.problem_of(x, core, stride, padding, dilation, precision)
    maps = (x.numel() // max(1, x.shape[1]) * problem.inputs, problem.pixels * max(problem.outputs, shape[1]))
    if runs(x, *maps):
        plan = plan_of(problem, x.shape[1], output.shape[0], x.device, tiles)
        if runs(x, plan.core.splits * problem.pixels * problem.outputs):
            return launch.layer(x, weights, bias, residual, problem, plan, relu)
    y = plain(x, *weights, bias, residual, stride, padding, dilation, relu)
    return y.contiguous(memory_format=torch.channels_last)


def _run_core(
    x: Tensor, core: Tensor, stride: Pair, padding: Pair, dilation: Pair, precision: str, tiles: str
) -> Tensor:
    from dovetail.gpu.tucker import launch
    from dovetail.gpu.tucker.settings import core_tiles_of

    require_core_tiles(tiles)
    check_core(x, core, stride, padding, dilation, precision)
    problem = launch.problem_of(x, core, stride, padding, dilation, precision)
    if runs(x, problem.pixels * problem.outputs):
        chosen = core_tiles_of(problem, x.device, tiles)
        if runs(x, chosen.splits * problem.pixels * problem.outputs):
            return launch.core_alone(x, core, problem, chosen)
    return convolved(x, core, stride, padding, dilation).contiguous(memory_format=torch.channels_last)


def _fake(
    x: Tensor, input: Tensor, core: Tensor, output: Tensor, bias: Tensor | None, residual: Tensor | None,
    stride: Pair, padding: Pair, dilation: Pair, relu: bool, precision: str, tiles: str,
) -> Tensor:  # fmt: skip
    shape = check_layer(x, input, core, output, bias, residual, stride, padding, dilation, precision)
    return torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=torch.channels_last)


def _fake_core(
    x: Tensor, core: Tensor, stride: Pair, padding: Pair, dilation: Pair, precision: str, tiles: str
) -> Tensor:
    shape = check_core(x, core, stride, padding, dilation, precision)
    return torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=torch.channels_last)


def _remember(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, first, core, last, bias, residual, *geometry, relu, _, _ = inputs
    ctx.save_for_backward(x, first, core, last, output if relu else None)
    ctx.geometry, ctx.biased, ctx.residual = geometry, bias is not None, residual is not None


def _backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
    """Torch's convolutions backwards; the images between the three are computed again rather than kept."""
    x, first, core, last, y = ctx.saved_tensors
    first, last = first[:, :, None, None], last[:, :, None, None]
    grad = grad if y is None else grad * (y > 0).to(grad.dtype)
    wants = ctx.needs_input_grad
    z1 = F.conv2d(x, first)
    z2 = F.conv2d(z1, core, None, *ctx.geometry)
    point = ([1, 1], [0, 0], [1, 1])
    back2, by_last = _convolution_backward(grad, z2, last, point, (any(wants[:3]), wants[3]))
    back1, by_core = _none_from(back2, z1, core, ctx.geometry, (any(wants[:2]), wants[2]))
    by_x, by_first = _none_from(back1, x, first, point, (wants[0], wants[1]))
    by_bias = grad.sum((0, 2, 3)) if ctx.biased and wants[4] else None
    by_residual = grad if ctx.residual and wants[5] else None
    flat = [None if each is None else each[:, :, 0, 0] for each in (by_first, by_last)]
    return by_x, flat[0], by_core, flat[1], by_bias, by_residual, *[None] * 6


def _remember_core(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, core, *geometry, _, _ = inputs
    ctx.save_for_backward(x, core)
    ctx.geometry = geometry


def _backward_core(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
    x, core = ctx.saved_tensors
    return *_convolution_backward(grad, x, core, ctx.geometry, ctx.needs_input_grad[:2]), *[None] * 5


def _none_from(grad: Tensor | None, x: Tensor, weight: Tensor, geometry: Any, wants: Any) -> tuple[Any, Any]:
    """As below; nothing where nothing comes back."""
    return (None, None) if grad is None else _convolution_backward(grad, x, weight, geometry, wants)


def _convolution_backward(grad: Tensor, x: Tensor, weight: Tensor, geometry: Any, wants: Any) -> tuple[Any, Any]:
    """Gradients of images and weight, as far as they are wanted."""
    stride, padding, dilation = geometry
    by_x, by_weight, _ = torch.ops.aten.convolution_backward(
        grad, x, weight, None, stride, padding, dilation, False, [0, 0], 1, [wants[0], wants[1], False]
    )
    return by_x if wants[0] else None, by_weight if wants[1] else None


for _device in ("CPU", "CUDA"):
    _library.impl("tucker", _run, _device)
    _library.impl("tucker_core", _run_core, _device)
torch.library.register_fake("dovetail::tucker", _fake, lib=_library)
torch.library.register_fake("dovetail::tucker_core", _fake_core, lib=_library)
torch.library.register_autograd("dovetail::tucker", _backward, setup_context=_remember, lib=_library)
torch.library.register_autograd("dovetail::tucker_core", _backward_core, setup_context=_remember_core, lib=_library)
