from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dovetail.errors import TrainingError
from dovetail.methods.base import Phase
from dovetail.training.phase import build_optimizer, set_rate
from dovetail.training.schedule import SCHEDULES, factor


@pytest.mark.parametrize(
    ("schedule", "values"),
    [
        ("constant", [1, 1, 1, 1, 1, 1, 1, 1]),
        ("cosine", [0.5 * (1 + math.cos(math.pi * i / 8)) for i in range(8)]),
        ("step", [1, 1, 1, 1, 0.1, 0.1, 0.01, 0.01]),
    ],
)
def test_values_without_warmup(schedule, values):
    assert [factor(schedule, step, 8) for step in range(8)] == pytest.approx(values)


def test_one_cycle_rises_for_three_tenths_and_falls_to_nearly_nothing():
    values = [factor("one-cycle", step, 1000) for step in range(1000)]
    assert values[0] == pytest.approx(1 / 25)
    assert max(range(1000), key=values.__getitem__) == 300
    assert values[150] == pytest.approx((1 + 1 / 25) / 2)
    assert values[300] == pytest.approx(1)
    assert values[650] == pytest.approx(0.5, abs=1e-3)
    assert values[999] < 2e-4


def test_warmup_is_a_straight_line_and_the_schedule_takes_the_rest():
    assert [factor("cosine", step, 9, warmup=3) for step in range(3)] == pytest.approx([0.25, 0.5, 0.75])
    assert [factor("cosine", 3 + i, 9, warmup=3) for i in range(6)] == [factor("cosine", i, 6) for i in range(6)]


@given(st.sampled_from(sorted(SCHEDULES)), st.integers(1, 200), st.data())
def test_the_factor_stays_between_zero_and_one(schedule, steps, data):
    step, warmup = data.draw(st.integers(0, steps - 1)), data.draw(st.integers(0, steps))
    assert 0 <= factor(schedule, step, steps, warmup) <= 1


def test_unknown_schedule():
    with pytest.raises(TrainingError, match=r"linear.*constant, cosine"):
        factor("linear", 0, 1)


def test_groups_keep_their_own_peak_and_decay():
    one, two = (torch.nn.Parameter(torch.ones(1)) for _ in range(2))
    phase = Phase("p", epochs=2, learning_rate=0.1, schedule="step")
    optimizer = build_optimizer(phase, [{"params": [one]}, {"params": [two], "lr": 0.4, "weight_decay": 0.0}])
    assert [group["weight_decay"] for group in optimizer.param_groups] == [phase.weight_decay, 0.0]
    assert set_rate(optimizer, phase, 2, steps_per_epoch=2) == pytest.approx(0.01)
    assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([0.01, 0.04])


def test_nothing_to_train_is_refused():
    with pytest.raises(TrainingError, match="no parameter to train"):
        build_optimizer(Phase("p", 1, 0.1), [{"params": []}])


@pytest.mark.parametrize(
    ("option", "values"),
    [
        ("epochs", [-1, 1.5, 2.0, math.nan, "3", None, True]),
        ("learning_rate", [0, -0.1, math.inf, math.nan, "0.1", None]),
        ("weight_decay", [-1e-4, math.nan]),
        ("momentum", [-0.9, math.inf]),
        ("warmup", [-1, math.nan]),
        ("schedule", ["linear", None]),
        ("optimizer", ["lion", ""]),
    ],
)
def test_a_phase_that_makes_no_sense_is_refused_when_it_is_made(option, values):
    for value in values:
        with pytest.raises(TrainingError, match=rf"phase 'p': {option} is {value!r}; it must be"):
            Phase(**{"name": "p", "epochs": 1, "learning_rate": 0.1, option: value})


def test_a_phase_may_have_no_epochs_and_whole_rates():
    assert Phase("p", 0, 1).epochs == 0
