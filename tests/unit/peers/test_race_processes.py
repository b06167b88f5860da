"""The race itself, with targets of known behaviour in real child processes."""

import json
import time
from dataclasses import replace
from pathlib import Path

import fake_targets
import numpy as np
import pytest
from fake_targets import fake

from dovetail.engine.peaks import cache_sizes
from dovetail.errors import PeerError
from dovetail.peers.compare import AGAIN, Questions, compare, tolerance
from dovetail.peers.conditions import Caches, busy_neighbour
from dovetail.peers.judge import Judge
from dovetail.peers.process import Child
from dovetail.peers.schedule import Pace, drive

QUICK = Pace(blocks=3, runs=4, warm=1, warm_seconds=0.0, gap=0.0)
OURS = fake("dovetail", reference="compressed")


@pytest.fixture(scope="module")
def questions():
    rng = np.random.default_rng(0)
    example, check = (rng.standard_normal((n, 3, 4), dtype=np.float32) for n in (2, 6))
    outputs = (fake_targets.truth(check),)
    return Questions(example, check, {"original": outputs, "compressed": outputs})


@pytest.fixture
def born(monkeypatch):
    """The children that a race has started."""
    found, original = [], Child.__init__

    def remember(self, *args, **kwargs):
        original(self, *args, **kwargs)
        found.append(self)

    monkeypatch.setattr(Child, "__init__", remember)
    return found


def run(targets, questions, threads=(1,), pace=QUICK, timeout=20.0):
    return compare(targets, questions, threads=threads, pace=pace, timeout=timeout)


def test_a_target_that_sleeps_longer_gets_the_ratio_of_the_sleeps(questions):
    ours = fake("dovetail", reference="compressed", milliseconds=4)
    outcome = run([ours, fake("slow", milliseconds=12)], questions)
    (ratio,) = [r for r in Judge(outcome, "net/v").ratios() if r.name == "vs_f32"]
    assert ratio.peer == "slow"
    assert 2.0 < ratio.value < 4.0
    assert ratio.value == min(ratio.median, ratio.p10)


def test_every_target_and_the_twin_of_ours_run_the_planned_blocks(questions):
    outcome = run([OURS, fake("peer")], questions, threads=(1, 2))
    assert set(outcome.times) == {(name, n) for name in ("dovetail", "peer", AGAIN) for n in (1, 2)}
    assert {len(blocks) for blocks in outcome.times.values()} == {3}
    assert {len(block) for blocks in outcome.times.values() for block in blocks} == {4}


def test_blocks_alternate_between_targets_and_the_direction_turns_each_round(questions, tmp_path):
    log = tmp_path / "order.txt"
    marks = {"dovetail": "a", "peer": "b", "other": "c"}
    targets = [fake(name, log=str(log), mark=mark) for name, mark in marks.items()]
    run(targets, questions, pace=Pace(blocks=2, runs=4, warm=1, warm_seconds=0.0, gap=0.0))
    order = log.read_text().split()[-40:]  # loading and checking come first; 4 children, 2 rounds, 1 + 4 runs each
    assert "".join(order[::5]) == "abca" + "acba"
    assert all(len(set(order[i : i + 5])) == 1 for i in range(0, 40, 5))


def test_caches_are_emptied_before_every_timed_run(questions, monkeypatch):
    asked = []
    monkeypatch.setattr(
        Child, "ask", lambda child, do, _ask=Child.ask, **given: asked.append((do, given)) or _ask(child, do, **given)
    )
    pace = replace(QUICK, blocks=1, runs=2, cold=True)
    outcome = run([OURS], questions, pace=pace)
    assert [given["cold"] for do, given in asked if do == "time"] == [True] * 4  # two children, round -1 and one block
    assert {len(block) for blocks in outcome.times.values() for block in blocks} == {2}


