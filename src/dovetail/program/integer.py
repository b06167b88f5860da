"""Whole numbers: the meaning of nodes over uint8 tensors, which every target gives bit for bit.

A uint8 tensor holds codes that stand for `scale * (code - zero)`. A node sums exactly and rounds once:

    sum  = bias + sum of weight * (code - zero)                                  whole numbers, below 2^31
    code = clamp(round_half_even(float32(sum) * multiplier [+ float32(r - zero_r) * ratio]) + zero)

with float32 products and a float32 sum, never contracted. The multipliers follow here, once, from the scales of the
tensors and of the packed weight; the bias of the network becomes a whole number in units of the sum. A product may also
end in float32: then the multiplier gives real numbers, and nothing is rounded.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from dovetail.errors import ProgramError
from dovetail.program import functions as f
from dovetail.program.ops import ACTIVATIONS, complete, op_named
from dovetail.program.program import Graph, Node, Program, Tensor, bind_shape

Array = np.ndarray
CODES: Final = 255  # the largest code
LARGEST_SUM: Final = (1 << 31) - 1
LARGEST_RATIO: Final = 1e30  # of two scales; times a sum it stays within float32

PRODUCTS: Final = frozenset({"conv2d", "linear"})
MEANS: Final = frozenset({"mean", "avg_pool2d", "adaptive_avg_pool2d"})
MOVES: Final = frozenset(
    {"max_pool2d", "adaptive_max_pool2d", "concat", "slice", "reshape", "permute", "pad", "upsample_nearest"}
)  # results are among the operands: all tensors have one scale and one zero


def is_quantized(tensor: Tensor) -> bool:
    """Whether the tensor holds codes."""
    return tensor.dtype == "uint8"


def touches_codes(node: Node, graph: Graph) -> bool:
    """Whether the node reads or writes codes."""
    return any(name in graph.tensors and is_quantized(graph.tensors[name]) for name in (*node.reads(), node.output))


@dataclass(frozen=True, eq=False)
class Product:
    """A weight op in whole numbers.

    Attributes:
        weight: int32, of the dense weight's shape.
        bias: int64 `(K,)`, in units of the sum.
        multiplier: float32 `(K,)`, from sums to codes of the output (to real numbers where that is float32).
        bound: what no partial sum exceeds in magnitude, in any order, with codes as they are or less their zero.
    """

    weight: Array
    bias: Array
    multiplier: Array
    bound: int


def product(program: Program, graph: Graph, node: Node) -> Product:
    """The weight op `node` in whole numbers.

    Raises:
        ProgramError: the weight holds no whole numbers, or its sums could exceed 32 bits.
    """
    packed = program.weights[node.weight or ""]
    found = packed.integers()
    if found is None:
        raise ProgramError(
            f"node {node.name!r} reads codes, but its weight {packed.spec.format} of {packed.spec.values.name} is no "
            f"product of whole numbers"
        )
    weight, scale = found
    x, y = graph.tensors[node.inputs[0]], graph.tensors[node.output]
    unit = float(x.scale or 0) * scale.astype(np.float64)
    real = program.arrays[node.epilogue.bias].astype(np.float64) if node.epilogue.bias else np.zeros(len(scale))
    bias = np.rint(real / unit)
    magnitude = np.abs(weight).reshape(len(scale), -1).sum(axis=1, dtype=np.int64)
    bound = float((2 * CODES * magnitude + np.abs(bias)).max(initial=0))
    if not bound <= LARGEST_SUM:
        raise ProgramError(
            f"node {node.name!r}: its sums may reach {bound:.3g}, beyond 32 bits; keep this layer in floating point"
        )
    with np.errstate(over="ignore"):
        multiplier = (unit / _unit(y)).astype(np.float32)
    if not np.isfinite(multiplier).all():
        raise ProgramError(f"node {node.name!r}: its scales are too far apart for float32; calibrate again")
    return Product(weight, bias.astype(np.int64), multiplier, int(bound))


def ratio(source: Tensor, target: Tensor, count: int = 1) -> np.float32:
    """From sums over `count` codes of `source`, less its zero, to their mean in codes of `target` (or real numbers)."""
    return np.float32(float(source.scale or 0) / (_unit(target) * count))


def limits(node: Node, tensor: Tensor) -> tuple[int, int]:
    """Least and greatest code that the node's activation lets through to the quantised `tensor`."""
    activation = node.epilogue.activation
    if activation is None:
        return 0, CODES
    ends = (0.0, math.inf) if activation.name == "relu" else activation.args
    low, high = (CODES if end == math.inf else code_of(end, tensor) for end in ends)
    return low, high


