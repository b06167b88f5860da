"""Convolutions, linear layers, norms, matrix products and attention."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from dovetail.program.build import Builder, Const, Var
from dovetail.program.program import Epilogue, Shape
from dovetail.program.rules import arithmetic
from dovetail.program.rules.table import Pads, Value, affine, axis_of, pair, rule

FORBIDDEN = -1e30  # added to an attention score, its exponential is zero


@rule("conv2d", "convolution")
def conv2d(
    b: Builder, x: Var, *, weight: Value, bias: Value | None, stride: Any, padding: Any, dilation: Any, groups: int,
    **rest: Any,
) -> Var:  # fmt: skip
    """Any 2-D convolution with a stored weight."""
    if rest.get("transposed") or not isinstance(weight, Const) or weight.array.ndim != 4:
        b.call.refuse("only 2-D convolutions with a stored weight are known", "keep this layer out of the lowered part")
    pads = _conv_pads(padding, weight.array.shape[2:], pair(dilation))
    step: dict[str, Any] = {"stride": pair(stride), "padding": pads, "dilation": pair(dilation), "groups": groups}
    return b.emit("conv2d", x, weight=b.dense(weight), epilogue=_bias(b, bias), **step)


@rule("linear")
def linear(b: Builder, x: Var, *, weight: Value, bias: Value | None) -> Var:
    """A stored weight on the last axis."""
    if not isinstance(weight, Const):
        b.call.refuse("its weight is computed from the input", "write it as a matmul")
    return b.emit("linear", x, weight=b.dense(weight), epilogue=_bias(b, bias))


@rule("format_layer")
def format_layer(b: Builder, x: Var, *, layer: str, tail: Any, stride: Any, padding: Any, dilation: Any) -> Var:
    """A layer that is held in a format, opaque to the trace."""
    name, groups = b.format(layer)
    if len(tail) == 1:
        return b.emit("linear", x, weight=name)
    pads = _conv_pads(padding, tail[1:], pair(dilation))
    step: dict[str, Any] = {"stride": pair(stride), "padding": pads, "dilation": pair(dilation), "groups": groups}
    return b.emit("conv2d", x, weight=name, **step)


@rule("recurrent_layer")
def recurrent_layer(b: Builder, *, sequences: list[Var], states: list[Var], layer: str, width: int, last: bool) -> Var:
    """A layer that walks along time, opaque to the trace; what it does at one step is a graph of its own."""
    body = b.body(layer, [(x.shape[0], *x.shape[2:]) for x in sequences])
    return b.emit("scan", *sequences, *states, body=body, sequences=len(sequences), last=last)


@rule("batch_norm", "_native_batch_norm_legit_no_training", "native_batch_norm")
def batch_norm(
    b: Builder, x: Var, *, weight: Const | None, bias: Const | None, running_mean: Const | None,
    running_var: Const | None, eps: float, training: bool = False, **_: Any,
) -> tuple[Var, None, None] | Var:  # fmt: skip
    """Running statistics as scale and shift, computed in float64."""
    if training or running_mean is None or running_var is None:
        b.call.refuse("it normalises by the statistics of the batch", "train it with running statistics")
    mean, variance, gain, shift = (_finite(b, part) for part in (running_mean, running_var, weight, bias))
    scale = (1.0 if gain is None else gain) / np.sqrt(variance + eps)
    y = affine(b, x, 1, scale, (0.0 if shift is None else shift) - mean * scale)
    return (y, None, None) if "native" in b.call.op else y


@rule("layer_norm", "native_layer_norm")
def layer_norm(
    b: Builder, x: Var, *, normalized_shape: Sequence[int], weight: Const | None, bias: Const | None, eps: float,
    **_: Any,
) -> Var | tuple[Var, None, None]:  # fmt: skip
    """Over the trailing axes; a bias without a weight gets a weight of ones."""
    if weight is None and bias is not None:
        weight = Const(f"{b.call.name}.ones", np.ones(tuple(normalized_shape), np.float32))
    parameters = [part for part in (weight, bias) if part is not None]
    y = b.emit("layer_norm", x, *parameters, axes=len(normalized_shape), eps=float(eps))
    return (y, None, None) if "native" in b.call.op else y


@rule("matmul", "mm", "bmm")
def matmul(b: Builder, x: Value, *, other: Any = None, mat2: Any = None) -> Var:
    """A linear layer where the right factor is a stored matrix, else a product of two tensors."""
    right = mat2 if other is None else other
    if isinstance(right, Const) and right.array.ndim == 2:
        return b.emit("linear", x, weight=b.dense(Const(right.name, right.array.T)))
    return b.emit("matmul", x, right)


@rule("addmm")
def addmm(b: Builder, x: Value, *, mat1: Value, mat2: Value, beta: float = 1, alpha: float = 1) -> Var:
    """`beta * x + alpha * mat1 @ mat2`."""
    return _added(b, x, matmul(b, mat1, other=mat2), beta, alpha)


@rule("baddbmm")
def baddbmm(b: Builder, x: Value, *, batch1: Value, batch2: Value, beta: float = 1, alpha: float = 1) -> Var:
    """`beta * x + alpha * batch1 @ batch2`."""
    return _added(b, x, matmul(b, batch1, other=batch2), beta, alpha)


@rule("softmax", "_softmax")
def softmax(b: Builder, x: Var, *, dim: int, **_: Any) -> Var:
    """Along one axis."""
    return b.emit("softmax", x, axis=axis_of(x, dim))


@rule("scaled_dot_product_attention")
def attention(
    b: Builder, *, query: Var, key: Var, value: Var, attn_mask: Value | None, dropout_p: float, is_causal: bool,
    scale: float | None, enable_gqa: bool = False,
) -> Var:  # fmt: skip
    """`softmax(scale * query @ key^T + mask) @ value` in four nodes."""
    if enable_gqa or dropout_p or isinstance(attn_mask, Var):
        b.call.refuse("grouped queries, dropout and computed masks are not known", "give a constant mask or none")
    last = len(key.shape) - 1
    scores = b.emit("matmul", query, b.emit("permute", key, order=(*range(last - 1), last, last - 1)))
    factor = 1.0 / math.sqrt(int(query.shape[-1])) if scale is None else scale
    scores = b.emit("mul", scores, Const(f"{b.call.name}.scale", np.full((1,), factor, np.float32)))
    if (mask := _mask(b, attn_mask, is_causal, scores.shape)) is not None:
        scores = b.emit("add", scores, mask)
    return b.emit("matmul", b.emit("softmax", scores, axis=last), value)


def _added(b: Builder, x: Value, product: Var, beta: float, alpha: float) -> Var:
    product = product if alpha == 1 else arithmetic.mul(b, product, other=alpha)
    return arithmetic.add(b, product, other=x, alpha=beta)


def _mask(b: Builder, mask: Const | None, causal: bool, scores: Shape) -> Const | None:
    """What is added to the scores."""
    if causal:
        allowed = np.tril(np.ones([int(n) for n in scores[-2:]], bool))
    elif mask is None or mask.array.dtype != bool:
        return mask and Const(mask.name, mask.array.clip(FORBIDDEN, None))
    else:
        allowed = mask.array
    return Const(f"{b.call.name}.mask", np.where(allowed, 0.0, FORBIDDEN).astype(np.float32))


def _finite(b: Builder, part: Const | None) -> Any:
    return None if part is None else b.finite(part).astype(np.float64)


def _bias(b: Builder, bias: Value | None) -> Epilogue:
    if isinstance(bias, Var):
        b.call.refuse("its bias is computed from the input", "add it after the layer")
    return Epilogue() if bias is None else Epilogue(bias=b.array(bias.name, bias.array))


def _conv_pads(padding: Any, kernel: Sequence[int], dilation: tuple[int, int]) -> Pads:
    if padding == "same":
        total = [d * (k - 1) for k, d in zip(kernel, dilation)]
        return (total[0] // 2, -(-total[0] // 2), total[1] // 2, -(-total[1] // 2))
    top, left = (0, 0) if padding == "valid" else pair(padding)
    return (top, top, left, left)
