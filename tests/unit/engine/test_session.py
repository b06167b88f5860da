"""Session: what it takes, what it refuses, schedules, life without the native module."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from dovetail.engine import Schedule, Session, native_status
from dovetail.engine.native import cores
from dovetail.errors import EngineError, InputError
from dovetail.program import reference
from programs import close

pytestmark = pytest.mark.skipif(not native_status().available, reason="the native engine is not built")


def test_inputs_of_all_kinds_give_the_same(program, image):
    session = Session(program)
    want = session(image)
    assert close(want, reference.run(program, image))
    strided = np.ascontiguousarray(image.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2)
    for x in (torch.from_numpy(image), image.astype(np.float64), strided):
        assert np.array_equal(session(x), want)


class Recorder:
    """A native plan that keeps the addresses it is run on."""

    def __init__(self, plan: Any) -> None:
        self.plan, self.slots = plan, []

    def run(self, pool: Any, slots: list[int]) -> None:
        self.slots.append(list(slots))
        self.plan.run(pool, slots)


def test_inputs_are_read_and_results_written_where_they_lie(program, image):
    session = Session(program)
    want = session(image)
    (key,), (ready,) = session._compiled.keys(), session._compiled.values()
    recorder = Recorder(ready.compiled.plan)
    session._compiled[key] = replace(ready, compiled=replace(ready.compiled, plan=recorder))
    tensor = torch.from_numpy(image.copy())
    for x, address in ((image, image.ctypes.data), (tensor, tensor.data_ptr()), (tensor[:].numpy(), tensor.data_ptr())):
        got = session(x)
        assert np.array_equal(got, want)
        assert recorder.slots[-1] == [address, got.ctypes.data]
    session(image.astype(np.float64))
    assert recorder.slots[-1][0] != image.ctypes.data


def test_bound_arrays_are_read_and_written_at_every_run(program, image):
    session = Session(program)
    x = image.copy()
    bound = session.bind(x)
    (y,) = bound.outputs
    for scale in (1, -2):
        x[...] = scale * image
        bound.run()
        assert np.array_equal(y, session(x))
        assert bound.outputs == (y,)
    assert bound.inputs[0] is x


def test_a_bound_network_outlives_its_plan_in_the_session(program, image):
    session = Session(program)
    bound = session.bind(image)
    for batch in range(2, 11):
        session.compile((batch, *image.shape[1:]))
    assert image.shape not in {shape for (shape,) in session._compiled}
    bound.run()
    assert np.array_equal(bound.outputs[0], session(image))


def test_without_the_native_module_a_bound_network_runs_by_the_reference(program, image, monkeypatch):
    session, x = Session(program), image.copy()
    monkeypatch.setattr(session, "_pool", None)
    bound = session.bind(x)
    x[...] = -image
    bound.run()
    assert np.array_equal(bound.outputs[0], reference.run(program, -image))


def test_what_would_be_copied_is_not_bound(program, image):
    session = Session(program)
    for x in (torch.from_numpy(image), image.astype(np.float64), np.repeat(image, 2, axis=3)[..., ::2]):
        with pytest.raises(InputError, match=r"input 'x0' .*cannot be bound; give a contiguous numpy array of float32"):
            session.bind(x)
    with pytest.raises(InputError, match="this network takes"):
        session.bind(image[:, :1].copy())


@pytest.mark.parametrize("threads", sorted({1, min(2, cores())}))
def test_a_plan_may_be_run_from_two_threads(program, image, threads):
    session = Session(program, threads=threads)
    inputs = [image, -image]
    want = [session(x) for x in inputs]
    (ready,) = session._compiled.values()
    outputs = [np.empty_like(y) for y in want]
    wrong: list[int] = []

    def run(i: int) -> None:
        for _ in range(200):
            outputs[i][:] = np.nan
            ready.compiled.plan.run(session._pool, [inputs[i].ctypes.data, outputs[i].ctypes.data])
            if not np.array_equal(outputs[i], want[i]):
                wrong.append(i)

    workers = [threading.Thread(target=run, args=(i,)) for i in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert not wrong


def test_each_call_returns_its_own_array(program, image):
    session = Session(program)
    first = session(image)
    kept = first.copy()
    session(image + 1)
    assert np.array_equal(first, kept)


def test_batches_agree_with_single_images(program, image):
    session = Session(program)
    both = session(image)
    same = Session(program, schedule=session.schedule)  # another size might be tuned to other kernels
    assert np.array_equal(both, np.concatenate([same(image[i : i + 1]) for i in range(2)]))


@pytest.mark.parametrize(
    ("x", "says"),
    [
        (np.zeros((2, 3, 8, 9), np.float32), "takes (batch, 3, 8, 8)"),
        (np.zeros((0, 3, 8, 8), np.float32), "at least one image"),
        (np.zeros((2, 3, 8, 8), np.uint8), "floating point"),
        (np.zeros((3, 8, 8), np.float32), "takes (batch, 3, 8, 8)"),
    ],
)
def test_wrong_inputs(program, x, says):
    with pytest.raises(InputError) as error:
        Session(program)(x)
    assert says in str(error.value)


def test_wrong_number_of_inputs(program, image):
    with pytest.raises(InputError, match="2 inputs given; this network takes 1"):
        Session(program)(image, image)


def test_forced_isa_by_environment(program, image, monkeypatch):
    monkeypatch.setenv("DOVETAIL_ISA", "portable")
    session = Session(program)
    session(image)
    assert all(kernel.endswith("__portable") for kernel in session.kernels().values())


def test_schedule_round_trip_and_forced_kernels(program, image, tmp_path):
    forced = Schedule({"conv2d0": "conv2d_sparse"})
    forced.save(tmp_path / "schedule.json")
    session = Session(program, schedule=Schedule.load(tmp_path / "schedule.json"))
    session(image)
    assert session.schedule.choices == {"conv2d0": "conv2d_sparse", "linear3": "linear_dense"}
    assert "conv2d_sparse_f32" in session.kernels()["conv2d0"]


@pytest.mark.parametrize(
    ("choices", "says"),
    [({"nowhere": "conv2d_dense"}, "nowhere"), ({"conv2d0": "conv2d_tucker"}, "cannot run a sparse weight")],
)
def test_impossible_schedules(program, image, choices, says):
    with pytest.raises(EngineError, match=says):
        Session(program, schedule=Schedule(choices))(image)


@pytest.mark.parametrize("content", ["", "[]", '{"version": 99, "choices": {}}', '{"version": 1, "choices": {"a": 1}}'])
def test_broken_schedule_files(tmp_path, content):
    (tmp_path / "s.json").write_text(content)
    with pytest.raises(EngineError):
        Schedule.load(tmp_path / "s.json")


def test_a_schedule_that_cannot_be_written_leaves_nothing_behind(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(EngineError, match="disk is full"):
        Schedule({"a": "b"}).save(tmp_path / "deep" / "s.json")
    assert list((tmp_path / "deep").iterdir()) == []


def test_profile_names_every_node(program, image):
    times = Session(program).profile(image, runs=3)
    assert {t.node for t in times} >= {
        node.name for node in program.graph.nodes if node.op in ("conv2d", "linear", "mean")
    }
    assert all(t.seconds >= 0 for t in times)


def test_sessions_in_several_threads(program, image):
    first = Session(program)
    want = first(image)
    sessions = [Session(program, threads=min(2, cores()), schedule=first.schedule) for _ in range(2)]
    results: list[np.ndarray] = []
    workers = [
        threading.Thread(target=lambda s=s: results.extend(s(image) for _ in range(50)))
        for s in (*sessions, sessions[0])
    ]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert len(results) == 150
    assert all(np.array_equal(r, want) for r in results)


def test_without_the_native_module_numpy_runs_and_says_so():
    code = """
