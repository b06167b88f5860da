"""Whether tensors and geometry make a Tucker layer, said in words before a kernel would fail."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from dovetail.errors import InputError
from dovetail.gpu.tucker.choice import PRECISIONS


def check_layer(
    x: Tensor,
    input: Tensor,
    core: Tensor,
    output: Tensor,
    bias: Tensor | None,
    residual: Tensor | None,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    precision: str,
) -> tuple[Any, ...]:
    """The shape of the result; `InputError` where the tensors do not fit together."""
    _require(input.dim() == 2 and output.dim() == 2, f"factors are matrices, not of {input.dim()} and {output.dim()}")
    _require(x.dim() == 4, f"images have the shape (N, C, H, W), not {tuple(x.shape)}")
    _require(
        x.shape[1] == input.shape[1], f"images of {x.shape[1]} channels do not fit an input factor of {input.shape[1]}"
    )
    _require(core.dim() == 4, f"a core has the shape (D2, D1, R, S), not {tuple(core.shape)}")
    ranks = (core.shape[1], core.shape[0])
    _require(
        ranks == (input.shape[0], output.shape[1]),
        f"a core of ranks {ranks} does not fit factors of {input.shape[0]} and {output.shape[1]}",
    )
    _same("input", input, x)
    _same("output", output, x)
    middle = x[:, :1].expand(x.shape[0], core.shape[1], *x.shape[2:])
    _, _, *size = check_core(middle, core, stride, padding, dilation, precision)
    shape = (x.shape[0], output.shape[0], *size)
    if bias is not None:
        _require(bias.shape == shape[1:2], f"a bias of shape {tuple(bias.shape)} for {shape[1]} channels")
        _same("bias", bias, x)
    if residual is not None:
        _require(residual.shape == shape, f"a residual of shape {tuple(residual.shape)} for a result of {shape}")
        _same("residual", residual, x)
    return shape


def check_core(
    x: Tensor, core: Tensor, stride: Sequence[int], padding: Sequence[int], dilation: Sequence[int], precision: str
) -> tuple[Any, ...]:
    """The shape of the core's result."""
    _require(x.dim() == 4, f"images have the shape (N, C, H, W), not {tuple(x.shape)}")
    _require(core.dim() == 4, f"a core has the shape (D2, D1, R, S), not {tuple(core.shape)}")
    _require(x.shape[1] == core.shape[1], f"images of {x.shape[1]} channels do not fit a core of {core.shape[1]}")
    _same("core", core, x)
    _require(precision in PRECISIONS, f"precision {precision!r} is unknown; known are {', '.join(PRECISIONS)}")
    legal = min(stride) > 0 and min(dilation) > 0 and min(padding) >= 0
    _require(legal, f"stride {stride}, padding {padding} and dilation {dilation} are no geometry of a convolution")
    sizes = [
        (x.shape[2 + i] + 2 * padding[i] - dilation[i] * (core.shape[2 + i] - 1) - 1) // stride[i] + 1 for i in range(2)
    ]
    _require(min(sizes) > 0, f"images of {tuple(x.shape[2:])} with padding {tuple(padding)} are smaller than the core")
    return (x.shape[0], core.shape[0], *sizes)


def _require(holds: bool, otherwise: str) -> None:
    if not holds:
        raise InputError(otherwise)


def _same(name: str, tensor: Tensor, x: Tensor) -> None:
    fits = tensor.dtype == x.dtype and tensor.device == x.device
    _require(fits, f"{name} is {tensor.dtype} on {tensor.device}, the images {x.dtype} on {x.device}; make them alike")
