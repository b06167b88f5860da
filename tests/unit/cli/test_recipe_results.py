"""What recipes leave behind, and what others read of it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from dovetail.cli import evidence, recipes
from dovetail.cli.schema import Aims


@pytest.fixture
def beside(tmp_path):
    """Writes the result of a recipe with these changes, and gives the path of one in the same folder."""

    def make(name: str, **changes) -> Path:
        (tmp_path / "results").mkdir(exist_ok=True)
        stamp = {"file": f"{name}.dovetail", "sha256": "0"}
        told = dict.fromkeys(evidence.FIELDS, 0) | {"accuracy": [91.0, 92.0], "program": stamp} | changes
        (tmp_path / "results" / f"{name}.json").write_text(json.dumps(told))
        return tmp_path / "other.yaml"

    return make


def test_the_result_of_a_control_whose_name_has_a_dot(beside):
    recipe = beside("dense-w0.5")
    assert recipes.control_accuracy(recipe, "dense-w0.5") == 91.5
    assert recipes.control_accuracy(recipe, "dense-w0") is None
    assert recipes.result_of(recipe, "dense-w0.5")["accuracy"] == [91.0, 92.0]


def test_aims_are_judged_by_the_mean_of_the_seeds():
    data = {"dense_accuracy": 94.0, "accuracy": [92.9, 93.1], "bits_ratio": 99.996, "macs_ratio": 2.5}
    assert evidence.judged(None, data) == []
    assert evidence.judged(Aims(bits_ratio=100, macs_ratio=2.5, points_lost=1.0), data) == [
        "aim: 100x fewer bits than the dense network in float32; it has 99.996x, missed",
        "aim: 2.5x fewer multiply-accumulates; it has 2.5x, met",
        "aim: points lost, 1 at most; it loses 1, met",
    ]
    assert evidence.judged(Aims(points_lost=0.9), data) == ["aim: points lost, 0.9 at most; it loses 1, missed"]