import sys
sys.modules["dovetail.engine._native"] = None
sys.path.insert(0, "tests")
import numpy as np
from programs import Sketch, random_packed
from dovetail.engine import Session, native_status
sketch = Sketch(0)
x = sketch.input("batch", 5)
program = sketch.program(sketch.add("linear", x, packed=random_packed("dense", (3, 5), sketch.random)))
print(Session(program)(np.ones((2, 5), np.float32)).shape, native_status().available)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "(2, 3) False"
    assert "native engine is not built" in done.stderr


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_forked_child_can_use_and_drop_the_session():
    code = """
import os, sys
sys.path.insert(0, "tests")
import numpy as np
from programs import Sketch, random_packed
from dovetail.engine import Session
sketch = Sketch(0)
x = sketch.input("batch", 5)
program = sketch.program(sketch.add("linear", x, packed=random_packed("dense", (3, 5), sketch.random)))
session = Session(program)
want = session(np.ones((2, 5), np.float32))
child = os.fork()
if child == 0:
    same = np.array_equal(session(np.ones((2, 5), np.float32)), want)
    del session
    os._exit(0 if same else 1)
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
    command = [sys.executable, "-W", "ignore", "-c", code]
    assert subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout.strip() == "0"


FORKED_WHILE_OTHERS_RUN = """
import os, signal, threading
import numpy as np
from programs import Sketch, random_packed
from dovetail.engine import Schedule, Session
from dovetail.engine.native import cores

