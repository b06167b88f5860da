"""The state of one walk over a Program's graph: a track for every tensor, a site for every weight op."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from dovetail.methods.shrinking.sites import Site
from dovetail.methods.shrinking.tracks import Atoms, Floats, Ints, Track
from dovetail.program.ops import ACTIVATIONS, channel_axis
from dovetail.program.program import Node, Program

Rule = Callable[["Walk", Node], Track]
PRIME = 9973  # stands for symbolic dimensions: no channel count shares a factor, so reshapes are read unambiguously


class Walk:
    """What is known so far; rules read it and answer with the track of a node's output."""

    def __init__(self, program: Program) -> None:
        self.program = program
        named = {d for name in program.graph.inputs for d in program.graph.tensors[name].shape if isinstance(d, str)}
        self.shapes = program.graph.bind(**dict.fromkeys(named, PRIME))
        self.atoms = Atoms()
        self.tracks: dict[str, Track] = {}
        self.sites: list[Site] = []
        self.affine: dict[str, Ints] = {}
        self.left: dict[str, str] = {}
        for name in program.graph.inputs:
            self.tracks[name] = self.stuck(name, "an input of the network")

    def visit(self, node: Node, rule: Rule) -> None:
        """Follow the channels through one node."""
        with np.errstate(all="ignore"):
            self.tracks[node.output] = self._finish(node, rule(self, node))

    def stuck(self, tensor: str, reason: str, axis: int | None = None) -> Track:
        """New channels of `tensor` that must stay."""
        shape = self.shapes[tensor]
        axis = (1 if len(shape) == 4 else len(shape) - 1) if axis is None else axis
        atoms = self.atoms.fresh(shape[axis])
        self.atoms.pin(atoms, reason)
        return Track.speaking(axis, atoms)

    def refuse(self, node: Node, reason: str, axis: int | None = None) -> Track:
        """`node` cannot be followed: everything that it reads stays, and so does what it writes."""
        self.left.setdefault(node.name, reason)
        for name in node.inputs:
            if name in self.tracks:
                self.atoms.pin(self.tracks[name].atoms, reason)
        return self.stuck(node.output, reason, axis)

    def operand(self, node: Node, axis: int) -> Track:
        """The first operand's channels along `axis`; where they lie along another axis they stay."""
        track = self.tracks[node.inputs[0]]
        if track.axis == axis:
            return track
        reason = "its channels are not followed along this axis"
        self.left.setdefault(node.name, reason)
        self.atoms.pin(track.atoms, reason)
        return self.stuck(node.inputs[0], reason, axis)

    def weight(self, node: Node) -> Floats:
        """The dense weight in float64."""
        return self.program.weights[str(node.weight)].dense().astype(np.float64)

    def _finish(self, node: Node, track: Track) -> Track:
        """Apply `activation(scale * x + bias + residual)` to what is known of the levels."""
        epilogue, level = node.epilogue, track.level
        along = channel_axis(node, len(self.shapes[node.output])) if epilogue.scale or epilogue.bias else track.axis
        if along != track.axis:
            return self.refuse(node, "a norm along another axis than the channels", along)
        if epilogue.scale is not None:
            level = level * self.program.arrays[epilogue.scale]
        if epilogue.bias is not None:
            level = level + self.program.arrays[epilogue.bias]
        track = replace(track, level=level)
        if epilogue.residual is not None:
            track = self.sum(node, track, self.tracks[epilogue.residual])
        if epilogue.activation is not None:
            function, args = ACTIVATIONS[epilogue.activation.name].reference, epilogue.activation.args
            track = replace(track, level=function(track.level, *args))
        return track

    def sum(self, node: Node, left: Track, right: Track) -> Track:
        """Two tensors of one shape added: channel by channel they share one fate."""
        if left.axis != right.axis:
            self.atoms.pin(right.atoms, "added to a tensor whose channels lie along another axis")
            return self.refuse(node, "it adds tensors whose channels lie along different axes", left.axis)
        self.atoms.join(left.atoms, right.atoms)
        return replace(left, silent=left.silent & right.silent, level=left.level + right.level)
