"""The tiles kept on disk, and which of them a layer gets. No GPU is needed: a card is told instead."""

from __future__ import annotations

import json
import logging

import pytest
import torch

from dovetail.errors import GpuError
from dovetail.gpu import cache, timing, tuning
from dovetail.gpu.cards import FALLBACK
from dovetail.gpu.tucker import choice, oracle, settings
from dovetail.gpu.tucker.choice import Problem, Tiles, TuckerTiles

PROBLEM = Problem(1, 64, 32, 28, 28)
CPU, CUDA = torch.device("cpu"), torch.device("cuda", 0)
PLAN = TuckerTiles.parse("1x16x16x16:1:4:3 4x4x32x16:1:4:3 1x16x16x16:1:4:3")


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("DOVETAIL_CACHE", str(tmp_path))
    tuning.forget()
    yield tmp_path
    tuning.forget()


@pytest.fixture
def a_card(monkeypatch):
    """As if device 0 were an A100 that has been timed before."""
    monkeypatch.setattr(tuning, "card", lambda device: FALLBACK)
    monkeypatch.setattr(tuning, "can_time", lambda device: True)
    monkeypatch.setattr(tuning, "_version", lambda: "3.6.0")
    timed = []

    def fastest(problem, inputs, outputs, device, plans):
        timed.append(plans)
        return PLAN

    monkeypatch.setattr(oracle, "fastest", fastest)
    monkeypatch.setattr(oracle, "fastest_core", lambda problem, device, plans: timed.append(plans) or PLAN.core)
    return timed


def plan(tiles: str, device: torch.device = CUDA, problem: Problem = PROBLEM) -> TuckerTiles:
    return settings.plan_of(problem, 128, 128, device, tiles)


def test_what_is_saved_is_loaded(folder):
    cache.save("card", "work", "tiles")
    cache.save("card", "more", "others")
    cache.save("another", "work", "different")
    assert cache.load("card") == {"work": "tiles", "more": "others"}
    assert cache.load("unknown") == {}
    assert {file.name for file in folder.iterdir()} == {"gpu-tuning.json", ".gpu-tuning.json.lock"}


def test_without_a_home_there_is_no_cache(monkeypatch):
    monkeypatch.setattr("dovetail.files.cache_folder", lambda: None)
    cache.save("card", "work", "tiles")
    assert cache.load("card") == {}


@pytest.mark.parametrize(
    "text",
    ["", "[]", "{", '{"version": 0}', '{"version": 1, "cards": []}', '{"version": 1, "cards": {"card": {"w": 1}}}'],
)
def test_a_damaged_file_is_noted_and_written_anew(folder, caplog, text):
    cache.cache_file().write_text(text)
    with caplog.at_level(logging.WARNING):
        assert cache.load("card") == {}
    assert "timed anew" in caplog.text
    cache.save("card", "work", "tiles")
    assert cache.load("card") == {"work": "tiles"}


