"""Recipes from the command line: what is run, what it leaves behind, and what verifies it."""

from __future__ import annotations

import json
import shutil

import pytest

from dovetail.cli import main
from dovetail.program.store import load

pytest.importorskip("sklearn")


def test_a_recipe_leaves_exactly_the_evidence_that_the_design_names(here):
    result = json.loads((here / "recipes/results/tiny.json").read_text())
    assert set(result) == {
        *("recipe", "command", "dataset", "split", "seeds", "dense_accuracy", "accuracy", "params_ratio", "macs_ratio"),
        *("bits_ratio", "bits_ratio_int8", "epochs", "hours", "where", "program"),
    }
    control = json.loads((here / "recipes/results/dense-tiny.json").read_text())
    assert result["dense_accuracy"] == control["accuracy"][0]
    assert (result["split"], result["seeds"], result["epochs"]) == ("test", [0], 1)
    assert result["command"] == "dovetail recipe run tiny"
    assert result["macs_ratio"] > 1.2
    assert control["macs_ratio"] == 1.0
    assert control["bits_ratio"] == 1.0


def change_result(here, name, change):
    path = here / "recipes/results" / f"{name}.json"
    told = json.loads(path.read_text())
    path.write_text(json.dumps(told | change(told)))


def test_verify_holds_for_what_was_run(here, capsys):
    assert main(["recipe", "verify", "tiny"]) == 0
    assert "differs" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"accuracy": [99.9]}, "accuracy differ"),
        ({"macs_ratio": 9.0}, "macs_ratio differ"),
    ],
)
def test_verify_fails_where_a_result_was_changed(here, capsys, change, message):
    change_result(here, "tiny", lambda _: change)
    assert main(["recipe", "verify", "tiny"]) == 1
    assert message in capsys.readouterr().err


def test_verify_refuses_another_file(here, capsys):
    shutil.copy("t.dovetail", "recipes/results/tiny.dovetail")
    assert main(["recipe", "verify", "tiny"]) == 1
    assert "sha256" in capsys.readouterr().err


def test_verify_compares_the_dense_accuracy_with_the_control(here, capsys):
    change_result(here, "tiny", lambda told: {"dense_accuracy": told["dense_accuracy"] - 0.002})
    assert main(["recipe", "verify", "tiny"]) == 1
    assert "dense_accuracy differ" in capsys.readouterr().err
    (here / "recipes/results/dense-tiny.json").unlink()
    assert main(["recipe", "verify", "tiny"]) == 2
    assert "dovetail recipe run dense-tiny" in " ".join(capsys.readouterr().err.split())


def test_the_dense_accuracy_of_a_control_is_its_own(here, capsys):
    assert main(["recipe", "verify", "dense-tiny"]) == 0
    change_result(here, "dense-tiny", lambda told: {"dense_accuracy": told["dense_accuracy"] + 1})
    assert main(["recipe", "verify", "dense-tiny"]) == 1
    assert "dense_accuracy differ" in capsys.readouterr().err


def test_start_weights_better_than_the_control_are_the_dense_accuracy(here, capsys):
    shutil.copy("t.safetensors", "data.safetensors")
    (here / "recipes/warm.yaml").write_text(
        (here / "recipes/tiny.yaml")
        .read_text()
        .replace("{ width: 0.5 } }", "{ width: 0.5 }, weights: data.safetensors }")
    )
    change_result(here, "dense-tiny", lambda told: {"accuracy": [1.0]})
    assert main(["eval", "t.dovetail"]) == 0
    start = float(capsys.readouterr().out.split(" %")[0].split()[-1])
    assert main(["recipe", "run", "warm", "--data", "."]) == 0
    told = json.loads((here / "recipes/results/warm.json").read_text())
    assert told["dense_accuracy"] == pytest.approx(start, abs=0.3)
    assert main(["recipe", "verify", "warm", "--data", "."]) == 0


