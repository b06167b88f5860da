"""Parameters, multiply-accumulates and bits of a Program, layer by layer, beside those of its dense equivalent.

Three counts, always the same. *Params* are the stored numbers: weights (bases and factors included), scales, biases,
norms, classifier. *MACs* are the work per image in the cheaper exact order, with what does not multiply listed apart as
*additions*. *Bits* are the payload of the file: values, indices, masks, scales and code books.

Of a sequence the MACs are those of all its time steps, as many as the program says. Where it does not say, they are
those of one step, or of `time` steps. Params and bits do not depend on it: the weights in the body of a scan are stored
once.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

from dovetail.errors import ProgramError
from dovetail.formats.base import Geometry, Packed
from dovetail.formats.kernel_basis import PackedKernelBasis
from dovetail.program.program import BATCH, SCAN, Graph, Node, Program, split_dim

Shapes = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True)
class Row:
    """One use of a packed weight, or one matmul.

    Attributes:
        name: of the node.
        format: of its weight; empty for a matmul.
        params: stored numbers of the weight; 0 where an earlier row has counted the same weight.
        macs: multiply-accumulates per image.
        additions: per image, beyond those.
        bits: of the weight in the file; 0 where an earlier row has counted it.
        nonzeros: stored numbers of the weight that are not zero; 0 where an earlier row has counted it.
        dense_params: numbers of the dense weight; 0 where an earlier row has counted it.
        dense_macs: multiply-accumulates per image of the dense weight.
        source: where the model makes it.
    """

    name: str
    op: str
    format: str
    params: int
    macs: int
    additions: int
    bits: int
    nonzeros: int
    dense_params: int
    dense_macs: int
    source: str = ""


@dataclass(frozen=True)
class Counts:
    """Rows in order of execution, and the numbers in arrays: scales, biases, norms, constant operands.

    Attributes:
        rows: one per op that counts.
        extra_params: numbers in arrays.
        extra_bits: theirs.
        position_bits: of all bits those that say where values of the weights stand.
    """

    rows: tuple[Row, ...]
    extra_params: int
    extra_bits: int
    position_bits: int

    @property
    def params(self) -> int:
        """All stored numbers."""
        return sum(row.params for row in self.rows) + self.extra_params

    @property
    def macs(self) -> int:
        """Per image."""
        return sum(row.macs for row in self.rows)

    @property
    def additions(self) -> int:
        """Per image, beyond those in the multiply-accumulates."""
        return sum(row.additions for row in self.rows)

    @property
    def bits(self) -> int:
        """Payload of the file."""
        return sum(row.bits for row in self.rows) + self.extra_bits

    @property
    def nonzeros(self) -> int:
        """Stored numbers that are not zero; all numbers in arrays count."""
        return sum(row.nonzeros for row in self.rows) + self.extra_params

    @property
    def dense_params(self) -> int:
        """Of the same network with dense weights."""
        return sum(row.dense_params for row in self.rows) + self.extra_params

    @property
    def dense_macs(self) -> int:
        """Of the same network with dense weights."""
        return sum(row.dense_macs for row in self.rows)

    def dense_bits(self, bits: int = 32) -> int:
        """Payload with dense weights of so many bits each (8: one float32 scale per output is not counted)."""
        return sum(row.dense_params for row in self.rows) * bits + self.extra_bits


def count(program: Program, graph: str = "main", *, time: int = 1) -> Counts:
    """Count one graph of a program and the bodies of its scans, for one image or sequence.

    A weight that several layers share is stored, and counted in params and bits, once; its work counts every time.

    Args:
        program: the packed network.
        graph: its name.
        time: the value of symbolic dimensions other than the batch.
    """
    counted, shapes = _of_one_image(program, graph, time)
    seen: set[str] = set()
    rows: list[Row] = []
    for node in counted.nodes:
        if node.op == SCAN:
            body, steps = program.graphs[node.attributes["body"]], shapes[node.inputs[0]][1]
            inside = _bound(program, body, time)
            rows += [_times(_row(part, program, inside, seen), steps) for part in body.nodes if _counts(part)]
        elif _counts(node):
            rows.append(_row(node, program, shapes, seen))
    named = {name for each in program.run_by(counted) for name in _constants(each)} & set(program.arrays)
    sizes = [program.arrays[name].size for name in named]
    extra_bits = sum(program.arrays[name].nbytes * 8 for name in named)
    return Counts(tuple(rows), sum(sizes), extra_bits, sum(program.weights[name].position_bits() for name in seen))


@dataclass(frozen=True)
class PaperCounts:
    """What the counter released with PENNI says of a network: `params` without bases, `flops` of which one is a MAC."""

    params: int
    flops: int


def paper_counts(program: Program, graph: str = "main") -> PaperCounts:
    """Count as the code released with PENNI (ICML 2020) does: to compare with its tables, not to believe in.

    *params* are the non-zero coefficients of kernel bases and the non-zero weights of all other layers. Bases, biases
    and norms are not counted.

    *flops*, per image, of an input (C, H, W) and an output (K, H', W'), n being the non-zeros counted above:

    - a kernel basis of d bases R x S: H'W' (C d R S + n), whether or not another order is cheaper;
    - a 1x1 convolution: C H n, where H'W' n would be right (the slip is the released counter's);
    - a linear layer: 2 in - 1 per output, zeros included;
    - any other layer, which the released code does not have: our multiply-accumulates.

    Raises:
        ProgramError: the network has a scan.
    """
    counted, shapes = _of_one_image(program, graph)
    if program.bodies(counted):
        raise ProgramError("the counter released with PENNI knows no sequences; this network has a scan")
    nodes = [node for node in counted.nodes if node.weight is not None]
    stored = {node.weight: program.weights[node.weight] for node in nodes if node.weight is not None}
    return PaperCounts(
        sum(_paper_params(packed) for packed in stored.values()),
        sum(_paper_flops(node, stored[node.weight or ""], shapes) for node in nodes),
    )


def _paper_params(packed: Packed) -> int:
    factors = packed.factors() if isinstance(packed, PackedKernelBasis) else None
    return packed.nonzeros() if factors is None else int((factors[1] != 0).sum())


def _paper_flops(node: Node, packed: Packed, shapes: Shapes) -> int:
    source, at, nonzeros = shapes[node.inputs[0]], geometry(node, shapes), _paper_params(packed)
    if node.op == "linear":
        return (2 * packed.shape[1] - 1) * packed.shape[0] * at.outputs
    if packed.shape[2:] == (1, 1):
        return source[1] * source[2] * nonzeros
    if isinstance(packed, PackedKernelBasis):
        return (source[1] * packed.spec.bases * math.prod(packed.shape[2:]) + nonzeros) * at.outputs
    return packed.macs(at)


def _counts(node: Node) -> bool:
    return node.weight is not None or node.op == "matmul"


def _times(row: Row, steps: int) -> Row:
    """The row of a layer that runs at every time step."""
    macs, additions, dense = (steps * each for each in (row.macs, row.additions, row.dense_macs))
    return replace(row, macs=macs, additions=additions, dense_macs=dense)


def _of_one_image(program: Program, graph: str, time: int = 1) -> tuple[Graph, Shapes]:
    """A graph and its shapes for a batch of one."""
    if graph not in program.graphs:
        raise ProgramError(f"the program has no graph {graph!r}; it has {', '.join(program.graphs)}")
    counted = program.graphs[graph]
    return counted, _bound(program, counted, time)


def _bound(program: Program, graph: Graph, time: int) -> Shapes:
    names = {split_dim(d)[1] for name in graph.inputs for d in graph.tensors[name].shape} - {""}
    return program.shapes(graph, {**dict.fromkeys(names, time), BATCH: 1})


def geometry(node: Node, shapes: Shapes) -> Geometry:
    """Positions that a weight op reads and writes per image, and its groups.

    A linear layer has one position for every row it is applied to.
    """
    source, target = shapes[node.inputs[0]], shapes[node.output]
    if node.op == "linear":
        return Geometry(math.prod(source[:-1]), math.prod(target[:-1]))
    return Geometry(math.prod(source[2:]), math.prod(target[2:]), int(node.attributes["groups"]))


def _row(node: Node, program: Program, shapes: Shapes, seen: set[str]) -> Row:
    if node.weight is None:
        macs = math.prod(shapes[node.output]) * shapes[node.inputs[0]][-1]
        return Row(node.name, node.op, "", 0, macs, 0, 0, 0, 0, macs, node.source)
    packed, at = program.weights[node.weight], geometry(node, shapes)
    stored = (0, 0, 0, 0) if node.weight in seen else _stored(packed)
    seen.add(node.weight)
    params, bits, nonzeros, dense = stored
    work = (packed.macs(at), packed.additions(at))
    format = packed.spec.format
    return Row(
        node.name,
        node.op,
        format,
        params,
        *work,
        bits,
        nonzeros,
        dense,
        math.prod(packed.shape) * at.outputs,
        node.source,
    )


def _stored(packed: Packed) -> tuple[int, int, int, int]:
    return packed.params(), packed.bits(), packed.nonzeros(), math.prod(packed.shape)


def _constants(graph: Graph) -> set[str]:
    """Names that a graph reads; those of arrays are among them."""
    return {
        name
        for node in graph.nodes
        for name in (*node.inputs, node.epilogue.scale, node.epilogue.bias)
        if name is not None
    }
