"""A Program as plain JSON data, and back: everything but the numbers, which the file keeps as arrays.

Reading trusts nothing: a field that is missing, unknown or of the wrong kind is a `ProgramError` that says where.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final

import numpy as np

from dovetail.errors import DovetailError, ProgramError
from dovetail.formats.base import Packed, format_named, spec_from_json
from dovetail.program.ops import complete
from dovetail.program.program import Activation, Epilogue, Graph, Node, Program, Tensor

Data = dict[str, Any]
Arrays = Mapping[str, np.ndarray]

_NODE: Final = {"op": str, "name": str, "inputs": list, "output": str}
_NODE_MAY: Final = {"weight": str, "attributes": dict, "epilogue": dict, "source": str}
_EPILOGUE_MAY: Final = {"scale": str, "bias": str, "residual": str, "activation": list}
_TENSOR: Final = {"shape": list, "dtype": str}
_TENSOR_MAY: Final = {"scale": float, "zero": int}
_GRAPH: Final = {"inputs": list, "outputs": list, "tensors": dict, "nodes": list}
_WEIGHT: Final = {"spec": dict, "shape": list, "arrays": list}
_PROGRAM: Final = {"graphs": dict, "weights": dict, "arrays": list, "metadata": dict}


def to_json(program: Program) -> Data:
    """Plain data: graphs, specs of the weights, names of the arrays, metadata."""
    return {
        "graphs": {name: _graph_to_json(graph) for name, graph in program.graphs.items()},
        "weights": {name: _weight_to_json(packed) for name, packed in program.weights.items()},
        "arrays": list(program.arrays),
        "metadata": dict(program.metadata),
    }


def stored_arrays(program: Program) -> dict[str, np.ndarray]:
    """Key in the file → array, for all weights and constants."""
    parts = [(weight_key(n, part), a) for n, packed in program.weights.items() for part, a in packed.arrays.items()]
    parts += [(array_key(name), array) for name, array in program.arrays.items()]
    if len(dict(parts)) < len(parts):
        raise ProgramError("two weights or arrays have names that differ only by '/'; rename one of the layers")
    return dict(parts)


def from_json(data: Any, arrays: Arrays) -> Program:
    """The program from `to_json` data and `stored_arrays`; `check` must still follow.

    Raises:
        ProgramError: the data or the set of arrays is not what a program has.
    """
    fields = _fields(data, _PROGRAM, {}, "the header")
    graphs = {name: _graph(graph, f"graph {name!r}") for name, graph in fields["graphs"].items()}
    weights = {name: _weight(name, weight, arrays) for name, weight in fields["weights"].items()}
    names = _strings(fields["arrays"], "the list of arrays")
    constants = {name: _array(array_key(name), arrays) for name in names}
    known = {weight_key(name, part) for name, packed in weights.items() for part in packed.arrays}
    if stray := sorted(set(arrays) - known - set(map(array_key, names))):
        raise ProgramError(f"the file holds an array {stray[0]!r} that its header does not name")
    return Program(graphs, weights, constants, fields["metadata"])


def weight_key(weight: str, part: str) -> str:
    """Where the file keeps an array of a packed weight."""
    return f"weights/{weight}/{part}"


def array_key(name: str) -> str:
    """Where the file keeps a constant."""
    return f"arrays/{name}"


def _graph_to_json(graph: Graph) -> Data:
    return {
        "inputs": list(graph.inputs),
        "outputs": list(graph.outputs),
        "tensors": {name: _tensor_to_json(tensor) for name, tensor in graph.tensors.items()},
        "nodes": [_node_to_json(node) for node in graph.nodes],
    }


def _tensor_to_json(tensor: Tensor) -> Data:
    data: Data = {"shape": list(tensor.shape), "dtype": tensor.dtype, "scale": tensor.scale, "zero": tensor.zero}
    return _given(data)


def _node_to_json(node: Node) -> Data:
    data = {"op": node.op, "name": node.name, "inputs": list(node.inputs), "output": node.output, "weight": node.weight}
    optional = {
        "attributes": _plain(node.attributes),
        "epilogue": _epilogue_to_json(node.epilogue),
        "source": node.source,
    }
    return _given(data) | {key: value for key, value in optional.items() if value}


def _epilogue_to_json(epilogue: Epilogue) -> Data:
    activation = epilogue.activation
    listed = None if activation is None else [activation.name, *activation.args]
    parts = {"scale": epilogue.scale, "bias": epilogue.bias, "residual": epilogue.residual, "activation": listed}
    return _given(parts)


def _weight_to_json(packed: Packed) -> Data:
    return {"spec": packed.spec.to_json(), "shape": list(packed.shape), "arrays": list(packed.arrays)}


def _given(data: Data) -> Data:
    return {key: value for key, value in data.items() if value is not None}


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, tuple) else value


def _graph(data: Any, where: str) -> Graph:
    fields = _fields(data, _GRAPH, {}, where)
    tensors = {name: _tensor(name, tensor, f"{where}, tensor {name!r}") for name, tensor in fields["tensors"].items()}
    nodes = tuple(_node(node, f"{where}, node {i}") for i, node in enumerate(fields["nodes"]))
    inputs, outputs = (tuple(_strings(fields[key], f"{where}, {key}")) for key in ("inputs", "outputs"))
    return Graph(inputs, outputs, nodes, tensors)


def _tensor(name: str, data: Any, where: str) -> Tensor:
    fields = _fields(data, _TENSOR, _TENSOR_MAY, where)
    if not all(_is(d, int) or isinstance(d, str) for d in fields["shape"]):
        raise ProgramError(f"{where}: its shape is {fields['shape']!r}; dimensions are numbers and names")
    return Tensor(name, **{**fields, "shape": tuple(fields["shape"])})


def _node(data: Any, where: str) -> Node:
    fields = _fields(data, _NODE, _NODE_MAY, where)
    where = f"{where} ({fields['name']!r})"
    fields["inputs"] = tuple(_strings(fields["inputs"], f"{where}, inputs"))
    attributes = {key: _frozen(value, f"{where}, {key}") for key, value in fields.get("attributes", {}).items()}
    epilogue = _epilogue(fields.get("epilogue", {}), f"{where}, epilogue")
    return complete(Node(**{**fields, "attributes": MappingProxyType(attributes), "epilogue": epilogue}))


def _epilogue(data: Any, where: str) -> Epilogue:
    fields = _fields(data, {}, _EPILOGUE_MAY, where)
    if (listed := fields.get("activation")) is not None:
        if not listed or not isinstance(listed[0], str) or not all(_is(value, float) for value in listed[1:]):
            raise ProgramError(f"{where}: the activation is {listed!r}; it must be a name and its numbers")
        fields["activation"] = Activation(listed[0], tuple(listed[1:]))
    return Epilogue(**fields)


def _weight(name: str, data: Any, arrays: Arrays) -> Packed:
    where = f"weight {name!r}"
    fields = _fields(data, _WEIGHT, {}, where)
    if not fields["shape"] or not all(_is(n, int) and 0 < n < 2**31 for n in fields["shape"]):
        raise ProgramError(f"{where}: its shape is {fields['shape']!r}; it must be a list of positive integers")
    try:
        spec = spec_from_json(fields["spec"])
        parts = {part: _array(weight_key(name, part), arrays) for part in _strings(fields["arrays"], where)}
        return format_named(spec.format).packed(spec, tuple(fields["shape"]), parts)
    except DovetailError as error:
        raise ProgramError(f"{where}: {error}") from None
    except (TypeError, ValueError, OverflowError) as error:
        raise ProgramError(f"{where}: its spec {fields['spec']!r} is malformed ({error})") from None


def _array(key: str, arrays: Arrays) -> np.ndarray:
    if key not in arrays:
        raise ProgramError(f"the header names the array {key!r}, which the file does not hold")
    return arrays[key]


def _fields(data: Any, must: Mapping[str, type], may: Mapping[str, type], where: str) -> Data:
    """`data` as a dict that has exactly these fields, of these kinds."""
    if not isinstance(data, dict):
        raise ProgramError(f"{where} must be a mapping, not {_short(data)}")
    kinds = {**must, **may}
    for key in (*must, *data):
        if key not in kinds:
            raise ProgramError(f"{where} has an unknown field {key!r}; known are {', '.join(kinds)}")
        if key not in data:
            raise ProgramError(f"{where} lacks its field {key!r}")
        if not _is(data[key], kinds[key]):
            raise ProgramError(f"{where}: field {key!r} is {_short(data[key])}; it must be a {kinds[key].__name__}")
    return dict(data)


def _strings(values: Any, where: str) -> list[str]:
    if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
        raise ProgramError(f"{where}: {_short(values)} is no list of names")
    if len(set(values)) < len(values) and not where.endswith("inputs"):
        raise ProgramError(f"{where}: a name is there twice in {_short(values)}")
    return values


def _frozen(value: Any, where: str) -> Any:
    """Attribute values as the op table wants them: lists become tuples."""
    if isinstance(value, list):
        return tuple(_frozen(item, where) for item in value)
    if isinstance(value, (bool, int, float, str)):
        return value
    raise ProgramError(f"{where}: {_short(value)} cannot be an attribute")


def _is(value: Any, kind: type) -> bool:
    """`isinstance` in JSON's sense: an integer is a number too, true and false are not."""
    kinds = (int, float) if kind is float else (kind,)
    return isinstance(value, kinds) and not isinstance(value, bool)


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
