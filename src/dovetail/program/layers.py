"""The distinct weight layers of a Program as data: sizes and geometry, without weights."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Self

from dovetail.program.ops import complete
from dovetail.program.program import BATCH, SCAN, Node, Program

Ints = tuple[int, ...]


@dataclass(frozen=True)
class LayerShape:
    """A convolution or linear layer, and how often a network has it.

    Attributes:
        op: "conv2d" or "linear".
        input: of one image, `(C, H, W)` or `(C,)`.
        output: likewise.
        weight: `(K, C/groups, R, S)` or `(K, C)`.
        stride: rows and columns.
        padding: top, bottom, left, right.
        layers: names in the network.
        steps: how often each runs for one image: in the body of a scan once for every time step.
    """

    op: str
    input: Ints
    output: Ints
    weight: Ints
    stride: Ints = (1, 1)
    padding: Ints = (0, 0, 0, 0)
    dilation: Ints = (1, 1)
    groups: int = 1
    layers: tuple[str, ...] = ()
    steps: int = 1

    @property
    def count(self) -> int:
        """How many layers of the network have this shape."""
        return len(self.layers)

    @property
    def macs(self) -> int:
        """Multiply-accumulates of one image."""
        return self.steps * math.prod(self.weight) * math.prod(self.output[1:])

    def bytes(self, each: int) -> int:
        """Of one step: input, weights and output, each read or written once, at so many bytes a number."""
        return each * (math.prod(self.input) + math.prod(self.weight) + math.prod(self.output))

    def __str__(self) -> str:
        """Such as "64→128 3x3/2 28x28" (of the output), "depthwise 96 3x3 56x56" and "512→1000"."""
        k, c = self.weight[0], self.input[0]
        if self.op == "linear":
            return f"{c}→{k}"
        channels = f"depthwise {k}" if self.groups == c == k else f"{c}→{k}" + f" in {self.groups}" * (self.groups > 1)
        stride = "" if self.stride == (1, 1) else f"/{self.stride[0]}"
        return f"{channels} {self.weight[2]}x{self.weight[3]}{stride} {self.output[1]}x{self.output[2]}"

    def to_json(self) -> dict[str, Any]:
        """Plain data of one step; what a linear layer does not have is left out."""
        data = asdict(self) | {"count": self.count}
        without = ("steps", *(("stride", "padding", "dilation", "groups") if self.op == "linear" else ()))
        return {name: list(v) if isinstance(v, tuple) else v for name, v in data.items() if name not in without}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """Inverse of `to_json`."""
        known: dict[str, Any] = {n: tuple(v) if isinstance(v, list) else v for n, v in data.items() if n != "count"}
        return cls(**known)


def layer_shapes(program: Program) -> list[LayerShape]:
    """The distinct layers of a Program, in order of execution, those within scans among them.

    A linear layer over several rows is left out.
    """
    found: dict[LayerShape, list[str]] = {}
    steps = _steps(program)
    for graph in program.run_by(program.graph):
        sizes = graph.bind(**{BATCH: 1})
        for node in map(complete, graph.nodes):
            if node.weight is not None and len(sizes[node.output]) in (2, 4):
                shape = replace(_shape(node, sizes, program), steps=steps.get(node.name, 1))
                found.setdefault(shape, []).append(node.name)
    return [replace(shape, layers=tuple(names)) for shape, names in found.items()]


def _steps(program: Program) -> Mapping[str, int]:
    """Node in the body of a scan → how often it runs for one image, by all scans that have this body."""
    sizes, found = program.graph.bind(**{BATCH: 1}), Counter[str]()
    for node in program.graph.nodes:
        if node.op == SCAN:
            names = [part.name for part in program.graphs[str(node.attributes["body"])].nodes]
            found.update(dict.fromkeys(names, sizes[node.inputs[0]][1]))
    return found


def _shape(node: Node, sizes: Mapping[str, Ints], program: Program) -> LayerShape:
    geometry = {n: node.attributes[n] for n in ("stride", "padding", "dilation", "groups") if node.op == "conv2d"}
    weight = program.weights[node.weight or ""].shape
    return LayerShape(node.op, sizes[node.inputs[0]][1:], sizes[node.output][1:], weight, **geometry)
