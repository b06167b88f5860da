"""The tuning cache: what it holds decides; what is damaged, stale or of another CPU is noted, and timed anew."""

from __future__ import annotations

import json
import logging
import os
import threading
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from dovetail.engine import Schedule, Session, arena, native_status, schedule
from dovetail.engine.cache import CACHE_VERSION, cache_file, cpu_model, save_times
from dovetail.engine.native import require_native
from dovetail.files import CACHE_VARIABLE
from programs import close

pytestmark = pytest.mark.skipif(not native_status().available, reason="the native engine is not built")
KERNELS = {
    "conv2d_dense",
    "conv2d_lanes",
    "conv2d_winograd2",
    "conv2d_winograd4",
    "conv2d_sparse",
    "conv2d_sparse_columns",
}


@pytest.fixture
def cache(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "cache"))
    return cache_file()


@pytest.fixture
def notes(caplog) -> pytest.LogCaptureFixture:
    caplog.set_level(logging.INFO, logger="dovetail.engine")
    return caplog


def told(cache: Path) -> dict[str, dict[str, float]]:
    """Work → kernel → seconds, as the file has it for this CPU."""
    data = json.loads(cache.read_text())
    assert data["version"] == CACHE_VERSION
    return data["cpus"][cpu_model()]


def tell(cache: Path, times: Any) -> None:
    cache.write_text(json.dumps({"version": CACHE_VERSION, "cpus": {cpu_model(): times}}))


@pytest.mark.parametrize(("seconds", "repeats"), [(1e-4, 40), (0.02, 15), (10.0, 2)])
def test_long_runs_are_repeated_less(program, image, cache, monkeypatch, seconds, repeats):
    clock, runs = [0.0], Counter[int]()

    class Plan:
        def run_timed(self, pool, addresses):
            clock[0] += seconds
            runs[id(self)] += 1
            return []

    def compile_(*args):
        return SimpleNamespace(plan=next(rest), steps=(), arena=SimpleNamespace(room=0))

    plans = [Plan() for _ in KERNELS]
    rest = iter(plans)
    monkeypatch.setattr(schedule.time, "monotonic", lambda: clock[0])
    monkeypatch.setattr(schedule.Tuner, "_compile", compile_)
    Session(program)(image)
    assert [runs[id(plan)] for plan in plans] == [repeats] * len(KERNELS)


def test_times_are_kept_and_decide(program, image, cache, notes):
    Session(program)(image)
    assert notes.text == ""
    found = told(cache)
    assert [set(times) for times in found.values()] == [KERNELS]
    for fast in KERNELS:
        tell(cache, {key: {**dict.fromkeys(times, 2.0), fast: 1.0} for key, times in found.items()})
        session = Session(program)
        session(image)
        assert session.schedule.choices["conv2d0"] == fast
    assert notes.text == ""


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("{ not json", "property name"),
        ("[" * 100_000, "recursion"),
        ("\x00\xff", ""),
        ("[]", f"version None, not {CACHE_VERSION}"),
        ('{"0123456789abcdef": {"conv2d_dense": 1.0}}', "of version None"),
        ('{"version": 4, "cpus": {}}', "of version 4"),
        (f'{{"version": {CACHE_VERSION}}}', "holds no times"),
        (f'{{"version": {CACHE_VERSION}, "cpus": {{"x": 3}}}}', "holds no times"),
    ],
)
def test_a_damaged_or_older_file_is_noted_and_replaced(program, image, cache, notes, content, words):
    cache.parent.mkdir()
    cache.write_text(content)
    want = Session(program, schedule=Schedule({"conv2d0": "conv2d_dense"}))(image)
    assert close(Session(program)(image), want)
    assert "ignoring the tuning cache" in notes.text
    assert words in notes.text
    assert [set(times) for times in told(cache).values()] == [KERNELS]
    notes.clear()
    Session(program)(image)
    assert notes.text == ""


def test_a_file_of_another_cpu_is_noted_and_kept(program, image, cache, notes):
    others = {"Another CPU": {"0123": {"conv2d_dense": 1.0}}}
    cache.parent.mkdir()
    cache.write_text(json.dumps({"version": CACHE_VERSION, "cpus": others}))
    Session(program)(image)
    assert f"it is of Another CPU, and this is {cpu_model()}" in notes.text
    assert [set(times) for times in told(cache).values()] == [KERNELS]
    assert json.loads(cache.read_text())["cpus"]["Another CPU"] == others["Another CPU"]


@pytest.mark.parametrize(
    "times",
    [
        {"conv2d_dense": "x"}, {"conv2d_dense": float("nan")}, {"conv2d_dense": -1.0}, [], 3, None,
        {"conv2d_of_yesterday": 1.0},
    ],
    ids=str,
)  # fmt: skip
def test_stale_or_senseless_times_are_noted_and_taken_anew(program, image, cache, notes, times):
    Session(program)(image)
    found = told(cache)
    tell(cache, {k: {**v, **times} if isinstance(times, dict) else times for k, v in found.items()})
    Session(program)(image)
    assert times is None or "node 'conv2d0': what the tuning cache says of it is stale or damaged" in notes.text
    healed = told(cache)
    assert [set(times) for times in healed.values()] == [KERNELS]
    assert all(isinstance(t, float) and t > 0 for times in healed.values() for t in times.values())


