"""Our own engine as a competitor, by the same rules: one process, the copy of the input inside the timer."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from dovetail.peers.peer import Images, Runner, Target
from dovetail.program.integer import touches_codes
from dovetail.program.program import Program

MODULE = __name__


def target(program: Program, folder: Path, name: str, reference: str) -> Target:
    """Write `<name>.dovetail`; the engine tunes itself while loading, hence `quiet`."""
    path = folder / f"{name}.dovetail"
    program.save(path)
    return Target(name, dtype_of(program), MODULE, {"path": str(path)}, reference, quiet=True)


def dtype_of(program: Program) -> str:
    """What the weight layers compute in, both types joined by "+": values that are only stored are widened to f32."""
    graphs = program.run_by(program.graph)
    whole = [node.name for graph in graphs for node in graph.nodes if node.weight is not None]
    real = in_floating_point(program)
    return "+".join(sorted({"f32" if name in real else "int8" for name in whole})) or "f32"


def in_floating_point(program: Program) -> set[str]:
    """The weight layers that read and give real numbers."""
    return {
        node.name
        for graph in program.run_by(program.graph)
        for node in graph.nodes
        if node.weight is not None and not touches_codes(node, graph)
    }


def values_of(program: Program) -> set[str]:
    """The value types of the stored weights."""
    return {packed.spec.values.name for packed in program.weights.values()}


def load(threads: int, path: str, kernels: Mapping[str, str] | None = None) -> Runner:
    """A `Session` on the file; `kernels` names those of all layers, by default they are chosen by timing."""
    from dovetail.engine import Schedule, Session

    return _Runner(Session(path, threads=threads, schedule=None if kernels is None else Schedule(kernels)))


class _Runner:
    def __init__(self, session: Any) -> None:
        self.session = session

    def bind(self, x: Images) -> None:
        self.bound = self.session.bind(x)

    def run(self) -> None:
        self.bound.run()

    def outputs(self) -> tuple[np.ndarray, ...]:
        return self.bound.outputs
