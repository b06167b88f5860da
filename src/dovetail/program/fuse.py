"""Small passes from Program to Program that leave its meaning as it is: less work, fewer tensors. Numpy only.

Every pass keeps nodes in order and the names of the tensors that it keeps; a node that swallows the one after it takes
over its output.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from typing import Final

import numpy as np

from dovetail.errors import ProgramError
from dovetail.program.attributes import LARGEST
from dovetail.program.ops import FULL, OPS, check_node
from dovetail.program.program import Epilogue, Graph, Node, Program, Shape

_NOT_NEGATIVE: Final = ("relu", "sigmoid")


@dataclass
class Draft:
    """A graph while a pass rewrites it: the nodes so far by their output, and who reads each tensor."""

    program: Program
    nodes: dict[str, Node] = field(default_factory=dict)
    arrays: dict[str, np.ndarray] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.arrays = dict(self.program.arrays)
        self.readers = self.program.graph.uses()

    def maker(self, name: str) -> Node | None:
        """The node that writes `name`, if nobody but its one reader sees that tensor."""
        alone = len(self.readers.get(name, ())) == 1 and name not in self.program.graph.outputs
        return self.nodes.get(name) if alone else None

    def put(self, node: Node) -> None:
        """Append a node."""
        self.nodes[node.output] = node

    def swallow(self, before: Node, node: Node, epilogue: Epilogue) -> None:
        """`before` takes `epilogue` and the place and output of `node`, which follows it."""
        del self.nodes[before.output]
        self.put(replace(before, output=node.output, epilogue=epilogue))

    def shape(self, name: str) -> Shape:
        """Of a tensor or array."""
        tensors = self.program.graph.tensors
        return tensors[name].shape if name in tensors else self.arrays[name].shape

    def done(self) -> Program:
        """The rewritten program."""
        return _with_nodes(replace(self.program, arrays=self.arrays), self.nodes.values())


def fuse(program: Program) -> Program:
    """All passes in order, over every graph."""
    for name in program.graphs:
        program = _exchanged(program, name)
        for step in PASSES:
            program = step(program)
        program = _exchanged(program, name)
    return program


def drop_copies(program: Program) -> Program:
    """Remove reshapes, permutations and slices that change nothing; join two reshapes or permutations in a row."""
    draft = Draft(program)
    renamed: dict[str, str] = {}
    for node in program.graph.nodes:
        node = _rename(node, renamed)
        before = draft.nodes.get(node.inputs[0]) if node.inputs else None
        if before is not None and before.op == node.op in ("reshape", "permute"):
            node = _joined(before, node)
        if _changes_nothing(node, draft) and node.output not in program.graph.outputs:
            renamed[node.output] = node.inputs[0]
        else:
            draft.put(node)
    return draft.done()


def merge_pads(program: Program) -> Program:
    """A pad of the image with zeros before a convolution or average pool becomes its padding.

    So does one before a max pool whose value can never win: the lowest number, or zero where the input is never
    negative.
    """
    draft = Draft(program)
    for node in program.graph.nodes:
        before = draft.nodes.get(node.inputs[0]) if node.inputs else None
        merged = _absorbed(before, node, draft) if before is not None and before.op == "pad" else None
        draft.put(merged or node)
    return draft.done()


def fold_affine(program: Program) -> Program:
    """An affine (BatchNorm, a bias) becomes scale and bias of the weight op or affine before it.

    `s2 (s1 y + b1) + b2 = (s2 s1) y + (s2 b1 + b2)`, computed in float64.
    """
    draft = Draft(program)
    for node in program.graph.nodes:
        before = draft.maker(node.inputs[0]) if node.op == "affine" else None
        if before is not None and _open(before) and _same_channels(before, node, draft):
            draft.swallow(before, node, _composed(before, node, draft))
        else:
            draft.put(node)
    return draft.done()


def fuse_residual(program: Program) -> Program:
    """An add of two tensors becomes the residual of the weight op (or affine) that makes one of them.

    Of two candidates the one computed later takes it. It moves to the place of the add, where both are known.
    """
    draft = Draft(program)
    for node in program.graph.nodes:
        before = _takes_residual(node, draft) if node.op == "add" else None
        if before is None:
            draft.put(node)
            continue
        other = node.inputs[1] if node.inputs[0] == before.output else node.inputs[0]
        draft.swallow(before, node, replace(before.epilogue, residual=other, activation=node.epilogue.activation))
    return draft.done()


def fuse_activation(program: Program) -> Program:
    """An activation moves into the epilogue of the node before it, where that has none."""
    draft = Draft(program)
    for node in program.graph.nodes:
        before = draft.maker(node.inputs[0]) if node.op == "activation" else None
        free = before is not None and before.epilogue.activation is None and "activation" in OPS[before.op].epilogue
        if before is not None and free:
            draft.swallow(before, node, replace(before.epilogue, activation=node.epilogue.activation))
        else:
            draft.put(node)
    return draft.done()


def remove_dead(program: Program) -> Program:
    """Remove nodes that no output needs, and weights and arrays that no node of any graph names."""
    needed = set(program.graph.outputs)
    kept: list[Node] = []
    for node in reversed(program.graph.nodes):
        if node.output in needed:
            kept.append(node)
            needed.update(node.reads())
    program = _with_nodes(program, reversed(kept))
    named = {name for graph in program.graphs.values() for node in graph.nodes for name in _names(node)}
    weights = {name: packed for name, packed in program.weights.items() if name in named}
    return replace(program, weights=weights, arrays={k: v for k, v in program.arrays.items() if k in named})


PASSES: Final[tuple[Callable[[Program], Program], ...]] = (
    remove_dead,
    drop_copies,
    merge_pads,
    fold_affine,
    fuse_residual,
    fuse_activation,
    remove_dead,
)


def _exchanged(program: Program, name: str) -> Program:
    """The program with another graph as its main one, which takes that one's name: passes are over the main graph."""
    graphs = dict(program.graphs)
    graphs["main"], graphs[name] = graphs[name], graphs["main"]
    return replace(program, graphs=graphs)