def test_emptying_reads_twice_of_what_the_caches_hold():
    caches, sizes = Caches(2), cache_sizes()
    held = sizes.get("L3", 0) + 2 * sum(size for name, size in sizes.items() if name != "L3")
    assert abs(caches.bytes - 2 * held) < 64
    caches.empty()


def processor_ticks(pid):
    return sum(int(n) for n in Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11:13])


def test_the_busy_neighbour_computes_only_while_it_is_wanted():
    with busy_neighbour() as pid:
        end = time.monotonic() + 20
        while processor_ticks(pid) == 0:
            assert time.monotonic() < end
            time.sleep(0.02)
    assert not Path(f"/proc/{pid}").exists()


def test_long_runs_make_short_blocks():
    pace = Pace(runs=20, seconds=0.2)
    assert [pace.runs_of(s) for s in (1e-5, 0.01, 0.02, 0.5)] == [20, 20, 10, 3]


@pytest.mark.parametrize(
    ("behaviour", "reason"),
    [
        ({"refuse": True}, "not to my liking"),
        ({"raise": True}, "ZeroDivisionError: one line"),
        ({"die_at": 1}, "crashed with exit status 7"),
        ({"die_at": 9}, "crashed with exit status 7"),
        ({"error": 0.5}, "outputs differ from the original network"),
        ({"error": float("nan")}, "outputs differ"),
    ],
    ids=str,
)
def test_a_peer_that_fails_is_named_and_the_race_goes_on(questions, behaviour, reason):
    outcome = run([OURS, fake("good"), fake("bad", **behaviour)], questions)
    assert set(outcome.absent) == {"bad (1 thread)"}
    assert reason in outcome.absent["bad (1 thread)"]
    assert {name for name, _ in outcome.times} == {"dovetail", "good", AGAIN}
    assert {row.target for row in Judge(outcome, "net/v").rows()} == {"dovetail", "good"}


def test_a_peer_that_hangs_is_given_up_and_reaped(questions):
    began = time.monotonic()
    outcome = run([OURS, fake("stuck", hang_at=7)], questions, timeout=1.5)
    assert "no answer for 1.5 s" in outcome.absent["stuck (1 thread)"]
    assert ("dovetail", 1) in outcome.times
    assert time.monotonic() - began < 30


def test_one_failing_thread_count_leaves_the_other(questions):
    outcome = run([OURS, fake("picky", refuse_threads=2)], questions, threads=(1, 2))
    assert set(outcome.absent) == {"picky (2 threads)"}
    assert outcome.best("picky") == ("picky", 1)


@pytest.mark.parametrize("behaviour", [{"refuse": True}, {"error": 0.5}, {"die_at": 9}], ids=str)
def test_without_our_own_target_there_is_no_race(questions, behaviour):
    with pytest.raises(PeerError, match="our own target"):
        run([fake("dovetail", reference="compressed", **behaviour), fake("peer")], questions)


def test_a_quantised_target_may_differ_and_says_how_often_it_agrees(questions):
    outcome = run([OURS, fake("rough", dtype="int8", error=0.01)], questions)
    answers = outcome.answers["rough", 1]
    want = fake_targets.truth(questions.check)
    assert answers.max_error == pytest.approx(0.01 / np.ptp(want), rel=1e-3)
    assert answers.agreement == 100.0
    assert outcome.answers["dovetail", 1].agreement is None


@pytest.mark.parametrize(
    ("name", "dtype", "reference", "allowed"),
    [
        ("dovetail", "f32", "compressed", 1e-4),
        ("dovetail", "int8", "compressed", 1e-4),
        (AGAIN, "f32", "compressed", 1e-4),
        ("dovetail-dense", "f32", "original", 1e-4),
        ("dovetail-dense", "int8", "original", np.inf),
        ("dovetail-int8-conv2d_dense", "int8", "compressed", 1e-4),
        ("onnxruntime", "f32", "original", 1e-3),
        ("onnxruntime-same", "f32", "compressed", 1e-3),
        ("openvino-bf16", "bf16", "original", np.inf),
        ("openvino-bf16-same", "bf16", "compressed", np.inf),
    ],
)
def test_ours_is_held_to_its_meaning_other_f32_targets_to_rounding_and_the_rest_to_nothing(
    name, dtype, reference, allowed
):
    assert tolerance(fake(name, dtype=dtype, reference=reference)) == allowed


