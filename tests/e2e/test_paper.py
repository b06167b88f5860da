"""`dovetail paper` on the digits: the figures of `dovetail simulate`, weights that were kept, stale results."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from dovetail.cli import main
from dovetail.errors import DataError

pytest.importorskip("sklearn")
PAPER = """
title: A toy
machine: sparten
known: guessed
claims: { dense: { machines: [systolic-1024], time: 2, energy: 1.5 } }
beside: [scnn]
tornado: [derived]
networks: { digits: { ours: tiny, dense: dense-tiny } }
"""
TARGET = Path("benchmarks/papers/results/toy.json")
COMPARED = Path("simulations/toy-digits/comparison.json")
COMMAND = ["paper", "toy", "--out", "page.md"]


@pytest.fixture
def paper(here):
    """A folder with recipes that were run, and a paper about them."""
    Path("benchmarks/papers").mkdir(parents=True)
    Path("benchmarks/papers/toy.yaml").write_text(PAPER)
    return here


def read(path: Path) -> dict:
    return json.loads(path.read_text())


def test_the_figures_are_those_of_simulate(paper, capsys):
    assert main(COMMAND) == 0
    out, result, page = capsys.readouterr().out, read(TARGET), Path("page.md").read_text()
    (network,) = result["networks"]
    pairs = [(pair["network"], pair["machine"]) for pair in network["pairs"]]
    ours = [("tiny", machine) for machine in ("sparten", "systolic-1024", "scnn")]
    assert pairs == [*ours, ("dense-tiny", "systolic-1024")]
    files = ["recipes/results/tiny.dovetail", "recipes/results/dense-tiny.dovetail"]
    words = ["--on", "sparten,systolic-1024,scnn", "--equal", "--baseline", f"systolic={files[1]}", "--out", "again"]
    assert main(["simulate", files[0], *words]) == 0
    for told, pair in zip(network["pairs"], read(Path("again/comparison.json"))["pairs"], strict=True):
        assert {key: told[key] for key in ("cycles", "joules", "units")} == {
            key: pair[key] for key in ("cycles", "joules", "units")
        }
    ratio = network["pairs"][3]["seconds"] / network["pairs"][0]["seconds"]
    shown = f"{ratio:.2f}×" if ratio < 10 else f"{ratio:.1f}×"
    assert f"| dense (systolic-1024) | time | 2.00× | {shown} |" in page
    assert shown in out
    assert {name: facts["recipe"] for name, facts in network["networks"].items()} == {
        "ours": "tiny",
        "dense": "dense-tiny",
    }
    assert network["networks"]["ours"]["sha256"] == read(Path("recipes/results/tiny.json"))["program"]["sha256"]
    assert "of sparten" not in page  # nothing was varied of what is only recalled


def test_the_page_follows_from_the_result_alone(paper, monkeypatch):
    assert main(COMMAND) == 0
    page = Path("page.md").read_text()
    monkeypatch.setattr("dovetail.accelerators.simulation.run", None)
    assert main(COMMAND) == 0  # every layer is taken from what was simulated
    assert Path("page.md").read_text() == page
    COMPARED.unlink()
    monkeypatch.setattr("dovetail.cli.simulate.simulate", None)
    Path("page.md").unlink()
    assert main([*COMMAND, "--no-simulate"]) == 0
    assert Path("page.md").read_text() == page


def test_a_result_of_something_else_is_refused(paper, capsys):
    assert main(COMMAND) == 0
    first = TARGET.read_text()

    def refused(told: str) -> None:
        capsys.readouterr()
        assert main([*COMMAND, "--no-simulate"]) == 2
        error = " ".join(capsys.readouterr().err.split())
        assert told in error
        assert "run `dovetail paper toy`" in error

    result = json.loads(first)
    rows = result["machines"]["sparten"]["parameters"]
    next(row for row in rows if row["field"] == "chunk")["value"] = 64
    TARGET.write_text(json.dumps(result))
    refused("sparten has another chunk")
    result = json.loads(first)
    del result["networks"][0]["pairs"][1]
    TARGET.write_text(json.dumps(result))
    refused("digits lacks machines")
    TARGET.write_text(first)
    recipe = Path("recipes/results/tiny.json")
    recipe.write_text(json.dumps(read(recipe) | {"program": {"file": "tiny.dovetail", "sha256": "0" * 64}}))
    refused("tiny has another result")
    Path("benchmarks/papers/toy.yaml").write_text(PAPER.replace("ours: tiny", "ours: dense-tiny"))
    refused("digits is of other recipes")


@pytest.mark.parametrize(
    ("change", "told"),
    [(None, "which is not beside it; `dovetail recipe run dense-tiny` packs it"), (b"", "has sha256")],
)
def test_a_network_that_is_not_there_is_told_before_anything_is_simulated(paper, capsys, change, told):
    file = Path("recipes/results/dense-tiny.dovetail")
    file.unlink()
    if change is not None:
        file.write_bytes(change)
    assert main(COMMAND) == 2
    error = " ".join(capsys.readouterr().err.split())
    assert told in error
    assert "benchmarks/papers/toy.yaml" in error
    assert not Path("simulations").exists()
    assert not TARGET.exists()


def test_a_command_that_fails_leaves_the_old_result_and_goes_on(paper, monkeypatch, capsys):
    assert main(COMMAND) == 0
    first = TARGET.read_bytes()
    pair = Path("simulations/toy-digits/dense-tiny-on-systolic-1024.json")
    pair.unlink()

    def stop(*args):
        raise DataError("no room is left")

    with monkeypatch.context() as within:
        within.setattr("dovetail.accelerators.simulation.run", stop)
        assert main(COMMAND) == 2
    assert TARGET.read_bytes() == first
    capsys.readouterr()
    assert main(COMMAND) == 0
    assert "tiny on sparten: 8 of 8 layers are taken from" in " ".join(capsys.readouterr().err.split())
    assert read(TARGET)["networks"] == json.loads(first)["networks"]


@pytest.fixture(scope="module")
def kept(made, home):
    """Recipes that were run, of which the dense one keeps its weights."""
    dense, tiny = ((home / "recipes" / f"{name}.yaml").read_text() for name in ("dense-tiny", "tiny"))
    return made({"dense-tiny": f"{dense}weights: int8\n", "tiny": tiny})


def test_networks_are_packed_from_weights_that_are_kept(kept, tmp_path, monkeypatch):
    monkeypatch.chdir(kept)
    Path("recipes/results/dense-tiny.dovetail").unlink()  # as if it were too large to be committed
    (tmp_path / "toy.yaml").write_text(PAPER)
    assert main(["paper", str(tmp_path / "toy.yaml")]) == 0
    (network,) = read(tmp_path / "results/toy.json")["networks"]
    told = read(Path("recipes/results/dense-tiny.json"))
    assert network["networks"]["dense"]["sha256"] == told["weights"]["sha256"]
    assert network["pairs"][3]["network"] == "dense-tiny"
    assert main(["eval", "simulations/toy-digits/dense-tiny.dovetail"]) == 0
