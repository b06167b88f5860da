"""Which kernel runs each layer: chosen by timing on the real shapes, cached, saved and loaded."""

from __future__ import annotations

import hashlib
import json
import logging
import math
import time
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Self, TypeGuard

import numpy as np

from dovetail import files
from dovetail.engine.cache import Times, load_times, save_times
from dovetail.engine.codes_kernels import AnyCandidate, by_rows, candidate_named, candidates_of, sparse_words
from dovetail.engine.compile import Compiled, compile_graph, makers_of, weight_nodes
from dovetail.engine.kernels import Candidate, Place, composed, names_of_parts, place
from dovetail.errors import EngineError
from dovetail.program.integer import is_quantized, touches_codes
from dovetail.program.program import Graph, Node, Program, Tensor
from dovetail.program.quantize import split_factors

SCHEDULE_VERSION = 1
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Schedule:
    """Node → name of the kernel that runs it, for nodes with weights; those that are not named are timed.

    With a given schedule results do not depend on the number of threads.
    """

    choices: Mapping[str, str] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        return {"version": SCHEDULE_VERSION, "choices": dict(self.choices)}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """Inverse of `to_json`; `EngineError` where the data is none."""
        choices = data.get("choices") if isinstance(data, Mapping) else None
        good = isinstance(choices, Mapping) and all(
            isinstance(n, str) and isinstance(k, str) for n, k in choices.items()
        )
        if not good or data.get("version") != SCHEDULE_VERSION:
            raise EngineError(
                f"this is no schedule of version {SCHEDULE_VERSION}; make one with session.schedule.to_json()"
            )
        return cls(dict(choices or {}))

    def save(self, path: str | Path) -> None:
        """Write as JSON, atomically."""
        _write_json(Path(path), self.to_json())

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read what `save` wrote; `EngineError` where that fails."""
        try:
            return cls.from_json(json.loads(Path(path).read_text()))
        except (OSError, ValueError, RecursionError) as error:
            raise EngineError(f"cannot read the schedule {path}: {error}") from None


def resolve(
    program: Program,
    graph: Graph,
    dims: Mapping[str, int],
    given: Schedule | None,
    isa: str,
    pool: Any,
    *,
    exact: bool = True,
) -> dict[str, AnyCandidate]:
    """A candidate for every weight op: as given, else by timing on the threads of `pool`; `exact` as in `Session`.

    In the body of a scan it is chosen by the time of one step.

    Raises:
        EngineError: the schedule names a node that does not exist or a kernel that cannot run it.
    """
    graphs = program.run_by(graph)
    choices = dict(given.choices) if given else {}
    if unknown := set(choices) - {node.name for each in graphs for node in weight_nodes(each)}:
        raise EngineError(
            f"the schedule names {', '.join(sorted(unknown))}, which this network does not have; it is of another one"
        )
    tuner = Tuner(program, graph, dims, isa, pool, exact)
    resolved: dict[str, AnyCandidate] = {}
    for each in graphs:
        tuner = replace(tuner, graph=each)
        for node in weight_nodes(each):
            given_name = choices.get(node.name)
            resolved[node.name] = tuner.best(node) if given_name is None else tuner.named(given_name, node)
        tuner.save()
    return resolved


def place_of(program: Program, graph: Graph, dims: Mapping[str, int], node: Node) -> Place:
    """Where a node, completed, applies its weight, and whether a candidate could take the place of others before it."""
    before, coded = bool(makers_of(program, graph, node)), touches_codes(node, graph)
    return place(node, program.shapes(graph, dims), expanded=before and not coded, chained=before and coded)


@dataclass
class Tuner:
    """Times the candidates of single nodes; remembers what it found on disk.

    Attributes:
        rounds: in which every candidate has its turn; `runs`: of a turn.
        patience: seconds for all turns of a candidate. Long runs, as of large batches, are repeated less: what disturbs
            them is a small part of them.
        known: times by what was timed, those of the cache among them; `found`: those that are not in it yet.
    """

    program: Program
    graph: Graph
    dims: Mapping[str, int]
    isa: str
    pool: Any
    exact: bool = True
    rounds: int = 5
    runs: int = 8
    patience: float = 0.25
    known: Times = field(default_factory=load_times)
    found: Times = field(default_factory=dict)

    def best(self, node: Node, *, alone: bool = False) -> AnyCandidate:
        """The fastest candidate; the only one without timing. `alone`: of those that take no other node's place."""
        where, packed = self._place(node), self.program.weights[node.weight or ""]
        possible = candidates_of(node, self.graph, packed, where, exact=self.exact)
        made = [self._composed(c, node) for c in possible if not (alone and c.expands)]
        found = [c for c in made if c is not None]
        if len(found) == 1:
            return found[0]
        key = self._key(node, found)
        names = {c.name: c for c in found}
        times = self.known.get(key)
        if not _are_times(times, names):
            if times is not None:
                _log.info("node %r: what the tuning cache says of it is stale or damaged; it is timed anew", node.name)
            times = self._times(node, found)
            self.known[key] = self.found[key] = times
        return names[min(times, key=lambda name: times[name])]

    def named(self, name: str, node: Node) -> AnyCandidate:
        """The candidate called `name`; `EngineError` where it cannot run the node."""
        whole, names = names_of_parts(name)
        found = candidate_named(whole, node, self.graph, self.program.weights[node.weight or ""], self._place(node))
        tuner, nodes = self._parts(found, node)
        if not names and (isinstance(found, Candidate) or not nodes):
            return found
        names = names or [f"{node.op}_dense"] * len(nodes)
        if len(names) != len(nodes):
            has = f"{len(names)} parts; {whole} has {len(nodes)}"
            raise EngineError(f"node {node.name!r}: kernel {name!r} names {has}")
        parts = [tuner.named(part, of) for part, of in zip(names, nodes)]
        if not by_rows(found, parts):
            raise EngineError(f"node {node.name!r}: {whole} cannot run its parts by {', '.join(names)}")
        return composed(found, parts)

    def _place(self, node: Node) -> Place:
        return place_of(self.program, self.graph, self.dims, node)

    def _composed(self, whole: AnyCandidate, node: Node) -> AnyCandidate | None:
        """The candidate with the fastest kernel for each of its parts by itself; None where it cannot take one."""
        tuner, nodes = self._parts(whole, node)
        parts = [tuner.best(part, alone=True) for part in nodes]
        if not parts:
            return whole
        return composed(whole, parts) if by_rows(whole, parts) else None

    def _parts(self, whole: AnyCandidate, node: Node) -> tuple[Tuner, list[Node]]:
        """The nodes that a candidate runs each by a kernel of its own, and a tuner of them; of most there are none."""
        if isinstance(whole, Candidate):
            factors = self._factors(node) if whole.factors else self
            return factors, weight_nodes(factors.graph) if whole.factors else []
        return self, [*makers_of(self.program, self.graph, node), node] if whole.expands else []

    def _factors(self, node: Node) -> Tuner:
        """A tuner of the node's factors, as nodes of their own."""
        alone = replace(self.program, graphs={"main": graph_of(self.graph, node)})
        split = split_factors(alone)
        return replace(self, program=split, graph=split.graph)

    def save(self) -> None:
        """Keep the findings, unless threads were missing; a cache that cannot be written is no error."""
        if self.found and self.pool.here:
            save_times(self.found)
            self.found.clear()

    def _times(self, node: Node, found: Sequence[AnyCandidate]) -> dict[str, float]:
        """Least seconds of the node alone by each candidate, its inputs hot.

        Where a candidate takes the place of the node before, too, that one is in the time of the others. All take
        turns, so that a moment in which the machine was busy is held against none of them.
        """
        before = self._before(node, found)
        graph = graph_of(self.graph, *before, node)
        slots = _slots(graph, self.dims)
        choices = {maker.name: self.best(maker, alone=True) for maker in before}
        compiled: dict[str, Compiled] = {}
        for candidate in found:  # they take turns in the memory of the largest so far
            largest = max(compiled.values(), key=lambda other: other.arena.room, default=None)
            compiled[candidate.name] = self._compile(graph, {**choices, node.name: candidate}, largest)
        best = dict.fromkeys(compiled, math.inf)
        began = time.monotonic()
        for round_ in range(self.rounds):
            for name, plan in compiled.items():
                best[name] = min(best[name], self._least(plan, {*choices, node.name}, slots))
            if round_ and time.monotonic() - began > self.patience * len(compiled):
                break
        return best

    def _before(self, node: Node, found: Sequence[AnyCandidate]) -> list[Node]:
        """The nodes whose place a candidate takes, too, if one does."""
        return makers_of(self.program, self.graph, node) if any(c.expands for c in found) else []

    def _compile(self, graph: Graph, choices: Mapping[str, AnyCandidate], other: Compiled | None) -> Compiled:
        threads = self.pool.threads
        return compile_graph(self.program, graph, self.dims, choices, isa=self.isa, threads=threads, other=other)

    def _least(self, compiled: Compiled, nodes: Set[str], slots: Sequence[np.ndarray]) -> float:
        addresses, began = [array.ctypes.data for array in slots], time.monotonic()
        least = math.inf
        for _ in range(self.runs):
            times = compiled.plan.run_timed(self.pool, addresses)
            least = min(least, sum(t for t, step in zip(times, compiled.steps) if step.node in nodes))
            if time.monotonic() - began > self.patience / self.rounds:
                break
        return 1e-9 * least

    def _key(self, node: Node, found: Sequence[AnyCandidate]) -> str:
        """Of what is timed, in all that its time depends on."""
        what = [self.isa, self.pool.threads, self.exact, *self._traits(node)]
        what += [self._traits(maker) for maker in self._before(node, found)]
        return hashlib.sha256(json.dumps(what, sort_keys=True, default=str).encode()).hexdigest()[:32]

    def _traits(self, node: Node) -> list[Any]:
        packed = self.program.weights[node.weight or ""]
        shapes, epilogue = self.program.shapes(self.graph, self.dims), node.epilogue
        return [
            node.op, [shapes[n] for n in node.reads()],
            dict(node.attributes), packed.spec.to_json(), packed.shape, packed.nonzeros(), sparse_words(packed),
            epilogue.residual is not None, epilogue.activation and epilogue.activation.name,
            [self.graph.tensors[n].dtype for n in (*node.reads(), node.output) if n in self.graph.tensors],
        ]  # fmt: skip


