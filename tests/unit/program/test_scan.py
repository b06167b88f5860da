"""The op that walks along time: its meaning, what contradicts it, files, counts, fusing, and where it comes from."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from dovetail.accelerators.record import record
from dovetail.errors import InputError, ProgramError, UnsupportedOp
from dovetail.formats import SvdSpec
from dovetail.formats.layer import from_dense, swap
from dovetail.formats.recurrent import Lstm, Recurrent
from dovetail.methods.shrinking.coupling import couple
from dovetail.program.check import check
from dovetail.program.counts import count, paper_counts
from dovetail.program.fuse import fuse
from dovetail.program.lower import lower
from dovetail.program.program import Activation, Graph, Node, Program, Tensor
from dovetail.program.quantize import check_quantizable
from dovetail.program.reference import run
from dovetail.program.store import load, save
from programs import Sketch, recurrence

# Meaning


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def by_hand(program, x, h, m):
    """The recurrence of `recurrence`, step by step."""
    gate, change = (packed.dense() for name, packed in program.weights.items() if name.startswith("cell."))
    (bias,) = (array for name, array in program.arrays.items() if name.startswith("cell."))
    made = []
    for t in range(x.shape[1]):
        h = sigmoid(x[:, t] + h @ gate.T) * np.tanh(h @ change.T + bias)
        m = m + h
        made.append(h)
    return np.stack(made, axis=1), m


def small(*, last=False, initial=False, time="time"):
    sketch = Sketch(1)
    cell = recurrence(sketch, 5)
    x = sketch.input("batch", time, 5)
    states = [sketch.input("batch", 5) for _ in range(2)] if initial else []
    y = sketch.add("scan", x, *states, body=cell, last=last)
    return sketch.program(y)


@pytest.mark.parametrize("initial", [False, True])
@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize(("batch", "steps"), [(1, 1), (3, 7), (2, 30)])
def test_a_scan_runs_its_body_at_every_step(batch, steps, last, initial):
    program, random = small(last=last, initial=initial), np.random.default_rng(0)
    x, *states = (random.standard_normal(shape) for shape in ((batch, steps, 5), (batch, 5), (batch, 5)))
    got = run(program, x, *(states if initial else ()), dtype=np.float64)
    every, _ = by_hand(program, x, *(states if initial else (np.zeros((batch, 5)),) * 2))
    assert np.allclose(got, every[:, -1] if last else every, rtol=0, atol=1e-12)


def test_every_tensor_of_the_body_is_told_with_the_time_as_second_axis():
    program, x = small(last=True), np.random.default_rng(0).standard_normal((2, 4, 5))
    values = run(program, x, dtype=np.float64, every=True)
    hidden, memory = by_hand(program, x, np.zeros((2, 5)), np.zeros((2, 5)))
    assert np.allclose(values["cell.mul2"], hidden)
    assert np.allclose(values["cell.add3"][:, -1], memory)
    assert np.allclose(values["cell.x1"][:, 1:], hidden[:, :-1])
    assert set(values) == {name for graph in program.graphs.values() for name in graph.tensors}


def test_machines_meet_the_layers_of_the_body_at_all_steps_together():
    program, x = small(), np.random.default_rng(0).standard_normal((2, 4, 5)).astype(np.float32)
    values, layers = run(program, x, every=True), record(program, x)
    assert [layer.name for layer in layers] == ["cell.linear0", "cell.linear1"]
    for layer in layers:
        assert np.array_equal(layer.input, values["cell.x1"].reshape(8, 5, 1, 1))


# What contradicts itself


def changed(program, graph, **fields):
    return replace(program, graphs={**program.graphs, graph: replace(program.graphs[graph], **fields)})


def scanning(program, **attributes):
    """The program whose scan has other attributes; None leaves one out."""
    (node,) = program.graph.nodes
    merged = {**node.attributes, **attributes}
    kept = {name: value for name, value in merged.items() if value is not None}
    return changed(program, "main", nodes=(replace(node, attributes=kept),))


def of_states(program, *states):
    """The program whose scan begins with these tensors."""
    (node,) = program.graph.nodes
    return changed(program, "main", nodes=(replace(node, inputs=(*node.inputs[:1], *states)),))


def shaped(program, graph, name, *shape):
    return changed(program, graph, tensors={**program.graphs[graph].tensors, name: Tensor(name, shape)})


def recursive(program):
    body = program.graphs["cell."]
    node = Node("scan", "cell.again", ("cell.x0",), "cell.again", attributes={"body": "cell."})
    tensors = {**body.tensors, "cell.again": Tensor("cell.again", ("batch", 5))}
    return changed(program, "cell.", nodes=(*body.nodes, node), tensors=tensors)


def renamed(program):
    """Its input has a name that the body uses, too."""
    main = program.graph
    tensors = {"cell.x0": Tensor("cell.x0", main.tensors["x0"].shape), "scan0": main.tensors["scan0"]}
    nodes = (replace(main.nodes[0], inputs=("cell.x0",)),)
    return changed(program, "main", inputs=("cell.x0",), nodes=nodes, tensors=tensors)


CONTRADICTIONS = {
    "a body that is not there": (lambda p: scanning(p, body="loop"), "'loop' is no graph of this program; it has main"),
    "no body": (lambda p: scanning(p, body=None), "attribute 'body' is missing; it must be a name"),
    "a body of another kind": (lambda p: scanning(p, body=3), "'body' is 3; it must be a name"),
    "itself as the body": (lambda p: scanning(p, body="main"), "has a scan of its own"),
    "a body that scans": (recursive, "has a scan of its own"),
    "no sequence": (lambda p: scanning(p, sequences=0), "'sequences' is 0"),
    "more sequences than operands": (lambda p: scanning(p, sequences=2), "1 operands, of which 2 should be sequences"),
    "a sequence without time": (lambda p: shaped(p, "main", "x0", "batch"), r"a sequence of shape \(batch\) has no"),
    "steps of another size": (lambda p: shaped(p, "main", "x0", "batch", "time", 4), "has no steps 'cell.x0'"),
    "another batch": (lambda p: shaped(p, "main", "x0", "people", "time", 5), "has no steps 'cell.x0'"),
    "initial states as sequences": (lambda p: scanning(p, sequences=3), "3 steps and 0 states, and gives 2"),
    "a new state too few": (lambda p: changed(p, "cell.", outputs=("cell.mul2",)), "2 states, and gives 1"),
    "a state that changes its size": (
        lambda p: shaped(p, "cell.", "cell.x2", "batch", 1),
        r"takes the state 'cell.x2' as \(batch, 1\) and gives it as \(batch, 5\)",
    ),
    "an output that nobody declares": (
        lambda p: changed(p, "cell.", outputs=("cell.mul2", "cell.lost")),
        "graph 'cell.': output 'cell.lost' is computed nowhere",
    ),
    "an initial state too few": (lambda p: of_states(p, "x1"), "initial states"),
    "an initial state of another size": (
        lambda p: of_states(shaped(p, "main", "x2", "batch", 4), "x1", "x2"),
        r"initial states \(batch, 5\), \(batch, 4\)",
    ),
    "one name inside and outside": (renamed, "'cell.x0' is a name both in the body 'cell.' and outside"),
    "a result of another shape": (lambda p: shaped(p, "main", "scan0", "batch", 5), "is said to have shape"),
}


@pytest.mark.parametrize("what", CONTRADICTIONS)
def test_a_program_that_contradicts_itself_is_refused_in_memory_and_in_a_file(tmp_path, what):
    change, message = CONTRADICTIONS[what]
    good = small(initial="initial" in what)
    check(good)
    with pytest.raises(ProgramError, match=message):
        check(change(good))
    with pytest.raises(ProgramError, match=message):
        save(change(good), tmp_path / "net.dovetail")


def test_a_state_that_begins_at_zero_needs_sizes_that_the_sequence_has():
    sketch, inside = Sketch(), Sketch(0, "odd.")
    inside.input("batch", 5)
    state = inside.input("others", 5)
    body = sketch.body(inside, inside.add("activation", state, activation=Activation("tanh")))
    x, begin = sketch.input("batch", "time", 5), sketch.input("others", 5)
    check(sketch.program(sketch.add("scan", x, begin, body=body, last=True)))
    with pytest.raises(ProgramError, match="the size 'others' of a state that starts at zero"):
        sketch.add("scan", x, body=body, last=True)


def test_sequences_of_two_lengths_are_refused():
    sketch, inside = Sketch(), Sketch(0, "two.")
    one, other, state = (inside.input("batch", 5) for _ in range(3))
    body = sketch.body(inside, inside.add("add", inside.add("add", one, other), state))
    with pytest.raises(ProgramError, match=r"a sequence of shape \(batch, 8, 5\)"):
        sketch.add("scan", sketch.input("batch", 7, 5), sketch.input("batch", 8, 5), body=body, sequences=2)


def test_an_input_that_is_too_short_or_of_another_size_is_refused():
    program = small()
    for shape in ((2, 0, 5), (2, 3, 4), (2, 5)):
        with pytest.raises(InputError, match="input 'x0'"):
            run(program, np.zeros(shape, np.float32))


# Files, counts, fusing, whole numbers


def test_a_scan_comes_back_from_its_file(tmp_path):
    program = small(last=True)
    save(program, tmp_path / "net.dovetail")
    read = load(tmp_path / "net.dovetail")
    x = np.random.default_rng(0).standard_normal((2, 6, 5)).astype(np.float32)
    assert read.graphs["cell."] == program.graphs["cell."]
    assert np.array_equal(run(read, x), run(program, x))


@pytest.mark.parametrize("steps", ["time", 6])
def test_counts_by_hand(steps):
    counts = count(small(time=steps))
    times = 1 if steps == "time" else 6
    assert [row.name for row in counts.rows] == ["cell.linear0", "cell.linear1"]
    assert [row.macs for row in counts.rows] == [25 * times] * 2
    assert counts.dense_macs == counts.macs
    assert counts.params == 25 + 25 + 5
    assert counts.bits == 32 * 55


def test_counts_of_so_many_steps():
    assert count(small(), time=9).macs == 9 * count(small()).macs
    assert count(small(time=6), time=9).macs == count(small(time=6)).macs
    with pytest.raises(ProgramError, match="knows no sequences"):
        paper_counts(small())


def test_weights_that_two_scans_share_are_counted_once_and_work_twice():
    sketch = Sketch(1)
    cell, x = recurrence(sketch, 5), sketch.input("batch", 4, 5)
    counts = count(sketch.program(sketch.add("scan", sketch.add("scan", x, body=cell), body=cell)))
    assert counts.macs == 2 * 4 * 2 * 25
    assert counts.params == 55


def test_bodies_are_fused_and_keep_their_meaning():
    sketch, inside = Sketch(2), Sketch(3, "loose.")
    step, state = inside.input("batch", 4), inside.input("batch", 4)
    y = inside.add("affine", inside.add("add", step, state), axis=1, scaled=True, biased=True)
    y = inside.add("activation", inside.add("reshape", y, shape=("batch", 4)), activation=Activation("tanh"))
    program = sketch.program(sketch.add("scan", sketch.input("batch", "time", 4), body=sketch.body(inside, y)))
    fused = fuse(program)
    check(fused)
    assert [node.op for node in fused.graphs["loose."].nodes] == ["add", "affine"]
    assert [node.op for node in fused.graph.nodes] == ["scan"]
    x = np.random.default_rng(0).standard_normal((2, 5, 4)).astype(np.float32)
    assert np.allclose(run(fused, x), run(program, x), atol=1e-6)


def test_whole_numbers_are_refused_in_words():
    with pytest.raises(ProgramError, match=r"recurrent layer \(a scan\) stays in floating point"):
        check_quantizable(small(), ())


# From torch


class Tagger(nn.Module):
    """A score for every step, and a class for the whole."""

    def __init__(self, inputs=6, hidden=5):
        super().__init__()
        self.first, self.second = Lstm(inputs, hidden), Lstm(hidden, hidden, last=True)
        self.tag, self.whole = nn.Linear(hidden, 2), nn.Linear(hidden, 3)

    def forward(self, x):
        y = torch.relu(self.first(x))
        return self.tag(y), self.whole(self.second(y))


@pytest.mark.parametrize("time", [None, 1])
@pytest.mark.parametrize("steps", [2, 11])
def test_lowered_it_is_the_function_of_the_model(time, steps):
    model, x = Tagger().eval(), torch.randn(1, steps, 6)
    program = lower(model, x, time=time)
    assert list(program.graphs) == ["main", "first.step", "second.step"]
    assert program.graph.tensors["x"].shape == ("batch", steps if time is None else "time", 6)
    for batch, length in ((3, steps), *(((2, 1), (2, 40)) if time else ())):
        x = torch.randn(batch, length, 6)
        with torch.no_grad():
            want = model(x)
        for got, expected in zip(run(program, x.numpy()), want, strict=True):
            assert np.abs(got - expected.numpy()).max() < 1e-6


def test_every_matrix_keeps_its_name_and_gates_are_whole_layers():
    program = lower(Tagger(), torch.randn(1, 4, 6), time=1)
    names = {f"{layer}.{side}_{gate}" for layer in ("first", "second") for side in "xh" for gate in "ifgo"}
    assert set(program.weights) == names | {"tag", "whole"}
    step = program.graphs["second.step"]
    assert [node.op for node in step.nodes] == ["linear"] * 4 + ["mul", "mul", "add", "activation", "mul"]
    assert {node.epilogue.activation.name for node in step.nodes[:4]} == {"sigmoid", "tanh"}
    assert count(program).params == sum(p.numel() for p in Tagger().parameters())


def test_formats_within_it_are_packed_as_they_are():
    model = Tagger().eval()
    for name in ("first.x_i", "second.h_o"):
        swap(model, name, from_dense(model.get_submodule(name), SvdSpec(rank=2)))
    x = torch.randn(2, 5, 6)
    program = lower(model, x)
    assert {n for n, packed in program.weights.items() if packed.spec.format == "svd"} == {"first.x_i", "second.h_o"}
    with torch.no_grad():
        want = model(x)
    for got, expected in zip(run(program, x.numpy()), want, strict=True):
        assert np.abs(got - expected.numpy()).max() < 1e-5


def test_a_layer_that_is_used_twice_has_one_body():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.lstm = Lstm(4, 4)

        def forward(self, x):
            return self.lstm(self.lstm(x))

    model, x = Twice().eval(), torch.randn(2, 5, 4)
    program = lower(model, x, time=1)
    assert [node.op for node in program.graph.nodes].count("scan") == 2
    assert list(program.graphs) == ["main", "lstm.step"]
    with torch.no_grad():
        assert np.abs(run(program, x.numpy()) - model(x).numpy()).max() < 1e-6


def test_a_recurrent_layer_alone_is_a_model():
    model, x = Lstm(3, 4).eval(), torch.randn(2, 5, 3)
    program = lower(model, x, time=1)
    assert set(program.weights) == {f"{side}_{gate}" for side in "xh" for gate in "ifgo"}
    with torch.no_grad():
        assert np.abs(run(program, x.numpy()) - model(x).numpy()).max() < 1e-6


def test_initial_states_may_be_inputs():
    class Continued(nn.Module):
        def __init__(self):
            super().__init__()
            self.lstm = Lstm(3, 4)

        def forward(self, x, h, c):
            return self.lstm(x, (h, c))

    model = Continued().eval()
    inputs = torch.randn(2, 5, 3), torch.randn(2, 4), torch.randn(2, 4)
    program = lower(model, inputs)
    with torch.no_grad():
        assert np.abs(run(program, *(x.numpy() for x in inputs)) - model(*inputs).numpy()).max() < 1e-6


class Nested(Recurrent):
    """A recurrent layer at every step of a recurrent layer."""

    def __init__(self):
        super().__init__((3,))
        self.inner = Lstm(1, 3, last=True)

    def sequences(self, x):
        return (x,)

    def step(self, steps, states):
        return (self.inner(steps[0][:, :, None]) + states[0],)


def test_a_recurrent_layer_within_another_is_refused():
    with pytest.raises(UnsupportedOp, match="recurrent layer within a recurrent layer"):
        lower(nn.Sequential(Nested()), torch.randn(2, 5, 3))


@pytest.mark.parametrize(
    ("x", "time"), [(torch.randn(2, 1, 6), 1), (torch.randn(2, 4, 6), 0), (torch.randn(2, 4, 6), 3)]
)
def test_an_example_without_two_steps_of_time_is_refused(x, time):
    with pytest.raises(InputError, match="has no time axis"):
        lower(Tagger(), x, time=time)


def test_a_model_that_needs_one_length_is_refused():
    class Flat(nn.Module):
        def __init__(self):
            super().__init__()
            self.lstm, self.linear = Lstm(6, 5), nn.Linear(20, 3)

        def forward(self, x):
            return self.linear(self.lstm(x).flatten(1))

    lower(Flat(), torch.randn(1, 4, 6))
    with pytest.raises(UnsupportedOp):
        lower(Flat(), torch.randn(1, 4, 6), time=1)


def test_channels_are_not_followed_through_a_scan():
    coupling = couple(lower(Tagger(), torch.randn(1, 4, 6)))
    assert not len(coupling.free)
    assert any("scan" in reason for reason in coupling.left.values())


def test_a_program_of_one_graph_runs_nothing_else():
    graph = Graph(("x",), ("x",), (), {"x": Tensor("x", ("batch", 3))})
    assert Program({"main": graph, "other": graph}, {}, {}).run_by(graph) == [graph]
