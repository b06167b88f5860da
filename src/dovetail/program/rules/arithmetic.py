"""Sums, products and activations."""

from __future__ import annotations

from typing import Any

import numpy as np

from dovetail.program.attributes import LARGEST
from dovetail.program.build import Builder, Const, Var
from dovetail.program.rules.table import Value, affine, channel_axis, rule, size


@rule("add")
def add(b: Builder, x: Value, *, other: Any, alpha: float = 1) -> Var:
    """`x + alpha * other`."""
    left, right = (other, x) if isinstance(x, Const) else (x, other)
    if alpha != 1 and right is x:
        left = mul(b, left, other=alpha)
    elif alpha != 1:
        right = mul(b, right, other=alpha) if isinstance(right, Var) else _scaled(b, right, alpha)
    return _by_constant(b, "add", left, right)


@rule("sub")
def sub(b: Builder, x: Value, *, other: Any, alpha: float = 1) -> Var:
    """`x - alpha * other`."""
    return add(b, x, other=other, alpha=-alpha)


@rule("rsub")
def rsub(b: Builder, x: Var, *, other: Any, alpha: float = 1) -> Var:
    """`other - alpha * x`."""
    return add(b, mul(b, x, other=-alpha), other=other)


@rule("mul")
def mul(b: Builder, x: Value, *, other: Any) -> Var:
    """`x * other`."""
    return _by_constant(b, "mul", other, x) if isinstance(x, Const) else _by_constant(b, "mul", x, other)


@rule("div")
def div(b: Builder, x: Value, *, other: Any, rounding_mode: str | None = None) -> Var:
    """`x / other`, where other is constant."""
    if rounding_mode is not None or isinstance(other, Var) or isinstance(x, Const):
        b.call.refuse("only division by a constant is known", "multiply instead, or keep it outside")
    divisor = np.asarray(other.array if isinstance(other, Const) else other, np.float64)
    return _by_constant(b, "mul", x, Const(f"{b.call.name}.factor", 1.0 / divisor))


@rule("neg")
def neg(b: Builder, x: Var) -> Var:
    """`-x`."""
    return mul(b, x, other=-1.0)


@rule("relu")
def relu(b: Builder, x: Var) -> Var:
    """`max(x, 0)`."""
    return b.activation(x, "relu")


@rule("relu6")
def relu6(b: Builder, x: Var) -> Var:
    """`clamp(x, 0, 6)`."""
    return b.activation(x, "clamp", 0.0, 6.0)


@rule("hardtanh")
def hardtanh(b: Builder, x: Var, *, min_val: float, max_val: float) -> Var:
    """`clamp(x, min_val, max_val)`."""
    return clamp(b, x, min=min_val, max=max_val)


@rule("clamp", "clamp_min", "clamp_max")
def clamp(b: Builder, x: Var, *, min: Any = None, max: Any = None) -> Var:
    """`x` between two numbers; relu where the only bound is zero from below."""
    if isinstance(min, (Var, Const)) or isinstance(max, (Var, Const)):
        b.call.refuse("the bounds are tensors", "give numbers")
    if min == 0 and max is None:
        return b.activation(x, "relu")
    return b.activation(x, "clamp", _finite(min, -LARGEST), _finite(max, LARGEST))


@rule("leaky_relu")
def leaky_relu(b: Builder, x: Var, *, negative_slope: float) -> Var:
    """`x`, or `negative_slope * x` where it is negative."""
    return b.activation(x, "leaky_relu", negative_slope)


@rule("hardsigmoid")
def hardsigmoid(b: Builder, x: Var) -> Var:
    """`clamp(x / 6 + 1 / 2, 0, 1)`."""
    return b.activation(affine(b, x, channel_axis(x), 1 / 6, 1 / 2), "clamp", 0.0, 1.0)


@rule("sigmoid", "tanh", "hardswish", "silu")
def pointwise(b: Builder, x: Var) -> Var:
    """The activation of that name."""
    return b.activation(x, b.call.op)


@rule("gelu")
def gelu(b: Builder, x: Var, *, approximate: str) -> Var:
    """Exact, or by tanh."""
    return b.activation(x, "gelu_tanh" if approximate == "tanh" else "gelu")


def _by_constant(b: Builder, op: str, x: Any, other: Any) -> Var:
    """`x (op) other`: an affine where `other` is one number or one per channel, else the op itself."""
    if isinstance(other, Var):
        return b.emit(op, x, other)
    const = other if isinstance(other, Const) else Const(f"{b.call.name}.constant", np.asarray(other, np.float64))
    along = _along(b, x, const.array.shape)
    if along is None:
        return b.emit(op, x, const)
    return affine(b, x, along, *((const.array, None) if op == "mul" else (None, const.array)))


def _along(b: Builder, x: Var, shape: tuple[int, ...]) -> int | None:
    """The one axis of `x` along which a constant of `shape` varies (channels if none), or None if there are more."""
    if len(shape) > len(x.shape):
        return None
    long = (1,) * (len(x.shape) - len(shape)) + shape
    varies = [i for i, n in enumerate(long) if n != 1]
    axis = varies[0] if varies else channel_axis(x)
    if len(varies) > 1 or isinstance(x.shape[axis], str):
        return None
    return axis if not varies or size(b, x, axis) == long[axis] else None


def _scaled(b: Builder, constant: Any, factor: float) -> Any:
    return (
        Const(f"{b.call.name}.constant", constant.array * factor) if isinstance(constant, Const) else constant * factor
    )


def _finite(bound: float | None, default: float) -> float:
    return default if bound is None else float(np.clip(bound, -LARGEST, LARGEST))
