"""The packed network: ops over named tensors, with packed weights. Saved, run, exported and simulated; data only.

Shapes are tuples of `int` and, for a dimension that is known only when the network runs, a name such as `"batch"`, or a
multiple of it such as `"8*batch"` (between ops only: attention folds its heads into the batch).
A sequence is `(batch, time, ...)`; its `time` may be such a name, too. A `scan` node walks along it with another graph
of the same program, its body.
Memory layout is the business of each target and never appears here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any

import numpy as np

from dovetail.errors import InputError, ProgramError
from dovetail.formats.base import Packed

Dim = int | str
Shape = tuple[Dim, ...]
Attributes = Mapping[str, Any]
BATCH = "batch"
TIME = "time"
SCAN = "scan"


@dataclass(frozen=True)
class Tensor:
    """A value between ops: `float32`, or `uint8` codes that stand for `scale * (code - zero)`."""

    name: str
    shape: Shape
    dtype: str = "float32"
    scale: float | None = None
    zero: int | None = None


@dataclass(frozen=True)
class Activation:
    """A pointwise function (a row of `ops.ACTIVATIONS`) and its arguments, e.g. `Activation("clamp", (0.0, 6.0))`."""

    name: str
    args: tuple[float, ...] = ()


@dataclass(frozen=True)
class Epilogue:
    """What follows a product: `activation(scale * product + bias + residual)`.

    `scale` and `bias` name arrays of shape `(K,)`, `residual` names a tensor of the output's shape. BatchNorm becomes
    scale and bias; it is folded into a weight only where the weight's values allow it.
    """

    scale: str | None = None
    bias: str | None = None
    residual: str | None = None
    activation: Activation | None = None

    def __bool__(self) -> bool:
        return any(part is not None for part in (self.scale, self.bias, self.residual, self.activation))


@dataclass(frozen=True)
class Node:
    """One op: reads `inputs` (names of tensors or arrays), writes `output`.

    Attributes:
        op: a row of the op table, `ops.OPS`.
        name: unique in the graph; for a layer of the model it is the layer's name there.
        weight: name of the packed weight, for weight ops.
        attributes: as the op's schema says; plain numbers, strings and tuples of them.
        source: where the user's model made it (file:line), for messages.
    """

    op: str
    name: str
    inputs: tuple[str, ...]
    output: str
    weight: str | None = None
    attributes: Attributes = field(default_factory=lambda: MappingProxyType({}))
    epilogue: Epilogue = Epilogue()
    source: str = ""

    def reads(self) -> tuple[str, ...]:
        """Every tensor or array read as an operand, the residual included."""
        return self.inputs if self.epilogue.residual is None else (*self.inputs, self.epilogue.residual)


@dataclass(frozen=True)
class Graph:
    """Nodes in order of execution, and every tensor they touch."""

    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    nodes: tuple[Node, ...]
    tensors: Mapping[str, Tensor]

    def __deepcopy__(self, memo: dict[int, Any]) -> Graph:
        """Itself: a graph never changes (and a module that runs one must be copyable)."""
        return self

    def node(self, name: str) -> Node:
        """The node called `name`."""
        for node in self.nodes:
            if node.name == name:
                return node
        raise ProgramError(f"the graph has no node {name!r}")

    def uses(self) -> dict[str, list[Node]]:
        """Tensor name → nodes that read it."""
        uses: dict[str, list[Node]] = {name: [] for name in self.tensors}
        for node in self.nodes:
            for name in node.reads():
                uses.setdefault(name, []).append(node)
        return uses

    def bind(self, **dims: int) -> dict[str, tuple[int, ...]]:
        """Concrete shape of every tensor for the given symbolic dimensions, e.g. `bind(batch=4)`."""
        return {name: bind_shape(tensor.shape, dims) for name, tensor in self.tensors.items()}

    def dims_of(self, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, int]:
        """Symbolic dimensions from the shapes of the actual inputs; `InputError` where they do not fit."""
        dims: dict[str, int] = {}
        for name in self.inputs:
            want, got = self.tensors[name].shape, shapes[name]
            fits = len(want) == len(got) and all(isinstance(w, str) or w == g for w, g in zip(want, got))
            if not fits:
                raise InputError(f"input {name!r} has shape {tuple(got)}; this network takes {format_shape(want)}")
            for w, g in zip(want, got):
                if isinstance(w, str) and dims.setdefault(w, g) != g:
                    raise InputError(f"inputs disagree about {w!r}: {dims[w]} and {g}")
                if g < 1:
                    raise InputError(f"input {name!r} of shape {tuple(got)} is empty; give at least one image")
        return dims


@dataclass(frozen=True)
class Program:
    """One tensor table and named graphs over it.

    Attributes:
        graphs: by name; a plain network has one, `"main"`.
        weights: packed weights by name (nested sub-networks share them).
        arrays: small constants by name: scales, biases, norm parameters, constant operands.
        metadata: plain data that travels with the file (what was trained, how inputs are normalised, class names).
    """

    graphs: Mapping[str, Graph]
    weights: Mapping[str, Packed]
    arrays: Mapping[str, np.ndarray]
    metadata: Mapping[str, Any] = field(default_factory=dict)

    @property
    def graph(self) -> Graph:
        """The main graph."""
        return self.graphs["main"]

    def bodies(self, graph: Graph) -> dict[str, Graph]:
        """The graphs that scans of `graph` run at every time step, by name, in order of first use."""
        names = dict.fromkeys(str(node.attributes["body"]) for node in graph.nodes if node.op == SCAN)
        return {name: self.graphs[name] for name in names}

    def run_by(self, graph: Graph) -> list[Graph]:
        """`graph` and the bodies of its scans: all whose nodes run when it does. No two of them share a name."""
        return [graph, *self.bodies(graph).values()]

    def shapes(self, graph: Graph, dims: Mapping[str, int]) -> dict[str, tuple[int, ...]]:
        """Concrete shape of every tensor of a graph and of every array, by name."""
        return {**{name: array.shape for name, array in self.arrays.items()}, **graph.bind(**dims)}

    def with_graph(self, graph: Graph) -> Program:
        """A copy whose main graph is `graph`."""
        return replace(self, graphs={**self.graphs, "main": graph})

    def save(self, path: Any) -> None:
        """Write a `.dovetail` file, atomically."""
        from dovetail.program.store import save

        save(self, path)


def split_dim(dim: Dim) -> tuple[int, str]:
    """Factor and name: `8` is `(8, "")`, `"batch"` is `(1, "batch")` and `"12*batch"` is `(12, "batch")`."""
    if isinstance(dim, int):
        return dim, ""
    factor, star, name = dim.partition("*")
    return (int(factor), name) if star else (1, dim)


def bind_shape(shape: Shape, dims: Mapping[str, int]) -> tuple[int, ...]:
    """`shape` with its symbolic dimensions replaced."""
    parts = [split_dim(d) for d in shape]
    missing = [name for _, name in parts if name and name not in dims]
    if missing:
        raise ProgramError(f"shape {format_shape(shape)} needs a value for {', '.join(missing)}")
    return tuple(factor * dims[name] if name else factor for factor, name in parts)


def format_shape(shape: Shape) -> str:
    """`(batch, 3, 32, 32)`."""
    return "(" + ", ".join(str(d) for d in shape) + ")"
