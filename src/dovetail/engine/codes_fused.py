"""Chains of convolutions over codes, a block of rows at a time: the factors of a Tucker layer, or a bottleneck.

In whole numbers these are nodes of their own, with roundings between them. Where nobody else reads what lies between,
the last of them has a candidate that takes the place of all.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from dovetail.engine.builder import Builder
from dovetail.engine.codes import CodeCall, CodeCandidate, CodeKernel, word_of, words
from dovetail.engine.codes_conv import conv_dense, geometry
from dovetail.engine.conv import Epilogue, Geometry
from dovetail.engine.fused import Chain, Emit, Stage, conv_fused, fits
from dovetail.engine.layout import View
from dovetail.program.integer import Product, is_quantized, product
from dovetail.program.ops import complete
from dovetail.program.program import Graph, Node, Program

PARTS = frozenset({"conv2d_dense", "conv2d_lanes", "conv2d_sparse", "conv2d_sparse_columns", "conv2d_grouped"})
"""Kernels that take a few rows of a map for a map."""


@dataclass(frozen=True)
class Links:
    """Nodes in a row, completed: 1x1, core and 1x1, of which one may be missing."""

    before: Node | None
    core: Node
    after: Node | None

    @property
    def nodes(self) -> list[Node]:
        """Those that are there, as they run."""
        return [node for node in (self.before, self.core, self.after) if node is not None]


def chain_of(program: Program, graph: Graph, node: Node) -> Links | None:
    """The convolutions that end with this one, each but the last read by the next alone; None where it ends none."""
    node = complete(node)
    if node.op != "conv2d" or not is_quantized(graph.tensors[node.inputs[0]]):
        return None
    if not _pointwise(program, node):
        before = _before(program, graph, node)
        return None if before is None or _goes_on(program, graph, node) else Links(before, node, None)
    core = _maker(graph, node)
    if core is None or _pointwise(program, core) or not _fits(program, core):
        return None
    return Links(_before(program, graph, core), core, node)


def _before(program: Program, graph: Graph, core: Node) -> Node | None:
    """The 1x1 convolution before a core that blocks of rows suit, unless it ends another chain."""
    found = _maker(graph, core)
    if found is None or not _pointwise(program, found) or not _fits(program, core):
        return None
    return found if chain_of(program, graph, found) is None else None


def _maker(graph: Graph, node: Node) -> Node | None:
    """The convolution over codes that makes the node's input for it alone, and adds nothing to it."""
    name = node.inputs[0]
    maker = next((other for other in graph.nodes if other.output == name), None)
    if maker is None or maker.op != "conv2d" or maker.epilogue.residual or not is_quantized(graph.tensors[name]):
        return None
    read = sum(other.reads().count(name) for other in graph.nodes) + graph.outputs.count(name)
    return complete(maker) if read == 1 and is_quantized(graph.tensors[maker.inputs[0]]) else None


def _goes_on(program: Program, graph: Graph, core: Node) -> bool:
    """Whether a 1x1 convolution ends the chain that this one is in."""
    reader = next((other for other in graph.nodes if core.output in other.reads()), None)
    if reader is None or reader.op != "conv2d" or not _pointwise(program, complete(reader)):
        return False
    found = chain_of(program, graph, reader)
    return found is not None and found.core.name == core.name


def _pointwise(program: Program, node: Node) -> bool:
    at = geometry(node)
    kernel = program.weights[node.weight or ""].shape[2:]
    return kernel == at.stride == (1, 1) and not any(at.padding) and at.groups == 1


def _fits(program: Program, core: Node) -> bool:
    at = geometry(core)
    return fits(program.weights[core.weight or ""].shape[2:], at.padding, at.dilation)


def conv_chain(
    b: Builder, call: CodeCall, x: View, found: Product, y: View, parts: Sequence[CodeCandidate] = ()
) -> None:
    """All convolutions of a chain, each by its part; by `conv_dense` where none are given."""
    links = chain_of(call.program, call.graph, call.node)
    assert links is not None
    emits = [part.emit for part in parts] or [conv_dense] * len(links.nodes)
    last, stages = links.nodes[-1], dict[str, Stage]()
    for node, emit in zip(links.nodes, emits):
        own = replace(call, node=node, residual=None, shape=call.shapes[node.output])
        what = found if node is last else product(call.program, call.graph, node)
        stages[node.name] = Stage(words(len(what.weight)), _stage(own, what, emit), word=_word(call.graph, node))
    before, core, after = (
        None if node is None else stages[node.name] for node in (links.before, links.core, links.after)
    )
    assert core is not None
    kernel = call.program.weights[links.core.weight or ""].shape[2:]
    chain = Chain(before, core, after, (kernel[0], kernel[1]), "conv2d_chain_int8")
    conv_fused(b, x, chain, y, geometry(links.core), Epilogue(residual=call.residual))


def _stage(call: CodeCall, found: Product, emit: CodeKernel) -> Emit:
    """A convolution of some rows, whose padding and residual are the block's."""

    def emit_rows(b: Builder, x: View, y: View, at: Geometry, epilogue: Epilogue) -> None:
        own = dict(call.node.attributes) | {"padding": at.padding}
        emit(b, replace(call, node=replace(call.node, attributes=own), residual=epilogue.residual), x, found, y)

    return emit_rows


def _word(graph: Graph, node: Node) -> int:
    """What lies around the pixels of its output."""
    made = graph.tensors[node.output]
    return word_of(made.zero or 0) if is_quantized(made) else 0
