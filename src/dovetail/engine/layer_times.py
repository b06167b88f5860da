"""What a layer costs in a format, against the same layer dense: the costs that a search is given.

Several layers of one shape, each with random weights of its own, read the same tensor, and the time of each is taken
between barriers. One layer alone would flatter what has lists: a processor learns the branches of a few of them by
heart. The two networks, in the format and dense, take turns: machines have faster and slower minutes, ratios have not.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from dovetail.engine.quantize import quantize
from dovetail.engine.session import Session
from dovetail.errors import EngineError
from dovetail.formats.base import FORMATS, Packed, Spec
from dovetail.formats.dense import DenseSpec
from dovetail.program.layers import LayerShape
from dovetail.program.ops import check_node, complete
from dovetail.program.program import BATCH, Activation, Epilogue, Graph, Node, Program, Shape, Tensor

COPIES = 8
BLOCKS = 7
RUNS = 8
WARM = 0.03  # seconds until the system has put the threads of a session on cores of their own
APART = 0.003  # seconds in which the threads of the other session go to sleep
CALIBRATION = 8  # images
RELU = Epilogue(activation=Activation("relu"))


@dataclass(frozen=True)
class Ratio:
    """Time of a layer in a format over its time dense: the median over blocks, the smallest and the largest of them.

    Attributes:
        kernels: what ran it, most of its copies first.
    """

    value: float
    low: float
    high: float
    kernels: tuple[str, ...]


class LayerTimer:
    """Times one layer in formats against itself dense.

    Args:
        shape: of the layer.
        int8: in whole numbers, as `quantize` makes them of the formats.
        threads: of the sessions; by default all cores.
        isa: as a `Session` takes it.
        copies: layers side by side, at least 2.
        blocks: turns of each network, and `runs` of it in a turn.
        seed: of weights and images.

    Raises:
        EngineError: too few copies, blocks or runs, or no native engine.
    """

    def __init__(
        self,
        shape: LayerShape,
        *,
        int8: bool = False,
        threads: int | None = None,
        isa: str | None = None,
        copies: int = COPIES,
        blocks: int = BLOCKS,
        runs: int = RUNS,
        seed: int = 0,
    ) -> None:
        if copies < 2 or blocks < 1 or runs < 1:
            told = f"{copies} copies, {blocks} blocks and {runs} runs"
            raise EngineError(f"{told} say too little of a layer; give at least 2, 1 and 1")
        self.shape, self.copies, self.blocks, self.runs, self.seed = shape, copies, blocks, runs, seed
        self._int8, self._threads, self._isa = int8, threads, isa
        random = np.random.default_rng(seed)
        self._images = random.standard_normal((CALIBRATION, *shape.input), dtype=np.float32)
        self._dense = self._session(DenseSpec())

    def ratio(self, spec: Spec) -> Ratio:
        """The layer in a format over itself dense; a density in the format places what is kept at random.

        Raises:
            SpecError: the layer cannot take the format.
        """
        own = self._session(spec)
        found, kernels = [], list[str]()
        for _ in range(self.blocks):
            dense, _ = self._seconds(self._dense)
            seconds, kernels = self._seconds(own)
            found.append(seconds / dense)
        most = sorted(set(kernels), key=kernels.count, reverse=True)
        return Ratio(float(np.median(found)), min(found), max(found), tuple(most))

    def _session(self, spec: Spec) -> Session:
        random = np.random.default_rng(self.seed)
        kind = FORMATS[spec.format].packed
        layers = [kind.random(self.shape.weight, spec, random) for _ in range(self.copies)]
        program = side_by_side(layers, self.shape)
        if self._int8:
            program = quantize(program, [self._images], rule="minmax", correct=False)
        return Session(program, threads=self._threads, isa=self._isa)

    def _seconds(self, session: Session) -> tuple[float, list[str]]:
        """Of the middle one of the copies in one turn, and the kernels of each."""
        time.sleep(APART)
        end = time.perf_counter() + WARM
        while time.perf_counter() < end:
            session(self._images[:1])
        times = session.profile(self._images[:1], runs=self.runs)
        names = [f"layer{i}" for i in range(self.copies)]
        own = [[step for step in times if step.node == name or step.node.startswith(f"{name}.")] for name in names]
        each = [sum(step.seconds for step in steps) for steps in own]
        return float(np.median(each)), [" + ".join(step.kernel for step in steps) for steps in own]


def side_by_side(layers: Sequence[Packed], shape: LayerShape) -> Program:
    """A network of an activation and, reading what it writes, a layer for each of the weights, and what reads those."""
    nodes: list[Node] = []
    tensors = {"x": Tensor("x", (BATCH, *shape.input))}

    def add(node: Node, weight: Shape | None = None) -> str:
        node = complete(node)
        shapes = {name: tensors[name].shape for name in node.inputs}
        tensors[node.output] = Tensor(node.output, check_node(node, shapes, weight))
        nodes.append(node)
        return node.output

    source = add(Node("activation", "before", ("x",), "before", epilogue=RELU))
    geometry = {} if shape.op == "linear" else _geometry(shape)
    outputs = []
    for i, packed in enumerate(layers):
        name = f"layer{i}"
        made = add(Node(shape.op, name, (source,), name, name, geometry, RELU), packed.shape)
        if shape.op == "conv2d":
            made = add(Node("adaptive_avg_pool2d", f"after{i}", (made,), f"after{i}", attributes={"output": (1, 1)}))
        outputs.append(made)
    graph = Graph(("x",), tuple(outputs), tuple(nodes), tensors)
    return Program({"main": graph}, {f"layer{i}": packed for i, packed in enumerate(layers)}, {})


def _geometry(shape: LayerShape) -> dict[str, object]:
    return {name: getattr(shape, name) for name in ("stride", "padding", "dilation", "groups")}
