"""What recipes leave behind, and what others read of it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from dovetail.cli import evidence, recipes


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
