"""What a packed file says of itself may be anything: it is read as what it should be, or refused by name."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from dovetail.cli import main, networks
from dovetail.cli.schema import Network
from dovetail.errors import DataError
from dovetail.program.lower import lower


@pytest.fixture
def packed(tmp_path, monkeypatch):
    """`packed(**metadata)` is the name of a file that says this of itself."""
    monkeypatch.chdir(tmp_path)
    network = nn.Sequential(nn.Flatten(), nn.Linear(64, 10)).eval()

    def save(**metadata):
        lower(network, torch.zeros(1, 1, 8, 8), metadata=metadata).save(tmp_path / "n.dovetail")
        return "n.dovetail"

    return save


DIGITS = {"data": "digits", "original": {"name": "resnet8"}}


@pytest.mark.parametrize(
    ("words", "metadata", "key"),
    [
        (["eval", "{}"], {"data": "digits", "original": "resnet8"}, "original"),
        (["eval", "{}"], {"data": "digits", "original": {"nome": "resnet8"}}, "original"),
        (["eval", "{}"], {"data": 5}, "data"),
        (["eval", "{}"], DIGITS | {"mean": "x"}, "mean"),
        (["eval", "{}"], DIGITS | {"std": ["x"]}, "std"),
        (["inspect", "{}", "--no-time"], {"left": ["conv1"]}, "left"),
        (["inspect", "{}", "--no-time"], {"floating": {"conv1": 3}}, "floating"),
        (["run", "{}"], {"classes": 5}, "classes"),
        (["run", "{}"], {"classes": [1, 2]}, "classes"),
        (["bench", "{}"], DIGITS | {"control": "../x"}, "control"),
        (["bench", "{}"], DIGITS | {"method": "thin", "original": []}, "original"),
        (["bench", "{}", "--original", "self"], {"case": ["a", "b"]}, "case"),
    ],
)
def test_metadata_of_another_kind_are_refused_by_their_key(packed, capsys, words, metadata, key):
    name = packed(**metadata)
    assert main([word.format(name) for word in words]) == 2
    told = " ".join(capsys.readouterr().err.split())
    assert f"of {key!r}" in told
    assert "pack it anew" in told


def test_metadata_that_say_nothing_are_none(packed):
    program = networks.load(packed())
    assert [networks.told(program, key) for key in networks.TOLD] == [None] * len(networks.TOLD)


def test_what_they_say_is_read_as_what_it_is(packed):
    program = networks.load(packed(**DIGITS, mean=[0, 0.5], left={"conv1": "small"}, classes=["a", "b"]))
    assert networks.told(program, "original") == Network(name="resnet8")
    assert networks.told(program, "mean") == (0.0, 0.5)
    assert networks.told(program, "left") == {"conv1": "small"}
    assert networks.told(program, "classes") == ("a", "b")
    with pytest.raises(DataError, match=r"mean\.0"):
        networks.told(networks.load(packed(mean=["x"])), "mean")


def test_an_input_of_several_arrays_or_of_none_is_refused(packed, tmp_path, capsys):
    name = packed()
    with (tmp_path / "several.npy").open("wb") as file:
        np.savez(file, x=np.zeros((1, 1, 8, 8), np.float32))
    (tmp_path / "torn.npy").write_bytes(b"PK\x03\x04 torn")
    for given, why in (("several.npy", "holds arrays by name"), ("torn.npy", "is no .npy file")):
        assert main(["run", name, given]) == 2
        assert why in " ".join(capsys.readouterr().err.split())
