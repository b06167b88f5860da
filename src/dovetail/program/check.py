"""Whether a Program is whole: nothing runs, and nothing is saved or loaded, before this has passed."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from dovetail.errors import DovetailError, ProgramError
from dovetail.formats.base import Packed, format_named
from dovetail.program.attributes import is_dim
from dovetail.program.integer import check_codes, is_quantized, touches_codes
from dovetail.program.ops import check_node
from dovetail.program.program import SCAN, Graph, Node, Program, Shape, Tensor, format_shape, split_dim

LARGEST_TENSOR = 1 << 40  # numbers per image
MOST_DIMENSIONS = 16
LEAST_SCALE = 1e-20  # products and ratios of scales stay within float32


def check(program: Program) -> None:
    """Raise `ProgramError` unless the program can be run.

    Checked are the packed weights (by `Packed.validate`), the arrays (float32, finite), and for each graph the order of
    its nodes, unique names, everything that a node names, its attributes, and every tensor's shape, derived anew.
    """
    if "main" not in program.graphs:
        raise ProgramError(f"the program has no graph 'main'; it has {', '.join(program.graphs) or 'none'}")
    for name, packed in program.weights.items():
        _check_weight(name, packed)
    for name, array in program.arrays.items():
        check_array(name, array)
    for name, graph in sorted(program.graphs.items(), key=_scans):
        try:
            check_graph(graph, program)
        except ProgramError as error:
            raise ProgramError(f"graph {name!r}: {error}") from None


def _scans(named: tuple[str, Graph]) -> bool:
    """Whether a graph scans; its bodies, which do not, are checked before it."""
    return any(node.op == SCAN for node in named[1].nodes)


def check_graph(graph: Graph, program: Program) -> None:
    """Raise `ProgramError` unless the graph is in order over the program's weights and arrays."""
    known: dict[str, Shape] = {name: array.shape for name, array in program.arrays.items()}
    _check_inputs(graph, known)
    known |= {name: graph.tensors[name].shape for name in graph.inputs}
    for node in graph.nodes:
        shape = check_node(node, known, _weight_shape(node, program), program.graphs)
        _check_output(node, shape, graph, known, program)
        known[node.output] = shape
        if touches_codes(node, graph):
            check_codes(program, graph, node)
        elif node.op in ("quantize", "dequantize"):
            raise ProgramError(f"node {node.name!r} ({node.op}) touches no uint8 tensor")
    _check_ends(graph)
    _check_bodies(graph, program)


def _check_bodies(graph: Graph, program: Program) -> None:
    """Schedules, profiles and recorded tensors go by name: what runs together has names of its own."""
    taken: dict[str, str] = {}
    for body, each in {"": graph, **program.bodies(graph)}.items():
        for name in {*each.tensors, *(node.name for node in each.nodes)}:
            if taken.setdefault(name, body) != body:
                raise ProgramError(f"{name!r} is a name both in the body {body!r} and outside of it; rename one")


def check_array(name: str, array: np.ndarray) -> None:
    """Raise `ProgramError` unless a constant is float32 and finite."""
    if array.dtype != np.float32:
        raise ProgramError(f"array {name!r} has type {array.dtype}; constants are float32")
    if not np.isfinite(array).all():
        raise ProgramError(f"array {name!r} has NaN or Inf; check the checkpoint it came from")


def _check_weight(name: str, packed: Packed) -> None:
    try:
        format_named(packed.spec.format)
        packed.validate()
    except DovetailError as error:
        raise ProgramError(f"weight {name!r}: {error}") from None
    except (TypeError, ValueError, IndexError, OverflowError, MemoryError) as error:
        raise ProgramError(f"weight {name!r}: its arrays do not fit its spec {packed.spec} ({error})") from error


