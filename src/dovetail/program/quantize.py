"""From a float Program to one that computes with whole numbers: which tensors hold codes, and of what scale.

Weight ops take int8 weights and uint8 codes; sums, means and everything that only moves numbers stay in codes where
their operands are. Between them and the ops that need real numbers stand `quantize` and `dequantize` nodes. What the
nodes then mean is in `integer.py`.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType

import numpy as np

from dovetail.errors import ProgramError, SpecError
from dovetail.formats import (
    DenseSpec,
    PackedDense,
    PackedKernelBasis,
    PackedSparse,
    PackedSvd,
    PackedTucker,
    SparseSpec,
)
from dovetail.formats.base import Packed
from dovetail.formats.values import F32, INT8, TERNARY, Values
from dovetail.program.check import LEAST_SCALE, check
from dovetail.program.integer import CODES, MEANS, MOVES, PRODUCTS, cannot_take_codes, is_quantized, product
from dovetail.program.ops import complete
from dovetail.program.program import Epilogue, Graph, Node, Program, Tensor

Range = tuple[float, float]
LARGEST_BIAS = 1 << 30
# What shared kernel bases cost over codes, in dot products of four pairs (measured; see docs/engine.md): four taps of a
# channel that meet a basis, and a coefficient that combines a map.
MEETING, COMBINING = 2.0, 2.5
_POINT = MappingProxyType({"stride": (1, 1), "padding": (0, 0, 0, 0), "dilation": (1, 1), "groups": 1})


def quantize(program: Program, ranges: Mapping[str, Range], keep: Collection[str] = ()) -> Program:
    """The main graph with int8 weights and uint8 tensors between them.

    Args:
        program: in floating point, without factored weights (`split_factors` makes several layers of one).
        ranges: tensor → least and greatest number to represent, for every tensor (see `calibrate`).
        keep: weight nodes that stay in floating point.

    Raises:
        ProgramError: a name in `keep` is no weight node, a range is missing or no range.
    """
    nodes = [complete(node) for node in program.graph.nodes]
    check_quantizable(program, keep)
    rewriting = _Rewriting(program, frozenset(keep), _scales(program.graph, nodes, ranges))
    for node in nodes:
        rewriting.add(node)
    made = rewriting.finish()
    check(made)
    return made


def split_factors(program: Program, keep: Collection[str] = ()) -> Program:
    """Tucker and SVD nodes, but for those in `keep`, as the dense convolutions (linear layers) that they are.

    Whole numbers are rounded between the factors, so the tensors between them need scales of their own.
    """
    weights, nodes, tensors = dict(program.weights), [], dict(program.graph.tensors)
    taken = names_of(program)
    for node in map(complete, program.graph.nodes):
        packed = program.weights[node.weight] if node.weight is not None else None
        if not isinstance(packed, PackedTucker | PackedSvd) or node.name in keep:
            nodes.append(node)
            continue
        for part, weight, shape in _parts(node, packed, tensors, taken):
            weights[part.weight or ""] = weight
            tensors.setdefault(part.output, Tensor(part.output, shape))
            nodes.append(part)
    used = {node.weight for node in nodes}
    graph = replace(program.graph, nodes=tuple(nodes), tensors=tensors)
    return replace(
        program, graphs={"main": graph}, weights={name: packed for name, packed in weights.items() if name in used}
    )


def check_quantizable(program: Program, keep: Collection[str]) -> None:
    """`ProgramError` for what `quantize` refuses whatever the ranges are."""
    if any(is_quantized(tensor) for tensor in program.graph.tensors.values()):
        raise ProgramError("this program computes with whole numbers already; quantize the float one")
    if program.bodies(program.graph):
        raise ProgramError(
            "a network with a recurrent layer (a scan) stays in floating point; pack it without quantizing"
        )
    if set(program.graphs) != {"main"}:
        raise ProgramError(f"only programs of one graph can be quantized; this one has {', '.join(program.graphs)}")
    if isinstance(keep, str):
        raise ProgramError(f"keep is the text {keep!r}; give a list of names of weight nodes")
    if unknown := set(keep) - {node.name for node in program.graph.nodes if node.weight is not None}:
        raise ProgramError(f"cannot keep {', '.join(sorted(unknown))} in floating point: no such weight nodes")


def names_of(program: Program) -> set[str]:
    """Of everything in the program and its main graph."""
    graph = program.graph
    return {*program.weights, *program.arrays, *graph.tensors, *(node.name for node in graph.nodes)}


def fresh(name: str, taken: set[str]) -> str:
    """`name`, or one like it that nothing has yet; it is taken now."""
    made, number = name, 2
    while made in taken:
        made, number = f"{name}.{number}", number + 1
    taken.add(made)
    return made


def _equal(a: Packed, b: Packed) -> bool:
    same = a.spec == b.spec and set(a.arrays) == set(b.arrays)
    return same and all(np.array_equal(a.arrays[name], b.arrays[name]) for name in a.arrays)


def recomposed(packed: Packed) -> Packed:
    """A kernel basis as the dense or sparse weight that it stands for; any other weight as it is."""
    if not isinstance(packed, PackedKernelBasis):
        return packed
    weight = packed.dense()
    sparse = np.count_nonzero(weight) < weight.size / 2
    return PackedSparse.from_dense(weight, SparseSpec()) if sparse else PackedDense.from_dense(weight, DenseSpec())


def whole_form(packed: Packed, groups: int = 1) -> Packed:
    """The form in which a weight becomes whole numbers: its own, but for kernel bases that a dense weight outruns.

    Those are recomposed. Bases whose values are int8 already, or whose coefficients are ternary, stay what they are;
    but asymmetric ones are no whole numbers, and so are recomposed.
    """
    if isinstance(packed, PackedKernelBasis) and packed.spec.asymmetric:
        return recomposed(packed)
    if not isinstance(packed, PackedKernelBasis) or packed.spec.values == INT8 or is_ternary(packed):
        return packed
    k, c, r, s = packed.shape
    meeting = MEETING * c * groups * packed.spec.bases * -(-r * s // 4)
    return packed if meeting + COMBINING * packed.stored_coefficients() <= k * c * r * s / 4 else recomposed(packed)


def is_ternary(packed: Packed) -> bool:
    """Whether the weight is of -1, 0 and 1, or combines kernel bases by those."""
    basis = isinstance(packed, PackedKernelBasis) and packed.spec.coefficients == "ternary"
    return basis or packed.spec.values == TERNARY


def whole_values(packed: Packed) -> Values:
    """The value type in which a weight becomes whole numbers: int8, but for ternary ones, which are some already."""
    return TERNARY if packed.spec.values == TERNARY else INT8


def _parts(
    node: Node, packed: PackedTucker | PackedSvd, tensors: Mapping[str, Tensor], taken: set[str]
) -> Iterator[tuple[Node, Packed, tuple[int | str, ...]]]:
    """One node per factor; the geometry goes to the core (or the first factor of an SVD), the epilogue to the last."""
    stages = packed.stages()
    own = [*stages].index("core") if "core" in stages else 0
    x, shape = node.inputs[0], tensors[node.inputs[0]].shape
    size = tensors[node.output].shape[2:]
    for i, (side, weight) in enumerate(stages.items()):
        last = i + 1 == len(stages)
        name = node.name if last else fresh(f"{node.name}.{side}", taken)
        attributes = node.attributes if node.op == "linear" or i == own else _POINT
        if node.op == "linear":
            shape = (*shape[:-1], len(weight))
        else:
            shape = (shape[0], len(weight), *(size if i >= own else shape[2:]))
        output, epilogue = (node.output, node.epilogue) if last else (name, Epilogue())
        made = PackedDense.from_dense(weight, DenseSpec(values=F32))
        yield Node(node.op, name, (x,), output, name, attributes, epilogue, node.source), made, shape
        x = output


def _scales(graph: Graph, nodes: list[Node], ranges: Mapping[str, Range]) -> dict[str, tuple[float, int]]:
    """Tensor → scale and zero; tensors that a move joins have theirs in common."""
    joined = {name: name for name in graph.tensors}

    def root(name: str) -> str:
        while joined[name] != name:
            name = joined[name]
        return name

    for node in nodes:
        if node.op in MOVES:
            for name in node.inputs:
                if name in joined:
                    joined[root(name)] = root(node.output)
    whole: dict[str, Range] = {}
    for name in graph.tensors:
        low, high = _range(name, ranges)
        before = whole.get(root(name), (0.0, 0.0))
        whole[root(name)] = min(before[0], low), max(before[1], high)
    return {name: grid(*whole[root(name)]) for name in graph.tensors}


def _range(name: str, ranges: Mapping[str, Range]) -> Range:
    if name not in ranges:
        raise ProgramError(f"there is no range for the tensor {name!r}; calibrate this program, not another one")
    low, high = map(float, ranges[name])
    if not (np.isfinite(low) and np.isfinite(high) and low <= high):
        raise ProgramError(f"the range of tensor {name!r} goes from {low} to {high}; calibrate on finite images")
    return low, high


def grid(low: float, high: float) -> tuple[float, int]:
    """Scale and zero of codes that reach from `low` to `high` and hold 0 exactly."""
    scale = float(np.float32(max((high - low) / CODES, LEAST_SCALE * 2))) if high > low else 1.0
    return scale, int(np.clip(np.rint(-low / scale), 0, CODES))


@dataclass
class _Rewriting:
    """The new graph as it grows.

    Attributes:
        codes, reals: tensor of the old graph → the new one that holds it as codes, or as real numbers.
    """

    program: Program
    keep: frozenset[str]
    scales: Mapping[str, tuple[float, int]]
    nodes: list[Node] = field(default_factory=list)
    tensors: dict[str, Tensor] = field(default_factory=dict)
    weights: dict[str, Packed] = field(default_factory=dict)
    codes: dict[str, str] = field(default_factory=dict)
    reals: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        graph = self.program.graph
        self.uses, self.taken = graph.uses(), names_of(self.program)
        for name in graph.inputs:
            self.tensors[name] = graph.tensors[name]
            self.reals[name] = name

    def add(self, node: Node) -> None:
        """Append the node in codes where that is possible, else in real numbers."""
        if node.op in PRODUCTS:
            if node.name in self.keep or cannot_take_codes(node, self.program.graph) or not self._add_product(node):
                self._append(replace(node, weight=self._own(node, self.program.weights[node.weight or ""])))
        elif self._follows(node) and all(n in self.codes for n in node.inputs):
            self._append(node, over_codes=True, codes=node.op not in MEANS or self._useful(node))
        else:
            self._append(node)

    def finish(self) -> Program:
        """With real numbers at the outputs, and without what nobody names any more."""
        graph = self.program.graph
        outputs = tuple(self.real(name) for name in graph.outputs)
        arrays = {name for node in self.nodes for name in (*node.reads(), node.epilogue.scale, node.epilogue.bias)}
        return replace(
            self.program,
            graphs={"main": Graph(graph.inputs, outputs, tuple(self.nodes), self.tensors)},
            weights=self.weights,
            arrays={name: array for name, array in self.program.arrays.items() if name in arrays},
        )

    def code(self, name: str) -> str:
        """The tensor as codes, quantised here if it is not yet."""
        if name not in self.codes:
            self.codes[name] = self._convert("quantize", self.reals[name], f"{name}.codes", name, codes=True)
        return self.codes[name]

    def real(self, name: str) -> str:
        """The tensor as real numbers; an array is one already."""
        if name in self.program.arrays:
            return name
        if name not in self.reals:
            self.reals[name] = self._convert("dequantize", self.codes[name], f"{name}.real", name, codes=False)
        return self.reals[name]

    def _convert(self, op: str, source: str, wanted: str, old: str, *, codes: bool) -> str:
        made = fresh(wanted, self.taken)
        self.tensors[made] = self._tensor(made, old, codes=codes)
        self.nodes.append(Node(op, made, (source,), made))
        return made

    def _tensor(self, name: str, old: str, *, codes: bool) -> Tensor:
        shape = self.program.graph.tensors[old].shape
        return Tensor(name, shape, "uint8", *self.scales[old]) if codes else Tensor(name, shape)

    def _add_product(self, node: Node) -> bool:
        """Append a weight op over codes, the epilogue's scale taken into its weight; False where that cannot be."""
        packed, epilogue = self.program.weights[node.weight or ""], node.epilogue
        multiply = None if epilogue.scale is None else self.program.arrays[epilogue.scale].astype(np.float32)
        made = replace(node, epilogue=replace(epilogue, scale=None))
        codes = self._plain(node) and self._useful(node)
        for form in (whole_form(packed, node.attributes.get("groups", 1)), recomposed(packed)):
            try:
                cast = self._without_silent(node, form, multiply)
            except SpecError:  # a scale beyond the 16 bits of ternary values
                continue
            if cast.integers() is not None and self._fits(made, cast, codes=codes):
                self._append(replace(made, weight=self._own(node, cast)), over_codes=True, codes=codes)
                return True
        return False

    def _without_silent(self, node: Node, packed: Packed, multiply: np.ndarray | None) -> Packed:
        """In whole numbers; outputs whose bias is beyond 32 bits in units of their sums lose their tiny weights."""
        values = whole_values(packed)
        cast = packed.cast(values, multiply)
        found = cast.integers()
        if node.epilogue.bias is None or found is None:
            return cast
        unit = self.scales[node.inputs[0]][0] * found[1].astype(np.float64)
        silent = np.abs(self.program.arrays[node.epilogue.bias]) / unit > LARGEST_BIAS
        if not silent.any():
            return cast
        factors = np.ones(len(unit), np.float32) if multiply is None else multiply
        return packed.cast(values, np.where(silent, np.float32(0), factors))

    def _fits(self, node: Node, packed: Packed, *, codes: bool) -> bool:
        """Whether no sum of the node can overflow."""
        ends = {name: self._tensor(name, name, codes=c) for name, c in ((node.inputs[0], True), (node.output, codes))}
        trial = replace(self.program, weights={node.weight or "": packed})
        try:
            product(trial, Graph((), (), (), ends), node)
        except ProgramError:
            return False
        return True

    def _own(self, node: Node, packed: Packed) -> str:
        """A name for the weight; a second use that has another scale in it has a weight of its own."""
        name = node.weight or ""
        if name in self.weights and not _equal(self.weights[name], packed):
            name = fresh(f"{name}.{node.name}", self.taken)
        self.weights[name] = packed
        return name

    def _plain(self, node: Node) -> bool:
        """Whether the epilogue can end in codes."""
        activation = node.epilogue.activation
        return activation is None or activation.name in ("relu", "clamp")

    def _follows(self, node: Node) -> bool:
        """Whether the node, which has no weight, stays in codes where its operands are."""
        may = node.op in MEANS | MOVES | {"add"} and self._plain(node)
        return may and not cannot_take_codes(node, self.program.graph)

    def _useful(self, node: Node) -> bool:
        """Whether somebody computes with codes from there, be it behind moves and sums."""
        return any(self._takes(reader) for reader in self.uses[node.output])

    def _takes(self, reader: Node) -> bool:
        if reader.op in PRODUCTS:
            return reader.name not in self.keep and not cannot_take_codes(reader, self.program.graph)
        if not self._follows(reader):
            return False
        return reader.op in MEANS or self._useful(reader)

    def _append(self, node: Node, *, over_codes: bool = False, codes: bool = False) -> None:
        """Append a node that reads and gives codes or real numbers; its residual is what its result is."""
        inputs = tuple((self.code if over_codes else self.real)(name) for name in node.inputs)
        epilogue = node.epilogue
        if epilogue.residual is not None:
            epilogue = replace(epilogue, residual=(self.code if codes else self.real)(epilogue.residual))
        self.tensors[node.output] = self._tensor(node.output, node.output, codes=codes)
        (self.codes if codes else self.reals)[node.output] = node.output
        self.nodes.append(replace(node, inputs=inputs, epilogue=epilogue))