def _with_nodes(program: Program, nodes: Iterable[Node]) -> Program:
    graph, kept = program.graph, tuple(nodes)
    made = {*graph.inputs, *(node.output for node in kept)}
    tensors = {name: tensor for name, tensor in graph.tensors.items() if name in made}
    return program.with_graph(Graph(graph.inputs, graph.outputs, kept, tensors))


def _rename(node: Node, renamed: dict[str, str]) -> Node:
    residual = node.epilogue.residual
    epilogue = replace(node.epilogue, residual=renamed.get(residual, residual) if residual else None)
    return replace(node, inputs=tuple(renamed.get(name, name) for name in node.inputs), epilogue=epilogue)


def _joined(before: Node, node: Node) -> Node:
    attributes = dict(node.attributes)
    if node.op == "permute":
        attributes["order"] = tuple(before.attributes["order"][i] for i in attributes["order"])
    return replace(node, inputs=before.inputs, attributes=attributes)


def _changes_nothing(node: Node, draft: Draft) -> bool:
    if node.op not in ("reshape", "slice", "permute", "concat", "pad") or len(node.inputs) != 1:
        return False
    same = draft.shape(node.inputs[0]) == draft.program.graph.tensors[node.output].shape
    return same and (
        node.op != "permute" or tuple(node.attributes["order"]) == tuple(range(len(node.attributes["order"])))
    )


