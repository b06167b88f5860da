"""One small race with a real peer in every run of the tests; the thorough ones are in `test_race.py`."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import dovetail as dt

for package in ("onnx", "onnxscript", "onnxruntime"):
    pytest.importorskip(package)


def test_onnxruntime_and_our_engine_compute_the_same_and_are_timed_in_turn():
    model = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 64, 5)).eval()
    program = dt.lower(model, torch.zeros(1, 3, 8, 8))
    thinner = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 64, 5)).eval()
    other = ("other", dt.lower(thinner, torch.zeros(1, 3, 8, 8)))
    race = dt.race(
        program, model, peers=["onnxruntime"], beside=other, threads=(1,), blocks=2, network="tiny", variant="dense"
    )
    assert race.absent == {}
    assert race.time_only
    assert {row.target: row.dtype for row in race.rows} == dict.fromkeys(
        ("dovetail", "dovetail-dense", "dovetail-beside-other", "onnxruntime"), "f32"
    )
    assert all(row.max_error < 1e-4 and row.runs >= 6 for row in race.rows)
    assert {ratio.name for ratio in race.ratios} == {"vs_f32", "vs_best", "vs_own_dense", "vs_beside"}
    assert len(race.noise) == 1