def test_times_of_a_child_without_its_threads_are_not_kept(program, image, cache, monkeypatch):
    monkeypatch.setattr(schedule.Tuner, "_times", lambda self, node, found: {c.name: 1.0 for c in found})
    native = Session(program)._pool
    session = Session(program)
    session._pool = SimpleNamespace(threads=native.threads, here=False)
    session.compile(image.shape)
    assert not cache.exists()
    session._pool = native
    session.compile((3, *image.shape[1:]))
    assert cache.exists()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning")
def test_a_forked_child_knows_that_its_workers_are_elsewhere():
    pool = require_native().Pool(2)
    assert pool.here
    child = os.fork()
    if child == 0:
        os._exit(int(pool.here))
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_a_cache_that_cannot_be_written_is_no_error(program, image, cache, notes):
    cache.parent.write_text("a file where the folder should be")
    Session(program)(image)
    assert "cannot be written" in notes.text


def test_sessions_that_tune_at_the_same_time(program, image, cache):
    want = Session(program, schedule=Schedule({"conv2d0": "conv2d_dense"}))(image)
    for _ in range(3):
        cache.unlink(missing_ok=True)
        results: list[np.ndarray] = []
        run = lambda results=results: results.append(Session(program)(image))  # noqa: E731
        workers = [threading.Thread(target=run) for _ in range(3)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        assert len(results) == 3
        assert all(close(result, want) for result in results)


def test_only_what_was_timed_here_is_written(program, image, cache, monkeypatch):
    """What another process has found meanwhile stays as it is there, be it of the same work."""
    Session(program)(image)
    (known,) = told(cache)
    others = {known: dict.fromkeys(KERNELS, 7.0), "more": dict.fromkeys(KERNELS, 1.0)}

    def times(self, node, found):
        assert known in self.known
        tell(cache, others)
        return dict.fromkeys(KERNELS, 2.0)

    monkeypatch.setattr(schedule.Tuner, "_times", times)
    Session(program).compile((7, *image.shape[1:]))
    assert {key: found for key, found in told(cache).items() if key in others} == others
    assert len(told(cache)) == 3


def test_processes_that_write_at_the_same_time_lose_nothing(cache):
    def write(number):
        for i in range(10):
            save_times({f"{number} {i}": {"conv2d_dense": 1.0}})

    writers = [threading.Thread(target=write, args=[number]) for number in range(4)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert len(told(cache)) == 40


def test_without_a_home_there_is_no_cache(program, image, monkeypatch):
    for name in (CACHE_VARIABLE, "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)

    def homeless():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", homeless)
    assert cache_file() is None
    assert Session(program)(image).shape[0] == len(image)


X86 = "processor : 0\nvendor_id : AuthenticAMD\ncpu family : {}\nmodel : 1\nmodel name : AMD EPYC\nstepping : 1\n"
ARM = (
    "processor : 0\nCPU implementer : 0x41\nCPU part : {}\n\nprocessor : 1\nCPU implementer : 0x41\nCPU part : 0xd4d\n"
)


@pytest.mark.parametrize(
    ("info", "words"),
    [
        (X86.format(25), "AMD EPYC, vendor_id AuthenticAMD, cpu family 25, model 1, stepping 1, L1 "),
        (X86.format(26), "AMD EPYC, vendor_id AuthenticAMD, cpu family 26, model 1, stepping 1, L1 "),
        (ARM.format("0xd0c"), "CPU implementer 0x41, CPU part 0xd0c, CPU part 0xd4d, L1 "),
        (ARM.format("0xd4d"), "CPU implementer 0x41, CPU part 0xd4d, L1 "),
    ],
)
def test_cpus_of_one_name_are_told_apart(tmp_path, monkeypatch, info, words):
    (tmp_path / "cpuinfo").write_text(info)
    monkeypatch.setattr("dovetail.engine.cache.CPU", tmp_path / "cpuinfo")
    assert words in cpu_model.__wrapped__()


def test_candidates_share_their_memory(program, image, cache, monkeypatch):
    arenas = []

    def place(buffers, other=None, place=arena.place):
        arenas.append(place(buffers, other))
        return arenas[-1]

    monkeypatch.setattr("dovetail.engine.compile.place", place)
    Session(program)(image)
    *timed, last = arenas
    assert len(timed) == len(KERNELS)
    sizes = [each.room for each in timed]
    grown = sum(size > max(sizes[:i], default=0) for i, size in enumerate(sizes))
    assert len({id(each.memory) for each in timed}) == grown < len(KERNELS)
    assert last.memory not in [each.memory for each in timed]
