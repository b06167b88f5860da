"""Builds a Program node by node; lowering rules speak to a `Builder` and see no torch."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import PurePath
from typing import Any, NoReturn

import numpy as np

from dovetail.errors import DovetailError, ProgramError, UnsupportedOp
from dovetail.formats.base import Packed
from dovetail.formats.dense import DenseSpec, PackedDense
from dovetail.program.ops import check_node, complete
from dovetail.program.program import SCAN, Activation, Epilogue, Graph, Node, Program, Shape, Tensor


@dataclass(frozen=True)
class Var:
    """A tensor of the Program under construction."""

    name: str
    shape: Shape


@dataclass(frozen=True, eq=False)
class Const:
    """A number array that does not depend on the input; `name` is the parameter's name in the model."""

    name: str
    array: np.ndarray


@dataclass(frozen=True)
class Call:
    """Where the model stands: what the messages name, and what the result must look like.

    Attributes:
        name: of the traced node, unique.
        op: the traced operation.
        layer: the innermost module around it.
        source: the user's line, `file:line`.
        shape: of the (first) result.
    """

    name: str = "?"
    op: str = "?"
    layer: str = ""
    source: str = ""
    shape: Shape = ()

    def refuse(self, reason: str, advice: str) -> NoReturn:
        """Raise `UnsupportedOp` for this operation."""
        where = f" at {self.source}" if self.source else ""
        layer = f" in layer {self.layer!r}" if self.layer else ""
        raise UnsupportedOp(f"cannot lower {self.op} (node {self.name!r}{layer}{where}): {reason}; {advice}")


