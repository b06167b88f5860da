"""Mending a quantised Program: biases and scales by which its layers give what they gave in floating point."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np

from dovetail.errors import InputError
from dovetail.formats.base import Packed
from dovetail.program.calibrate import Statistics, pieces
from dovetail.program.check import check
from dovetail.program.fuse import remove_dead
from dovetail.program.integer import touches_codes
from dovetail.program.ops import channel_axis, complete
from dovetail.program.program import Node, Program, Tensor
from dovetail.program.quantize import fresh, names_of, whole_values
from dovetail.program.reference import run

Array = np.ndarray
Runner = Callable[[Array], tuple[Array, ...]]
LARGEST_GAIN: Final = 2.0


def correct_bias(program: Program, quantized: Program, statistics: Mapping[str, Statistics]) -> Program:
    """`quantized`, its biases shifted by what rounding the weights changes on average.

    A weight that is rounded by `dW` shifts an output by the sum of `dW` times the means of the inputs (Nagel et al.,
    Data-free quantization, 2019, section 4.2, with measured means; borders are taken like the rest).

    Raises:
        ProgramError: with its new bias a sum could exceed 32 bits.
    """
    arrays, taken = dict(quantized.arrays), names_of(quantized)
    changed = {}
    for old, node in _pairs(program, quantized):
        shift = _shift(program, quantized, old, node, statistics[old.inputs[0]].mean)
        bias = fresh(f"{node.name}.corrected", taken)
        arrays[bias] = (_bias(program, old, len(shift)) - shift).astype(np.float32)
        changed[node.name] = replace(node, epilogue=replace(node.epilogue, bias=bias))
    made = _with(replace(quantized, arrays=arrays), changed)
    check(made)
    return made


def runner(program: Program) -> Runner:
    """The outputs for a batch, by the reference."""

    def outputs(batch: Array) -> tuple[Array, ...]:
        found = run(program, batch)
        return found if isinstance(found, tuple) else (found,)

    return outputs


def reestimate(
    program: Program,
    quantized: Program,
    images: Sequence[Array],
    prepare: Callable[[Program], Runner] = runner,
) -> Program:
    """`quantized`, the results of its weight layers brought to mean and deviation of those of `program`, by channel.

    It is what a batch norm does when its statistics are taken again in the quantised network. Compared is what layers
    give before residual and activation. One layer after another is mended, in the order of the graph, each behind those
    mended before it: all at once would take back the same shift in every layer that it passes through.

    A channel whose deviation is more than twice or less than half of what it was, or that has none, is only shifted;
    so are the channels of a weight that several layers share.

    Args:
        program: in floating point, as `quantize` was given it.
        quantized: what `quantize` made of it.
        images: batches, normalised as in training; about a thousand images do.
        prepare: how a program is run; by default by the reference.

    Raises:
        InputError: there are no images, or a result is not finite.
        ProgramError: with its new bias a sum could exceed 32 bits.
    """
    names = [node.name for _, node in _pairs(program, quantized)]
    wanted = _moments(program, names, images, prepare)
    for name in names:
        quantized = _mended(quantized, name, wanted[name], _moments(quantized, [name], images, prepare)[name])
        check(quantized)
    return quantized


@dataclass
class _Moments:
    """Sums over the results of a layer, per channel."""

    count: int = 0
    total: Array | float = 0.0
    squares: Array | float = 0.0

    def add(self, results: Array, axis: int) -> None:
        """Take in the results of a batch, whose channels lie along `axis`."""
        axes = tuple(i for i in range(results.ndim) if i != axis)
        self.count += results.size // results.shape[axis]
        self.total = self.total + results.sum(axis=axes, dtype=np.float64)
        self.squares = self.squares + np.square(results, dtype=np.float64).sum(axis=axes)

    @property
    def mean(self) -> Array:
        return np.asarray(self.total / self.count)

    @property
    def deviation(self) -> Array:
        return np.sqrt(np.maximum(self.squares / self.count - self.mean**2, 0.0))


def _moments(
    program: Program, names: Collection[str], images: Sequence[Array], prepare: Callable[[Program], Runner]
) -> dict[str, _Moments]:
    """Of what the named weight layers give before residual and activation."""
    probed, axes = _probed(program, names)
    evaluate, found = prepare(probed), {name: _Moments() for name in axes}
    for batch in pieces(images):
        for (name, moments), results in zip(found.items(), evaluate(batch), strict=True):
            if not np.isfinite(results).all():
                raise InputError(f"layer {name!r} gives NaN or Inf on these images; check them and the weights")
            moments.add(results, axes[name])
    if not all(moments.count for moments in found.values()):
        raise InputError("layers cannot be compared without images; give training images, not augmented")
    return found


def _probed(program: Program, names: Collection[str]) -> tuple[Program, dict[str, int]]:
    """The program with, as its outputs, what the named layers give before residual and activation; their channel axes.

    A probe stands beside its layer and reads the same; codes or not, it gives real numbers.
    """
    graph, taken = program.graph, names_of(program)
    nodes, tensors, outputs, axes = [], dict(graph.tensors), [], {}
    for node in graph.nodes:
        nodes.append(node)
        if node.name in names:
            shape, probe = tensors[node.output].shape, fresh(f"{node.name}.probe", taken)
            epilogue = replace(node.epilogue, residual=None, activation=None)
            nodes.append(replace(node, name=probe, output=probe, epilogue=epilogue))
            tensors[probe] = Tensor(probe, shape)
            outputs.append(probe)
            axes[node.name] = channel_axis(node, len(shape))
    probing = replace(graph, nodes=tuple(nodes), tensors=tensors, outputs=tuple(outputs))
    return remove_dead(program.with_graph(probing)), axes


def _mended(quantized: Program, name: str, wanted: _Moments, found: _Moments) -> Program:
    """The program with scale and bias of a layer changed, so that `found` becomes `wanted`."""
    node, weights, taken = quantized.graph.node(name), dict(quantized.weights), names_of(quantized)
    users = Counter(other.weight for other in quantized.graph.nodes)
    gain = _gain(wanted.deviation, found.deviation) if users[node.weight] == 1 else np.ones(len(wanted.mean))
    weights[node.weight or ""] = _scaled(weights[node.weight or ""], gain)
    bias = fresh(f"{name}.mended", taken)
    shifted = (_bias(quantized, node, len(gain)) - found.mean) * gain + wanted.mean
    arrays = {**quantized.arrays, bias: shifted.astype(np.float32)}
    changed = replace(node, epilogue=replace(node.epilogue, bias=bias))
    return _with(replace(quantized, arrays=arrays, weights=weights), {name: changed})


def _gain(wanted: Array, found: Array) -> Array:
    """Wanted over found deviation, 1 where that is no sensible factor."""
    gain = np.divide(wanted, found, out=np.ones_like(wanted), where=found > 0)
    return np.where((gain >= 1 / LARGEST_GAIN) & (gain <= LARGEST_GAIN), gain, 1.0)


def _scaled(packed: Packed, gain: Array) -> Packed:
    """The same codes with other scales."""
    return packed if (gain == 1).all() else packed.cast(whole_values(packed), gain.astype(np.float32))


def _pairs(program: Program, quantized: Program) -> list[tuple[Node, Node]]:
    """The weight layers over codes, in order: as they were, and as they are."""
    before = {node.name: complete(node) for node in program.graph.nodes}
    graph = quantized.graph
    over = [node for node in graph.nodes if node.weight is not None and touches_codes(node, graph)]
    return [(before[node.name], node) for node in over if node.name in before]


def _with(program: Program, changed: Mapping[str, Node]) -> Program:
    """The program with nodes of the same names in the place of others, and without arrays that nobody reads."""
    nodes = tuple(changed.get(node.name, node) for node in program.graph.nodes)
    used = {name for node in nodes for name in (*node.reads(), node.epilogue.scale, node.epilogue.bias)}
    arrays = {name: array for name, array in program.arrays.items() if name in used}
    return replace(program, graphs={"main": replace(program.graph, nodes=nodes)}, arrays=arrays)


def _shift(program: Program, quantized: Program, old: Node, node: Node, mean: Array) -> Array:
    """Sum over the inputs of each output of (rounded - real weight) * mean."""
    real = program.weights[old.weight or ""].dense().astype(np.float64)
    if old.epilogue.scale is not None:
        real = real * program.arrays[old.epilogue.scale].reshape(-1, *(1,) * (real.ndim - 1))
    change = quantized.weights[node.weight or ""].dense() - real
    change = change.reshape(*change.shape[:2], -1).sum(axis=2)
    groups = int(node.attributes.get("groups", 1))
    of_group = mean.reshape(groups, -1).repeat(len(change) // groups, axis=0)
    shift: Array = (change * of_group).sum(axis=1)
    return shift


def _bias(program: Program, node: Node, outputs: int) -> Array:
    name = node.epilogue.bias
    return np.zeros(outputs) if name is None else program.arrays[name].astype(np.float64)
