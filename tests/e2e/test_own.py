"""A person's own network and own folder of images on the command line, where a zoo name and a known data set stand."""

from __future__ import annotations

import numpy as np
import pytest

from dovetail.cli import main
from dovetail.program.store import load

Image = pytest.importorskip("PIL.Image")

MINE = """
import torch
from torch import nn

def small(classes=2):
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1, stride=2), nn.BatchNorm2d(8), nn.ReLU(),
        nn.Conv2d(8, 8, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, classes),
    )

def grey():
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.Flatten(), nn.LazyLinear(2))

def features():
    return nn.Conv2d(3, 4, 3)

def broken():
    raise KeyError("no such width")
"""


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A module with networks, and a folder of 2 x 20 images that differ in brightness."""
    (tmp_path / "mine_for_tests.py").write_text(MINE)
    random = np.random.default_rng(0)
    for label, low in (("dark", 0), ("light", 150)):
        (tmp_path / "photos" / label).mkdir(parents=True)
        for i in range(20):
            pixels = random.integers(low, low + 100, (20, 24, 3), np.uint8)
            Image.fromarray(pixels).save(tmp_path / "photos" / label / f"{i:02}.png")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("dovetail.cli.app.error_width", lambda: 10_000)
    return tmp_path


OWN = ["mine_for_tests:small", "--on", "photos", "--set", "data.size=[16,16]"]


def test_the_whole_way_on_an_own_network_and_folder(here, capsys):
    assert main(["train", *OWN, "--epochs", "2", "--batch", "8", "-o", "w.safetensors"]) == 0
    assert "on the held-out images" in capsys.readouterr().out
    short = ["--set", "method.parameters.epochs=1", "--set", "method.parameters.density=0.5"]
    start = ["--method", "magnitude", "--weights", "w.safetensors", *short]
    assert main(["compress", *OWN, *start, "-o", "m.dovetail"]) == 0
    assert main(["pack", *OWN, "--weights", "w.safetensors", "-o", "p.dovetail"]) == 0
    same = ["eval", *OWN[:3], "--weights", "w.safetensors", *OWN[3:]]
    assert main(same) == 0
    dense = capsys.readouterr().out.splitlines()[-1]
    assert main(["eval", "p.dovetail", *OWN[3:]]) == 2
    assert main(["eval", "p.dovetail"]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == dense
    for name in ("m.dovetail", "p.dovetail"):
        assert load(name).graph.bind(batch=1)[load(name).graph.inputs[0]] == (1, 3, 16, 16)
        assert main(["eval", name]) == 0
        assert "8 test images of photos" in capsys.readouterr().out


def test_the_held_out_images_of_a_folder_are_of_all_classes(here):
    from dovetail.cli.materials import open_sets
    from dovetail.cli.schema import Data

    sets = open_sets(Data(name="photos", size=(8, 8), held_out=8), "", None)
    assert set(sets.held_out.data.labels.tolist()) == {0, 1}
    assert [len(part.data) for part in (sets.train, sets.held_out, sets.test)] == [24, 8, 8]
    light = sets.train.data.images.mean(axis=(1, 2, 3)) > 125
    np.testing.assert_array_equal(light, sets.train.data.labels == 1)


def test_inspect_tells_kernel_bits_and_share_of_time(here, capsys):
    assert main(["pack", *OWN, "-o", "p.dovetail"]) == 0
    assert main(["inspect", "p.dovetail"]) == 0
    out = capsys.readouterr().out
    assert all(column in out for column in ("kernel", "bits", "share", "(other ops)", "per image"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["mine_for_tests:grey", *OWN[1:]], "does not take the images of photos, (1, 3, 16, 16): RuntimeError"),
        (["mine_for_tests:features", *OWN[1:]], "gives answers of shape (1, 4, 14, 14) for one image"),
        (["mine_for_tests:broken", *OWN[1:]], "calling it failed with KeyError"),
        (["mine_for_tests:small", *OWN[1:], "--set", "network.options.classes=1"], "it must give (1, 2) or more"),
        ([*OWN, "--set", "data.held_out=32"], "data.held_out: 32 of the 32 training images of photos leave none"),
        (["resnet8", "--on", "digits", "--set", "data.size=[9,9]"], "data.size: the images of digits have a size"),
        ([*OWN, "--set", "settings.device=cuda"], "settings.device: cuda, but torch finds no GPU here"),
    ],
    ids=lambda value: value[-1] if isinstance(value, list) else "",
)
def test_what_does_not_fit_together_is_said_before_training(here, capsys, monkeypatch, arguments, message):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    before = sorted(here.rglob("*"))
    assert main(["train", *arguments]) == 2
    assert message in capsys.readouterr().err
    assert sorted(path for path in here.rglob("*") if "__pycache__" not in path.parts) == before


def test_another_spelling_of_a_data_set_is_augmented_alike():
    from dovetail.cli.adhoc import adhoc

    assert adhoc("resnet20", "CIFAR-10").data.augment == adhoc("resnet20", "cifar10").data.augment
    assert adhoc("resnet20", "CIFAR-10").data.augment.crop == 4
