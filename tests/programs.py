"""Small Programs made by hand, for tests of targets."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np

from dovetail.formats import FORMATS, KernelBasisSpec, PackedKernelBasis
from dovetail.formats.base import Packed
from dovetail.formats.values import F32, Values
from dovetail.program.ops import check_node, complete
from dovetail.program.program import Activation, Epilogue, Graph, Node, Program, Tensor


class Sketch:
    """Appends nodes one by one; `sketch.program(*outputs)` is the result. All its names begin with `prefix`."""

    def __init__(self, seed: int = 0, prefix: str = "") -> None:
        self.random = np.random.default_rng(seed)
        self.prefix = prefix
        self.graphs: dict[str, Graph] = {}
        self.inputs: list[str] = []
        self.nodes: list[Node] = []
        self.tensors: dict[str, Tensor] = {}
        self.weights: dict[str, Packed] = {}
        self.arrays: dict[str, np.ndarray] = {}

    def input(self, *shape: int | str) -> str:
        name = f"{self.prefix}x{len(self.inputs)}"
        self.inputs.append(name)
        self.tensors[name] = Tensor(name, shape)
        return name

    def array(self, *shape: int) -> str:
        name = f"{self.prefix}a{len(self.arrays)}"
        self.arrays[name] = self.random.standard_normal(shape).astype(np.float32)
        return name

    def add(
        self,
        op: str,
        *inputs: str,
        packed: Packed | None = None,
        scaled: bool = False,
        biased: bool = False,
        residual: str | None = None,
        activation: Activation | None = None,
        **attributes: Any,
    ) -> str:
        """Append a node; returns its output. `scaled` and `biased` draw random arrays of the output's channels."""
        name = f"{self.prefix}{op}{len(self.nodes)}"
        if packed is not None:
            self.weights[name] = packed
        channels = packed.shape[0] if packed is not None else self.tensors[inputs[0]].shape[attributes.get("axis", 1)]
        epilogue = Epilogue(
            self.array(channels) if scaled else None, self.array(channels) if biased else None, residual, activation
        )
        node = complete(Node(op, name, inputs, name, name if packed is not None else None, attributes, epilogue))
        known = {n: self.tensors[n].shape if n in self.tensors else self.arrays[n].shape for n in self._reads(node)}
        shape = check_node(node, known, packed.shape if packed is not None else None, self.graphs)
        self.tensors[name] = Tensor(name, shape)
        self.nodes.append(node)
        return name

    def graph(self, *outputs: str) -> Graph:
        return Graph(tuple(self.inputs), outputs, tuple(self.nodes), self.tensors)

    def body(self, inside: Sketch, *outputs: str) -> str:
        """Enter what another sketch has drawn as a graph for scans; its prefix is its name."""
        self.graphs[inside.prefix] = inside.graph(*outputs)
        self.weights |= inside.weights
        self.arrays |= inside.arrays
        return inside.prefix

    def program(self, *outputs: str) -> Program:
        return Program({"main": self.graph(*outputs), **self.graphs}, self.weights, self.arrays)

    @staticmethod
    def _reads(node: Node) -> list[str]:
        return [n for n in (*node.reads(), node.epilogue.scale, node.epilogue.bias) if n is not None]


def recurrence(sketch: Sketch, hidden: int, prefix: str = "cell.", format_name: str = "dense", **fields: Any) -> str:
    """A body for scans: a gate g = sigmoid(step + W h), then h' = g tanh(U h + b) and m' = m + h'; states h and m.

    W and U are drawn so small that rounding errors do not grow from step to step.
    """
    inside = Sketch(4, prefix)
    step, h, m = inside.input("batch", hidden), inside.input("batch", hidden), inside.input("batch", hidden)
    drawn = [random_packed(format_name, (hidden, hidden), inside.random, **fields) for _ in range(2)]
    gate, change = (type(packed).from_dense(packed.dense() * hidden**-0.5, packed.spec) for packed in drawn)
    g = inside.add("linear", h, packed=gate, residual=step, activation=Activation("sigmoid"))
    u = inside.add("linear", h, packed=change, biased=True, activation=Activation("tanh"))
    h = inside.add("mul", g, u)
    return sketch.body(inside, h, inside.add("add", m, h))


