"""Papers of layers as data: what they may say, that stale results are refused, and that the committed one is true."""

from __future__ import annotations

import copy
import json
import math
from pathlib import Path
from typing import Any

import pytest
import yaml

import dovetail
from dovetail.accelerators import machine_named
from dovetail.accelerators.chips import projected
from dovetail.accelerators.linear_layers import permuted, resident, scattered, vectors
from dovetail.cli import layer_papers, main, papers
from dovetail.errors import RecipeError

ROOT = Path(dovetail.__file__).parents[2]
PAPERS = [path for path in sorted((ROOT / "benchmarks/papers").glob("*.yaml")) if layer_papers.is_one(path)]
TOY: dict[str, Any] = {
    "title": "A toy",
    "machine": "permdnn",
    "rival": "eie",
    "known": "guessed",
    "vectors": 2,
    "layers": {
        "one": {"outputs": 70, "inputs": 40, "size": 5, "density": 0.5, "rival": 0.1},
        "two": {"outputs": 64, "inputs": 64, "size": 4, "density": 1, "rival": 0.25},
    },
    "claims": {"time": [1, 2], "energy": [1, 2], "area": [1, 2]},
    "asked": {"each": [1, 2], "mean": [1, 2]},
    "sweep": {"layer": "one", "elements": [32, 64]},
    "tornado": ["chosen"],
}


@pytest.fixture
def toy(tmp_path):
    """`toy(**changes)` is the path of a paper; a change of a dotted key reaches into it."""

    def write(**changes: Any) -> Path:
        data = copy.deepcopy(TOY)
        for key, value in changes.items():
            *above, last = key.split("__")
            part = data
            for name in above:
                part = part[name]
            part[last] = value
        path = tmp_path / "toy.yaml"
        path.write_text(yaml.safe_dump(data))
        return path

    return write


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"layer": {}}, "unknown key 'layer'; did you mean 'layers'"),
        ({"layers": {}}, "layers: "),
        ({"layers__one__sise": 2}, "unknown key 'layers.one.sise'; did you mean 'layers.one.size'"),
        ({"layers__one__density": 0}, "layers.one.density: "),
        ({"layers__one__rival": 1.5}, "layers.one.rival: "),
        ({"vectors": 0}, "vectors: "),
        ({"sweep__layer": "tow"}, "there is no layer 'tow'; did you mean 'two'"),
        ({"sweep__elements": [32]}, "sweep.elements: "),
        ({"tornado": ["chosn"]}, "there is no mark 'chosn'; did you mean 'chosen'"),
        ({"claims__time": [1]}, "claims.time"),
    ],
)
def test_a_paper_that_says_something_else_is_told(toy, changes, message):
    with pytest.raises(RecipeError, match=message):
        layer_papers.read(toy(**changes))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"machine": "permdn"}, "unknown machine 'permdn'"),
        ({"machine": "eie"}, "machine 'eie' has no elements that work on permuted diagonals"),
        ({"rival": "scnn"}, "of machine 'scnn' no power of a chip is known"),
    ],
)
def test_machines_that_cannot_be_compared_are_refused(toy, changes, message, capsys):
    assert main(["paper", str(toy(**changes))]) == 2
    assert message in " ".join(capsys.readouterr().err.split())


def test_which_papers_are_of_layers(toy, tmp_path):
    assert layer_papers.is_one(toy())
    assert not layer_papers.is_one(papers.find("escalate"))
    for text in ("[", "[]", "layers"):
        (tmp_path / "other.yaml").write_text(text)
        assert not layer_papers.is_one(tmp_path / "other.yaml")
    assert not layer_papers.is_one(tmp_path / "gone.yaml")


def test_a_paper_is_simulated_and_shown(toy, tmp_path, capsys):
    path, document = toy(), tmp_path / "page.md"
    assert main(["paper", str(path), "--out", str(document)]) == 0
    shown, text, result = capsys.readouterr(), document.read_text(), json.loads(papers.result_path(path).read_text())
    assert [layer["name"] for layer in result["layers"]] == ["one", "two"]
    assert ["equal" in layer for layer in result["layers"]] == [True, False]
    assert [row["elements"] for row in result["sweep"]] == [32, 64, 32, 64]
    assert {(sway["of"], sway["field"]) for sway in result["sways"]} == {("eie", "fill"), ("permdnn", "multi_column")}
    times = [layer["rival"]["seconds"] / layer["ours"]["seconds"] for layer in result["layers"]]
    for time in times:
        assert f"{time:.2f}×" in shown.out
        assert f"{time:.2f}×" in text
    assert main(["paper", str(path), "--no-simulate", "--out", str(tmp_path / "again.md")]) == 0
    assert (tmp_path / "again.md").read_text() == text


