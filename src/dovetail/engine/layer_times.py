"""How long a layer takes in its place in a network, its weights random: the costs that a search is given.

Several layers of one shape, each with weights of its own, read the same tensor, and the time of each is taken between
barriers. One layer alone would flatter what has lists: a processor learns the branches of a few of them by heart.
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
RUNS = 30
WARM = 0.05  # seconds until the system has put the threads of a new session on cores of their own
CALIBRATION = 8  # images
RELU = Epilogue(activation=Activation("relu"))


@dataclass(frozen=True)
class Spread:
    """Seconds of one layer: the median over its copies, and the fastest and the slowest of them.

    Attributes:
        kernels: what ran them, most of them first.
    """

    seconds: float
    low: float
    high: float
    kernels: tuple[str, ...] = ()


def time_layer(
    shape: LayerShape,
    spec: Spec | None = None,
    *,
    int8: bool = False,
    threads: int | None = None,
    isa: str | None = None,
    batch: int = 1,
    copies: int = COPIES,
    runs: int = RUNS,
    seed: int = 0,
) -> Spread:
    """Time a layer in a format, dense without one.

    Args:
        shape: of the layer.
        spec: the format; a density in it places what is kept at random.
        int8: in whole numbers, as `quantize` makes them of the format.
        threads: of the session; by default all cores.
        isa: as a `Session` takes it.
        batch: images at once.
        copies: layers side by side, at least 2.
        runs: of the network, of which each layer's median counts.
        seed: of weights and images.

    Raises:
        SpecError: the layer cannot take the format.
        EngineError: too few copies or runs, or no native engine.
    """
    if copies < 2 or runs < 1:
        raise EngineError(f"{copies} copies and {runs} runs say too little of a layer; give at least 2 and 1")
    random = np.random.default_rng(seed)
    program = side_by_side([_random(shape, spec, random) for _ in range(copies)], shape)
    images = random.standard_normal((max(CALIBRATION, batch), *shape.input), dtype=np.float32)
    if int8:
        program = quantize(program, [images[:CALIBRATION]], rule="minmax", correct=False)
    session = Session(program, threads=threads, isa=isa)
    _warm(session, images[:batch])
    times = session.profile(images[:batch], runs=runs)
    names = [f"layer{i}" for i in range(copies)]
    own = [[step for step in times if step.node == name or step.node.startswith(f"{name}.")] for name in names]
    each = [sum(step.seconds for step in steps) for steps in own]
    kernels = [" + ".join(step.kernel for step in steps) for steps in own]
    return Spread(float(np.median(each)), min(each), max(each), tuple(sorted(set(kernels), key=kernels.count)[::-1]))


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


def _random(shape: LayerShape, spec: Spec | None, random: np.random.Generator) -> Packed:
    chosen = DenseSpec() if spec is None else spec
    return FORMATS[chosen.format].packed.random(shape.weight, chosen, random)


def _warm(session: Session, images: np.ndarray) -> None:
    end = time.perf_counter() + WARM
    while time.perf_counter() < end:
        session(images)
