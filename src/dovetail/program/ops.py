"""The op table: one row says all there is to know about an op. A new op is a row here and a rule in `lower`.

A row names the function in `functions.py` (what it computes), the one in `shapes.py` (the shape of the result), the
attributes, whether it takes a packed weight, and which parts of the epilogue may follow it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any, Final

import numpy as np

from dovetail.errors import ProgramError
from dovetail.program import functions as f
from dovetail.program import shapes
from dovetail.program.attributes import (
    REQUIRED,
    Attribute,
    boolean,
    dims,
    integer,
    integers,
    label,
    lengths,
    number,
    pairs,
)
from dovetail.program.program import SCAN, Activation, Attributes, Graph, Node, Shape, format_shape

FULL: Final = frozenset({"scale", "bias", "residual", "activation"})
POINTWISE: Final = frozenset({"activation"})
NOTHING: Final[frozenset[str]] = frozenset()


@dataclass(frozen=True)
class OpDef:
    """One op.

    Attributes:
        inputs: least and greatest number of operands; the weight is none of them.
        attributes: by name.
        shape: the result's shape from the operands' shapes (and the weight's) and the attributes.
        reference: the result from arrays, called alike; it leaves the epilogue to the interpreter.
        weight: allowed numbers of dimensions of the packed weight; empty where the op takes none.
        epilogue: the parts that may follow.
        channel: axis of `scale` and `bias` in the result; None where it is the attribute `axis`.
    """

    name: str
    inputs: tuple[int, int]
    attributes: Mapping[str, Attribute]
    shape: Callable[..., Shape]
    reference: Callable[..., np.ndarray]
    weight: tuple[int, ...] = ()
    epilogue: frozenset[str] = NOTHING
    channel: int | None = None


@dataclass(frozen=True)
class ActivationDef:
    """A pointwise function: `reference(x, *args)`, its arguments called `args`."""

    name: str
    args: tuple[str, ...]
    reference: Callable[..., np.ndarray]


def _table(*rows: OpDef) -> dict[str, OpDef]:
    return {row.name: row for row in rows}


_STEP: Final = lengths(1, 2, default=(1, 1))
_PADS: Final = lengths(0, 4, default=(0, 0, 0, 0))
_KERNEL: Final = lengths(1, 2)
_POOL: Final = {"kernel": _KERNEL, "stride": lengths(1, 2), "padding": _PADS}
_CONV: Final = {"stride": _STEP, "padding": _PADS, "dilation": _STEP, "groups": integer(1, 1)}
_AXIS: Final = {"axis": integer(0)}
_SLICE: Final = {"axis": integer(0), "start": integer(0), "stop": integer(1), "step": integer(1, 1)}
_PAD: Final = {"pads": pairs(0), "value": number(0.0)}
_MEAN: Final = {"axes": integers(0), "keepdims": boolean(False)}
_NORM: Final = {"axes": integer(1), "eps": number(1e-5, positive=True)}
_SCAN: Final = {"body": label(), "sequences": integer(1, 1), "last": boolean(False)}

OPS: Final = _table(
    OpDef("conv2d", (1, 1), _CONV, shapes.conv2d, f.conv2d, weight=(4,), epilogue=FULL, channel=1),
    OpDef("linear", (1, 1), {}, shapes.linear, f.linear, weight=(2,), epilogue=FULL, channel=-1),
    OpDef("affine", (1, 1), _AXIS, shapes.affine, f.identity, epilogue=FULL),
    OpDef("activation", (1, 1), {}, shapes.same, f.identity, epilogue=POINTWISE),
    OpDef("add", (2, 2), {}, shapes.broadcast, f.add, epilogue=POINTWISE),
    OpDef("mul", (2, 2), {}, shapes.broadcast, f.mul, epilogue=POINTWISE),
    OpDef("max_pool2d", (1, 1), {**_POOL, "dilation": _STEP}, shapes.max_pool2d, f.max_pool2d),
    OpDef("avg_pool2d", (1, 1), {**_POOL, "include_pad": boolean(True)}, shapes.avg_pool2d, f.avg_pool2d),
    OpDef("adaptive_avg_pool2d", (1, 1), {"output": _KERNEL}, shapes.adaptive_pool2d, f.adaptive_avg_pool2d),
    OpDef("adaptive_max_pool2d", (1, 1), {"output": _KERNEL}, shapes.adaptive_pool2d, f.adaptive_max_pool2d),
    OpDef("mean", (1, 1), _MEAN, shapes.mean, f.mean),
    OpDef("concat", (1, 1 << 16), _AXIS, shapes.concat, f.concat),
    OpDef("slice", (1, 1), _SLICE, shapes.slice_, f.slice_),
    OpDef("reshape", (1, 1), {"shape": dims()}, shapes.reshape, f.reshape),
    OpDef("permute", (1, 1), {"order": integers(0)}, shapes.permute, f.permute),
    OpDef("pad", (1, 1), _PAD, shapes.pad, f.pad),
    OpDef("matmul", (2, 2), {}, shapes.matmul, f.matmul),
    OpDef("softmax", (1, 1), _AXIS, shapes.softmax, f.softmax),
    OpDef("layer_norm", (1, 3), _NORM, shapes.layer_norm, f.layer_norm),
    OpDef("quantize", (1, 1), {}, shapes.same, f.identity),
    OpDef("dequantize", (1, 1), {}, shapes.same, f.identity),
    OpDef("upsample_nearest", (1, 1), {"scale": _KERNEL}, shapes.upsample_nearest, f.upsample_nearest),
    OpDef(SCAN, (1, 1 << 16), _SCAN, shapes.scan, f.scan),
)

ACTIVATIONS: Final = {
    row.name: row
    for row in (
        ActivationDef("relu", (), f.relu),
        ActivationDef("clamp", ("low", "high"), f.clamp),
        ActivationDef("leaky_relu", ("slope",), f.leaky_relu),
        ActivationDef("sigmoid", (), f.sigmoid),
        ActivationDef("tanh", (), f.tanh),
        ActivationDef("hardswish", (), f.hardswish),
        ActivationDef("silu", (), f.silu),
        ActivationDef("gelu", (), f.gelu),
        ActivationDef("gelu_tanh", (), f.gelu_tanh),
    )
}


def op_named(name: str) -> OpDef:
    """The row called `name`; `ProgramError` lists the known ones."""
    if name not in OPS:
        raise ProgramError(f"unknown op {name!r}; known are {', '.join(OPS)}")
    return OPS[name]


def complete(node: Node) -> Node:
    """`node` with every attribute of its op, defaults filled in."""
    schema = op_named(node.op).attributes
    defaults = {name: a.default for name, a in schema.items() if a.default is not REQUIRED}
    return replace(node, attributes=MappingProxyType({**defaults, **node.attributes}))


def channel_axis(node: Node, dimensions: int) -> int:
    """The axis of the result along which the epilogue's scale and bias lie."""
    channel = op_named(node.op).channel
    axis = node.attributes["axis"] if channel is None else channel
    return int(axis) % dimensions


def check_node(
    node: Node, known: Mapping[str, Shape], weight: Shape | None = None, graphs: Mapping[str, Graph] | None = None
) -> Shape:
    """The shape of the node's output, after checking everything the table says about it.

    Args:
        node: any node; it may lack attributes that have a default.
        known: shapes of the tensors computed before this node and of the program's arrays.
        weight: dense shape of the packed weight that the node names.
        graphs: of the program, among which a scan finds its body.

    Raises:
        ProgramError: names the node and what does not fit.
    """
    try:
        op = op_named(node.op)
        attributes = _checked_attributes(op, node.attributes)
        operands = _checked_operands(op, node, known, weight)
        if op.name == SCAN:
            attributes["body"] = _body(attributes["body"], graphs or {})
        shape = op.shape(*operands, **attributes)
        _check_epilogue(op, node, known, shape)
    except ProgramError as error:
        at = f", made at {node.source}" if node.source else ""
        raise ProgramError(f"node {node.name!r} ({node.op}{at}): {error}") from None
    return shape


def check_activation(activation: Activation) -> None:
    """`ProgramError` unless it is a row of `ACTIVATIONS` with its arguments."""
    if activation.name not in ACTIVATIONS:
        raise ProgramError(f"unknown activation {activation.name!r}; known are {', '.join(ACTIVATIONS)}")
    args = ACTIVATIONS[activation.name].args
    if len(args) != len(activation.args) or not all(number().accepts(value) for value in activation.args):
        takes = ", ".join(args) or "no arguments"
        raise ProgramError(f"activation {activation.name!r} takes {takes}, all finite; it has {activation.args}")
    if activation.name == "clamp" and activation.args[0] > activation.args[1]:
        raise ProgramError(
            f"clamp from {activation.args[0]} to {activation.args[1]} is empty; give the lower bound first"
        )


def _checked_attributes(op: OpDef, given: Attributes) -> dict[str, Any]:
    if unknown := sorted(set(given) - set(op.attributes)):
        raise ProgramError(f"unknown attribute {', '.join(unknown)}; it takes {', '.join(op.attributes) or 'none'}")
    values = {name: given.get(name, attribute.default) for name, attribute in op.attributes.items()}
    for name, value in values.items():
        if value is REQUIRED or not op.attributes[name].accepts(value):
            what = "is missing" if value is REQUIRED else f"is {value!r}"
            raise ProgramError(f"attribute {name!r} {what}; it must be {op.attributes[name].means}")
    return values


def _checked_operands(op: OpDef, node: Node, known: Mapping[str, Shape], weight: Shape | None) -> list[Shape]:
    least, most = op.inputs
    if not least <= len(node.inputs) <= most:
        raise ProgramError(f"{len(node.inputs)} operands; it takes {least if least == most else f'{least} to {most}'}")
    for name in node.inputs:
        if name not in known:
            raise ProgramError(f"operand {name!r} is neither an array nor computed before this node")
    if bool(op.weight) != (weight is not None):
        raise ProgramError(
            "lacks its packed weight" if op.weight else f"takes no packed weight, but names {node.weight!r}"
        )
    if weight is not None and len(weight) not in op.weight:
        raise ProgramError(f"cannot use a weight of shape {format_shape(weight)}")
    return [known[name] for name in node.inputs] + ([weight] if weight is not None else [])


def _body(name: str, graphs: Mapping[str, Graph]) -> Graph:
    if name not in graphs:
        raise ProgramError(f"its body {name!r} is no graph of this program; it has {', '.join(graphs) or 'none'}")
    body = graphs[name]
    if any(node.op == SCAN for node in body.nodes):
        raise ProgramError(f"its body {name!r} has a scan of its own, and so might never end; only whole networks may")
    return body


def _check_epilogue(op: OpDef, node: Node, known: Mapping[str, Shape], shape: Shape) -> None:
    epilogue = node.epilogue
    given = {part for part in FULL if getattr(epilogue, part) is not None}
    if refused := sorted(given - op.epilogue):
        raise ProgramError(f"takes no {' or '.join(refused)} in its epilogue")
    for part in ("scale", "bias"):
        if (name := getattr(epilogue, part)) is not None:
            channels = (shape[channel_axis(node, len(shape))],)
            if known.get(name) != channels:
                raise ProgramError(f"{part} {name!r} must be an array of shape {format_shape(channels)}")
    if epilogue.residual is not None and known.get(epilogue.residual) != shape:
        raise ProgramError(
            f"residual {epilogue.residual!r} must be a tensor of shape {format_shape(shape)}, computed before this node"
        )
    if epilogue.activation is not None:
        check_activation(epilogue.activation)
    elif node.op == "activation":
        raise ProgramError("names no activation in its epilogue")
