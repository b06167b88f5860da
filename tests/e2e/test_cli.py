"""The command line as a person types it: the whole way on the digits."""

from __future__ import annotations

import json
import os
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


def test_inspect_tells_the_file_from_its_payload(here, capsys):
    from dovetail.program.counts import count
    from dovetail.report import numbers

    assert main(["inspect", "t.dovetail", "--no-time"]) == 0
    out, file, counts = capsys.readouterr().out, Path("t.dovetail"), count(load("t.dovetail"))
    size = file.stat().st_size
    assert f"the file: {numbers.size(size)}, of which {numbers.size(counts.bits / 8)} numbers" in out
    assert f"{numbers.size(size - counts.bits / 8)} header" in out
    assert f"{numbers.times(counts.dense_bits(32) / (8 * size))} and" in out


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


ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(dovetail.__file__).parents[1])}


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "dovetail", *arguments]


def test_ctrl_c_in_training_keeps_a_checkpoint_and_the_same_command_goes_on(tmp_path):
    arguments = command("train", "resnet8", "--epochs", "60", "--batch", "32", "--set", "network.options.width=0.25")
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
    assert [name for name in ("penni", "permdnn", "tucker", "magnitude") if name not in out] == []
    assert "<svg" in (here / "report.html").read_text()
    assert time.monotonic() - begun < 180


@pytest.mark.slow
def test_the_demo_in_a_hurry(here, capsys):
    assert main(["demo", "--epochs", "0.1", "--no-race", "--out", "demo.html"]) == 0
    assert "runs/demo/penni.dovetail" in capsys.readouterr().out
    assert (here / "demo.html").is_file()
    for name in ("dense", "penni", "permdnn", "tucker", "magnitude"):
        assert load(f"runs/demo/{name}.dovetail").graph.nodes
