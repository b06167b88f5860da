"""How each op of the table carries channels from its operands to its result."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Final

import numpy as np

from dovetail.formats.kernel_basis import KernelBasisSpec
from dovetail.methods.shrinking.sites import Site, is_depthwise
from dovetail.methods.shrinking.tracks import Floats, Track, joined
from dovetail.methods.shrinking.walk import Rule, Walk
from dovetail.program.program import Node


def unknown(walk: Walk, node: Node) -> Track:
    """An op that mixes channels in a way that is not followed."""
    return walk.refuse(node, f"the channels are not followed through {node.op}")


def conv2d(walk: Walk, node: Node) -> Track:
    """New output channels; a depthwise convolution passes its input's on, other groups keep all."""
    weight, x, groups = walk.weight(node), walk.operand(node, 1), int(node.attributes["groups"])
    apart = is_depthwise(weight, groups)
    atoms = np.repeat(x.atoms, len(weight) // groups) if apart else walk.atoms.fresh(len(weight))
    if groups > 1 and not apart:
        walk.left[node.name] = reason = "a grouped convolution keeps its groups whole"
        walk.atoms.pin(np.concatenate([x.atoms, atoms]), reason)
    size = [math.prod(walk.shapes[name][2:]) for name in (node.inputs[0], node.output)]
    padded = any(node.attributes["padding"])
    return _record(
        walk, node, x, Site("", x.atoms, atoms, weight, x.silent, x.level, padded, groups, (size[0], size[1]))
    )


def linear(walk: Walk, node: Node) -> Track:
    """New output channels along the last axis."""
    shape = walk.shapes[node.output]
    x, rows, weight = walk.operand(node, len(shape) - 1), math.prod(shape[1:-1]), walk.weight(node)
    atoms = walk.atoms.fresh(len(weight))
    return _record(walk, node, x, Site("", x.atoms, atoms, weight, x.silent, x.level, positions=(rows, rows)))


def _record(walk: Walk, node: Node, x: Track, site: Site) -> Track:
    scaled, biased = node.epilogue.scale is not None, node.epilogue.bias is not None
    spec = walk.program.weights[str(node.weight)].spec
    together = spec.shared if isinstance(spec, KernelBasisSpec) else 1
    site = replace(site, name=node.name, scaled=scaled, biased=biased, together=together)
    walk.sites.append(site)
    return Track(x.axis, site.outputs, *site.fan())


def affine(walk: Walk, node: Node) -> Track:
    """A norm of its own."""
    track = walk.operand(node, int(node.attributes["axis"]))
    walk.affine[node.name] = track.atoms
    return track


def keep(walk: Walk, node: Node) -> Track:
    """Pointwise: nothing moves."""
    return walk.tracks[node.inputs[0]]


def pool(walk: Walk, node: Node) -> Track:
    """A window over the map; a mean that counts zero padding is uniform for a level of zero only."""
    track = walk.operand(node, 1)
    counts_zeros = node.op == "avg_pool2d" and node.attributes["include_pad"] and any(node.attributes["padding"])
    return track.levelled(track.level, track.level == 0) if counts_zeros else track


def mean(walk: Walk, node: Node) -> Track:
    """The channel axis moves up by the axes that vanish before it."""
    track, axes = walk.tracks[node.inputs[0]], node.attributes["axes"]
    if track.axis in axes:
        return walk.refuse(node, "it averages over channels")
    gone = 0 if node.attributes["keepdims"] else sum(axis < track.axis for axis in axes)
    return track.on(track.axis - gone)


def concat(walk: Walk, node: Node) -> Track:
    """Along the channels: one after the other. Along another axis: the parts share their channels."""
    tracks, axis = [walk.tracks[name] for name in node.inputs], int(node.attributes["axis"])
    if any(track.axis != tracks[0].axis for track in tracks):
        return walk.refuse(node, "it joins tensors whose channels lie along different axes")
    if tracks[0].axis == axis:
        return joined(tracks)
    for track in tracks[1:]:
        walk.atoms.join(tracks[0].atoms, track.atoms)
    same = np.logical_and.reduce([track.level == tracks[0].level for track in tracks])
    silent = np.logical_and.reduce([track.silent for track in tracks])
    return replace(tracks[0], silent=silent).levelled(tracks[0].level, same)


def slice_(walk: Walk, node: Node) -> Track:
    """Along the channels the model cuts by number, so that all of them stay."""
    track, at = walk.tracks[node.inputs[0]], node.attributes
    if at["axis"] != track.axis:
        return track
    walk.left[node.name] = reason = "it cuts channels by their number"
    walk.atoms.pin(track.atoms, reason)
    return track.take(slice(at["start"], at["stop"], at["step"]))


def reshape(walk: Walk, node: Node) -> Track:
    """Following axes may be merged into the channels (flatten): each channel then covers several positions."""
    track, before, after = walk.tracks[node.inputs[0]], walk.shapes[node.inputs[0]], walk.shapes[node.output]
    outer, channels = math.prod(before[: track.axis]), before[track.axis]
    for axis, size in enumerate(after):
        runs = [math.prod(before[track.axis + 1 : end]) for end in range(track.axis + 1, len(before) + 1)]
        if math.prod(after[:axis]) == outer and size in [channels * run for run in runs]:
            return track.take(np.repeat(np.arange(channels), size // channels)).on(axis)
    return walk.refuse(node, "it takes the channel axis apart")


def permute(walk: Walk, node: Node) -> Track:
    """The axes in another order."""
    track = walk.tracks[node.inputs[0]]
    return track.on(node.attributes["order"].index(track.axis))


def pad(walk: Walk, node: Node) -> Track:
    """Padding of the channels (an option-A shortcut) fixes their number; other padding leaves only equal levels."""
    track, pads, value = walk.tracks[node.inputs[0]], node.attributes["pads"], float(node.attributes["value"])
    if any(pads[track.axis]):
        walk.left[node.name] = reason = "it pads the channel axis"
        ends = [_constant(walk, track.axis, count, value) for count in pads[track.axis]]
        track = joined([ends[0], track, ends[1]])
        walk.atoms.pin(track.atoms, reason)
    others = any(any(pair) for axis, pair in enumerate(pads) if axis != track.axis)
    return track.levelled(track.level, track.level == value) if others else track


def _constant(walk: Walk, axis: int, count: int, value: float) -> Track:
    return Track(axis, walk.atoms.fresh(count), np.ones(count, dtype=bool), np.full(count, value))


def other_axis(axis: Callable[[Node, int], range]) -> Rule:
    """The rule of an op that mixes positions along some axes: harmless where the channels lie along none of them."""

    def rule(walk: Walk, node: Node) -> Track:
        track = walk.tracks[node.inputs[0]]
        if track.axis in axis(node, len(walk.shapes[node.inputs[0]])):
            return walk.refuse(node, f"{node.op} mixes channels")
        return track.levelled(np.full(len(track.atoms), np.nan))

    return rule


def arithmetic(walk: Walk, node: Node) -> Track:
    """Sum or product of two tensors, or of a tensor and a constant, with broadcasting."""
    dimensions = len(walk.shapes[node.output])
    tracks = [_aligned(walk, name, dimensions) for name in node.inputs]
    left, right = sorted(tracks, key=lambda operand: not isinstance(operand, Track))
    if not isinstance(left, Track):
        return walk.refuse(node, "it has no operand that depends on the input")
    if not isinstance(right, Track):
        return _with_constant(walk, node, left, right)
    if left.axis != right.axis or len(left.atoms) != len(right.atoms):
        return walk.refuse(node, "it broadcasts one tensor along the channels of another", left.axis)
    if node.op == "add":
        return walk.sum(node, left, right)
    walk.atoms.join(left.atoms, right.atoms)
    zero = (left.uniform & (left.level == 0)) | (right.uniform & (right.level == 0))
    level = np.where(zero, 0.0, left.level * right.level)
    return replace(left, silent=zero | (left.silent & right.silent), level=level)


def _aligned(walk: Walk, name: str, dimensions: int) -> Track | Floats:
    """A tensor's channels along the axis of the result, or a constant."""
    if name not in walk.tracks:
        return np.asarray(walk.program.arrays[name], dtype=np.float64)
    return walk.tracks[name].on(walk.tracks[name].axis + dimensions - len(walk.shapes[name]))


def _with_constant(walk: Walk, node: Node, track: Track, constant: Floats) -> Track:
    from_right = len(walk.shapes[node.output]) - track.axis
    if constant.ndim >= from_right and constant.shape[-from_right] > 1:
        return walk.refuse(node, "it meets a constant with one value per channel", track.axis)
    if constant.size > 1:
        return track.levelled(np.full(len(track.atoms), np.nan))
    value = float(constant.reshape(()))
    return replace(track, level=track.level + value if node.op == "add" else track.level * value)


RULES: Final[dict[str, Rule]] = {
    "conv2d": conv2d,
    "linear": linear,
    "affine": affine,
    "activation": keep,
    "add": arithmetic,
    "mul": arithmetic,
    "max_pool2d": pool,
    "avg_pool2d": pool,
    "adaptive_avg_pool2d": pool,
    "adaptive_max_pool2d": pool,
    "upsample_nearest": pool,
    "mean": mean,
    "concat": concat,
    "slice": slice_,
    "reshape": reshape,
    "permute": permute,
    "pad": pad,
    "softmax": other_axis(lambda node, _: range(node.attributes["axis"], node.attributes["axis"] + 1)),
    "layer_norm": other_axis(lambda node, dimensions: range(dimensions - node.attributes["axes"], dimensions)),
}
