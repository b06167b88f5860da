"""Recipes whose network starts from, and whose teacher is, what another recipe has trained."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from dovetail import zoo
from dovetail.cli import main, recipes
from dovetail.cli.evidence import FIELDS, sha256
from dovetail.cli.materials import build_method, open_sets
from dovetail.cli.networks import original_of
from dovetail.cli.schema import read
from dovetail.program.store import load, save

pytest.importorskip("sklearn")
DATA = "data: { name: digits, batch: 128, held_out: 200 }\n"
SMALL = "name: resnet8, options: { width: 0.5 }"
STARTED = f"network: {{ {SMALL}, trained: dense }}\ncontrol: dense\n{DATA}"
RECIPES = {
    "dense": f"network: {{ {SMALL} }}\n{DATA}weights: int8\ncase: tiny/dense\n"
    "method: { name: thin, parameters: { epochs: 2, learning_rate: 0.1 } }\n",
    "sparse": f"{STARTED}case: tiny/sparse\n"
    "method:\n  name: magnitude\n  parameters: { density: 0.5, epochs: 1 }\n"
    f"  teacher: {{ network: {{ {SMALL}, trained: dense }} }}\n",
    "codes": f"{STARTED}case: tiny/codes\nmethod: {{ name: int8, parameters: {{ epochs: 0, images: 100 }} }}\n",
    "narrow": "network: { name: resnet8, options: { width: 0.25 } }\n"
    f"original: {{ {SMALL}, trained: dense }}\ncontrol: dense\n{DATA}case: tiny/narrow\n"
    "method: { name: thin, parameters: { epochs: 1, learning_rate: 0.1 } }\n",
}
OTHERS = [name for name in RECIPES if name != "dense"]


@pytest.fixture(scope="module")
def home(made):
    """A folder in which all of them were run."""
    return made(RECIPES)


def result(here, name):
    return json.loads((here / f"recipes/results/{name}.json").read_text())


def change_result(here, name, change):
    path = here / f"recipes/results/{name}.json"
    path.write_text(json.dumps(change(json.loads(path.read_text()))))


def kept(here):
    """The dense network with the weights that its recipe has kept."""
    model = zoo.build("resnet8", width=0.5, in_channels=1)
    zoo.load_weights(model, here / "recipes/results/dense.safetensors")
    return model.eval()


def same(a, b):
    pairs = zip(a.state_dict().items(), b.state_dict().values())
    return all(torch.equal(x, y) for (name, x), y in pairs if not name.endswith("num_batches_tracked"))


def said(capsys):
    return " ".join(capsys.readouterr().err.split())


def accuracy_of(model):
    from dovetail.cli.schema import Data
    from dovetail.cli.score import through_torch

    return through_torch(model, open_sets(Data(name="digits"), "resnet8", None).test).accuracy


def test_a_recipe_keeps_its_trained_weights_beside_its_result(here):
    file, told = here / "recipes/results/dense.safetensors", result(here, "dense")
    assert set(told) == {*FIELDS, "weights"}
    assert told["weights"] == {"file": file.name, "sha256": sha256(file)}
    assert load_file(file)["layer1.0.conv1.weight"].dtype == torch.int8
    assert file.stat().st_size < 0.5 * file.with_suffix(".dovetail").stat().st_size
    assert abs(accuracy_of(kept(here)) - told["accuracy"][0]) <= 1
    assert not list(here.glob(".*")) + list(file.parent.glob(".*"))


@pytest.mark.parametrize(("name", "epochs"), [("sparse", 1 + 2), ("codes", 0 + 2), ("narrow", 1)])
def test_results_of_others_stand_against_it_and_verify(here, capsys, name, epochs):
    told, dense = result(here, name), result(here, "dense")
    assert set(told) == set(FIELDS)
    assert told["dense_accuracy"] == pytest.approx(max(accuracy_of(kept(here)), dense["accuracy"][0]), abs=1e-3)
    assert told["epochs"] == epochs  # those of the start count
    assert told["hours"] >= (0 if name == "narrow" else dense["hours"])
    shutil.rmtree(here / "runs")
    (here / "recipes/results/dense.dovetail").unlink()  # too large to commit, say
    assert main(["recipe", "verify", name]) == 0
    assert "differs" not in capsys.readouterr().out


def test_little_is_lost_where_nothing_is_trained(here):
    assert abs(result(here, "codes")["accuracy"][0] - result(here, "dense")["accuracy"][0]) <= 2


def test_network_and_teacher_have_those_weights(here):
    recipe = recipes.with_weights(read(here / "recipes/sparse.yaml"), here / "recipes")
    method = build_method(recipe.method, None, open_sets(recipe.data, "resnet8", None))
    assert same(method.teacher, kept(here))
    for network in (recipe.network, recipe.dense):
        assert Path(network.weights) == here / "recipes/results/dense.safetensors"


@pytest.mark.parametrize("name", OTHERS)
def test_a_packed_network_says_by_name_and_hash_what_it_started_from(here, name):
    metadata = load(f"recipes/results/{name}.dovetail").metadata
    options = {"in_channels": 1, "classes": 10, "width": 0.5}
    assert metadata["original"] == {"name": "resnet8", "options": options, "weights": None, "trained": "dense"}
    found = [original_of(load(f"recipes/results/{name}.dovetail"), weights=given) for given in (None, "w.safetensors")]
    assert [(network.weights, network.trained) for network in found] == [(None, "dense"), ("w.safetensors", None)]
    stamp = None if name == "narrow" else result(here, "dense")["weights"]["sha256"]
    assert metadata.get("trained_sha256") == stamp
    assert str(here) not in json.dumps(metadata)


def test_verify_notices_other_weights(here, capsys):
    file = here / "recipes/results/dense.safetensors"
    zoo.save_int8(zoo.build("resnet8", width=0.5, in_channels=1), file)
    assert main(["recipe", "verify", "sparse"]) == 1
    assert "dense.safetensors has sha256" in said(capsys)
    assert main(["recipe", "verify", "dense"]) == 1
    change_result(here, "dense", lambda told: told | {"weights": {"file": file.name, "sha256": sha256(file)}})
    assert main(["recipe", "verify", "sparse"]) == 1
    assert "sparse: dense, from which it was made, has another result now" in said(capsys)
    assert main(["recipe", "verify", "dense"]) == 0


def lose_the_result(here):
    (here / "recipes/results/dense.json").unlink()


def lose_the_weights(here):
    (here / "recipes/results/dense.safetensors").unlink()


def never_keep_them(here):
    change_result(here, "dense", lambda told: {key: told[key] for key in FIELDS})


def lose_the_recipe(here):
    (here / "recipes/dense.yaml").unlink()


@pytest.mark.parametrize("verb", ["run", "verify"])
@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lose_the_result, "there is no result recipes/results/dense.json; `dovetail recipe run dense` makes it"),
        (lose_the_weights, "dense.safetensors, which is not beside it; `dovetail recipe run dense` keeps it"),
        (never_keep_them, "has no trained weights; say `weights: int8` in the recipe, and `dovetail recipe run dense`"),
        (lose_the_recipe, "is trained by dense, but no such recipe is in recipes; bring it there, with its result"),
    ],
)
def test_weights_that_are_not_there_are_missed_before_training(here, capsys, verb, damage, message):
    damage(here)
    shutil.rmtree(here / "runs")
    assert main(["recipe", verb, "sparse"]) == 2
    assert message in said(capsys)
    assert not (here / "runs").exists()


def test_a_changed_recipe_keeps_its_weights_elsewhere(here):
    before = {path: path.read_bytes() for path in (here / "recipes/results").iterdir()}
    assert main(["recipe", "run", "dense", "--set", "method.parameters.epochs=1"]) == 0
    (file,) = (here / "runs").glob("dense-custom-*.safetensors")
    assert json.loads(file.with_suffix(".json").read_text())["weights"] == {"file": file.name, "sha256": sha256(file)}
    assert {path: path.read_bytes() for path in (here / "recipes/results").iterdir()} == before


def test_other_verbs_start_from_them_too(here, capsys):
    untrained = ["--set", "method.parameters.epochs=0", "--set", "runs=elsewhere", "-o", "c.dovetail"]
    small = ["--set", "network.options.width=0.5", "--set", "network.trained=dense"]
    for network in (["recipes/sparse.yaml"], ["resnet8", "--method", "int8", *small]):
        assert main(["compress", *network, *untrained]) == 0
        assert load("c.dovetail").metadata["trained_sha256"] == result(here, "dense")["weights"]["sha256"]
    assert float(capsys.readouterr().out.split("; ")[-1].split(" %")[0]) > 50
    lose_the_weights(here)
    assert main(["pack", "resnet8", "--on", "digits", *small, "-o", "p.dovetail"]) == 2
    assert not Path("p.dovetail").exists()


class Asked:
    """Stands for a race."""

    bench = "race"
    rows = ()

    def table(self):
        return ""

    def save(self, path):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("{}")


@pytest.mark.parametrize("name", OTHERS)
def test_a_race_is_against_the_trained_original(here, tmp_path, monkeypatch, name):
    asked = []
    monkeypatch.setattr("dovetail.peers.race.race", lambda *given, **named: asked.append((given, named)) or Asked())
    monkeypatch.chdir(tmp_path)  # they lie beside the packed network, wherever one is
    assert main(["bench", str(here / f"recipes/results/{name}.dovetail")]) == 0
    (_, original), named = asked[0]
    assert same(original, kept(here))
    assert (named["network"], named["variant"]) == ("tiny", name)
    assert named["test"] is not None


def test_a_scratch_network_races_its_control_by_its_weights_where_that_is_not_packed(here, monkeypatch):
    """`narrow` has random weights of its own; the control's packed file may be too large to be committed."""
    asked = []
    monkeypatch.setattr("dovetail.peers.race.race", lambda *given, **named: asked.append(given) or Asked())
    program = load(here / "recipes/results/narrow.dovetail")
    untrained = {name: value for name, value in program.metadata["original"].items() if name != "trained"}
    save(
        replace(program, metadata={**program.metadata, "original": untrained}), here / "recipes/results/alone.dovetail"
    )
    (here / "recipes/results/dense.dovetail").unlink()
    assert main(["bench", str(here / "recipes/results/alone.dovetail")]) == 0
    assert same(asked[0][1], kept(here))


def test_a_page_leaves_out_what_is_not_packed(here, capsys):
    (here / "recipes/results/narrow.dovetail").unlink()
    assert main(["report", "--no-time", "--out", "page.html"]) == 0
    assert "narrow is left out: its packed network is not here" in said(capsys)
    for name in OTHERS:
        (here / f"recipes/results/{name}.dovetail").unlink(missing_ok=True)
    assert main(["report", "--no-time", "--out", "other.html"]) == 2
    assert "none of the packed networks of 'tiny' is beside its result" in said(capsys)
    assert not (here / "other.html").exists()


def test_the_report_needs_no_weights(here, monkeypatch):
    monkeypatch.delenv("DOVETAIL_DATA", raising=False)
    lose_the_weights(here)
    assert main(["report", "--no-time", "--out", "page.html"]) == 0
    assert f"{result(here, 'sparse')['accuracy'][0]:.2f} %" in (here / "page.html").read_text()
