"""The meaning of a Program: a numpy interpreter over the op table. Every target must agree with it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, overload

import numpy as np

from dovetail.errors import InputError, ProgramError
from dovetail.program.integer import evaluate, touches_codes
from dovetail.program.ops import ACTIVATIONS, channel_axis, complete, op_named
from dovetail.program.program import SCAN, Graph, Node, Program, bind_shape, format_shape

Array = np.ndarray


@overload
def run(program: Program, *inputs: Any, dtype: Any = ..., graph: str = ..., every: Literal[False] = ...) -> Any: ...
@overload
def run(
    program: Program, *inputs: Any, dtype: Any = ..., graph: str = ..., every: Literal[True]
) -> dict[str, Array]: ...
def run(program: Program, *inputs: Any, dtype: Any = np.float32, graph: str = "main", every: bool = False) -> Any:
    """Run a graph of the program on arrays.

    Args:
        program: what to run.
        inputs: one array per input of the graph; the symbolic dimensions follow from their shapes.
        dtype: in which to compute, `float32` or (as an oracle) `float64`.
        graph: its name.
        every: return all tensors by name instead of the outputs; those of a scan's body with the time as second axis.

    Returns:
        The output, a tuple if there are several, or a dict of every tensor.

    Raises:
        InputError: the inputs do not fit the graph.
    """
    if graph not in program.graphs:
        raise ProgramError(f"the program has no graph {graph!r}; it has {', '.join(program.graphs)}")
    main = program.graphs[graph]
    values = check_inputs(main, inputs, dtype)
    dims = main.dims_of({name: array.shape for name, array in values.items()})
    steps: dict[str, list[Array]] | None = {} if every else None
    _evaluate(program, main, values, dims, dtype, steps)
    if steps is not None:
        return values | {name: np.stack(arrays, axis=1) for name, arrays in steps.items()}
    outputs = tuple(values[name] for name in main.outputs)
    return outputs[0] if len(outputs) == 1 else outputs


def check_inputs(graph: Graph, inputs: tuple[Any, ...], dtype: Any = np.float32) -> dict[str, Array]:
    """Name → array of `dtype` for every input of the graph; `InputError` where the count, type or shape is wrong."""
    if len(inputs) != len(graph.inputs):
        takes = ", ".join(f"{name} {format_shape(graph.tensors[name].shape)}" for name in graph.inputs)
        raise InputError(f"{len(inputs)} inputs given; this network takes {len(graph.inputs)}: {takes}")
    arrays = {name: np.asarray(value) for name, value in zip(graph.inputs, inputs)}
    for name, array in arrays.items():
        if array.dtype.kind != "f":
            raise InputError(
                f"input {name!r} has type {array.dtype}; give floating point numbers, normalised as in training"
            )
    graph.dims_of({name: array.shape for name, array in arrays.items()})
    return {name: array.astype(dtype, copy=False) for name, array in arrays.items()}


def _evaluate(
    program: Program,
    graph: Graph,
    values: dict[str, Array],
    dims: Mapping[str, int],
    dtype: Any,
    steps: dict[str, list[Array]] | None = None,
    dense: dict[str, Array] | None = None,
) -> None:
    """Fill `values` with every tensor, in order, and `steps` with those of bodies; `dense` keeps weights."""
    dense = {} if dense is None else dense
    for node in graph.nodes:
        if node.op == SCAN:
            values[node.output] = _scan(program, complete(node), values, dims, dtype, steps)
            continue
        if touches_codes(node, graph):
            values[node.output] = evaluate(program, graph, node, values, dims)
            continue
        if node.weight is not None and node.weight not in dense:
            dense[node.weight] = program.weights[node.weight].dense().astype(dtype)
        read = {name: values[name] if name in values else program.arrays[name].astype(dtype) for name in node.reads()}
        arrays = {
            name: program.arrays[name].astype(dtype) for name in (node.epilogue.scale, node.epilogue.bias) if name
        }
        values[node.output] = apply(node, {**read, **arrays}, dense.get(node.weight or ""), dims)


def _scan(
    program: Program,
    node: Node,
    values: Mapping[str, Array],
    dims: Mapping[str, int],
    dtype: Any,
    steps: dict[str, list[Array]] | None,
) -> Array:
    """The output of a scan: the graph that it names runs at every time step."""
    graph, dense = program.graphs[node.attributes["body"]], dict[str, Array]()

    def body(*inputs: Array) -> tuple[Array, ...]:
        made = dict(zip(graph.inputs, inputs))
        _evaluate(program, graph, made, dims, dtype, dense=dense)
        if steps is not None:
            for name, array in made.items():
                steps.setdefault(name, []).append(array)
        return tuple(made[name] for name in graph.outputs)

    operands = [values[name] if name in values else program.arrays[name].astype(dtype) for name in node.inputs]
    if len(operands) == node.attributes["sequences"]:
        shapes = graph.bind(**dims)
        operands += [np.zeros(shapes[name], dtype) for name in graph.inputs[len(operands) :]]
    return op_named(SCAN).reference(*operands, **{**node.attributes, "body": body})


def apply(node: Node, arrays: Mapping[str, Array], weight: Array | None, dims: Mapping[str, int]) -> Array:
    """The output of one node.

    Args:
        node: any node of the op table.
        arrays: everything that the node names: operands, scale, bias, residual.
        weight: the dense weight, for weight ops.
        dims: values of the symbolic dimensions.
    """
    attributes = dict(complete(node).attributes)
    if "shape" in attributes:
        attributes["shape"] = bind_shape(attributes["shape"], dims)
    operands = [arrays[name] for name in node.inputs] + ([] if weight is None else [weight])
    return _finish(node, op_named(node.op).reference(*operands, **attributes), arrays)


def _finish(node: Node, y: Array, arrays: Mapping[str, Array]) -> Array:
    """`activation(scale * y + bias + residual)`."""
    epilogue = node.epilogue
    if epilogue.scale is not None:
        y = y * _along(arrays[epilogue.scale], node, y.ndim)
    if epilogue.bias is not None:
        y = y + _along(arrays[epilogue.bias], node, y.ndim)
    if epilogue.residual is not None:
        y = y + arrays[epilogue.residual]
    if epilogue.activation is not None:
        y = ACTIVATIONS[epilogue.activation.name].reference(y, *epilogue.activation.args)
    return y


def _along(vector: Array, node: Node, dimensions: int) -> Array:
    shape = [1] * dimensions
    shape[channel_axis(node, dimensions)] = -1
    return vector.reshape(shape)