@dataclass
class Builder:
    """The Program so far. `call` is the operation being lowered; `find_format` packs a format layer by its name.

    `find_format(name)` gives the packed weight and the groups of the convolution (1 for a linear layer);
    `find_body(builder, name, steps)` lowers what the recurrent layer of this name does at one time step, for steps of
    these shapes, over the builder's weights and arrays.
    """

    find_format: Callable[[str], tuple[Packed, int]]
    find_body: Callable[[Builder, str, Sequence[Shape]], Graph] | None = None
    call: Call = field(default_factory=Call)
    inputs: list[str] = field(default_factory=list)
    nodes: list[Node] = field(default_factory=list)
    tensors: dict[str, Tensor] = field(default_factory=dict)
    weights: dict[str, Packed] = field(default_factory=dict)
    arrays: dict[str, np.ndarray] = field(default_factory=dict)
    graphs: dict[str, Graph] = field(default_factory=dict)
    elsewhere: Mapping[str, Tensor] = field(default_factory=dict)

    def input(self, name: str, shape: Shape) -> Var:
        """A new input of the graph."""
        self.inputs.append(name)
        self.tensors[name] = Tensor(name, shape)
        return Var(name, shape)

    def emit(
        self,
        op: str,
        *operands: Var | Const,
        weight: str | None = None,
        epilogue: Epilogue | None = None,
        **attributes: Any,
    ) -> Var:
        """Append a node and return its output; what does not fit is an `UnsupportedOp` that names the operation."""
        inputs = tuple(self.operand(x) for x in operands)
        stem = weight or (self.call.layer if op in ("affine", SCAN) else "") or self.call.name
        name, output = _fresh(stem, {n.name for n in self.nodes}), _fresh(self.call.name, {*self.tensors, *self.arrays})
        node = complete(
            Node(op, name, inputs, output, weight, attributes, epilogue or Epilogue(), source=_short(self.call.source))
        )
        try:
            shape = check_node(node, self._known(node), self.weights[weight].shape if weight else None, self.graphs)
        except ProgramError as error:
            self.call.refuse(str(error), "rewrite this line of the model with the ops that the docs list")
        self.nodes.append(node)
        self.tensors[output] = Tensor(output, shape)
        return Var(output, shape)

    def operand(self, x: Var | Const) -> str:
        """The name of a tensor, or of the array that holds a constant."""
        return x.name if isinstance(x, Var) else self.array(x.name, x.array)

    def array(self, name: str, array: np.ndarray) -> str:
        """Enter a constant; one of the same name and content is entered once."""
        array = self.finite(Const(name, array))
        if name in self.arrays and np.array_equal(self.arrays[name], array):
            return name
        name = _fresh(name, {*self.arrays, *self.tensors, *self.elsewhere})
        self.arrays[name] = array
        return name

    def finite(self, const: Const) -> np.ndarray:
        """The numbers of a constant as float32; `ProgramError` where one is NaN or Inf."""
        array = np.ascontiguousarray(const.array, dtype=np.float32)
        if not np.isfinite(array).all():
            layer = f" (layer {self.call.layer!r})" if self.call.layer else ""
            raise ProgramError(f"parameter {const.name!r}{layer} has NaN or Inf; check the checkpoint it came from")
        return array

    def dense(self, const: Const) -> str:
        """Enter a dense weight; one that is used twice is stored once."""
        name = const.name.removesuffix(".weight")
        array = self.finite(const)
        held = self.weights.get(name)
        if held is not None and not (held.shape == array.shape and np.array_equal(held.dense(), array)):
            name = _fresh(name, self.weights)
        if name not in self.weights:
            self.weights[name] = PackedDense.from_dense(array, DenseSpec())
        return name

    def format(self, name: str) -> tuple[str, int]:
        """Enter the weight of a format layer; its name here, and its groups."""
        try:
            packed, groups = self.find_format(name)
            packed.validate()
        except DovetailError as error:
            raise ProgramError(f"layer {name!r} cannot be packed: {error}") from None
        self.weights.setdefault(name, packed)
        return name, groups

    def body(self, layer: str, steps: Sequence[Shape]) -> str:
        """Enter the graph that the recurrent layer of this name runs at every time step; its name here."""
        if self.find_body is None:
            self.call.refuse("it is a recurrent layer within a recurrent layer", "put one behind the other")
        name = f"{layer}.step" if layer else "step"
        if name not in self.graphs:
            self.graphs[name] = self.find_body(self, layer, steps)
        return name

    def inside(self) -> Builder:
        """A builder of a graph beside this one: over the same weights and arrays, its nodes and tensors its own."""
        return Builder(self.find_format, weights=self.weights, arrays=self.arrays, elsewhere=self.tensors)

    def graph(self, outputs: tuple[str, ...]) -> Graph:
        """What was built."""
        return Graph(tuple(self.inputs), outputs, tuple(self.nodes), dict(self.tensors))

    def activation(self, x: Var, name: str, *args: float) -> Var:
        """A node that is nothing but an activation; fusion moves it into the epilogue before it."""
        return self.emit("activation", x, epilogue=Epilogue(activation=Activation(name, tuple(map(float, args)))))

    def program(self, outputs: tuple[str, ...], metadata: dict[str, Any]) -> Program:
        """What was built, bodies included."""
        graphs = {"main": self.graph(outputs), **self.graphs}
        return Program(graphs, dict(self.weights), dict(self.arrays), metadata)

    def at(self, call: Call) -> None:
        """Go on with the next operation."""
        self.call = replace(call)

    def _known(self, node: Node) -> dict[str, Shape]:
        names = [n for n in (*node.reads(), node.epilogue.scale, node.epilogue.bias) if n is not None]
        return {n: self.tensors[n].shape if n in self.tensors else self.arrays[n].shape for n in names}


def _short(source: str) -> str:
    """The last folder, file and line: files travel, folders of one machine do not."""
    return "/".join(PurePath(source).parts[-2:])


def _fresh(name: str, taken: Any) -> str:
    """`name`, or `name:2`, `name:3`, … if it is taken."""
    if name not in taken:
        return name
    return next(f"{name}:{i}" for i in range(2, len(taken) + 3) if f"{name}:{i}" not in taken)