def test_results_of_something_else_are_refused(toy, capsys):
    path = toy()
    command = ["paper", str(path), "--no-simulate"]

    def refused(told: str) -> None:
        capsys.readouterr()
        assert main(command) == 2
        assert told in " ".join(capsys.readouterr().err.split())

    refused("there is no result")
    assert main(["paper", str(path)]) == 0
    target = papers.result_path(path)
    first = target.read_text()
    result = json.loads(first)
    rows = result["machines"]["permdnn"]["parameters"]
    next(row for row in rows if row["field"] == "queue")["value"] = 1
    target.write_text(json.dumps(result))
    refused("permdnn has another queue")
    target.write_text(first)
    toy(layers__one__density=0.25)
    refused("layers, seed or what is varied differ")
    toy(title="Another title", notes="New notes.")
    assert main(command) == 0
    for text in ("{", "[]", "{}"):
        target.write_text(text)
        refused("is no result of `dovetail paper`")


@pytest.mark.parametrize("path", PAPERS, ids=lambda path: path.stem)
def test_the_page_of_the_documentation_is_what_the_result_says(path, tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    assert main(["paper", path.stem, "--no-simulate", "--out", str(tmp_path / "paper.md")]) == 0
    committed = (ROOT / f"docs/accelerators/{path.stem}-paper.md").read_text()
    told = f"run: dovetail paper {path.stem} --no-simulate --out docs/accelerators/{path.stem}-paper.md"
    assert (tmp_path / "paper.md").read_text() == committed, told


@pytest.mark.parametrize("path", PAPERS, ids=lambda path: path.stem)
def test_the_committed_result_is_what_the_models_give(path):
    """Of the layers that take least; `dovetail paper` makes all of them again."""
    told, result = layer_papers.read(path), json.loads(papers.result_path(path).read_text())
    own, rival = machine_named(told.machine), machine_named(told.rival)
    small = [n for n, layer in enumerate(told.layers.values()) if layer.outputs * layer.inputs < 1 << 22]
    assert small
    for number in small:
        (name, layer), found = list(told.layers.items())[number], result["layers"][number]
        seed = told.seed + 10 * number
        x = vectors(layer.inputs, layer.density, told.vectors, seed)
        ours = resident(own, permuted(name, layer.outputs, layer.size, x, seed + 1))
        theirs = resident(projected(rival, own.node_nm), scattered(name, layer.outputs, layer.rival, x, seed + 2))
        for cost, side in ((ours, "ours"), (theirs, "rival")):
            assert (cost.cycles, cost.fill) == (found[side]["cycles"], found[side]["fill"])
            assert cost.joules == pytest.approx(found[side]["joules"])


def test_permdnn_is_where_it_was_asked_to_be():
    from dovetail.report.layer_papers import ratio, within

    told = layer_papers.read(papers.find("permdnn"))
    result = json.loads(papers.result_path(papers.find("permdnn")).read_text())
    times = [ratio(layer, "time", result["area"]) for layer in result["layers"]]
    assert all(within(time, told.asked.each) for time in times)
    assert within(math.prod(times) ** (1 / len(times)), told.asked.mean)
    assert all(abs(row["off"]) <= row["within"] for row in result["arithmetic"])


def test_the_notes_of_permdnn_tell_what_was_computed():
    from dovetail.report.layer_papers import ratio

    told = layer_papers.read(papers.find("permdnn"))
    result = json.loads(papers.result_path(papers.find("permdnn")).read_text())
    for layer in result["layers"]:
        if layer["name"] in ("Alex-FC6", "Alex-FC7"):
            for kind in ("time", "energy, chips", "area"):
                assert f"{ratio(layer, kind, result['area']):.2f}" in told.notes, (layer["name"], kind)