def graph_of(graph: Graph, *nodes: Node) -> Graph:
    """Nodes in a row by themselves, what else they read as inputs.

    Codes are made of real numbers before them, and turned back after them.
    """
    made, last = {node.output for node in nodes}, nodes[-1].output
    read = dict.fromkeys(name for node in nodes for name in node.reads())
    names = [name for name in read if name in graph.tensors and name not in made]
    tensors: dict[str, Tensor] = {name: graph.tensors[name] for name in (*names, *made)}
    before, after, inputs, output = [], [], [], last
    for name in names:
        source = name
        if is_quantized(tensors[name]):
            source = f"{name} in real numbers"
            tensors[source] = Tensor(source, tensors[name].shape)
            before.append(Node("quantize", source, (source,), name))
        inputs.append(source)
    if is_quantized(tensors[output]):
        output = f"{output} in real numbers"
        tensors[output] = Tensor(output, tensors[last].shape)
        after.append(Node("dequantize", output, (last,), output))
    return Graph(tuple(inputs), (output,), (*before, *nodes, *after), tensors)


def _are_times(times: Any, names: Mapping[str, AnyCandidate]) -> TypeGuard[dict[str, float]]:
    """Whether the cache holds a sound time for every candidate, and for no other."""
    if not isinstance(times, dict) or set(times) != set(names):
        return False
    return all(isinstance(t, float) and math.isfinite(t) and t >= 0 for t in times.values())


def _slots(graph: Graph, dims: Mapping[str, int]) -> list[Any]:
    shapes = graph.bind(**dims)
    random = np.random.default_rng(0)
    inputs = [random.standard_normal(shapes[name], dtype=np.float32) for name in graph.inputs]
    return inputs + [np.empty(shapes[name], dtype=np.float32) for name in graph.outputs]


def _write_json(path: Path, data: Any) -> None:
    files.make_folder(path.parent, error=EngineError)
    files.write(path, json.dumps(data), error=EngineError)