def test_what_is_trained_elsewhere_is_measured_here(here, capsys):
    """On the other machine nothing is measured; its newest checkpoint is all that comes back."""
    (here / "recipes/results/tiny.json").rename(here / "before.json")
    there = ["recipe", "train", "tiny", "--set", "runs=there"]
    assert main(there) == 0
    told = " ".join(capsys.readouterr().out.split())
    assert "there/tiny-s0 is trained:" in told
    assert "% on the held-out images" in told
    assert not (here / "recipes/results/tiny.json").exists()
    (here / "came/tiny-s0").mkdir(parents=True)
    newest = sorted((here / "there/tiny-s0").glob("checkpoint-*.safetensors"))[-1]
    shutil.copy(newest, here / "came/tiny-s0")
    assert main(["recipe", "run", "tiny", "--set", "runs=came"]) == 0
    assert "finished already" in capsys.readouterr().err
    after, before = (json.loads((here / path).read_text()) for path in ("recipes/results/tiny.json", "before.json"))
    same = {"accuracy", "macs_ratio", "bits_ratio", "epochs", "seeds"}
    assert {key: after[key] for key in same} == {key: before[key] for key in same}


def test_a_recipe_without_training_is_not_trained(here, capsys):
    (here / "recipes/further.yaml").write_text("base: tiny\nstart: tiny\n")
    assert main(["recipe", "train", "further"]) == 2
    assert "has nothing to train" in " ".join(capsys.readouterr().err.split())


def test_without_the_controls_result_a_recipe_trains_but_claims_nothing(here, capsys):
    results = here / "recipes/results"
    for name in ("tiny", "dense-tiny"):
        (results / f"{name}.json").rename(here / f"{name}.json")
    before = sorted(results.iterdir())
    again = ["recipe", "run", "tiny", "--set", "runs=elsewhere"]
    assert main(again) == 2
    err = " ".join(capsys.readouterr().err.split())
    assert "run `dovetail recipe run dense-tiny` first" in err
    assert "magnitude 1/1" in err
    assert sorted(results.iterdir()) == before
    (here / "dense-tiny.json").rename(results / "dense-tiny.json")
    assert main(again) == 0
    err = capsys.readouterr().err
    assert "finished already" in err
    assert "magnitude 1/1" not in err
    assert (results / "tiny.json").is_file()


def test_a_recipe_with_nothing_dense_to_compare_with_is_refused_before_training(here, capsys):
    assert main(["recipe", "run", "tiny", "--set", "control=null", "--set", "runs=elsewhere"]) == 2
    assert "name the dense control" in " ".join(capsys.readouterr().err.split())
    assert not (here / "elsewhere").exists()


def test_a_changed_recipe_leaves_the_evidence_of_the_recipe_alone(here, capsys):
    results = here / "recipes/results"
    before = {path: path.read_bytes() for path in results.iterdir()}
    assert main(["recipe", "run", "tiny", "--set", "method.parameters.density=0.3"]) == 0
    out = capsys.readouterr()
    (custom,) = (here / "runs").glob("tiny-custom-*.json")
    assert f"wrote runs/{custom.name}, for --set makes it another recipe than tiny" in out.out
    assert f"it is called {custom.stem}" in out.err
    assert {path: path.read_bytes() for path in results.iterdir()} == before
    told = json.loads(custom.read_text())
    assert told["recipe"] == custom.stem
    assert told["command"] == "dovetail recipe run tiny --set method.parameters.density=0.3"
    assert load(custom.with_suffix(".dovetail")).metadata["recipe"] == custom.stem
    assert main(["recipe", "run", "tiny", "--set", "method.parameters.density=0.4"]) == 0
    assert len(list((here / "runs").glob("tiny-custom-*.json"))) == 2


@pytest.mark.parametrize(("images", "allowed"), [(1, 1), (360, 1), (4_000, 2), (10_000, 5), (50_000, 25)])
def test_ties_scale_with_the_test_set(images, allowed):
    from dovetail.cli.recipe import differing_allowed

    assert differing_allowed(images) == allowed


def test_list_shows_what_was_run(here, capsys):
    assert main(["recipe", "list"]) == 0
    out = capsys.readouterr().out
    assert "a minute is too long" in out
    assert "not run yet" not in out