def _absorbed(pad: Node, node: Node, draft: Draft) -> Node | None:
    """`node` with the pad in its own padding, or None where that would change the result."""
    pads, value = pad.attributes["pads"], pad.attributes["value"]
    if node.op not in ("conv2d", "avg_pool2d", "max_pool2d") or any(pads[0]) or any(pads[1]):
        return None
    attributes = dict(node.attributes)
    if node.op == "avg_pool2d" and not attributes["include_pad"] and any(attributes["padding"]):
        return None
    if not (_never_wins(pad, draft) if node.op == "max_pool2d" else value == 0):
        return None
    if node.op == "avg_pool2d":
        attributes["include_pad"] = True
    attributes["padding"] = tuple(p + q for p, q in zip(attributes["padding"], (*pads[2], *pads[3])))
    merged = replace(node, inputs=(pad.inputs[0], *node.inputs[1:]), attributes=attributes)
    return merged if _fits(merged, draft) else None


def _never_wins(pad: Node, draft: Draft) -> bool:
    value, before = pad.attributes["value"], draft.nodes.get(pad.inputs[0])
    activation = before.epilogue.activation if before is not None else None
    if value <= -LARGEST:
        return True
    positive = activation is not None and (
        activation.name in _NOT_NEGATIVE or (activation.name == "clamp" and activation.args[0] >= 0)
    )
    return value == 0 and positive


def _fits(node: Node, draft: Draft) -> bool:
    known = {name: draft.shape(name) for name in (*node.reads(), node.epilogue.scale, node.epilogue.bias) if name}
    weight = draft.program.weights[node.weight].shape if node.weight else None
    try:
        check_node(node, known, weight)
    except ProgramError:
        return False
    return True


def _open(node: Node) -> bool:
    """Whether scale, bias and residual may still be added."""
    free = node.epilogue.residual is None and node.epilogue.activation is None
    return free and OPS[node.op].epilogue == FULL


def _same_channels(before: Node, node: Node, draft: Draft) -> bool:
    dimensions = len(draft.shape(node.inputs[0]))
    channel = OPS[before.op].channel
    axis = before.attributes["axis"] if channel is None else channel % dimensions
    return bool(axis == node.attributes["axis"])


def _composed(before: Node, node: Node, draft: Draft) -> Epilogue:
    (s1, b1), (s2, b2) = (_parts(n.epilogue, draft) for n in (before, node))
    scale = s2 if s1 is None else s1 if s2 is None else s1 * s2
    moved = b1 if b1 is None or s2 is None else b1 * s2
    bias = b2 if moved is None else moved if b2 is None else moved + b2
    names = [_array(draft, node, part, value) for part, value in (("scale", scale), ("bias", bias))]
    return replace(node.epilogue, scale=names[0], bias=names[1])


def _parts(epilogue: Epilogue, draft: Draft) -> list[np.ndarray | None]:
    return [None if name is None else draft.arrays[name].astype(np.float64) for name in (epilogue.scale, epilogue.bias)]


def _array(draft: Draft, node: Node, part: str, value: np.ndarray | None) -> str | None:
    """Enter an array for the merged epilogue; one that a node has already is taken as it is."""
    if value is None:
        return None
    array = value.astype(np.float32)
    held = getattr(node.epilogue, part)
    if held is not None and np.array_equal(draft.arrays[held], array):
        return str(held)
    name = f"{node.name}.{part}"
    while name in draft.arrays:
        name += "'"
    draft.arrays[name] = array
    return name


def _takes_residual(node: Node, draft: Draft) -> Node | None:
    """The later of the operands' makers that is open for a residual of the sum's shape."""
    shape = draft.program.graph.tensors[node.output].shape
    if any(name in draft.arrays or draft.shape(name) != shape for name in node.inputs):
        return None
    makers = [draft.maker(name) for name in node.inputs]
    open_ones = [maker for maker in makers if maker is not None and _open(maker)]
    order = list(draft.nodes)
    return max(open_ones, key=lambda maker: order.index(maker.output), default=None)


def _names(node: Node) -> set[str]:
    return {name for name in (*node.reads(), node.weight, node.epilogue.scale, node.epilogue.bias) if name is not None}
