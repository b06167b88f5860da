"""`dovetail speed`: from the committed results and targets to a table and a page."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

import dovetail
from dovetail.cli import main
from dovetail.cli.sheets import cases, listed
from dovetail.cli.speed import read_races, read_targets
from dovetail.errors import DataError, RecipeError
from dovetail.report.speed import GEOMEAN

ROOT = Path(dovetail.__file__).parents[2]
TARGETS = ROOT / "benchmarks/targets.yaml"
ROW = {"case": "net/a", "target": "dovetail", "dtype": "f32", "median_ms": 1.0}
RATIO = {"case": "net/a/vs_f32", "ours": "dovetail", "peer": "torch", "value": 2.0}
RATIOS = {"vs_f32", "vs_best", "vs_own_dense", "vs_beside", "vs_int8", "vs_same"}


def test_the_table_shows_results_and_targets(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    assert main(["speed", "--out", str(tmp_path / "speed.md")]) == 0
    shown, page = capsys.readouterr().out, (tmp_path / "speed.md").read_text()
    for race in read_races(ROOT / "benchmarks/results").values():
        for ratio in race["ratios"]:
            case, name = ratio["case"].rsplit("/", 1)
            digits = 2 if ratio["value"] < 10 else 1 if ratio["value"] < 100 else 0
            assert f"| {case} | {name} | {ratio['value']:.{digits}f}× |" in page
            assert case in shown
    for name in read_targets(TARGETS):
        assert f"| {name.rsplit('/', 1)[0]} | {name.rsplit('/', 1)[1]} | " in page


def test_the_page_of_the_documentation_is_what_the_results_say(tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    assert main(["speed", "--out", str(tmp_path / "speed.md")]) == 0
    committed = (ROOT / "docs/speed.md").read_text()
    assert (tmp_path / "speed.md").read_text() == committed, "run: dovetail speed --out docs/speed.md"


def test_targets_are_of_ratios_and_of_networks_that_race():
    networks = {path.stem for path in listed()}
    random = {case.name for path in listed() for case in cases(path.stem)}
    recipes = (path.read_text() for path in (TARGETS.parents[1] / "recipes").glob("*.yaml"))
    trained = {case for text in recipes for case in re.findall(r"^case: (\S+)$", text, re.MULTILINE)}
    fitted = set(re.findall(r"--case (\w+/\w+)", (ROOT / "docs/search.md").read_text()))  # whose recipes fit writes
    for name in read_targets(TARGETS):
        case, ratio = name.rsplit("/", 1)
        assert ratio in RATIOS
        network, _, variant = case.partition("/")
        assert network in networks
        assert variant == GEOMEAN or case.removesuffix("_cold") in random | trained | fitted


def test_a_card_is_named_where_one_was_measured(tmp_path):
    cpu = {"cpu": "a processor", "cores": 2, "engine_isa": "avx2"}
    for name, machine in (("a", cpu), ("b", {**cpu, "gpu": "a card"})):
        row = {"case": f"net/{name}", "target": "dovetail", "dtype": "f32", "median_ms": 1.0}
        race = {"machine": machine, "rows": [row], "ratios": []}
        (tmp_path / f"{name}.json").write_text(json.dumps(race))
    page = tmp_path / "speed.md"
    assert main(["speed", "--bench", str(tmp_path), "--targets", str(tmp_path / "none"), "--out", str(page)]) == 0
    assert "Measured on a card and on a processor, 2 cores, avx2." in page.read_text()


def test_nothing_raced_yet_is_an_empty_table(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["speed"]) == 0
    assert "case" in capsys.readouterr().out


@pytest.mark.parametrize("text", ["[1, 2]", "net/vs_f32: 1.2", "net/a/vs_f32: much", "net/a/vs_f32: 0"])
def test_targets_that_are_none_are_refused(tmp_path, text):
    path = tmp_path / "targets.yaml"
    path.write_text(text)
    with pytest.raises(RecipeError, match=r"targets\.yaml"):
        read_targets(path)


@pytest.mark.parametrize("text", ["{", "[]", json.dumps({"rows": []}), json.dumps({"rows": [{"case": "a/b"}]})])
def test_a_file_that_is_no_race_is_named(tmp_path, text):
    (tmp_path / "odd.json").write_text(text)
    with pytest.raises(DataError, match=r"odd\.json is no race result"):
        read_races(tmp_path)


@pytest.mark.parametrize(
    ("part", "wrong"),
    [
        ("machine", {"cpu": "a processor"}),
        ("rows", [ROW | {"median_ms": "soon"}]),
        ("rows", [ROW, {"case": "net/a"}]),
        ("ratios", [RATIO | {"case": "net"}]),
        ("ratios", [RATIO | {"value": None}]),
        ("ratios", [RATIO | {"peer": 3}]),
        ("ratios", None),
        ("noise", [{"case": "net/a/vs_f32"}]),
    ],
)
def test_a_race_that_lacks_what_is_shown_is_named(tmp_path, part, wrong):
    race = {"machine": {"gpu": "a card"}, "rows": [ROW], "ratios": [RATIO]}
    (tmp_path / "a.json").write_text(json.dumps(race))
    assert list(read_races(tmp_path)) == ["net/a"]
    (tmp_path / "a.json").write_text(json.dumps(race | {part: wrong}))
    with pytest.raises(DataError, match=r"a\.json is no race result"):
        read_races(tmp_path)
