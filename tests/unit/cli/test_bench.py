"""What `dovetail bench` races, and the command that it leaves so that anybody can race again."""

from __future__ import annotations

import shlex
import shutil

import pytest
import torch
from torch import nn

from dovetail.cli import main
from dovetail.engine.native import cores
from dovetail.program.lower import lower


class Asked:
    """Stands for a race: keeps what was asked."""

    def __init__(self, **asked):
        self.asked, self.bench = asked, f"{asked['network']}_{asked['variant']}"

    def table(self):
        return self.bench

    def save(self, path):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("{}")


@pytest.fixture(scope="module")
def packed(tmp_path_factory):
    """A folder with a thin and a sparse network."""
    folder = tmp_path_factory.mktemp("packed")
    for method in ("thin", "magnitude"):
        metadata = {"method": method, "case": f"net/{method}", "original": {"name": "resnet8"}}
        lower(nn.Linear(4, 2), torch.zeros(1, 4), metadata=metadata).save(folder / f"{method}.dovetail")
    return folder


@pytest.fixture
def races(packed, tmp_path, monkeypatch):
    """`races(*arguments)` is what `dovetail bench` asked of each race, where those networks lie in `packed`."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DOVETAIL_DATA", raising=False)
    shutil.copytree(packed, tmp_path / "packed")
    found: list[dict] = []

    def race(program, original, **asked):
        found.append({**asked, "original": original})
        return Asked(**asked)

    monkeypatch.setattr("dovetail.peers.race.race", race)

    def ask(*arguments: str) -> list[dict]:
        found.clear()
        assert main(["bench", *arguments]) == 0
        return list(found)

    return ask


def test_thin_networks_race_their_original_and_themselves_others_their_original(races, tmp_path):
    found = races("packed/thin.dovetail", "packed/magnitude.dovetail")
    assert [(race["network"], race["variant"]) for race in found] == [
        ("net", "thin"),
        ("net", "thin_self"),
        ("net", "magnitude"),
    ]
    assert [race["compressed"] is None for race in found] == [False, True, False]
    written = {path.name for path in (tmp_path / "benchmarks/results").iterdir()}
    assert written == {"net_thin.json", "net_thin_self.json", "net_magnitude.json"}


def test_who_names_the_original_gets_that_race_alone(races):
    assert [race["variant"] for race in races("packed/thin.dovetail", "--original", "self")] == ["thin_self"]
    assert [race["variant"] for race in races("packed/thin.dovetail", "--original", "resnet8")] == ["thin"]


def test_what_is_not_the_plain_race_has_a_name_of_its_own(races, packed, tmp_path, monkeypatch):
    def variant(*flags):
        (race,) = races("packed/magnitude.dovetail", *flags)
        return race["variant"]

    assert variant() == "magnitude"
    assert variant("--batch", "4", "--threads", "1") == "magnitude_b4_t1"
    assert variant("--against", "onnxruntime") == "magnitude_some_peers"
    assert variant("--blocks", "5") == "magnitude_5blocks"
    assert variant("--original", "resnet8") == "magnitude"
    assert variant("--original", "resnet20") == "magnitude_vs_resnet20"
    monkeypatch.setenv("DOVETAIL_ISA", "avx2")
    assert variant() == "magnitude_avx2"
    (race,) = races("packed/magnitude.dovetail")
    assert race["command"] == "DOVETAIL_ISA=avx2 dovetail bench packed/magnitude.dovetail"


def test_a_trained_network_without_its_data_leaves_the_plain_evidence_alone(races, tmp_path, monkeypatch):
    monkeypatch.setattr("dovetail.cli.bench.build_network", lambda network, root: nn.Linear(4, 2))
    metadata = {"case": "net/trained", "data": "cifar10", "original": {"name": "resnet8", "weights": "w.safetensors"}}
    lower(nn.Linear(4, 2), torch.zeros(1, 4), metadata=metadata).save(tmp_path / "trained.dovetail")
    (race,) = races("trained.dovetail")
    assert race["variant"] == "trained_time_only"


def test_a_folder_that_cannot_be_written_is_refused_before_the_race(races, capsys):
    assert main(["bench", "packed/magnitude.dovetail", "--out", "packed/magnitude.dovetail"]) == 2
    assert "packed/magnitude.dovetail" in capsys.readouterr().err


FLAGS = ["--against", "onnxruntime", "--against", "openvino-f32", "--threads", "1", "--batch", "3", "--blocks", "5"]


@pytest.mark.parametrize("flags", [[], FLAGS], ids=["plain", "flags"])
def test_the_recorded_command_asks_for_the_same_race_again(races, flags, tmp_path):
    (first,) = races(str(tmp_path / "packed/magnitude.dovetail"), *flags)
    words = shlex.split(first["command"])
    assert words[:3] == ["dovetail", "bench", "packed/magnitude.dovetail"]
    (again,) = races(*words[2:])
    for asked in (first, again):
        del asked["original"], asked["compressed"], asked["report"]
    assert again == first
    assert (first["batch"], first["threads"]) == ((3, (1,)) if flags else (1, None))


def test_weights_are_recorded_by_their_path_in_the_folder_and_their_name_elsewhere(races, tmp_path, monkeypatch):
    monkeypatch.setattr("dovetail.cli.bench.build_network", lambda network, root: nn.Linear(4, 2))
    inside, outside = tmp_path / "w.safetensors", "/secret/w.safetensors"
    for given in (str(inside), outside):
        (race,) = races("packed/magnitude.dovetail", "--weights", given)
        assert race["command"] == "dovetail bench packed/magnitude.dovetail --weights w.safetensors"


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--batch", "0"], "batch 0"),
        (["--blocks", "0"], "blocks 0"),
        (["--threads", "0"], f"0 threads is not possible here; give 1 to {cores()}"),
        (["--threads", "1", "--threads", "100000"], "100000 threads is not possible here"),
    ],
)
def test_numbers_that_make_no_race_are_refused_before_anything_is_built(races, capsys, monkeypatch, flags, message):
    monkeypatch.setattr("dovetail.cli.bench.networks.load", lambda name: pytest.fail("loaded"))
    assert main(["bench", "packed/thin.dovetail", *flags]) == 2
    assert message in " ".join(capsys.readouterr().err.split())