def _check_inputs(graph: Graph, arrays: Mapping[str, Shape]) -> None:
    if not graph.inputs or not graph.outputs:
        raise ProgramError("a graph needs at least one input and one output")
    for names, kind in ((graph.inputs, "input"), ([node.name for node in graph.nodes], "node")):
        if twice := sorted({name for name in names if list(names).count(name) > 1}):
            raise ProgramError(f"{kind} {twice[0]!r} is there twice")
    for name in graph.inputs:
        if name not in graph.tensors or name in arrays:
            raise ProgramError(f"input {name!r} must be in the tensor table and no array")
        if any("*" in d for d in graph.tensors[name].shape if isinstance(d, str)):
            raise ProgramError(
                f"input {name!r} has shape {format_shape(graph.tensors[name].shape)}; inputs take plain names"
            )
    for name, tensor in graph.tensors.items():
        _check_tensor(name, tensor)


def _check_tensor(name: str, tensor: Tensor) -> None:
    if tensor.name != name or not all(is_dim(d) for d in tensor.shape):
        raise ProgramError(f"tensor {name!r} is entered as {tensor.name!r} with shape {format_shape(tensor.shape)}")
    if len(tensor.shape) > MOST_DIMENSIONS:
        raise ProgramError(
            f"tensor {name!r} has {len(tensor.shape)} dimensions; at most {MOST_DIMENSIONS} are possible"
        )
    if math.prod(split_dim(d)[0] for d in tensor.shape) > LARGEST_TENSOR:
        raise ProgramError(f"tensor {name!r} of shape {format_shape(tensor.shape)} is larger than any machine's memory")
    _check_type(tensor)


def _check_type(tensor: Tensor) -> None:
    scale, zero = tensor.scale, tensor.zero
    if tensor.dtype == "float32":
        if scale is not None or zero is not None:
            raise ProgramError(f"tensor {tensor.name!r} is float32 and has a scale or a zero, which codes have")
    elif tensor.dtype != "uint8":
        raise ProgramError(f"tensor {tensor.name!r} has type {tensor.dtype}; known are float32 and uint8")
    elif scale is None or not LEAST_SCALE <= scale <= 1 / LEAST_SCALE or zero is None or not 0 <= zero <= 255:
        raise ProgramError(
            f"tensor {tensor.name!r} holds codes of scale {scale} and zero {zero}; the scale must lie between "
            f"{LEAST_SCALE} and {1 / LEAST_SCALE}, the zero between 0 and 255"
        )


def _weight_shape(node: Node, program: Program) -> Shape | None:
    if node.weight is None:
        return None
    if node.weight not in program.weights:
        raise ProgramError(f"node {node.name!r} names the weight {node.weight!r}, which the program does not have")
    return program.weights[node.weight].shape


def _check_output(node: Node, shape: Shape, graph: Graph, known: Mapping[str, Shape], program: Program) -> None:
    if node.output in known:
        raise ProgramError(f"node {node.name!r} writes {node.output!r}, which exists already")
    if node.epilogue.residual in program.arrays:
        raise ProgramError(f"node {node.name!r}: the residual {node.epilogue.residual!r} is an array, not a tensor")
    if node.output not in graph.tensors:
        raise ProgramError(f"node {node.name!r} writes {node.output!r}, which is not in the tensor table")
    if (said := graph.tensors[node.output].shape) != shape:
        raise ProgramError(
            f"tensor {node.output!r} is said to have shape {format_shape(said)}, "
            f"but node {node.name!r} ({node.op}) gives {format_shape(shape)}"
        )


def _check_ends(graph: Graph) -> None:
    made = {*graph.inputs, *(node.output for node in graph.nodes)}
    for name in graph.outputs:
        if name not in made:
            raise ProgramError(f"output {name!r} is computed nowhere")
    for name in (*graph.inputs, *graph.outputs):
        if is_quantized(graph.tensors[name]):
            raise ProgramError(f"{name!r} holds codes; inputs and outputs of a graph are float32")
    if idle := sorted(set(graph.tensors) - made):
        raise ProgramError(f"tensor {idle[0]!r} is in the table but computed nowhere")
