"""The command line as a person types it: the whole way on the digits, and what wrong input is told."""

from __future__ import annotations

import json
import logging
import os
import shutil
import signal
import subprocess
import sys
import time
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file
from torch import nn

import dovetail
from dovetail.cli import main
from dovetail.program.lower import lower
from dovetail.program.store import load

pytest.importorskip("sklearn")
TINY = """
title: a minute is too long
network: { name: resnet8, options: { width: 0.5 } }
data: { name: digits, batch: 128, held_out: 200 }
method: { name: magnitude, parameters: { density: 0.5, epochs: 1 } }
control: dense-tiny
case: tiny/magnitude
"""
DENSE = """
title: the control
network: { name: resnet8, options: { width: 0.5 } }
data: { name: digits, batch: 128, held_out: 200 }
method: { name: thin, parameters: { epochs: 1 } }
case: tiny/dense
"""


STRANGE = """
from torch import nn

class Strange(nn.Module):
    def forward(self, x):
        return x.flatten(1).cumsum(1)
"""


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A folder with a trained network, its packed file, and two recipes that have been run."""
    folder = tmp_path_factory.mktemp("home")
    (folder / "recipes").mkdir()
    (folder / "recipes" / "tiny.yaml").write_text(TINY)
    (folder / "recipes" / "dense-tiny.yaml").write_text(DENSE)
    before = Path.cwd()
    os.chdir(folder)
    try:
        assert (
            main(["train", "resnet8", "--epochs", "1", "--set", "network.options.width=0.5", "-o", "t.safetensors"])
            == 0
        )
        pack = ["pack", "resnet8", "--on", "digits", "--weights", "t.safetensors", "-o", "t.dovetail"]
        assert main([*pack, "--set", "network.options.width=0.5"]) == 0
        assert main(["recipe", "run", "dense-tiny"]) == 0
        assert main(["recipe", "run", "tiny"]) == 0
    finally:
        os.chdir(before)
    return folder


@pytest.fixture
def here(home, tmp_path, monkeypatch):
    """A copy of that folder to work in."""
    shutil.copytree(home, tmp_path / "home")
    monkeypatch.chdir(tmp_path / "home")
    return tmp_path / "home"


def test_eval_is_the_same_through_engine_and_reference(here, capsys):
    assert main(["eval", "t.dovetail"]) == 0
    engine = capsys.readouterr().out
    assert main(["eval", "t.dovetail", "--by", "reference"]) == 0
    assert capsys.readouterr().out == engine
    assert "test images of digits" in engine


def test_inspect_lists_every_weight_layer(here, capsys):
    assert main(["inspect", "t.dovetail", "--no-time"]) == 0
    out = capsys.readouterr().out
    weights = [node.name for node in load("t.dovetail").graph.nodes if node.weight is not None]
    assert [name for name in weights if name not in out] == []


def test_inspect_counts_kernel_bases_as_the_paper_does_too(here, capsys):
    from dovetail.program.counts import paper_counts
    from dovetail.report import numbers

    change = [part for key in ("alternate", "retrain") for part in ("--set", f"method.parameters.{key}_epochs=0")]
    assert main(["compress", "resnet8", "--method", "penni", *change, "-o", "p.dovetail"]) == 0
    for name, shown in (("p.dovetail", True), ("t.dovetail", False)):
        assert main(["inspect", name, "--no-time"]) == 0
        assert ("as PENNI's counter has it" in capsys.readouterr().out) == shown
    assert main(["inspect", "p.dovetail", "--no-time"]) == 0
    paper = paper_counts(load("p.dovetail"))
    assert f"{numbers.count(paper.params)} parameters, {numbers.count(paper.flops)} FLOPs" in capsys.readouterr().out


def test_run_answers_an_array_and_an_image(here, capsys):
    from PIL import Image

    np.save("x.npy", np.zeros((2, 1, 8, 8), np.float32))
    Image.fromarray(np.zeros((20, 30), np.uint8)).save("x.png")
    assert main(["run", "t.dovetail", "x.npy", "--out", "y.npy"]) == 0
    assert np.load("y.npy").shape == (2, 10)
    assert main(["run", "t.dovetail", "x.png"]) == 0
    assert "probability" in capsys.readouterr().out


def test_run_keeps_every_output_of_several(tmp_path, monkeypatch):
    class Two(nn.Module):
        def forward(self, x):
            return x.relu(), (-x).relu()

    monkeypatch.chdir(tmp_path)
    program = lower(Two(), torch.zeros(1, 4))
    program.save("two.dovetail")
    x = np.array([[1.0, -2.0, 3.0, -4.0]], np.float32)
    np.save("x.npy", x)
    assert main(["run", "two.dovetail", "x.npy", "--out", "y.npz"]) == 0
    with np.load("y.npz") as kept:
        positive, negative = (kept[name] for name in program.graph.outputs)
    np.testing.assert_array_equal(positive - negative, x)


def test_quantize_keeps_the_accuracy_in_a_quarter_of_the_bytes(here, capsys):
    before = accuracy_of("t.dovetail", capsys)
    assert main(["quantize", "t.dovetail", "--images", "100", "--keep", "conv1"]) == 0
    assert "t-int8.dovetail: 7 of 8 weight layers in int8" in capsys.readouterr().out
    assert abs(accuracy_of("t-int8.dovetail", capsys) - before) <= 2
    assert accuracy_of("t-int8.dovetail", capsys) == accuracy_of("t-int8.dovetail", capsys, "--by", "reference")
    program = load("t-int8.dovetail")
    assert program.metadata["data"] == "digits"
    assert program.weights["conv1"].spec.values.name == "f32"
    assert sum(packed.spec.values.name == "int8" for packed in program.weights.values()) == 7


def accuracy_of(name, capsys, *more):
    capsys.readouterr()
    assert main(["eval", name, *more]) == 0
    return float(capsys.readouterr().out.split()[0])


def test_compress_writes_a_file_that_says_where_it_comes_from(here, capsys):
    change = ["--set", "method.parameters.epochs=1", "--set", "method.parameters.ratio=0.5"]
    assert main(["compress", "resnet8", "--method", "tucker", *change, "-o", "c.dovetail"]) == 0
    metadata = load("c.dovetail").metadata
    assert (metadata["method"], metadata["data"]) == ("tucker", "digits")
    assert metadata["original"]["options"] == {"in_channels": 1, "classes": 10}
    assert metadata["left"]
    assert "held-out" in capsys.readouterr().out


def test_the_run_of_other_start_weights_is_not_taken_for_this_one(here, capsys):
    from safetensors.numpy import load_file, save_file

    weights = load_file("t.safetensors")
    name = next(name for name, values in weights.items() if values.ndim == 4)
    save_file(weights | {name: weights[name] * 2}, "u.safetensors")
    small = ["--set", "network.options.width=0.5", "--set", "method.parameters.epochs=1"]
    command = ["compress", "resnet8", "--method", "magnitude", *small, "-o", "c.dovetail"]
    assert main([*command, "--weights", "t.safetensors"]) == 0
    first = Path("c.dovetail").read_bytes()
    assert main([*command, "--weights", "u.safetensors"]) == 2
    assert "weights differ" in " ".join(capsys.readouterr().err.split())
    assert Path("c.dovetail").read_bytes() == first
    assert main([*command, "--weights", "t.safetensors"]) == 0
    assert "finished already" in capsys.readouterr().err


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
    assert main(["recipe", "verify", "tiny"]) == 2
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
        TINY.replace("{ width: 0.5 } }", "{ width: 0.5 }, weights: data.safetensors }")
    )
    change_result(here, "dense-tiny", lambda told: {"accuracy": [1.0]})
    assert main(["eval", "t.dovetail"]) == 0
    start = float(capsys.readouterr().out.split(" %")[0].split()[-1])
    assert main(["recipe", "run", "warm", "--data", "."]) == 0
    told = json.loads((here / "recipes/results/warm.json").read_text())
    assert told["dense_accuracy"] == pytest.approx(start, abs=0.3)
    assert main(["recipe", "verify", "warm", "--data", "."]) == 0


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


def test_report_is_made_from_results_alone(here, monkeypatch):
    monkeypatch.delenv("DOVETAIL_DATA", raising=False)
    assert main(["report", "--no-time", "--out", "page.html"]) == 0
    page = (here / "page.html").read_text()
    result = json.loads((here / "recipes/results/tiny.json").read_text())
    assert f"{result['accuracy'][0]:.2f} %" in page
    assert "No race has been run yet" in page


def test_doctor_finds_every_installed_package_whole(here, capsys):
    assert main(["doctor"]) == 0
    out = capsys.readouterr().out
    assert "broken" not in out
    assert f"scikit-learn  {version('scikit-learn')}" in out


def test_the_version_is_the_package_s(here, capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.strip() == dovetail.__version__


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["trian"], 'Did you mean "train"'),
        (["train"], "NETWORK requires an argument"),
        (["train", "resnet8", "--epoch", "3"], "Did you mean --epochs"),
        (["train", "resnet9"], "unknown network 'resnet9'"),
        (["train", "resnet8", "--on", "cifar10"], "DOVETAIL_DATA"),
        (["train", "resnet8", "--out", "missing/x.safetensors"], "there is no folder missing"),
        (["train", "resnet8", "--out", "."], "is a folder"),
        (["train", "resnet8", "--set", "data.btch=3"], "did you mean 'data.batch'"),
        (["train", "resnet8", "--epochs", "-1"], "epochs is -1; it must be a whole number"),
        (["train", "resnet8", "--set", "method.parameters.epochs=1.5"], "epochs: give a whole number, not 1.5"),
        (["train", "resnet8", "--learning-rate", "nan"], "learning_rate is nan; it must be a finite number above 0"),
        (
            ["compress", "resnet8", "--method", "penni", "--set", "method.parameters.alternate_epochs=-3"],
            "phase 'alternate': epochs is -3",
        ),
        (["recipe", "run", "tiny", "--set", "method.parameters.schedule=linear"], "'constant', 'cosine'"),
        (["compress", "resnet8"], "--method penni, tucker, magnitude, block, int8 or thin"),
        (["compress", "recipes/tiny.yaml", "--on", "mnist"], "change it with --set data.name=mnist"),
        (["compress", "recipes/tiny.yaml", "--runs", "there"], "change it with --set runs=there"),
        (["compress", "recipes/tiny.yaml", "--method", "penni"], "change it with --set method.name=penni"),
        (["compress", "recipes/tiny.yaml", "--weights", "t.safetensors"], "--set network.weights=t.safetensors"),
        (["compress", "resnet8", "--method", "peni"], "did you mean 'penni'"),
        (
            ["compress", "resnet8", "--method", "penni", "--set", "method.parameters.basis=3"],
            "'method.parameters.bases'",
        ),
        (
            ["compress", "resnet8", "--method", "tucker", "--set", "method.plan={layer9: {format: tucker}}"],
            "spec is incomplete",
        ),
        (["train", "resnet8", "--set", "method.parameters.epochs=abc"], "epochs: give a whole number, not 'abc'"),
        (["train", "resnet8", "--set", "method.parameters.learning_rate=x"], "learning_rate: give a number, not 'x'"),
        (["train", "resnet8", "--set", "settings.threads=100000"], "settings.threads: 100000 threads on"),
        (
            ["compress", "resnet8", "--method", "penni", "--set", "method.parameters.bases=foo"],
            "bases: give a number or",
        ),
        (
            ["compress", "resnet8", "--method", "tucker", "--set", "method.parameters.ranks={layer: 3}"],
            "ranks: give a mapping of names to [a whole number, a whole number]",
        ),
        (
            ["compress", "resnet8", "--method", "tucker", "--set", "method.plan={layer1: 5}"],
            "'layer1' has 5; give a spec",
        ),
        (["bench", "t.dovetail", "--batch", "0"], "batch 0"),
        (["quantize", "t.dovetail", "--images", "0"], "calibrates on nothing"),
        (["quantize", "t.dovetail", "--keep", "nosuch"], "cannot keep nosuch in floating point"),
        (["eval", "missing.dovetail"], "there is no file missing.dovetail"),
        (["eval", "broken.dovetail"], "truncated"),
        (["eval", "resnet8"], "give its data and weights"),
        (["run", "t.dovetail", "missing.png"], "there is no file missing.png"),
        (["run", "t.dovetail", "t.dovetail"], "not an image"),
        (["run", "t.dovetail", "wrong.npy"], "shape"),
        (["run", "t.dovetail", "words.npy"], "no .npy file of numbers"),
        (["run", "t.dovetail", "pixels.npy"], "pixels.npy holds uint8, and networks take normalised float32"),
        (
            ["compress", "resnet8", "--method", "magnitude", "--set", "method.plan={nosuch*: why not}"],
            "no layer is called 'nosuch*'; the model has conv1",
        ),
        (
            [
                *("compress", "resnet8", "--method", "tucker"),
                *("--set", "method.plan={layer1.0.conv1: {format: tucker, rank_in: 99, rank_out: 4}}"),
            ],
            "Tucker rank 99 of the input side must lie between 1 and 16 channels",
        ),
        (
            [
                *("compress", "resnet8", "--method", "penni", "--weights", "nan.safetensors"),
                *("--set", "network.options.width=0.5"),
            ],
            "hold NaN or Inf: bn1.bias",
        ),
        (["pack", "strange_for_tests:Strange", "--input", "1x8x8"], "strange_for_tests.py"),
        (["eval", "t.dovetail", "--on", "mnist", "--data", "nowhere"], "nowhere"),
        (["bench", "t.dovetail", "--out", "t.dovetail"], "t.dovetail"),
        (["bench"], "at least one .dovetail file"),
        (["bench", "t.dovetail", "--against", "nobody"], "unknown peer 'nobody'"),
        (["recipe", "run", "tny"], "did you mean 'tiny'"),
        (["recipe", "run", "broken.yaml"], "unknown key 'netwrk'; did you mean 'network'"),
        (["report", "--network", "nobody"], "there are results of tiny"),
        (["pack", "resnet8", "--input", "3x"], "3x32x32"),
    ],
    ids=lambda value: " ".join(value)[:50] if isinstance(value, list) else "",
)
def test_wrong_input_gets_one_paragraph_and_status_2(here, capsys, monkeypatch, arguments, message):
    monkeypatch.delenv("DOVETAIL_DATA", raising=False)
    monkeypatch.setattr("dovetail.cli.console.error_width", lambda: 10_000)
    monkeypatch.setattr("dovetail.cli.app.error_width", lambda: 10_000)
    (here / "broken.dovetail").write_bytes((here / "t.dovetail").read_bytes()[:1000])
    (here / "broken.yaml").write_text("netwrk: {}")
    (here / "words.npy").write_text("words")
    np.save("wrong.npy", np.zeros((1, 3, 8, 8), np.float32))
    np.save("pixels.npy", np.zeros((1, 1, 8, 8), np.uint8))
    bad = {name: np.full_like(array, np.nan) for name, array in load_file("t.safetensors").items() if array.ndim}
    save_file(load_file("t.safetensors") | bad, "nan.safetensors")
    (here / "strange_for_tests.py").write_text(STRANGE)
    files = sorted(here.rglob("*"))
    assert main(arguments) == 2
    err = capsys.readouterr().err.strip().splitlines()
    assert err[-1].startswith("dovetail: ")
    assert message in err[-1]
    assert "Traceback" not in "".join(err)
    assert sorted(here.rglob("*")) == files


def test_the_logger_is_left_as_it_was(here):
    logger = logging.getLogger("dovetail")
    before = (logger.level, list(logger.handlers))
    assert main(["recipe", "list"]) == 0
    assert (logger.level, logger.handlers) == before


def test_debug_shows_the_traceback(here):
    from dovetail.errors import ProgramError

    with pytest.raises(ProgramError):
        main(["eval", "missing.dovetail", "--debug"])


def test_an_unexpected_error_is_called_a_defect(here, capsys, monkeypatch):
    monkeypatch.setattr("dovetail.cli.networks.load", lambda name: 1 / 0)
    assert main(["inspect", "t.dovetail"]) == 70
    assert "defect of Dovetail: ZeroDivisionError" in capsys.readouterr().err


ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(dovetail.__file__).parents[1])}


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "dovetail", *arguments]


def test_ctrl_c_in_training_keeps_a_checkpoint_and_the_same_command_goes_on(tmp_path):
    arguments = command("train", "resnet8", "--epochs", "60", "--batch", "32")
    with subprocess.Popen(arguments, cwd=tmp_path, stderr=subprocess.PIPE, text=True, env=ENVIRONMENT) as process:
        assert process.stderr is not None
        first = process.stderr.readline()
        assert first.startswith("thin 1/60"), first + process.stderr.read()
        process.send_signal(signal.SIGINT)
        rest = process.stderr.read()
        assert process.wait(60) == 130
    last = " ".join(rest.split())
    assert "interrupted in phase 'thin'" in last
    assert "Traceback" not in rest
    assert not (tmp_path / "resnet8-digits.safetensors").exists()
    with subprocess.Popen(arguments, cwd=tmp_path, stderr=subprocess.PIPE, text=True, env=ENVIRONMENT) as again:
        assert again.stderr is not None
        assert "resuming at step" in again.stderr.readline()
        again.kill()


def test_a_second_interpreter_runs_the_module(tmp_path):
    done = subprocess.run(
        command("--version"), cwd=tmp_path, env=ENVIRONMENT, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip()


@pytest.mark.slow
def test_the_demo_prints_its_table_and_writes_its_page(here, capsys):
    begun = time.monotonic()
    assert main(["demo"]) == 0
    out = capsys.readouterr().out
    assert [name for name in ("penni", "tucker", "magnitude") if name not in out] == []
    assert "<svg" in (here / "report.html").read_text()
    assert time.monotonic() - begun < 180


def test_the_demo_in_a_hurry(here, capsys):
    assert main(["demo", "--epochs", "0.1", "--no-race", "--out", "demo.html"]) == 0
    assert "runs/demo/penni.dovetail" in capsys.readouterr().out
    assert (here / "demo.html").is_file()
    for name in ("dense", "penni", "tucker", "magnitude"):
        assert load(f"runs/demo/{name}.dovetail").graph.nodes
