"""Scans that are an LSTM, known by what a step of theirs does: what other runtimes have a kernel for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

from dovetail.formats.recurrent import Lstm
from dovetail.program.program import Epilogue, Graph, Node

STEP: Final = (
    ("linear", (4,), 0, "sigmoid"),
    ("linear", (4,), 1, "sigmoid"),
    ("linear", (4,), 2, "tanh"),
    ("linear", (4,), 3, "sigmoid"),
    ("mul", (7, 5), None, None),
    ("mul", (6, 8), None, None),
    ("add", (10, 11), None, None),
    ("activation", (12,), None, "tanh"),
    ("mul", (9, 13), None, None),
)
"""`Lstm.step` as nodes: op, operands, residual and activation, by number: x_i, x_f, x_g, x_o, h, c, then the nodes."""
AFTER: Final = (14, 12)
"""The new h and c."""


@dataclass(frozen=True)
class FoundLstm:
    """A scan of a graph that is an `Lstm`.

    Attributes:
        scan: the node.
        x: the tensor `(N, T, C)` that it reads.
        states: the tensors that hold h and c before the first step; none where they begin at zero.
        reads: the linear layers of the graph over x, one for each of `Lstm.GATES`.
        remembers: those of the step over h.
    """

    scan: Node
    x: str
    states: tuple[str, ...]
    reads: tuple[Node, ...]
    remembers: tuple[Node, ...]

    def layers(self) -> tuple[Node, ...]:
        """The eight layers."""
        return (*self.reads, *self.remembers)

    def owns(self) -> list[str | None]:
        """Names of its weights, its biases and its body."""
        biases = [node.epilogue.bias for node in self.reads]
        return [*(node.weight for node in self.layers()), *biases, self.scan.attributes["body"]]


def find_lstm(graph: Graph, scan: Node, body: Graph) -> FoundLstm | None:
    """The LSTM that `scan` and the layers before it are, if nobody else has a use for what these make."""
    gates = len(Lstm.GATES)
    if scan.attributes["sequences"] != gates or not _is_step(body):
        return None
    makers = {node.output: node for node in graph.nodes}
    reads = [makers.get(name) for name in scan.inputs[:gates]]
    used = [name for node in graph.nodes for name in node.reads()] + list(graph.outputs)
    layers = [node for node in reads if node is not None and _reads(node) and used.count(node.output) == 1]
    sources = {node.inputs[0] for node in layers}
    if len(layers) < gates or len(sources) > 1:
        return None
    return FoundLstm(scan, sources.pop(), scan.inputs[gates:], tuple(layers), body.nodes[:gates])


def without_layers(graph: Graph, found: Sequence[FoundLstm]) -> Graph:
    """The graph with scans that read x itself, as an `Lstm` does; the layers in between are gone."""
    gone = {node.name for lstm in found for node in lstm.reads}
    made = {lstm.scan.name: replace(lstm.scan, inputs=(lstm.x, *lstm.states)) for lstm in found}
    return replace(graph, nodes=tuple(made.get(node.name, node) for node in graph.nodes if node.name not in gone))


def _is_step(body: Graph) -> bool:
    if len(body.nodes) != len(STEP):
        return False
    numbers = {name: i for i, name in enumerate((*body.inputs, *(node.output for node in body.nodes)))}
    does = [_deed(node, numbers) for node in body.nodes]
    return does == list(STEP) and tuple(numbers[name] for name in body.outputs) == AFTER


def _deed(node: Node, numbers: dict[str, int]) -> tuple[object, ...] | None:
    """A row of `STEP`; None for what is no part of an LSTM."""
    end = node.epilogue
    if end.scale is not None or end.bias is not None or not numbers.keys() >= set(node.reads()):
        return None
    residual = None if end.residual is None else numbers[end.residual]
    does = None if end.activation is None else end.activation.name
    return node.op, tuple(numbers[name] for name in node.inputs), residual, does


def _reads(node: Node) -> bool:
    bias = node.epilogue.bias
    return node.op == "linear" and bias is not None and node.epilogue == Epilogue(bias=bias)
