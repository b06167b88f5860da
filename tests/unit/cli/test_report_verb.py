"""`dovetail report`: which results stand on one page, and the command that makes it again."""

from __future__ import annotations

from pathlib import Path

import pytest

from dovetail.cli import report, schema
from dovetail.errors import RecipeError


def found(*accuracies: float) -> report.Found:
    return [(Path(f"r{i}.yaml"), None, {"dense_accuracy": accuracy}) for i, accuracy in enumerate(accuracies)]


def test_results_of_one_dense_network_share_its_accuracy():
    assert report._dense_accuracy(found(93.5, 93.5, 93.52)) == 93.52


def test_results_of_different_dense_networks_share_no_page():
    with pytest.raises(RecipeError, match=r"r0 93\.39 %, r1 94\.4 %"):
        report._dense_accuracy(found(93.39, 94.4))


def test_a_start_better_than_the_control_is_told_beside_what_was_held_against_it():
    told = found(94.667, 95.0)
    assert report._dense_accuracy(told) == 95.0
    assert [report._against(result, 95.0) for _, _, result in told] == ["held against a dense 94.67 %", ""]


def test_the_command_makes_the_same_page_again(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert report._command("net", report.RESULTS, report.FOLDER, time=True) == "dovetail report --network net"
    assert report._command("net", tmp_path / "races", tmp_path / "models", time=False) == (
        "dovetail report --network net --no-time --bench races --simulations models"
    )
    named = [tmp_path / "a b.fit.json", Path("c.fit.json")]
    assert report._command(None, report.RESULTS, report.FOLDER, named, "conv1", time=True) == (
        "dovetail report --fits 'a b.fit.json' --fits c.fit.json --layer conv1"
    )


DENSE = """
network: { name: resnet8 }
data: { name: digits }
method: { name: thin, parameters: { epochs: 1 } }
"""
HALF = DENSE.replace("resnet8 }", "resnet8, options: { width: 0.5 } }") + "original: { name: resnet8 }\n"
WHOLE = """
network: { name: resnet8 }
data: { name: digits }
method: { name: int8, parameters: { epochs: 0 } }
"""


@pytest.mark.parametrize(
    ("text", "thin"),
    [(DENSE, True), (HALF, True), (WHOLE, False), (WHOLE + "start: dense\n", False), (WHOLE + "start: half\n", True)],
    ids=["dense", "half", "int8", "int8 of dense", "int8 of half"],
)
def test_a_thinner_network_in_whole_numbers_is_thin_and_the_original_is_not(tmp_path, text, thin):
    for name, written in (("dense", DENSE), ("half", HALF), ("this", text)):
        (tmp_path / f"{name}.yaml").write_text(written)
    path = tmp_path / "this.yaml"
    assert report._is_thin(path, schema.read(path)) == thin
