"""Calls over codes: tensors of uint8 as planes, or rows, of 32-bit words of four channels.

A word takes the place of a float32 number, so layouts, views, halos, phases and copies are those of floating point; the
halo holds four codes of zero. What a node means is in `program/integer.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from dovetail.engine.builder import Builder, activation_fields
from dovetail.engine.kernels import Way
from dovetail.engine.layout import Shape, View
from dovetail.errors import EngineError
from dovetail.program.integer import Product, is_quantized, limits, ratio
from dovetail.program.program import Graph, Node, Program, Tensor

FILL = 64  # outputs to which biases and multipliers are filled up: whole vectors of any ISA


def words(count: int) -> int:
    """Words that hold so many channels."""
    return -(-count // 4)


def word_shape(shape: Shape) -> Shape:
    """Of a tensor of codes: its channels, axis 1 of images and the last axis of rows, in words."""
    if len(shape) == 4:
        return (shape[0], words(shape[1]), *shape[2:])
    return (*shape[:-1], words(shape[-1]))


def word_of(code: int) -> int:
    """Four times the same code, as a signed 32-bit number."""
    return int(np.uint32(code * 0x01010101).view(np.int32))


def words_of(weight: np.ndarray) -> np.ndarray:
    """Whole numbers `(K, C, R, S)` as words `(K, ceil(C / 4), R, S)`, zeros for the channels that are not there."""
    k, c, r, s = weight.shape
    filled = np.pad(weight, ((0, 0), (0, -c % 4), (0, 0), (0, 0))).astype(np.int8).view(np.uint8)
    codes = filled.reshape(k, -1, 4, r, s).astype(np.uint32)
    packed: np.ndarray = (codes << np.arange(0, 32, 8, dtype=np.uint32).reshape(4, 1, 1)).sum(axis=2, dtype=np.uint32)
    return packed.view(np.int32)


@dataclass(frozen=True)
class CodeCall:
    """A node that touches codes, with everything it needs; sizes are known.

    Attributes:
        inputs: its operands, in words where they are codes; of a candidate that takes the place of nodes before this
            one, too, those of the first of them.
        shape: of the output, in channels.
        candidate: how to run a weight op.
    """

    program: Program
    graph: Graph
    node: Node
    inputs: list[View]
    residual: View | None
    shape: Shape
    shapes: Mapping[str, Shape]
    candidate: CodeCandidate | None = None

    def run(self, b: Builder, x: View, found: Product, y: View) -> View:
        """Emit a weight op by the chosen candidate."""
        if self.candidate is None:
            raise EngineError(f"node {self.node.name!r}: no kernel was chosen for it")
        self.candidate.emit(b, self, x, found, y)
        return y

    @property
    def output(self) -> Tensor:
        """The tensor that it writes."""
        return self.graph.tensors[self.node.output]

    def tensor(self, i: int = 0) -> Tensor:
        """The tensor of operand `i`, the residual last."""
        return self.graph.tensors[self.node.reads()[i]]

    def result(self, b: Builder) -> View:
        """Where the output goes."""
        shape, word = self.shape, 0
        if is_quantized(self.output):
            shape, word = word_shape(shape), word_of(self.output.zero or 0)
        return b.planar(shape, word=word) if len(shape) == 4 else replace(b.rows(shape), word=word)

    def rounding(self) -> dict[str, Any]:
        """Fields by which kernels end their sums, the residual's aside from its place."""
        fields: dict[str, Any] = {"real": 1, **activation_fields(self.node.epilogue.activation)}
        if is_quantized(self.output):
            low, high = limits(self.node, self.output)
            fields = {"real": 0, "zero": self.output.zero, "low": low, "high": high}
            if self.residual is not None:
                other = self.tensor(1)
                fields |= {"r_ratio": float(ratio(other, self.output)), "r_zero": other.zero}
        return fields


CodeKernel = Callable[[Builder, CodeCall, View, Product, View], None]
CodeEmitter = Callable[[Builder, CodeCall], View]


class CodeCandidate(Way):
    """A way to run a weight op over codes; sums of whole numbers are exact."""


def sums(
    b: Builder, call: CodeCall, found: Product, multiple: int = FILL, *, zero: bool = True
) -> dict[str, View | None]:
    """Bias (less what the zero of the input adds, with `zero`), multiplier and residual."""
    outputs = len(found.weight)
    lost = found.weight.reshape(outputs, -1).sum(axis=1, dtype=np.int64) * ((zero and call.tensor().zero) or 0)
    fill = (0, -outputs % multiple + multiple)
    return {
        "bias": b.constant(np.pad(found.bias - lost, fill).astype(np.int32)),
        "multiplier": b.constant(np.pad(found.multiplier, fill)),
        "residual": call.residual,
    }


def fill_outputs(weight: np.ndarray, multiple: int) -> np.ndarray:
    """Rows of zeros up to a multiple."""
    return np.pad(weight, ((0, -len(weight) % multiple), *((0, 0),) * (weight.ndim - 1)))
