"""Recipes that end in whole numbers: trained so, calibrated only, and made from another recipe's packed network."""

from __future__ import annotations

import json
import shutil

import pytest

from dovetail.cli import main
from dovetail.cli.evidence import FIELDS, sha256
from dovetail.program.store import load

pytest.importorskip("sklearn")
BELOW = """
network: { name: resnet8, options: { width: 0.5 } }
data: { name: digits, batch: 128, held_out: 200 }
"""
RECIPES = {
    "dense": BELOW + "method: { name: thin, parameters: { epochs: 2, learning_rate: 0.1 } }\ncase: tiny/dense\n",
    "trained": BELOW
    + "method: { name: int8, parameters: { epochs: 2, learning_rate: 0.1, images: 100 } }\n"
    + "control: dense\ncase: tiny/trained\n",
    "packed": BELOW
    + "start: dense\nmethod: { name: int8, parameters: { epochs: 0, images: 100 }, plan: { conv1: reads the image } }\n"
    + "control: dense\ncase: tiny/packed\n",
}


@pytest.fixture(scope="module")
def home(made):
    """A folder in which a dense network was trained, and quantised in both ways."""
    return made(RECIPES)


def result(here, name):
    return json.loads((here / f"recipes/results/{name}.json").read_text())


def said(capsys):
    return " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize("name", ["trained", "packed"])
def test_the_result_says_what_the_design_asks(here, capsys, name):
    told, dense = result(here, name), result(here, "dense")
    assert set(told) == set(FIELDS)
    assert told["dense_accuracy"] == dense["accuracy"][0]
    assert told["bits_ratio"] > 2
    assert told["macs_ratio"] == 1.0
    assert (told["epochs"], name) in ((2, "trained"), (2, "packed"))  # those of its start count
    assert told["hours"] == pytest.approx(dense["hours"], abs=0.05)
    assert main(["recipe", "verify", name]) == 0
    assert "differs" not in capsys.readouterr().out


def test_weights_without_a_control_are_calibrated_run_and_verified(here, capsys):
    """Nothing is trained, so what is compared with is the start itself."""
    small = ["--set", "network.options.width=0.5", "--set", "data.batch=128"]
    assert main(["train", "resnet8", "--epochs", "2", *small, "-o", "weights.safetensors"]) == 0
    recipe = BELOW.replace("width: 0.5 } }", "width: 0.5 }, weights: weights.safetensors }")
    text = recipe + "method: { name: int8, parameters: { epochs: 0, images: 100 } }\ncase: tiny/calibrated\n"
    (here / "recipes/calibrated.yaml").write_text(text)
    assert main(["recipe", "run", "calibrated", "--data", "."]) == 0
    told = result(here, "calibrated")
    assert (told["epochs"], told["macs_ratio"]) == (0, 1.0)
    assert abs(told["accuracy"][0] - told["dense_accuracy"]) <= 2
    assert main(["recipe", "verify", "calibrated", "--data", "."]) == 0
    assert "differs" not in capsys.readouterr().out


def test_little_is_lost_without_training(here):
    assert abs(result(here, "packed")["accuracy"][0] - result(here, "dense")["accuracy"][0]) <= 2


def test_the_packed_network_says_where_it_comes_from_and_what_is_left(here, capsys):
    program = load("recipes/results/packed.dovetail")
    assert program.metadata["start"] == "dense"
    assert program.metadata["start_sha256"] == result(here, "dense")["program"]["sha256"]
    assert (program.metadata["recipe"], program.metadata["method"]) == ("packed", "int8")
    assert program.metadata["floating"] == {"conv1": "reads the image"}
    values = {node.name: program.weights[node.weight].spec.values.name for node in program.graph.nodes if node.weight}
    assert {name for name, value in values.items() if value == "f32"} == {"conv1"}
    assert main(["inspect", "recipes/results/packed.dovetail", "--no-time"]) == 0
    out = capsys.readouterr().out
    assert "start dense" in out
    assert "left in floating point, reads the image: conv1" in out
    assert out.count("int8") >= len(values) - 1


