"""When a step is recorded, when anew, and what a replay leaves."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from torch import nn

from dovetail.training.recording import WARM, Recorder


class Again:
    """Runs the work again, and counts."""

    made = 0

    def __init__(self, work, batch):
        type(self).made += 1
        self.work = work

    def replay(self, batch):
        return self.work(batch) + 100


@pytest.fixture
def recorder():
    Again.made = 0
    return Recorder(nn.BatchNorm1d(3), Again)


def work(batch):
    return batch[0].sum() * 0


def batch(count=4):
    return torch.zeros(count, 3), torch.zeros(count)


def losses(recorder, steps, what=(), count=4):
    return [float(recorder.run(work, batch(count), what)) for _ in range(steps)]


def test_the_first_steps_run_as_they_are(recorder):
    assert losses(recorder, WARM + 2) == [0] * WARM + [100, 100]
    assert Again.made == 1


def test_what_must_be_called_is_never_recorded(recorder):
    assert losses(recorder, WARM + 2, None) == [0] * (WARM + 2)


def test_a_batch_of_another_shape_runs_as_it_is_and_the_recording_stays(recorder):
    losses(recorder, WARM + 1)
    assert losses(recorder, 1, count=2) == [0]
    assert losses(recorder, 1) == [100]
    assert Again.made == 1


def test_an_odd_first_batch_is_not_what_is_recorded(recorder):
    assert losses(recorder, 1, count=2) == [0]
    assert losses(recorder, WARM + 1) == [0] * WARM + [100]


def frozen(model):
    model.bias.requires_grad_(False)


def moved(model):
    model.running_mean = model.running_mean.clone()


@pytest.mark.parametrize("change", [frozen, moved])
def test_it_is_recorded_anew_once_the_model_has_changed(recorder, change):
    losses(recorder, WARM + 1)
    change(recorder.model)
    assert losses(recorder, WARM + 1) == [0] * WARM + [100]
    assert Again.made == 2


def test_it_is_recorded_anew_once_the_method_says_so(recorder):
    losses(recorder, WARM + 1, "first")
    assert losses(recorder, WARM + 1, "second") == [0] * WARM + [100]


def test_what_cannot_be_recorded_runs_as_it_is(caplog):
    def refuse(work, batch):
        raise RuntimeError("not permitted while capturing\nand more")

    recorder = Recorder(nn.BatchNorm1d(3), refuse)
    assert losses(recorder, WARM + 3) == [0] * (WARM + 3)
    assert [r.getMessage() for r in caplog.records] == [
        "steps run as they are, not recorded: they cannot be recorded (not permitted while capturing)"
    ]


@pytest.mark.parametrize("draw", [random.random, np.random.rand, lambda: torch.rand(1)])
def test_what_draws_in_python_is_not_recorded(recorder, caplog, draw):
    def drawing(batch):
        draw()
        return work(batch)

    assert [float(recorder.run(drawing, batch(), ())) for _ in range(WARM + 2)] == [0] * (WARM + 2)
    assert Again.made == 0
    assert "draw random numbers outside of the GPU" in caplog.text


def test_numbers_that_change_in_place_are_no_reason(recorder):
    losses(recorder, WARM + 1)
    with torch.no_grad():
        recorder.model.bias.add_(1)
    assert losses(recorder, 1) == [100]
