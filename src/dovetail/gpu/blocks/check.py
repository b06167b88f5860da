"""Whether tensors make a linear layer in blocks, said in words before a kernel would fail."""

from __future__ import annotations

import math

from torch import Tensor

from dovetail.errors import InputError
from dovetail.gpu.tucker.choice import PRECISIONS


def flattened(x: Tensor) -> Tensor:
    """(..., C) as (N, C)."""
    require(x.dim() > 0, "inputs have the shape (..., C), not ()")
    return x.reshape(math.prod(x.shape[:-1]), x.shape[-1])


def grid_of(x: Tensor, size: int, outputs: int) -> tuple[int, int]:
    """Rows and columns of blocks of a layer from the last axis of `x` to so many outputs."""
    require(size >= 1 and outputs >= 1, f"blocks of size {size} and {outputs} outputs: both must be 1 or more")
    return -(-outputs // size), -(-x.shape[-1] // size)


def check_layer(x: Tensor, values: Tensor, bias: Tensor | None, size: int, outputs: int, precision: str) -> None:
    """`InputError` where the tensors do not fit together."""
    require(x.dim() == 2 and x.shape[1] > 0, f"inputs have the shape (N, C), not {tuple(x.shape)}")
    rows, columns = grid_of(x, size, outputs)
    want = (rows, columns * size)
    require(
        tuple(values.shape) == want,
        f"values of shape {tuple(values.shape)}; blocks of size {size} from {x.shape[1]} to {outputs} channels have "
        f"{want}",
    )
    _same("values", values, x)
    if bias is not None:
        require(bias.shape == (outputs,), f"a bias of shape {tuple(bias.shape)} for {outputs} channels")
        _same("bias", bias, x)
    require(precision in PRECISIONS, f"precision {precision!r} is unknown; known are {', '.join(PRECISIONS)}")


def require(holds: bool, otherwise: str) -> None:
    """`InputError` unless it holds."""
    if not holds:
        raise InputError(otherwise)


def _same(name: str, tensor: Tensor, x: Tensor) -> None:
    fits = tensor.dtype == x.dtype and tensor.device == x.device
    require(fits, f"{name} is {tensor.dtype} on {tensor.device}, the inputs {x.dtype} on {x.device}; make them alike")
