"""Notes of fits on a page: which are shown, beside results and alone, and what is said of damaged ones."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from dovetail.cli import main, notes, pages, report
from dovetail.errors import DataError, RecipeError
from dovetail.report import render
from fit_notes import notes as told


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "recipes" / "results").mkdir(parents=True)
    return tmp_path


def write(path: Path, **asked) -> Path:
    """Notes with something else in the recipe that was asked for."""
    data = told()
    data["asked"]["recipe"] |= asked
    path.write_text(json.dumps(data))
    return path


def test_notes_are_found_beside_recipes_and_beside_results(folder):
    for name in ("recipes/b.fit.json", "recipes/a.fit.json", "recipes/results/c.fit.json", "recipes/a.json"):
        write(folder / name)
    found = notes.beside(Path("recipes"))
    assert list(map(str, found)) == ["recipes/a.fit.json", "recipes/b.fit.json", "recipes/results/c.fit.json"]
    assert notes.beside(Path("nowhere")) == []


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("{", "Expecting property name"),
        ("[]", "list indices must be"),
        ("{}", "'asked' is missing"),
        (
            '{"asked": {"accuracy_drop": 1, "recipe": {}}, "plan": {"limits": {"latency": NaN}}}',
            "limits of latency is nan",
        ),
        (b"\xff\xfe", "can't decode"),
    ],
)
def test_damaged_notes_are_refused(folder, text, problem):
    Path("x.fit.json").write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(DataError, match=f"x.fit.json holds no notes of `dovetail fit` .*{problem}.*plan anew"):
        notes.read(Path("x.fit.json"))


def test_a_file_that_is_not_there_is_said_to_be_missing(folder):
    with pytest.raises(DataError, match=r"there is no file y\.fit\.json; `dovetail fit` writes its notes"):
        notes.read(Path("y.fit.json"))


def test_only_notes_of_the_page_s_network_are_found(folder):
    mine = write(Path("mine.fit.json"))
    other = write(Path("other.fit.json"), network={"name": "another"})
    data = write(Path("data.fit.json"), data={"name": "cifar10"})
    of = ("net", "digits")
    assert list(report._noted([mine, other, data], None, of, named=False)) == ["mine"]
    assert report._noted([], None, of, named=False) == {}
    with pytest.raises(RecipeError, match="other is of another on digits, and the page is about net on digits"):
        report._noted([mine, other], None, of)


def test_a_layer_that_no_fit_has_is_refused(folder):
    mine = write(Path("mine.fit.json"))
    assert list(report._noted([mine], "three")) == ["mine"]
    with pytest.raises(RecipeError, match=r"--layer thre: no fit .* did you mean 'three'"):
        report._noted([mine], "thre")
    with pytest.raises(RecipeError, match="--layer stem"):  # it has no candidates
        report._noted([mine], "stem")


def test_notes_of_one_name_are_told_apart(folder):
    Path("sub").mkdir()
    found = report._noted([write(Path("a.fit.json")), write(Path("sub/a.fit.json"))], None)
    assert list(found) == ["a.fit.json", "sub/a.fit.json"]


def test_a_page_of_fits_alone_needs_no_results(folder, capsys):
    write(Path("mine.fit.json"))
    assert main(["report", "--fits", "mine.fit.json", "--layer", "two", "-o", "page.html"]) == 0
    page = Path("page.html").read_text()
    for shown in (
        "net on digits, fitted to a budget",
        "Accuracy on held-out images",
        "92.50 %",
        "0.230 ms",
        "1.39×",  # 0.32 / 0.23
        "Time of two in 5 formats",
        "dovetail report --fits mine.fit.json --layer two",
    ):
        assert shown in page
    assert "– fewer" not in page
    assert "wrote page.html: mine beside the dense net" in capsys.readouterr().out
    Path("mine.fit.json").write_text("{}")
    assert main(["report", "--fits", "mine.fit.json", "-o", "other.html"]) == 2
    assert "mine.fit.json holds no notes" in " ".join(capsys.readouterr().err.split())
    assert not Path("other.html").exists()


def test_a_page_of_a_plan_alone_has_no_figures_of_a_trained_network(folder):
    data = told()
    del data["achieved"]
    Path("plan.fit.json").write_text(json.dumps(data))
    page = pages.of_fits({"plan": notes.read(Path("plan.fit.json"))}, "a command")
    assert [variant.name for variant in page.variants] == ["net"]
    assert page.ratios == ()
    html = render(page)
    assert 'class="band"' not in html
    assert "Time of one in 5 formats" in html
