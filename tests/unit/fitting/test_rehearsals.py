"""Plans whose network is run before it is trained, on machines where that takes another time than was predicted."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from dovetail.engine import native_status
from dovetail.errors import BudgetError
from dovetail.fitting import Rehearsal, rehearse
from dovetail.fitting.surveys import in_formats
from dovetail.program.lower import lower
from fitted import METHODS_THAT_FIT, REST, plan_of, stage, work_of

pytestmark = pytest.mark.skipif(not native_status().available, reason="needs the native engine")


def test_a_network_that_takes_what_was_predicted_is_planned_once(model, images, machine, measured, tmp_path):
    plain = plan_of(model, images, "latency=0.5x", measured, tmp_path)
    play, seen = stage(measured)
    found = plan_of(model, images, "latency=0.5x", measured, tmp_path, rehearse=play)
    assert len(seen) == 1
    assert found.rehearsals == ((plain.predicted["latency"], pytest.approx(plain.predicted["latency"])),)
    assert found.plan() == plain.plan()
    assert [d.chosen for d in found.decisions] == pytest.approx([d.chosen for d in plain.decisions])
    assert plan_of(model, images, "bytes=0.2x", measured, tmp_path, rehearse=play).rehearsals == ()  # it has no time
    assert plan_of(model, images, "latency=1x", measured, tmp_path, rehearse=play).rehearsals == ()  # it stays dense
    assert len(seen) == 1


@pytest.mark.parametrize(
    ("rest", "slower"),
    [
        (REST, {"one": 1.4, "two": 1.4, "down": 1.3}),  # pruned too little
        (4 * REST, {}),
        (REST, {"one": 0.6, "two": 0.6, "down": 0.6}),  # too far
        (-REST, {"point": 0.8}),
    ],
)
def test_a_plan_is_made_anew_where_its_network_takes_another_time(
    model, images, machine, measured, tmp_path, rest, slower
):
    plain = plan_of(model, images, "latency=0.5x", measured, tmp_path)
    play, seen = stage(measured, rest, **slower)
    found = plan_of(model, images, "latency=0.5x", measured, tmp_path, rehearse=play)
    limit = found.limits["latency"]
    assert 1 < len(seen) == len(found.rehearsals) <= 3
    assert found.rehearsals[0][0] == plain.predicted["latency"]
    assert not 0.95 * limit <= found.rehearsals[0][1] <= limit
    took = play(found).latency
    assert took <= limit
    assert limit - took < abs(limit - found.rehearsals[0][1])  # steps of densities are coarse here
    assert found.predicted["latency"] == pytest.approx(took)
    assert (found.damage > plain.damage) == (plain.predicted["latency"] < found.rehearsals[0][1])
    assert found.dense == plain.dense
    total = found.fixed["latency"] + sum(d.chosen for d in found.decisions)
    assert total == pytest.approx(took)
    for decision in found.changed:
        priced = next(one for one in found.priced if decision.name in one.shape.layers)
        times = {spec: priced.dense * entry.value for spec, entry in priced.candidates.items()}
        assert decision.chosen == pytest.approx(times[decision.spec])
        assert decision.best == pytest.approx(min(times.values()))


def test_of_plans_that_are_all_too_slow_the_fastest_is_taken(model, images, machine, measured, tmp_path):
    times = iter([1.1, 1.05, 1.07])
    limit = 0.5 * measured.rival_seconds
    found = plan_of(
        model, images, "latency=0.5x", measured, tmp_path,
        rehearse=lambda plan: Rehearsal(limit * next(times), {d.name: work_of(d, measured) for d in plan.changed}),
    )  # fmt: skip
    assert found.predicted["latency"] == pytest.approx(1.05 * limit) == pytest.approx(found.rehearsals[1][1])
    assert len(found.rehearsals) == 3
    assert next(times, None) is None


def test_what_cannot_be_met_in_a_network_is_refused(model, images, machine, measured, tmp_path):
    play, seen = stage(measured, 0.45 * measured.rival_seconds)
    with pytest.raises(BudgetError, match="cannot be met"):
        plan_of(model, images, "latency=0.5x", measured, tmp_path, rehearse=play)
    assert len(seen) == 1


def test_a_network_that_has_kept_to_the_limit_stands_where_nothing_else_can(model, images, machine, measured, tmp_path):
    limit = 0.5 * measured.rival_seconds
    times = iter([0.8 * limit, 3 * limit])
    found = plan_of(
        model, images, "latency=0.5x", measured, tmp_path,
        rehearse=lambda plan: Rehearsal(next(times), {d.name: work_of(d, measured) for d in plan.changed}),
    )  # fmt: skip
    assert found.predicted["latency"] == 0.8 * limit
    assert [took for _, took in found.rehearsals] == [0.8 * limit, 3 * limit]


@pytest.mark.parametrize("method", METHODS_THAT_FIT)
def test_a_rehearsed_network_has_the_formats_of_the_plan(model, images, machine, measured, tmp_path, method):
    found = plan_of(model, images, "latency=0.6x", measured, tmp_path, method)
    program = lower(model, torch.from_numpy(images[:1]))
    dressed = in_formats(program, dict(found.plan().specs()))
    formats = {d.name: d.spec.format for d in found.changed}
    assert {name: packed.spec.format for name, packed in dressed.weights.items()} == {
        name: formats.get(name, "dense") for name in program.weights
    }
    for decision in found.changed if method in ("block", "magnitude") else ():
        kept = dressed.weights[decision.name].nonzeros() / np.prod(program.weights[decision.name].shape)
        assert kept == pytest.approx(decision.spec.density, rel=0.15)
    assert dressed.graph == program.graph


@pytest.mark.parametrize(("rival", "asked"), [("somebody", ("somebody",)), ("dovetail-dense", ())])
def test_a_rehearsal_is_told_in_the_seconds_of_the_survey(
    model, images, machine, measured, tmp_path, monkeypatch, rival, asked
):
    def race(program, model, images, *, threads, peers, blocks, report):
        assert any(packed.spec.format == "block_sparse" for packed in program.weights.values())
        assert (threads, peers, blocks) == (1, asked, 3)
        return {"latency": 3.0, "dense": 4.0, "rival": rival, "rival_seconds": 5.0}

    monkeypatch.setattr("dovetail.fitting.rehearsals.against_peers", race)
    known, found = replace(measured, rival=rival), plan_of(model, images, "latency=0.5x", measured, tmp_path)
    seen = rehearse(model, images, found, known, blocks=3)
    assert seen.latency == pytest.approx(0.6 * measured.rival_seconds)
    assert set(seen.ratios) == set(measured.layers)
    assert all(ratio > 0 for ratio in seen.ratios.values())


def test_a_rival_that_fails_in_a_rehearsal_is_stood_for_by_the_dense_network(
    model, images, machine, measured, tmp_path, monkeypatch
):
    raced = {"latency": 3.0, "dense": 4.0, "rival": "dovetail-dense", "rival_seconds": 4.0}
    monkeypatch.setattr("dovetail.fitting.rehearsals.against_peers", lambda *_, **__: raced)
    seen = rehearse(model, images, plan_of(model, images, "latency=0.5x", measured, tmp_path), measured)
    assert seen.latency == pytest.approx(0.75 * measured.raced)