def test_a_trained_network_has_no_float_between_its_layers(here):
    program = load("recipes/results/trained.dovetail")
    assert program.metadata["floating"] == {}
    assert {packed.spec.values.name for packed in program.weights.values()} == {"int8"}
    real = {name for name, tensor in program.graph.tensors.items() if tensor.dtype == "float32"}
    assert real == {*program.graph.inputs, *program.graph.outputs}


def test_verify_does_not_ask_for_the_packed_start(here):
    (here / "recipes/results/dense.dovetail").unlink()
    assert main(["recipe", "verify", "packed"]) == 0


def test_verify_notices_another_start(here, capsys):
    path = here / "recipes/results/dense.json"
    file = here / "recipes/results/dense.dovetail"
    shutil.copy("recipes/results/trained.dovetail", file)
    told = json.loads(path.read_text())
    path.write_text(json.dumps(told | {"program": told["program"] | {"sha256": sha256(file)}}))
    assert main(["recipe", "verify", "packed"]) == 1
    assert "has another result now" in said(capsys)
    assert main(["recipe", "run", "packed"]) == 2
    assert "whole numbers already" in said(capsys)


def test_verify_notices_a_start_that_was_named_afterwards(here, capsys):
    with (here / "recipes/trained.yaml").open("a") as recipe:
        recipe.write("start: dense\n")
    assert main(["recipe", "verify", "trained"]) == 1
    assert "trained: its packed network was not made from dense, as the recipe now says" in said(capsys)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("method.parameters.epochs=1", "int8 trains 1 epochs, and start: dense is packed"),
        ("start=nosuch", "there is no recipe"),
        ("data.mean=[0.5]", "start: dense has the mean"),
        ("network.options.width=1.0", "start: dense has the network"),
        ("method.plan={nosuch: why}", "no layer of dense is called 'nosuch'"),
        ("method.plan={conv1: {format: dense}}", "is packed already; say only why"),
    ],
)
def test_a_start_that_cannot_be_taken(here, capsys, override, message):
    before = sorted(here.rglob("*.json"))
    assert main(["recipe", "run", "packed", "--set", override]) == 2
    assert message in said(capsys)
    assert sorted(here.rglob("*.json")) == before


def test_methods_that_pack_nothing_anew_take_no_start(here, capsys):
    (here / "recipes/thin.yaml").write_text(BELOW + "start: dense\nmethod: { name: thin, parameters: { epochs: 0 } }\n")
    assert main(["recipe", "run", "thin", "--set", "control=dense"]) == 2
    assert "method thin makes nothing of a packed network" in said(capsys)


def test_a_start_is_no_network_to_train(here, capsys):
    assert main(["compress", "recipes/packed.yaml", "-o", "c.dovetail"]) == 2
    assert "`dovetail recipe run` takes it" in said(capsys)


def test_compress_measures_what_it_has_packed(here, capsys):
    small = ["--set", "network.options.width=0.5", "--set", "method.parameters.epochs=1"]
    assert main(["compress", "resnet8", "--method", "int8", *small, "-o", "c.dovetail"]) == 0
    assert "% on the held-out images" in capsys.readouterr().out
    assert {packed.spec.values.name for packed in load("c.dovetail").weights.values()} == {"int8"}


def test_quantize_mends_more_where_it_is_asked(here, capsys):
    asked = ["quantize", "recipes/results/dense.dovetail", "--images", "50"]
    assert main([*asked, "-o", "a.dovetail"]) == 0
    assert main([*asked, "--reestimate", "-o", "b.dovetail"]) == 0
    a, b = load("a.dovetail"), load("b.dovetail")
    assert a.graph.tensors == b.graph.tensors
    assert any((node.epilogue.bias or "").endswith(".mended") for node in b.graph.nodes)
    assert not any((node.epilogue.bias or "").endswith(".mended") for node in a.graph.nodes)


def test_the_report_shows_networks_in_whole_numbers(here, monkeypatch):
    monkeypatch.delenv("DOVETAIL_DATA", raising=False)
    assert main(["report", "--no-time", "--out", "page.html"]) == 0
    page = (here / "page.html").read_text()
    assert f"{result(here, 'packed')['accuracy'][0]:.2f} %" in page
    assert "in floating point: reads the image" in page