def code_of(value: float, tensor: Tensor) -> int:
    """The code nearest to a real number."""
    return int(np.clip(np.rint(np.float32(value) / np.float32(tensor.scale)) + (tensor.zero or 0), 0, CODES))


def to_codes(t: Array, zero: int, low: int = 0, high: int = CODES) -> Array:
    """Round float32 numbers in units of a code, half to even, shift them by `zero` and clamp; NaN becomes `low`."""
    known = np.where(np.isnan(t), np.float32(low - zero), t)
    codes: Array = (np.clip(np.rint(known), low - zero, high - zero) + zero).astype(np.uint8)
    return codes


def cannot_take_codes(node: Node, graph: Graph) -> str:
    """Why the node cannot compute over codes, whatever their scales; empty where it can.

    Codes lie four channels to a word, channels being axis 1 of images and the last axis of rows; sums have 32 bits.
    """
    if node.op not in EVALUATE:
        return "it takes floating point; dequantize before it"
    shapes = [graph.tensors[name].shape for name in (*node.inputs, node.output) if name in graph.tensors]
    if len(shapes) <= len(node.inputs):
        return "it reads an array, which is in floating point"
    x = shapes[0]
    if not all(2 <= len(shape) <= 4 for shape in shapes):
        return "codes have two to four dimensions"
    if node.op == "linear" and len(x) == 4:
        return "codes of four dimensions are images, with channels in axis 1"
    if node.op == "add" and len(set(shapes)) > 1:
        return "sums of codes are of one shape, and broadcast nothing"
    if node.op == "mean" and sorted(node.attributes["axes"]) != list(
        range(2, 4) if len(x) == 4 else range(1, len(x) - 1)
    ):
        return "means of codes go over the pixels of images, or over the rows between first and last axis"
    if node.op in MEANS and math.prod(n for n in x[1:] if isinstance(n, int)) > LARGEST_SUM // CODES:
        return "its sums could exceed 32 bits"
    return ""


def evaluate(program: Program, graph: Graph, node: Node, values: Mapping[str, Array], dims: Mapping[str, int]) -> Array:
    """The output of a node that touches codes, from the values of its operands."""
    attributes = dict(complete(node).attributes)
    if "shape" in attributes:
        attributes["shape"] = bind_shape(attributes["shape"], dims)
    call = _Call(program, graph, node, [values[name] for name in node.reads()], attributes)
    return EVALUATE[node.op](call)


def check_codes(program: Program, graph: Graph, node: Node) -> None:
    """`ProgramError` unless the op can take codes where the node has them, and scales and bounds are sound."""
    said = _refusal(graph, node, program)
    if said:
        raise ProgramError(f"node {node.name!r} ({node.op}): {said}")
    if node.op in PRODUCTS:
        product(program, graph, node)
    for name in node.reads():
        source = graph.tensors[name]
        if is_quantized(source) and float(source.scale or 0) / _unit(graph.tensors[node.output]) > LARGEST_RATIO:
            raise ProgramError(f"node {node.name!r}: the scale of {name!r} is too large beside its result's")


@dataclass(frozen=True, eq=False)
class _Call:
    program: Program
    graph: Graph
    node: Node
    operands: list[Array]
    attributes: dict[str, Any]

    @property
    def inputs(self) -> list[Tensor]:
        return [self.graph.tensors[name] for name in self.node.reads()]

    @property
    def output(self) -> Tensor:
        return self.graph.tensors[self.node.output]

    def whole(self, i: int = 0) -> Array:
        """Operand i less its zero, int64."""
        return self.operands[i].astype(np.int64) - (self.inputs[i].zero or 0)

    def finish(self, t: Array) -> Array:
        """Codes, or the float32 numbers themselves after their activation."""
        if is_quantized(self.output):
            return to_codes(t, self.output.zero or 0, *limits(self.node, self.output))
        activation = self.node.epilogue.activation
        return t if activation is None else ACTIVATIONS[activation.name].reference(t, *activation.args)


def _product(call: _Call) -> Array:
    found = product(call.program, call.graph, call.node)
    # Sums stay far below 2^53, so float64 holds them exactly (and numpy multiplies it quickly).
    reference = op_named(call.node.op).reference
    sums = reference(call.whole().astype(np.float64), found.weight.astype(np.float64), **call.attributes)
    across = (-1, 1, 1) if call.node.op == "conv2d" else (-1,)
    t = (sums + found.bias.reshape(across)).astype(np.float32) * found.multiplier.reshape(across)
    if call.node.epilogue.residual is not None:
        t = t + (_scaled(call, 1) if is_quantized(call.inputs[1]) else call.operands[1])
    return call.finish(t)


