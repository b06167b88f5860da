"""Scans on the engine against the reference: bodies of every kind, memory that does not grow with the time."""

from __future__ import annotations

import numpy as np
import pytest

from dovetail.engine import Schedule, Session, native_status
from dovetail.engine.native import cores
from dovetail.engine.schedule import Tuner
from dovetail.formats import FORMATS
from dovetail.program import reference
from dovetail.program.program import Activation, Program
from programs import Sketch, agrees, close, native_calls, poisoned, random_packed, recurrence
from samples import SAMPLES

pytestmark = pytest.mark.skipif(not native_status().available, reason="the native engine is not built")
ISAS = native_status().isas
THREADS = (1, 2) if cores() > 1 else (1,)
TANH = Activation("tanh")


def draw(*shape: int) -> np.ndarray:
    return np.random.default_rng(shape).standard_normal(shape).astype(np.float32)


def plain(hidden: int, *, last: bool = False, initial: bool = False, cell: str = "dense", **fields: object) -> Program:
    """A projection of the input for all steps at once, then a recurrence."""
    sketch = Sketch(1)
    body = recurrence(sketch, hidden, format_name=cell, **fields)
    x = sketch.input("batch", "time", 6)
    states = [sketch.input("batch", hidden) for _ in range(2)] if initial else []
    steps = sketch.add("linear", x, packed=random_packed("dense", (hidden, 6), sketch.random), biased=True)
    return sketch.program(sketch.add("scan", steps, *states, body=body, last=last))


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("threads", THREADS)
@pytest.mark.parametrize("hidden", [1, 17, 64])
def test_any_batch_and_time(hidden, threads, isa):
    program = plain(hidden)
    session = Session(program, threads=threads, isa=isa)
    for batch, steps in ((1, 1), (1, 13), (3, 2), (2, 40)):
        x = draw(batch, steps, 6)
        assert close(poisoned(session, x), reference.run(program, x)), (batch, steps)


@pytest.mark.parametrize("threads", THREADS)
@pytest.mark.parametrize("last", [False, True])
def test_initial_states_and_the_last_state_alone(last, threads):
    program = plain(9, last=last, initial=True)
    inputs = [draw(2, 5, 6), draw(2, 9), draw(9, 2).T.copy()]
    assert agrees(program, inputs, threads=threads)


@pytest.mark.parametrize("format_name", [name for name in FORMATS if SAMPLES[name].linear])
def test_weights_in_every_format(format_name):
    for spec in SAMPLES[format_name].specs((16, 16)):
        sketch, inside = Sketch(1), Sketch(2, "cell.")
        step, state = inside.input("batch", 16), inside.input("batch", 16)
        packed = FORMATS[format_name].packed.from_dense(inside.random.standard_normal((16, 16)), spec)
        y = inside.add("linear", state, packed=packed, residual=step, activation=TANH)
        program = sketch.program(sketch.add("scan", sketch.input("batch", "time", 16), body=sketch.body(inside, y)))
        assert agrees(program, [draw(2, 6, 16)], threads=1)


@pytest.mark.parametrize("threads", THREADS)
@pytest.mark.parametrize("shape", [(5,), (5, 3), (5, 4, 3)], ids=str)
def test_states_that_change_places(shape, threads):
    sketch, inside = Sketch(1), Sketch(0, "delay.")
    step, first, second = (inside.input("batch", *shape) for _ in range(3))
    parts = [inside.add("slice", first, axis=1, start=start, stop=stop) for start, stop in ((2, 5), (0, 2))]
    mixed = inside.add("add", step, inside.add("concat", *parts, axis=1))
    body = sketch.body(inside, inside.add("reshape", second, shape=("batch", *shape)), mixed)
    x = sketch.input("batch", "time", *shape)
    program = sketch.program(sketch.add("scan", x, body=body))
    assert agrees(program, [draw(2, 9, *shape)], threads=threads)


@pytest.mark.parametrize("threads", THREADS)
def test_a_new_state_may_be_a_part_of_an_old_one_or_of_the_step(threads):
    sketch, inside = Sketch(1), Sketch(0, "queue.")
    step, first, second, third = (inside.input("batch", 4) for _ in range(4))
    y = inside.add("add", third, second)
    states = [inside.add("reshape", name, shape=("batch", 4)) for name in (second, first, step)]
    body = sketch.body(inside, y, *states[1:])
    program = sketch.program(sketch.add("scan", sketch.input("batch", "time", 4), body=body))
    assert agrees(program, [draw(3, 8, 4)], threads=threads)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("threads", THREADS)