def test_what_a_peer_may_be_off_by_is_too_much_for_our_own_engine(questions):
    off = 5e-4 * float(np.ptp(fake_targets.truth(questions.check)))
    assert ("peer", 1) in run([OURS, fake("peer", error=off)], questions).times
    with pytest.raises(PeerError, match="outputs differ from the compressed network"):
        run([fake("dovetail", reference="compressed", error=off)], questions)


def test_accuracy_is_measured_on_labelled_images_without_the_padding(questions):
    test = np.ones((4, 3, 4), np.float32)  # every prediction is class 0; the fourth image is padding
    labelled = Questions(
        questions.example, questions.check, questions.truth, test, np.array([0, 1, 0]), (fake_targets.truth(test),)
    )
    outcome = run([OURS, fake("rough", dtype="int8"), fake("exact")], labelled)
    assert outcome.answers["rough", 1].accuracy == pytest.approx(200 / 3)
    assert outcome.answers["dovetail", 1].accuracy == pytest.approx(200 / 3)
    assert outcome.answers["exact", 1].accuracy is None


def test_who_is_given_up_on_the_test_images_does_not_race(questions):
    """Nor is a late answer taken for that to the next question; its other thread count is asked instead."""
    test = np.ones((4, 3, 4), np.float32)
    labelled = replace(questions, test=test, labels=np.array([0, 1, 0]), test_truth=(fake_targets.truth(test),))
    late = fake("late", dtype="int8", hang_at=5, hang=1.5, hang_threads=1)
    outcome = run([OURS, late], labelled, threads=(1, 2), timeout=1.0)
    assert set(outcome.absent) == {"late (1 thread)"}
    assert "no answer for 1 s" in outcome.absent["late (1 thread)"]
    assert [key for key in outcome.times if key[0] == "late"] == [("late", 2)]
    assert outcome.answers["late", 2].accuracy == pytest.approx(200 / 3)


def test_who_is_given_up_is_gone_before_the_others_are_timed(questions, born, monkeypatch):
    def timed(*given):
        assert [child.target.name for child in born if child.process.returncode is not None] == ["stuck"]
        return drive(*given)

    monkeypatch.setattr("dovetail.peers.compare.drive", timed)
    outcome = run([OURS, fake("stuck", hang_at=3), fake("good")], questions, timeout=1.5)
    assert set(outcome.absent) == {"stuck (1 thread)"}
    assert {name for name, _ in outcome.times} == {"dovetail", "good", AGAIN}


@pytest.mark.parametrize("threads", [1, 3])
def test_each_child_has_its_own_thread_environment(tmp_path, threads):
    example = tmp_path / "x.npy"
    np.save(example, np.zeros((1, 2), np.float32))
    request = {"module": "fake_targets", "arguments": {"environment": True}, "threads": threads}
    with Child(fake("x"), threads, tmp_path) as child, pytest.raises(PeerError) as error:
        child.ask("load", example=str(example), **request)
    pools = json.loads(str(error.value).partition(": ")[2])
    assert pools["OMP_NUM_THREADS"] == pools["MKL_NUM_THREADS"] == str(threads)


@pytest.mark.parametrize("interruption", [KeyboardInterrupt, RuntimeError])
def test_all_children_are_reaped_when_the_race_is_interrupted(questions, born, monkeypatch, interruption):
    def interrupt(*_):
        raise interruption

    monkeypatch.setattr("dovetail.peers.compare.drive", interrupt)
    with pytest.raises(interruption):
        run([OURS, fake("peer")], questions)
    assert len(born) == 3
    assert all(child.process.returncode is not None for child in born)
