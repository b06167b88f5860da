"""A scan: the body's kernel calls are made once, and entered into the plan once for every time step.

Weights are packed once and all steps share the memory of what they compute, so that a longer sequence takes more calls
and no more memory than its inputs and outputs do. Body and state meet in buffers of their own:

    states ← initial;  for t: body reads steps at t and states;  output at t ← first new state;  states ← new states
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from dovetail.engine.builder import Builder
from dovetail.engine.layout import Buffer, Shape, View
from dovetail.program.program import Graph, Node

EmitBody = Callable[[Builder, dict[str, View]], Mapping[str, View]]
"""Emits the nodes of a body whose inputs lie in these views; gives the view of every tensor."""


@dataclass(frozen=True)
class Noted:
    """A kernel call as it was asked for, to be made again."""

    node: str
    kernel: str
    reads: Mapping[str, View | None]
    writes: Mapping[str, View]
    disjoint: bool
    work: int | None
    fields: Mapping[str, Any]


@dataclass
class Recorder(Builder):
    """A builder that notes the calls of one time step."""

    calls: list[Noted] = field(default_factory=list)

    def emit(
        self,
        kernel: str,
        reads: Mapping[str, View | None],
        writes: Mapping[str, View],
        *,
        disjoint: bool = False,
        work: int | None = None,
        **fields: Any,
    ) -> None:
        """As `Builder.emit` is called."""
        self.calls.append(Noted(self.node, kernel, reads, writes, disjoint, work, fields))


def scan(
    b: Builder,
    node: Node,
    body: Graph,
    shapes: Mapping[str, Shape],
    operands: Sequence[View],
    shape: Shape,
    emit_body: EmitBody,
) -> View:
    """The output of a scan.

    Args:
        b: takes the calls.
        node: the scan.
        body: its graph.
        shapes: of that graph's tensors.
        operands: sequences, then initial states, if any are given.
        shape: of the output.
        emit_body: makes the calls of one step.
    """
    count = node.attributes["sequences"]
    sequences, given = operands[:count], operands[count:]
    states = [b.rows(shapes[name]) for name in body.inputs[count:]]
    for i, state in enumerate(states):
        if given:
            b.copy(given[i], state)
        else:
            b.fill(state, 0)
    y = None if node.attributes["last"] else b.rows(shape)
    recorder = Recorder(b.lanes, b.threads, b.halos, constants=b.constants, node=node.name)
    at = [_step_of(each) for each in (*sequences, *([] if y is None else [y]))]
    moving = {view.buffer: whole for view, whole in zip(at, (*sequences, y)) if whole is not None}
    views = dict(emit_body(recorder, dict(zip(body.inputs, (*at[:count], *states)))))
    recorder.node = node.name
    made = [views[name] for name in body.outputs]
    if y is not None:
        recorder.copy(made[0], at[-1], disjoint=True)
    _store(recorder, made, states)
    _repeat(b, recorder, moving, sequences[0].shape[1])
    return states[0] if y is None else y


def _step_of(sequence: View) -> View:
    """One time step of a sequence, in a buffer that stands for the sequence at any step."""
    shape = (sequence.shape[0], *sequence.shape[2:])
    return View(Buffer(math.prod(shape)), shape, (sequence.strides[0], *sequence.strides[2:]))


def _store(recorder: Recorder, made: Sequence[View], states: Sequence[View]) -> None:
    """New states take the place of the old; one that is a part of an old state is first brought to safety."""
    old = {state.buffer for state in states}
    safe = []
    for view in made:
        safe.append(view)
        if view.buffer in old:
            safe[-1] = recorder.rows(view.shape)
            recorder.copy(view, safe[-1])
    for view, state in zip(safe, states):
        recorder.copy(view, state)


def _repeat(b: Builder, recorder: Recorder, moving: Mapping[Buffer, View], steps: int) -> None:
    """Make the noted calls at every time step; views in `moving` buffers go along the sequence for which they stand."""

    def moved(view: View | None, t: int) -> View | None:
        if view is None or (whole := moving.get(view.buffer)) is None:
            return view
        whole.buffer.allow(view.buffer.overrun)
        return replace(view, buffer=whole.buffer, offset=whole.offset + t * whole.strides[1] + view.offset)

    before = b.node
    b.scratch = max(b.scratch, recorder.scratch)
    for t in range(steps):
        for call in recorder.calls:
            b.node = call.node
            reads = {name: moved(view, t) for name, view in call.reads.items()}
            writes = {name: moved(view, t) or view for name, view in call.writes.items()}
            b.emit(call.kernel, reads, writes, disjoint=call.disjoint, work=call.work, **call.fields)
    b.node = before
