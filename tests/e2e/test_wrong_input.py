"""What the command line says to wrong input, and to its own faults."""

from __future__ import annotations

import logging

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from dovetail.cli import main

pytest.importorskip("sklearn")
STRANGE = """
from torch import nn

class Strange(nn.Module):
    def forward(self, x):
        return x.flatten(1).cumsum(1)
"""


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
        (["fit", "resnet8", "--method", "block"], "--budget"),
        (["fit", "resnet8", "--budget", "latency=0.5x", "--method", "block"], "needs a bound on accuracy"),
        (
            ["fit", "resnet8", "--budget", "cycles=0.5x", "--accuracy-drop", "1", "--method", "block", "--plan-only"],
            "name one",
        ),
        (
            [
                *("fit", "resnet8", "--budget", "cycles=0.5x", "--accuracy-drop", "1", "--method", "block"),
                *("--machine", "abacus", "--plan-only"),
            ],
            "unknown machine 'abacus'",
        ),
        (
            ["fit", "resnet8", "--budget", "speed=2x", "--method", "block"],
            "known are latency, bytes, macs, cycles, energy",
        ),
        (
            ["fit", "resnet8", "--budget", "bytes=1kB", "--method", "block", "--weights", "there/t.safetensors"],
            "names weights by their file name alone",
        ),
        (["fit", "resnet8", "--budget", "bytes=1kB"], "say whose formats to choose from"),
        (["fit", "resnet8", "--budget", "bytes=1kB", "--method", "block"], "has random weights"),
        (["fit", "resnet8", "--budget", "bytes=1kB", "--method", "block", "-o", "x.json"], "a recipe is a .yaml file"),
        (
            ["fit", "recipes/tiny.yaml", "--budget", "bytes=1kB", "--method", "block"],
            "trains by magnitude; --method block",
        ),
        (["fit", "recipes/tiny.yaml", "--budget", "bytes=1kB", "--on", "mnist"], "change it with --set"),
        pytest.param(
            [
                *("fit", "resnet8", "--weights", "t.safetensors", "--method", "block", "--budget", "bytes=10B"),
                *("--against", "onnxruntime", "--set", "network.options.width=0.5"),
            ],
            "cannot be met: the best that can is",
            marks=pytest.mark.slow,  # known only after every layer was looked at
        ),
        (
            ["compress", "resnet8"],
            "--method penni, escalate, tucker, tdc, permdnn, circnn, magnitude, block, int8 or thin",
        ),
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
            ["compress", "resnet8", "--method", "tucker", "--set", "method.parameters.ranks={layer: [3]}"],
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
        (["run", "t.dovetail", "nan.npy"], "nan.npy holds NaN or infinity"),
        (["pack", "resnet8", "--out", "t.safetensors"], "what is written is a .dovetail file; name it t.dovetail"),
        (["export", "t.dovetail", "--out", "words.npy"], "what is written is a .onnx file; name it words.onnx"),
        (["pack", "lenet300100"], "does not take an input of --input 3x32x32, (1, 3, 32, 32)"),
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
        (["simulate"], "name at least one .dovetail file and one machine"),
        (["simulate", "t.dovetail"], "name at least one .dovetail file and one machine"),
        (["simulate", "t.dovetail", "--on", "scnn,spartan"], "unknown machine 'spartan'; known are"),
        (["simulate", "t.dovetail", "--on", "eie", "--equal"], "machine 'eie' has 64 multipliers instead of 1,024"),
        (["simulate", "missing.dovetail", "--on", "scnn"], "there is no file missing.dovetail"),
        (["simulate", "broken.dovetail", "--on", "scnn"], "truncated"),
        (["simulate", "resnet8", "--on", "scnn"], "resnet8 is no .dovetail file"),
        (["simulate", "t.dovetail", "recipes/t.dovetail", "--on", "scnn"], "have the same name; rename one"),
        (["simulate", "t.dovetail", "--on", "scnn", "--baseline", "scnn"], "write a machine and its network"),
        (["simulate", "t.dovetail", "--on", "scnn", "--baseline", "scn=t.dovetail"], "unknown machine 'scn'"),
        (["simulate", "t.dovetail", "--on", "scnn", "--images", "0"], "--images 0 simulates nothing"),
        (["simulate", "t.dovetail", "--on", "scnn", "--images", "100000"], "--images 100000: the test set has"),
        (["simulate", "t.dovetail", "--on", "scnn", "--batch", "0"], "--batch 0 simulates nothing"),
        (["simulate", "t.dovetail", "--on", "scnn", "--inputs", "missing.npy"], "there is no file missing.npy"),
        (["simulate", "t.dovetail", "--on", "scnn", "--inputs", "wrong.npy"], "has shape (1, 3, 8, 8); this network"),
        (["simulate", "t.dovetail", "--on", "scnn", "--inputs", "nan.npy"], "holds NaN or infinity"),
        (["simulate", "t.dovetail", "--on", "scnn", "--tornado", "guessed"], "there is no such mark; there are paper"),
        (["simulate", "t.dovetail", "--on", "scnn", "--out", "t.dovetail"], "t.dovetail"),
        (["paper", "escalat"], "there is no paper 'escalat'"),
        (["paper", "recipes/tiny.yaml"], "key 'machine' is missing"),
        (["paper", "gone.yaml"], "there is no paper gone.yaml"),
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
    np.save("nan.npy", np.full((1, 1, 8, 8), np.nan, np.float32))
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


def test_whoever_interrupts_is_told_that_nothing_is_half_written(here, capsys, monkeypatch):
    def interrupted(name):
        raise KeyboardInterrupt

    monkeypatch.setattr("dovetail.cli.networks.load", interrupted)
    assert main(["inspect", "t.dovetail"]) == 130
    assert "interrupted; nothing is left half-written" in capsys.readouterr().err


def test_an_unexpected_error_is_called_a_defect(here, capsys, monkeypatch):
    monkeypatch.setattr("dovetail.cli.networks.load", lambda name: 1 / 0)
    assert main(["inspect", "t.dovetail"]) == 70
    assert "defect of Dovetail: ZeroDivisionError" in capsys.readouterr().err
