"""A folder in which two small recipes were run, and a copy of whatever folder a file of tests has made."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from pathlib import Path

import pytest

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


@pytest.fixture(scope="session")
def made(tmp_path_factory):
    """Makes a folder with recipes in it, in which commands were run."""
    from dovetail.cli import main

    def make(recipes: Mapping[str, str], *commands: list[str]) -> Path:
        folder = tmp_path_factory.mktemp("home")
        (folder / "recipes").mkdir()
        for name, text in recipes.items():
            (folder / "recipes" / f"{name}.yaml").write_text(text)
        before = Path.cwd()
        os.chdir(folder)
        try:
            for words in commands or [["recipe", "run", name] for name in recipes]:
                assert main(words) == 0
        finally:
            os.chdir(before)
        return folder

    return make


@pytest.fixture(scope="session")
def home(made):
    """A folder with a trained network, its packed file, and two recipes that have been run."""
    pytest.importorskip("sklearn")
    narrow = ["--set", "network.options.width=0.5"]
    return made(
        {"tiny": TINY, "dense-tiny": DENSE},
        ["train", "resnet8", "--epochs", "1", *narrow, "-o", "t.safetensors"],
        ["pack", "resnet8", "--on", "digits", "--weights", "t.safetensors", "-o", "t.dovetail", *narrow],
        ["recipe", "run", "dense-tiny"],
        ["recipe", "run", "tiny"],
    )


@pytest.fixture
def here(home, tmp_path, monkeypatch):
    """A copy of the home to work in."""
    shutil.copytree(home, tmp_path / "home")
    monkeypatch.chdir(tmp_path / "home")
    return tmp_path / "home"