def _add(call: _Call) -> Array:
    return call.finish(_scaled(call, 0) + _scaled(call, 1))


def _scaled(call: _Call, i: int) -> Array:
    return call.whole(i).astype(np.float32) * ratio(call.inputs[i], call.output)


def _mean(call: _Call) -> Array:
    x = call.whole()
    axes, keepdims = call.attributes["axes"], call.attributes["keepdims"]
    count = math.prod(x.shape[axis] for axis in axes)
    sums = x.sum(axis=axes, keepdims=keepdims)
    return call.finish(sums.astype(np.float32) * ratio(call.inputs[0], call.output, count))


def _avg_pool2d(call: _Call) -> Array:
    kernel, stride, padding = (call.attributes[name] for name in ("kernel", "stride", "padding"))
    sums, counts = (f.window_sums(x, kernel, stride, padding) for x in (call.whole(), np.ones_like(call.operands[0])))
    if call.attributes["include_pad"]:
        counts = np.full_like(counts, math.prod(kernel))
    return call.finish(sums.astype(np.float32) * _ratios(call, counts))


def _adaptive_avg_pool2d(call: _Call) -> Array:
    sums = f.adaptive(call.whole(), call.attributes["output"], np.sum)
    counts = f.adaptive(np.ones_like(call.whole()), call.attributes["output"], np.sum)
    return call.finish(sums.astype(np.float32) * _ratios(call, counts))


def _ratios(call: _Call, counts: Array) -> Array:
    found = {n: ratio(call.inputs[0], call.output, int(n)) for n in np.unique(counts)}
    ratios: Array = np.vectorize(found.__getitem__, otypes=[np.float32])(counts)
    return ratios


def _move(call: _Call) -> Array:
    attributes = call.attributes
    if call.node.op == "pad":
        attributes = {**attributes, "value": code_of(attributes["value"], call.output)}
    operands = call.operands
    if call.node.op.endswith("max_pool2d"):
        operands = [operands[0].astype(np.float32)]  # its padding is minus infinity
    moved: Array = op_named(call.node.op).reference(*operands, **attributes).astype(np.uint8)
    return moved


def _quantize(call: _Call) -> Array:
    inverse = np.float32(1 / _unit(call.output))
    return to_codes(call.operands[0].astype(np.float32) * inverse, call.output.zero or 0)


def _dequantize(call: _Call) -> Array:
    return call.whole().astype(np.float32) * np.float32(call.inputs[0].scale)


EVALUATE: Final[dict[str, Callable[[_Call], Array]]] = {
    **dict.fromkeys(PRODUCTS, _product),
    **dict.fromkeys(MOVES, _move),
    "add": _add,
    "mean": _mean,
    "avg_pool2d": _avg_pool2d,
    "adaptive_avg_pool2d": _adaptive_avg_pool2d,
    "quantize": _quantize,
    "dequantize": _dequantize,
}


def _unit(tensor: Tensor) -> float:
    """Of a step of the tensor: its scale, 1 for real numbers."""
    return float(tensor.scale or 0) if is_quantized(tensor) else 1.0


def _refusal(graph: Graph, node: Node, program: Program) -> str:
    """Why the node cannot be, with the types of its tensors; empty where it can."""
    if arrays := [name for name in node.reads() if name in program.arrays]:
        return f"it reads codes and the float array {arrays[0]!r}; dequantize before it"
    inputs, output = [graph.tensors[name] for name in node.reads()], graph.tensors[node.output]
    coded = [is_quantized(tensor) for tensor in inputs]
    if reason := cannot_take_codes(node, graph):
        return reason
    if node.op in ("quantize", "dequantize"):
        wants = (False, True) if node.op == "quantize" else (True, False)
        return (
            "" if (coded[0], is_quantized(output)) == wants else "it turns float32 into uint8, or the other way round"
        )
    if not coded[0] or (node.op in MOVES | {"add"} and not all(coded)):
        return "all of its operands must be uint8"
    if node.op in MOVES:
        same = {(tensor.dtype, tensor.scale, tensor.zero) for tensor in (*inputs, output)}
        return "" if len(same) == 1 else "its operands and its result must have one scale and one zero"
    if node.epilogue.scale is not None:
        return "it has a scale in its epilogue, which belongs to the weight's"
    if node.epilogue.residual is not None and coded[1] != is_quantized(output):
        return "its residual and its result must be of one type"
    activation = node.epilogue.activation
    if is_quantized(output) and activation is not None and activation.name not in ("relu", "clamp"):
        return f"{activation.name} needs a float32 result"
    if node.op == "add" and not is_quantized(output):
        return "its result must be uint8"
    return ""