def random_packed(format_name: str, shape: tuple[int, ...], random: np.random.Generator, **fields: Any) -> Packed:
    """A random weight in a format; sparse ones have real zeros."""
    row = FORMATS[format_name]
    spec = row.spec(**fields)
    weight = random.standard_normal(shape).astype(np.float32)
    packed = row.packed.from_dense(weight, spec)
    if format_name == "kernel_basis" and fields.get("coefficients") in ("sparse", "ternary"):
        bases, coefficients = packed.factors()
        (outputs, inputs, count), shared, block = coefficients.shape, spec.shared, spec.block  # type: ignore[attr-defined]
        keep = random.random((-(-outputs // shared), -(-inputs // block), count)) < 0.3
        keep = keep.repeat(shared, axis=0)[:outputs].repeat(block, axis=1)[:, :inputs]
        packed = row.packed.from_factors(bases, coefficients * keep, spec, shape)
    return packed


# Which coefficients are there, by output, basis and channel, so that each encoding of positions is the smallest.
POSITIONS: dict[str, Callable[[np.random.Generator, tuple[int, int, int]], np.ndarray]] = {
    "bitmap": lambda random, grid: random.random(grid) < 0.5,
    "gaps": lambda random, grid: np.arange(np.prod(grid)).reshape(grid) == 3,
    "groups": lambda random, grid: (np.arange(np.prod(grid)).reshape(grid) // 8 % 4 == 1) & (random.random(grid) < 0.7),
    "runs": lambda random, grid: np.arange(np.prod(grid)).reshape(grid) % 9 == 2,
    "rows": lambda random, grid: (random.random(grid[:2]) < 0.15)[:, :, None] & np.ones(grid, bool),
}


def ternary_basis(kind: str, shape: tuple[int, int, int, int], values: Values = F32) -> Packed:
    """A kernel basis of as many bases as there can be, its ternary coefficients where `POSITIONS` has them."""
    random, (k, c, r, s) = np.random.default_rng(5), shape
    there = POSITIONS[kind](random, (k, r * s, c)).transpose(0, 2, 1)
    signs = np.where(random.random(there.shape) < 0.5, -1, 1) * there
    spec = KernelBasisSpec(bases=r * s, coefficients="ternary", values=values)
    scales = random.uniform(0.5, 2, (k, 1, 1)).astype(np.float16)
    packed = PackedKernelBasis.from_factors(random.standard_normal((r * s, r, s)), signs * scales, spec)
    assert f"coefficients.{kind}" in packed.arrays
    return packed


def close(got: np.ndarray, want: np.ndarray, tolerance: float = 1e-4) -> bool:
    """Whether two results agree to a part of the range of the wanted one."""
    return got.shape == want.shape and float(np.abs(got - want).max()) <= tolerance * max(
        float(np.abs(want).max()), 1e-6
    )


def poisoned(session: Any, *inputs: np.ndarray) -> Any:
    """The result of a run that finds garbage in the arena wherever it has not written itself.

    Between two runs a thread comes too late for the first, to which nothing of what that has used may matter any more.
    """
    session(*inputs)
    for ready in session._compiled.values():
        ready.compiled.plan.arrive_late()
        arena = ready.compiled.arena
        for start, stop in arena.ours:
            arena.memory[start:stop] = b"\xff" * (stop - start)  # as float32, NaN
    return session(*inputs)


def native_calls(session: Any, node: str) -> Counter[str]:
    """How often a node calls each native kernel, as `conv2d_dense_f32__avx2`."""
    calls: Counter[str] = Counter()
    for call in session.kernels()[node].split(" + "):
        count, _, kernel = call.rpartition(" ")
        calls[kernel] += int(count or 1)
    return calls


def agrees(program: Program, inputs: list[np.ndarray], tolerance: float = 1e-4, **session: Any) -> bool:
    """Whether the engine computes what the reference does, from a clean arena and from a dirty one."""
    from dovetail.engine import Session
    from dovetail.program import reference

    want = reference.run(program, *inputs)
    want = want if isinstance(want, tuple) else (want,)
    engine = Session(program, **session)
    for got in (engine(*inputs), poisoned(engine, *inputs)):
        outputs = got if isinstance(got, tuple) else (got,)
        if not all(close(g, w, tolerance) for g, w in zip(outputs, want, strict=True)):
            return False
    return True