sketch = Sketch(0)
x = sketch.input("batch", 4, 40, 40)
packed = random_packed("dense", (8, 4, 3, 3), sketch.random)
program = sketch.program(sketch.add("conv2d", x, packed=packed, padding=(1, 1, 1, 1)))
image = np.ones((1, 4, 40, 40), np.float32)
session = Session(program, threads=min(2, cores()), schedule=Schedule({"conv2d0": "conv2d_dense"}))
want, bound = session(image), session.bind(image)
running = True

def run():
    while running:
        session(image)

others = [threading.Thread(target=run) for _ in range(2)]
for other in others:
    other.start()
for forked in range(1, 201):
    child = os.fork()
    if child == 0:
        signal.alarm(30)  # ends a child that hangs
        bound.run()
        same = np.array_equal(session(image), want) and np.array_equal(bound.outputs[0], want)
        os._exit(0 if same else 1)
    if code := os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]):
        break
running = False
for other in others:
    other.join()
print(forked, code)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_child_that_is_forked_while_others_run_can_use_the_session():
    """Whatever lock a thread held at that moment: the session's, the pool's, or the one by which workers are woken."""
    env = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-W", "ignore", "-c", FORKED_WHILE_OTHERS_RUN]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120, env=env)
    assert done.stdout.strip() == "200 0"


CLOSED_WHILE_WAKING = """
import time
import numpy as np
from programs import Sketch, random_packed
from dovetail.engine import Session

sketch = Sketch(1)
x = sketch.input("batch", 8)
program = sketch.program(sketch.add("linear", x, packed=random_packed("dense", (8, 8), sketch.random)))
image = np.ones((1, 8), np.float32)
for closed in range(1, 3001):
    session = Session(program, threads=2)
    session(image)
    end = time.perf_counter() + sketch.random.uniform(0, 1.2e-4)  # about as long as a worker spins before it sleeps
    while time.perf_counter() < end:
        pass
    session(image)
    del session
print(closed)
"""


@pytest.mark.skipif(cores() < 2, reason="one core has no workers")
def test_a_session_closes_while_its_workers_wake():
    """It hung once in some thousand times, where the end came between a worker's waking and its look at the task."""
    env = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", CLOSED_WHILE_WAKING]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120, env=env)
    assert done.stdout.strip() == "3000"