def test_images_as_states(threads, isa):
    sketch, inside = Sketch(1), Sketch(3, "conv.")
    step, state = (inside.input("batch", 4, 9, 7) for _ in range(2))
    packed = random_packed("dense", (4, 4, 3, 3), inside.random)
    y = inside.add("conv2d", state, packed=packed, padding=(1, 1, 1, 1), residual=step, biased=True, activation=TANH)
    program = sketch.program(sketch.add("scan", sketch.input("batch", "time", 4, 9, 7), body=sketch.body(inside, y)))
    assert agrees(program, [draw(2, 5, 4, 9, 7)], threads=threads, isa=isa)


@pytest.mark.parametrize("threads", THREADS)
def test_sequences_that_lie_in_any_order(threads):
    """Two sequences, both parts of one tensor, the time turned to where it belongs, and images behind the scan."""
    sketch, inside = Sketch(1), Sketch(3, "pair.")
    one, other, state = (inside.input("batch", 3) for _ in range(3))
    gated = inside.add("mul", one, state, activation=Activation("sigmoid"))
    body = sketch.body(inside, inside.add("add", gated, other, activation=TANH))
    turned = sketch.add("permute", sketch.input("batch", 6, 7), order=(0, 2, 1))
    parts = [sketch.add("slice", turned, axis=2, start=start, stop=start + 3) for start in (0, 3)]
    y = sketch.add("scan", *parts, body=body, sequences=2)
    again = sketch.add("scan", y, parts[1], body=body, sequences=2, last=True)
    pooled = sketch.add("max_pool2d", sketch.add("reshape", y, shape=("batch", 1, 7, 3)), kernel=(2, 2), stride=(1, 1))
    assert agrees(sketch.program(y, again, pooled), [draw(2, 6, 7)], threads=threads)


def test_memory_does_not_grow_with_the_time_beyond_what_the_sequences_take():
    hidden, program = 64, plain(64, last=True)
    sizes = {}
    for steps in (16, 32, 64):
        session = Session(program, threads=1)
        session(draw(1, steps, 6))
        sizes[steps] = session.memory()
    assert sizes[16]["weights"] == sizes[32]["weights"] == sizes[64]["weights"]
    grown = [sizes[2 * steps]["arena"] - sizes[steps]["arena"] for steps in (16, 32)]
    assert grown == [4 * hidden * 16, 4 * hidden * 32]  # the projected input, and nothing else


def test_a_kernel_is_chosen_once_however_long_the_sequence_is(monkeypatch):
    asked = []
    times = Tuner._times
    monkeypatch.setattr(Tuner, "_times", lambda self, node, found: asked.append(node.name) or times(self, node, found))
    session = Session(plain(33, cell="sparse", density=0.4), threads=1)
    session.compile((1, 50, 6))
    assert sorted(asked) == ["cell.linear0", "cell.linear1"]
    session.compile((1, 60, 6))
    assert sorted(asked) == ["cell.linear0", "cell.linear1"]


def test_a_schedule_names_the_layers_of_a_body_and_a_profile_adds_up_their_steps():
    program, isa = plain(33, cell="sparse", density=0.4), ISAS[-1]
    schedule = Schedule({"cell.linear0": "linear_sparse", "cell.linear1": "linear_dense"})
    session = Session(program, threads=1, isa=isa, schedule=schedule)
    x = draw(1, 11, 6)
    assert close(session(x), reference.run(program, x))
    assert native_calls(session, "cell.linear0") == {f"linear_sparse_f32__{isa}": 11}
    assert native_calls(session, "cell.linear1") == {f"linear_dense_f32__{isa}": 11}
    assert session.schedule.choices.keys() == {"linear0", "cell.linear0", "cell.linear1"}
    profiled = {time.node: time.seconds for time in session.profile(x, runs=3)}
    assert set(profiled) == {"linear0", "scan1", "cell.linear0", "cell.linear1", "cell.mul2", "cell.add3", ""}
    assert all(seconds > 0 for node, seconds in profiled.items() if node)


def test_given_a_schedule_threads_change_nothing():
    program, x = plain(70), draw(2, 20, 6)
    schedule = Schedule(dict.fromkeys(("linear0", "cell.linear0", "cell.linear1"), "linear_dense"))
    one, *others = (Session(program, threads=threads, schedule=schedule)(x) for threads in THREADS)
    assert all(np.array_equal(one, other) for other in others)
