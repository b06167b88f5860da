"""Papers as data: what they may say, and that the committed ones and their page say what is there."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import yaml

import dovetail
from dovetail.cli import layer_papers, main, papers
from dovetail.errors import DovetailError, RecipeError

ROOT = Path(dovetail.__file__).parents[2]
PAPERS = [path for path in sorted((ROOT / "benchmarks/papers").glob("*.yaml")) if not layer_papers.is_one(path)]
TOY: dict[str, Any] = {
    "title": "A toy",
    "machine": "escalate",
    "known": "guessed",
    "claims": {"dense": {"machines": ["eyeriss-1024"], "time": 2, "energy": 1.5}},
    "networks": {"net": {"ours": "a", "dense": "b"}},
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


def test_a_paper_is_found_by_name_and_by_path(toy):
    assert papers.find("escalate").name == "escalate.yaml"
    assert papers.read(papers.find(str(toy()))).others(["dense"]) == ("eyeriss-1024",)
    with pytest.raises(RecipeError, match=r"no paper 'escalat' in .*did you mean 'escalate'"):
        papers.find("escalat")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"claim": {}}, "unknown key 'claim'; did you mean 'claims'"),
        ({"claims": {}}, "claims: "),
        ({"claims__dense__tme": 2}, "unknown key 'claims.dense.tme'; did you mean 'claims.dense.time'"),
        ({"claims__dense__time": 0}, "claims.dense.time: "),
        ({"claims__dense__machines": []}, "claims.dense.machines: "),
        ({"claims__dense__machines": ["escalate"]}, "'dense' compares 'escalate' with itself; name other machines"),
        ({"claims__ours": TOY["claims"]["dense"]}, "'ours' names the paper's own network"),
        ({"within": {"time": 1, "energy": 2}}, "within.time: "),
        ({"beside": ["scnn", "escalate"]}, "'escalate' runs the paper's own network anyway; leave it out"),
        ({"beside": ["eyeriss-1024"]}, "'eyeriss-1024' runs the paper's own network anyway"),
        ({"beside": ["scnn", "scnn"]}, "'scnn' runs the paper's own network anyway"),
        ({"images": 0}, "images: "),
        ({"tornado": ["chosn"]}, "there is no mark 'chosn'; did you mean 'chosen'"),
        ({"networks": {}}, "networks: "),
        ({"networks__net__sparse": "c"}, "'net' says what 'sparse' is; known are ours, dense"),
        ({"networks__net": {"dense": "b"}}, "'net' needs 'ours', and what the machines of one claim run at least"),
        ({"networks__net": {"ours": "a"}}, "'net' needs 'ours'"),
    ],
)
def test_a_paper_that_says_something_else_is_told(toy, changes, message):
    with pytest.raises(RecipeError, match=message) as raised:
        papers.read(toy(**changes))
    assert "toy.yaml" in str(raised.value)
    assert len(str(raised.value)) < 500


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"machine": "escalat"}, r"toy\.yaml: unknown machine 'escalat'"),
        ({"claims__dense__machines": ["eyeriss"]}, r"toy\.yaml: eyeriss is of another size; write eyeriss-1024"),
        ({"claims__dense__machines": ["eie"]}, r"toy\.yaml: machine 'eie' has 64 multipliers instead of 1,024"),
        (
            {"networks__net__dense": "dense-resnet8-digit"},
            r"toy\.yaml: there is no recipe 'dense-resnet8-digit' in .*did you mean",
        ),
        (
            {"networks__net__dense": "dense-resnet8-digits"},
            r"toy\.yaml: there is no result .*dense-resnet8-digits\.json; `d",
        ),
    ],
)
def test_what_is_missing_is_told_before_anything_is_simulated(toy, changes, message, monkeypatch, tmp_path):
    from dovetail.cli.paper import paper

    monkeypatch.chdir(tmp_path)
    with pytest.raises(DovetailError, match=message):
        paper(str(toy(**({"networks__net__ours": "int8-resnet20-cifar10"} | changes))))
    assert not (tmp_path / "simulations").exists()


@pytest.mark.parametrize("text", ["{", "[]", "{}", json.dumps({"machines": {"no": {}}, "networks": []})])
def test_a_file_that_is_no_result_is_named(toy, text, capsys):
    path = toy()
    target = papers.result_path(path)
    target.parent.mkdir()
    target.write_text(text)
    assert main(["paper", str(path), "--no-simulate"]) == 2
    assert "toy.json is no result of `dovetail paper`" in " ".join(capsys.readouterr().err.split())


def test_pages_that_cannot_be_written_are_refused_first(toy, capsys):
    assert main(["paper", str(toy()), "--out", "nowhere/page.md"]) == 2
    assert "there is no folder nowhere" in capsys.readouterr().err
    assert main(["paper", "gone.yaml"]) == 2
    assert "there is no paper gone.yaml" in capsys.readouterr().err


@pytest.mark.parametrize("path", PAPERS, ids=lambda path: path.stem)
def test_a_committed_paper_names_machines_of_the_common_size(path):
    from dovetail.accelerators import machine_named, of_common_size

    told = papers.read(path)
    for name in (told.machine, *told.others(told.claims)):
        assert of_common_size(machine_named(name)).name == name


def test_the_page_of_the_documentation_is_what_the_result_says(tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    assert main(["paper", "escalate", "--no-simulate", "--out", str(tmp_path / "paper.md")]) == 0
    committed = (ROOT / "docs/accelerators/paper.md").read_text()
    told = "run: dovetail paper escalate --no-simulate --out docs/accelerators/paper.md"
    assert (tmp_path / "paper.md").read_text() == committed, told
