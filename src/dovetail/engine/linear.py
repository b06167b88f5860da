"""Products over the last axis: linear layers and matrix products, as rows."""

from __future__ import annotations

import math

import numpy as np

from dovetail.engine.builder import Builder, activation_fields
from dovetail.engine.conv import Epilogue, entry_lists
from dovetail.engine.layout import View


def linear_dense(b: Builder, x: View, weight: np.ndarray, y: View, epilogue: Epilogue) -> None:
    """Writes activation(x weight^T + bias + residual) to `y`: `(…, C)` and `(…, K)`, C-ordered; weight `(K, C)`."""
    outputs, inner = weight.shape
    rows, width = math.prod(x.shape[:-1]), 4 * b.lanes
    blocks = [weight[first : first + width].T for first in range(0, outputs, width)]
    packed = np.concatenate([np.pad(block, ((0, 0), (0, width - block.shape[1]))).ravel() for block in blocks])
    bias = _bias(b, epilogue, len(blocks) * width)
    b.emit(
        "linear_dense_f32",
        {"x": x, "w": b.constant(packed.astype(np.float32)), "bias": bias, "residual": epilogue.residual},
        {"y": y}, disjoint=True, batch=1, rows=rows, inner=inner, columns=outputs, x_row=inner, w_row=width,
        w_block=0, w_block_stride=inner * width, y_row=outputs, r_row=outputs,
        work=rows * weight.size, **activation_fields(epilogue.activation),
    )  # fmt: skip


def linear_sparse(b: Builder, x: View, weight: np.ndarray, y: View, epilogue: Epilogue) -> None:
    """The same with a list of non-zeros per output."""
    k, c = np.nonzero(weight)
    entries, starts = entry_lists(k, c, weight[k, c], weight.shape[0])
    outputs, inner = weight.shape
    b.emit(
        "linear_sparse_f32",
        {"x": x, "entries": b.constant(entries), "starts": b.constant(starts), "bias": _bias(b, epilogue, outputs),
         "residual": epilogue.residual},
        {"y": y}, disjoint=True, rows=math.prod(x.shape[:-1]), columns=outputs, x_row=inner, y_row=outputs,
        r_row=outputs, work=4 * len(k) * math.prod(x.shape[:-1]), **activation_fields(epilogue.activation),
    )  # fmt: skip


def matmul(b: Builder, x: View, w: View, y: View) -> None:
    """Writes the product over the last two axes to `y` (C-ordered); the others broadcast as in numpy."""
    lead = y.shape[:-2]
    x, w = (_batched(b, operand, lead) for operand in (x, w))
    (rows, inner), columns = x.shape[-2:], w.shape[-1]
    b.emit(
        "linear_dense_f32", {"x": x, "w": w}, {"y": y}, disjoint=True, batch=math.prod(lead), rows=rows, inner=inner,
        columns=columns, x_batch=_step(x), x_row=x.strides[-2], w_batch=_step(w), w_row=w.strides[-2],
        w_block=columns, work=inner * math.prod(y.shape),
        y_batch=rows * columns, y_row=columns, **activation_fields(None),
    )  # fmt: skip


def _batched(b: Builder, x: View, lead: tuple[int, ...]) -> View:
    """`x` with C-ordered matrices and either one matrix for all batches or all of them in order."""
    if math.prod(x.shape[:-2]) == 1:
        return b.as_rows(View(x.buffer, x.shape[-2:], x.strides[-2:], x.offset))
    return b.as_rows(x.broadcast((*lead, *x.shape[-2:])))


def _step(x: View) -> int:
    return 0 if len(x.shape) == 2 else x.shape[-2] * x.shape[-1]


def _bias(b: Builder, epilogue: Epilogue, size: int) -> View | None:
    """The bias, filled up so that whole vectors can be read."""
    if epilogue.bias is None:
        return None
    return b.constant(np.pad(epilogue.bias.astype(np.float32), (0, size - len(epilogue.bias))))
