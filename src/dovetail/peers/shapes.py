"""The distinct layers of a network as data: what the shape suite times one by one."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from dovetail import files
from dovetail.errors import DataError
from dovetail.program.ops import complete
from dovetail.program.program import BATCH, Node, Program

if TYPE_CHECKING:
    from torch import nn

Ints = tuple[int, ...]


@dataclass(frozen=True)
class Shape:
    """A convolution or linear layer, and how often a network has it.

    Attributes:
        op: "conv2d" or "linear".
        input: of one image, `(C, H, W)` or `(C,)`.
        output: likewise.
        weight: `(K, C/groups, R, S)` or `(K, C)`.
        stride: rows and columns.
        padding: top, bottom, left, right.
        layers: names in the network.
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

    @property
    def count(self) -> int:
        """How many layers of the network have this shape."""
        return len(self.layers)

    @property
    def macs(self) -> int:
        """Multiply-accumulates of one image."""
        return math.prod(self.weight) * math.prod(self.output[1:])

    def bytes(self, each: int) -> int:
        """Input, weights and output, each read or written once, at so many bytes a number."""
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
        """Plain data; what a linear layer does not have is left out."""
        data = asdict(self) | {"count": self.count}
        geometry = ("stride", "padding", "dilation", "groups") if self.op == "linear" else ()
        return {name: list(v) if isinstance(v, tuple) else v for name, v in data.items() if name not in geometry}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """Inverse of `to_json`."""
        known = {name: value for name, value in data.items() if name != "count"}
        return cls(**{name: tuple(v) if isinstance(v, list) else v for name, v in known.items()})

    def module(self) -> nn.Module:
        """The layer in torch, with a bias, its weights drawn from torch's generator."""
        from torch import nn

        if self.op == "linear":
            return nn.Linear(self.weight[1], self.weight[0]).eval()
        top, bottom, left, right = self.padding
        if (top, left) != (bottom, right):
            raise DataError(f"{self}: the shape suite has no layers that are padded unevenly, {self.padding}")
        geometry = {"stride": self.stride, "padding": (top, left), "dilation": self.dilation, "groups": self.groups}
        return nn.Conv2d(self.input[0], self.weight[0], self.weight[2:], **geometry).eval()  # type: ignore[arg-type]


def shapes_of(program: Program) -> list[Shape]:
    """The distinct layers of a Program, in order of execution; a linear layer over several rows is left out."""
    graph = program.graph
    sizes = graph.bind(**{BATCH: 1})
    found: dict[Shape, list[str]] = {}
    for node in map(complete, graph.nodes):
        if node.weight is not None and len(sizes[node.output]) in (2, 4):
            found.setdefault(_shape(node, sizes, program), []).append(node.name)
    return [replace(shape, layers=tuple(names)) for shape, names in found.items()]


def _shape(node: Node, sizes: Mapping[str, Ints], program: Program) -> Shape:
    geometry = {n: node.attributes[n] for n in ("stride", "padding", "dilation", "groups") if node.op == "conv2d"}
    weight = program.weights[node.weight or ""].shape
    return Shape(node.op, sizes[node.inputs[0]][1:], sizes[node.output][1:], weight, **geometry)


def write(network: str, command: str, shapes: Iterable[Shape], path: Path) -> None:
    """A network's shapes as JSON, one a line."""
    rows = ",\n  ".join(json.dumps(shape.to_json(), ensure_ascii=False) for shape in shapes)
    head = f'{{\n "network": {json.dumps(network)},\n "command": {json.dumps(command)},\n "shapes": ['
    files.write(path, f"{head}\n  {rows}\n ]\n}}\n", error=DataError)


def read(path: Path) -> list[Shape]:
    """Inverse of `write`; `DataError` where the file is none."""
    try:
        return [Shape.from_json(shape) for shape in json.loads(path.read_text())["shapes"]]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path} holds no shapes ({error!r}); `dovetail shapes collect` makes such files") from None