def test_a_cache_that_cannot_be_written_is_no_error(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("DOVETAIL_CACHE", str(tmp_path / "file"))
    cache.save("card", "work", "tiles")
    assert cache.load("card") == {}


def test_the_oracle_times_once_and_remembers(a_card):
    assert plan("oracle") == PLAN
    assert len(a_card[0]) == tuning.TRIED
    assert a_card[0][0] == choice.choose(PROBLEM, 128, 128, FALLBACK)
    tuning.forget()  # as in a new process
    assert plan("oracle") == plan("auto") == PLAN
    assert len(a_card) == 1
    kept = json.loads(cache.cache_file().read_text())["cards"]
    assert list(kept) == ["A100, Triton 3.6.0"]


def test_exhaustive_times_all_candidates_and_is_kept_beside_the_oracle(a_card):
    core = choice.ranked(PROBLEM, FALLBACK)
    plan("oracle")
    assert plan("exhaustive") == PLAN
    assert {each.core for each in a_card[1] if not each.fused} == set(core)
    assert len(a_card[1]) > 3 * tuning.TRIED
    assert any(each.fused for each in a_card[1])
    assert settings.core_tiles_of(PROBLEM, CUDA, "exhaustive") == PLAN.core
    assert a_card[2] == core
    tuning.forget()
    assert plan("exhaustive") == plan("oracle") == plan("auto") == PLAN
    assert len(a_card) == 3


def test_what_an_exhaustive_search_found_goes_before_what_the_oracle_did(a_card):
    work, card = settings.work_of(PROBLEM), tuning.name_of(FALLBACK)
    cache.save(card, work, "4x4x16x16:1:4:3")
    cache.save(card, f"{work} exhaustive", "2x8x16x16:1:4:3")
    assert str(settings.core_tiles_of(PROBLEM, CUDA, "auto")) == "2x8x16x16:1:4:3"
    assert str(settings.core_tiles_of(PROBLEM, CUDA, "exhaustive")) == "2x8x16x16:1:4:3"
    assert str(settings.core_tiles_of(PROBLEM, CUDA, "oracle")) == "4x4x16x16:1:4:3"
    assert settings.core_tiles_of(PROBLEM, CUDA, "model") == choice.best(PROBLEM, FALLBACK)


def test_where_nothing_can_be_timed_what_the_oracle_found_will_do(a_card, monkeypatch):
    plan("oracle")
    monkeypatch.setattr(tuning, "can_time", lambda device: False)
    assert plan("exhaustive") == PLAN
    assert len(a_card) == 1


@pytest.mark.parametrize(
    ("kept", "why"),
    [
        ("rubbish", "no tiles of a Tucker layer"),
        ("1x16x16x16:1:4:3 4x4x31x16:1:4:3 1x16x16x16:1:4:3", "powers of two"),
        ("1x16x16x16:1:4:3 4x4x16x16:1:4:3 1x16x16x16:1:4:3 fused", "needs as many outputs in one tile"),
    ],
)
def test_a_bad_entry_is_noted_and_chosen_anew(a_card, caplog, kept, why):
    card = tuning.name_of(FALLBACK)
    cache.save(card, settings.work_of(PROBLEM, 128, 128), kept)
    cache.save(card, settings.work_of(PROBLEM), "4x4:")
    with caplog.at_level(logging.WARNING):
        assert plan("auto") == plan("auto") == choice.choose(PROBLEM, 128, 128, FALLBACK)
        assert settings.core_tiles_of(PROBLEM, CUDA, "auto") == choice.best(PROBLEM, FALLBACK)
    assert why in caplog.text
    assert [record.message.count(settings.work_of(PROBLEM)) for record in caplog.records] == [0, 1]
    assert plan("oracle") == PLAN
    assert settings.core_tiles_of(PROBLEM, CUDA, "oracle") == PLAN.core
    tuning.forget()
    assert plan("auto") == PLAN


def test_a_core_alone_is_remembered_by_itself(a_card):
    plan("oracle")
    assert settings.core_tiles_of(PROBLEM, CUDA, "auto") == choice.best(PROBLEM, FALLBACK)
    assert settings.core_tiles_of(PROBLEM, CUDA, "oracle") == PLAN.core
    assert settings.core_tiles_of(PROBLEM, CUDA, "auto") == PLAN.core
    assert a_card[1] == choice.ranked(PROBLEM, FALLBACK)[: tuning.TRIED]
    assert settings.core_tiles_of(PROBLEM, CUDA, "model") == choice.best(PROBLEM, FALLBACK)


def test_the_oracle_takes_the_fastest_that_runs(monkeypatch):
    """Graphs are played by numbers: a plan that fails is left out, and one that is faster wins."""

    class Played:
        def __init__(self, work, repeats):
            self.taken = work()

        def time(self, runs):
            return [self.taken] * runs

    def work(each):
        if each.rows == 4:
            raise RuntimeError("out of resource: shared memory")
        return float(each.columns)

    monkeypatch.setattr(timing, "Graph", Played)
    tiles = [Tiles(*numbers) for numbers in ((4, 4, 16, 16), (2, 16, 16, 16), (2, 8, 16, 16))]
    assert timing.least(tiles, work) == tiles[2]
    with pytest.raises(GpuError, match="none of 1 plans runs here"):
        timing.least(tiles[:1], work)


def test_a_broken_card_is_not_a_slow_plan(monkeypatch):
    def broken(work, repeats):
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    monkeypatch.setattr(timing, "Graph", broken)
    with pytest.raises(RuntimeError, match="illegal"):
        timing.least([PLAN], lambda plan: None)


def test_the_model_is_asked_where_nothing_was_timed(a_card):
    want = choice.choose(PROBLEM, 128, 128, FALLBACK)
    assert plan("auto") == plan("model") == want
    plan("oracle")
    assert plan("model") == want
    assert plan("auto", problem=Problem(2, 64, 32, 28, 28)) == choice.choose(
        Problem(2, 64, 32, 28, 28), 128, 128, FALLBACK
    )


@pytest.mark.parametrize("tiles", ["oracle", "exhaustive"])
def test_nothing_is_timed_without_a_card_or_while_recording(a_card, monkeypatch, tiles):
    monkeypatch.setattr(tuning, "can_time", lambda device: False)
    assert plan(tiles) == choice.choose(PROBLEM, 128, 128, FALLBACK)
    assert a_card == []


def test_given_tiles_are_taken():
    assert plan(str(PLAN), CPU) == PLAN
    with pytest.raises(GpuError, match="or say auto, model, oracle or exhaustive"):
        plan("best", CPU)


def test_work_tells_apart_what_differs():
    problems = [
        PROBLEM,
        Problem(2, 64, 32, 28, 28),
        Problem(1, 64, 32, 28, 28, stride=(2, 2)),
        Problem(1, 64, 32, 28, 28, padding=(0, 0)),
        Problem(1, 64, 32, 28, 28, kernel=(5, 5)),
        Problem(1, 64, 32, 28, 28, dilation=(2, 2)),
        Problem(1, 64, 32, 28, 28, dtype="float32"),
        Problem(1, 64, 32, 28, 28, dtype="float32", precision="tf32"),
    ]
    names = {settings.work_of(problem, 128, 128) for problem in problems} | {settings.work_of(PROBLEM, 128, 256)}
    assert len(names | {settings.work_of(PROBLEM)}) == 10
