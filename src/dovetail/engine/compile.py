"""A graph, with all sizes known and a kernel chosen for every layer, becomes a native plan over one arena."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from dovetail.engine import codes_emit
from dovetail.engine.arena import Arena, place
from dovetail.engine.builder import Builder, Step
from dovetail.engine.codes import CodeCall, CodeCandidate
from dovetail.engine.codes_fused import chain_of
from dovetail.engine.codes_kernels import AnyCandidate
from dovetail.engine.conv import Geometry
from dovetail.engine.emit import ANY_LAYOUT_OPS, EMITTERS, IMAGE_OPS, Call
from dovetail.engine.expanded import expansion_of
from dovetail.engine.kernels import Candidate
from dovetail.engine.layout import Buffer, Shape, View, contiguous_strides
from dovetail.engine.native import require_native
from dovetail.engine.scans import scan
from dovetail.program.integer import is_quantized, touches_codes
from dovetail.program.ops import complete
from dovetail.program.program import SCAN, Graph, Node, Program

# Steps of less work (multiply-adds, or elements times eight) take less time than waking another thread for them.
SERIAL_WORK = 1 << 16
# Ops whose result is computed into fresh memory, so that it may as well be a part of a concatenation.
_PLACEABLE = (IMAGE_OPS | ANY_LAYOUT_OPS) - {"pad"}


@dataclass(frozen=True)
class Compiled:
    """A plan that runs, and what keeps it alive.

    Attributes:
        steps: what the plan does, for profiles and reports.
        output_shapes: of the arrays to hand to `plan.run`, after those of the inputs.
        within: node without a step of its own → the node whose steps take its place.
        arena: where the tensors lie.
        constants: weights in the layouts of the chosen kernels, and tables.
    """

    plan: Any
    steps: tuple[Step, ...]
    output_shapes: tuple[Shape, ...]
    within: Mapping[str, str]
    arena: Arena
    constant_bytes: int
    constants: tuple[np.ndarray, ...]


def compile_graph(
    program: Program,
    graph: Graph,
    dims: Mapping[str, int],
    choices: Mapping[str, AnyCandidate],
    *,
    isa: str,
    threads: int,
    other: Compiled | None = None,
) -> Compiled:
    """Compile for the given symbolic dimensions; `choices` names a candidate for every weight op.

    The memory of `other`, which never runs at the same time, is taken for this one, too, where it suffices.
    """
    native = require_native()
    shapes = graph.bind(**dims)
    builder = Builder(native.lanes(isa), threads, _halos(program, graph, dims, choices))
    views = _inputs(graph, shapes)
    within: dict[str, str] = {}
    _emit(builder, program, graph, dims, choices, views, within)
    builder.node = ""
    for i, name in enumerate(graph.outputs):
        target = _slot(shapes[name], len(graph.inputs) + i)
        builder.copy(_operand(builder, program, views, name), target, disjoint=True)
    arena = None if other is None else other.arena
    return _finish(native, builder, isa, tuple(shapes[name] for name in graph.outputs), within, arena)


def _emit(
    b: Builder,
    program: Program,
    graph: Graph,
    dims: Mapping[str, int],
    choices: Mapping[str, AnyCandidate],
    views: dict[str, View],
    within: dict[str, str],
) -> dict[str, View]:
    """Emit all nodes of a graph whose inputs are in `views`, to which every tensor is added, as what lies in another
    node's steps is to `within`.
    """
    shapes, nodes = graph.bind(**dims), [complete(node) for node in graph.nodes]
    planar = planar_tensors(nodes, shapes)
    places = _places(b, graph, nodes, shapes, planar)
    before = replaced(program, graph, nodes, choices)
    within |= {maker.name: name for name, makers in before.items() for maker in makers}
    for node in nodes:
        if node.name in within:
            continue
        b.node = node.name
        if node.op == SCAN:
            views[node.output] = _scan(b, program, node, dims, choices, views, within, shapes[node.output])
            continue
        makers = before.get(node.name, [])
        if touches_codes(node, graph):
            coded = _code_call(program, graph, node, views, shapes, choices, makers)
            views[node.output] = codes_emit.EMITTERS[node.op](b, coded)
            continue
        maker = makers[0] if makers else None
        call = _call(b, program, node, views, shapes, choices, places, node.output in planar, maker)
        views[node.output] = EMITTERS[node.op](b, call)
    return views


def _scan(
    b: Builder,
    program: Program,
    node: Node,
    dims: Mapping[str, int],
    choices: Mapping[str, AnyCandidate],
    views: dict[str, View],
    within: dict[str, str],
    shape: Shape,
) -> View:
    body = program.graphs[node.attributes["body"]]

    def emit_body(recorder: Builder, inputs: dict[str, View]) -> dict[str, View]:
        return _emit(recorder, program, body, dims, choices, inputs, within)

    operands = [_operand(b, program, views, name) for name in node.inputs]
    return scan(b, node, body, body.bind(**dims), operands, shape, emit_body)


def replaced(
    program: Program, graph: Graph, nodes: Sequence[Node], choices: Mapping[str, AnyCandidate]
) -> dict[str, list[Node]]:
    """Node whose candidate takes the place of others before it, too → those, as they run."""
    expanding = [node for node in nodes if node.name in choices and choices[node.name].expands]
    return {node.name: makers_of(program, graph, node) for node in expanding}


def makers_of(program: Program, graph: Graph, node: Node) -> list[Node]:
    """The nodes before this one whose place a candidate of it could take, too, completed."""
    if touches_codes(node, graph):
        links = chain_of(program, graph, node)
        return [] if links is None else links.nodes[:-1]
    maker = expansion_of(program, graph, node)
    return [] if maker is None else [maker]


def planar_tensors(nodes: list[Node], shapes: Mapping[str, Shape]) -> set[str]:
    """Images that lie in planes: made or read by an image op, and all that is combined with them elementwise."""
    images = {name for name, shape in shapes.items() if len(shape) == 4}
    planar: set[str] = set()
    for node in nodes:
        if node.op in IMAGE_OPS:
            planar |= {node.output, *node.reads()} & images
    while True:
        more = {
            name
            for node in nodes
            if node.op in ANY_LAYOUT_OPS and planar & {node.output, *node.reads()}
            for name in (node.output, *node.reads())
            if name in images
        }
        if more <= planar:
            return planar
        planar |= more


def _halos(
    program: Program, graph: Graph, dims: Mapping[str, int], choices: Mapping[str, AnyCandidate]
) -> dict[tuple[int, int], tuple[int, int]]:
    """Zeros that tensors of each size need around them, over all convolutions that read such as they lie."""
    halos: dict[tuple[int, int], tuple[int, int]] = {}
    for node, shapes in ((complete(n), each.bind(**dims)) for each in program.run_by(graph) for n in each.nodes):
        if node.op != "conv2d":
            continue
        chosen = choices.get(node.name)
        reads = "phases" if chosen is None else chosen.reads
        if reads == "pixels" or (reads == "phases" and node.attributes["stride"] != (1, 1)):
            continue
        height, width = shapes[node.inputs[0]][2:]
        kernel = program.weights[node.weight or ""].shape[2:]
        at = Geometry(*(node.attributes[name] for name in ("stride", "padding", "dilation")))
        rows, columns = at.own_halo(kernel, (height, width), shapes[node.output][2:])
        old = halos.get((height, width), (0, 0))
        halos[height, width] = max(old[0], rows), max(old[1], columns)
    return halos


def _places(
    b: Builder, graph: Graph, nodes: list[Node], shapes: Mapping[str, Shape], planar: set[str]
) -> dict[str, View]:
    """Planar concatenations of channels, and the parts of them that can be computed in their place."""
    places: dict[str, View] = {}
    makers = {node.output: node for node in nodes}
    for node in reversed(nodes):
        if node.op != "concat" or node.attributes["axis"] != 1 or node.output not in planar:
            continue
        if is_quantized(graph.tensors[node.output]):
            continue
        whole = places.setdefault(node.output, b.planar(shapes[node.output]))
        start = 0
        for name in node.inputs:
            stop = start + shapes[name][1]
            maker = makers.get(name)
            if maker is not None and maker.op in _PLACEABLE and name not in places and node.inputs.count(name) == 1:
                places[name] = whole.sliced(1, start, stop, 1)
            start = stop
    return places


def _call(
    b: Builder,
    program: Program,
    node: Node,
    views: dict[str, View],
    shapes: Mapping[str, Shape],
    choices: Mapping[str, AnyCandidate],
    places: Mapping[str, View],
    planar: bool,
    before: Node | None = None,
) -> Call:
    epilogue, shape, chosen = node.epilogue, shapes[node.output], choices.get(node.name)
    scale, bias = (None if name is None else program.arrays[name] for name in (epilogue.scale, epilogue.bias))
    return Call(
        node,
        [_operand(b, program, views, name) for name in (before or node).inputs],
        shape,
        scale,
        bias,
        None if epilogue.residual is None else _operand(b, program, views, epilogue.residual),
        None if node.weight is None else program.weights[node.weight],
        chosen if isinstance(chosen, Candidate) else None,
        planar,
        places.get(node.output),
        None if before is None else _call(b, program, before, views, shapes, choices, places, planar),
    )


def _code_call(
    program: Program,
    graph: Graph,
    node: Node,
    views: Mapping[str, View],
    shapes: Mapping[str, Shape],
    choices: Mapping[str, AnyCandidate],
    makers: Sequence[Node],
) -> CodeCall:
    residual, chosen = node.epilogue.residual, choices.get(node.name)
    return CodeCall(
        program,
        graph,
        node,
        [views[name] for name in (*makers, node)[0].inputs],
        None if residual is None else views[residual],
        shapes[node.output],
        shapes,
        chosen if isinstance(chosen, CodeCandidate) else None,
    )


def _operand(b: Builder, program: Program, views: dict[str, View], name: str) -> View:
    """A computed tensor, or an array of the program."""
    if name not in views:
        views[name] = b.constant(program.arrays[name].astype(np.float32))
    return views[name]


def _inputs(graph: Graph, shapes: Mapping[str, Shape]) -> dict[str, View]:
    return {name: _slot(shapes[name], i) for i, name in enumerate(graph.inputs)}


def _slot(shape: Shape, slot: int) -> View:
    return View(Buffer(0, slot=slot), shape, contiguous_strides(shape))


def _finish(
    native: Any,
    b: Builder,
    isa: str,
    output_shapes: tuple[Shape, ...],
    within: Mapping[str, str],
    other: Arena | None = None,
) -> Compiled:
    """Place the buffers and hand all steps to the native side."""
    buffers = {v.buffer for step in b.steps for v in step.pointers.values()}
    in_arena = [buffer for buffer in buffers if buffer.slot is None and buffer.address is None]
    arena = place(in_arena, other)
    plan = native.Plan()
    plan.reserve_scratch(b.scratch)
    for step in b.steps:
        pointers, slots = {}, {}
        for field, view in step.pointers.items():
            pointers[field] = _address(view, arena.base)
            if view.buffer.slot is not None:
                slots[field] = view.buffer.slot
        plan.add(
            isa, f"dovetail_{step.kernel}", {**step.fields, **pointers}, slots, step.barrier, step.work < SERIAL_WORK
        )
    constants = sum(array.nbytes for array in b.constants)
    return Compiled(plan, tuple(b.steps), output_shapes, within, arena, constants, tuple(b.constants))


def _address(view: View, base: int) -> int:
    """Byte address of the view's first element; for a slot, relative to the caller's array."""
    buffer = view.buffer
    if buffer.slot is not None:
        return 4 * view.offset
    if buffer.address is not None:
        return buffer.address + 4 * view.offset
    return base + 4 * (buffer.offset + view.offset)


def weight_nodes(graph: Graph) -> list[Node]:
    """The nodes that carry a packed weight, defaults of their attributes filled in."""
    return [complete(node) for node in graph.nodes if node.weight is not None]
