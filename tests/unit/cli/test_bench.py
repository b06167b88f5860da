"""What `dovetail bench` races, and the command that it leaves so that anybody can race again."""

from __future__ import annotations

import json
import shlex
import shutil
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from dovetail.cli import main
from dovetail.engine.native import cores
from dovetail.export.torch_module import ProgramModule
from dovetail.peers.peer import DEFAULT, OF_MATRICES
from dovetail.program.lower import lower


class Asked:
    """Stands for a race: keeps what was asked."""

    def __init__(self, **asked):
        self.asked, self.bench = asked, f"{asked['network']}_{asked['variant']}"

    def table(self):
        return self.bench

    def save(self, path):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({"time_only": True}))


@pytest.fixture(scope="module")
def packed(tmp_path_factory):
    """A folder with a dense, a thin and a sparse network; the dense one is what the thin one is compared with."""
    folder = tmp_path_factory.mktemp("packed")
    for name, method in (("dense", "thin"), ("thin", "thin"), ("magnitude", "magnitude")):
        metadata = {"method": method, "case": f"net/{name}", "original": {"name": "resnet8"}}
        if name == "thin":
            metadata["control"] = "dense"
        lower(nn.Linear(4, 2), torch.zeros(1, 4), metadata=metadata).save(folder / f"{name}.dovetail")
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


def test_peers_with_weights_of_four_bits_race_where_nothing_is_a_convolution(races, tmp_path):
    image = lower(
        nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten()), torch.zeros(1, 1, 3, 3), metadata={"case": "net/conv"}
    )
    image.save(tmp_path / "packed/conv.dovetail")
    matrix, convolution = races("packed/magnitude.dovetail", "packed/conv.dovetail", "--original", "resnet8")
    assert {"onnxruntime-int4", "openvino-int4"} <= set(OF_MATRICES) - set(DEFAULT)
    assert (tuple(matrix["peers"]), tuple(convolution["peers"])) == (tuple(OF_MATRICES), tuple(DEFAULT))


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


def test_a_dense_network_that_began_from_nothing_races_itself_alone(races):
    """Its original of random weights would take as long in other runtimes, and answer nothing."""
    assert [race["variant"] for race in races("packed/dense.dovetail")] == ["dense_self"]


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
    assert variant("--cold", "--busy") == "magnitude_cold_busy"
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


def scratch(tmp_path, folder="elsewhere"):
    """A network whose original began from random weights, as recipes from scratch record it."""
    metadata = {"case": "net/scratch", "data": "spoken-digits", "original": {"name": "resnet8"}, "control": "dense"}
    (tmp_path / folder).mkdir(parents=True, exist_ok=True)
    lower(nn.Linear(4, 2), torch.zeros(1, 4), metadata=metadata).save(tmp_path / folder / "scratch.dovetail")
    return f"{folder}/scratch.dovetail"


def test_a_network_without_its_control_leaves_the_plain_evidence_alone(races, tmp_path):
    (race,) = races(scratch(tmp_path))
    assert race["variant"] == "scratch_time_only"


def test_a_control_lies_beside_the_file_or_among_the_results_of_recipes(races, tmp_path, monkeypatch):
    monkeypatch.setattr(
        "dovetail.cli.bench.networks.sets_of", lambda *_: SimpleNamespace(calibration="seen", test="tests")
    )
    results = tmp_path / "recipes/results"
    results.mkdir(parents=True)
    shutil.copy("packed/dense.dovetail", results)
    for folder in ("elsewhere", "packed"):
        (race,) = races(scratch(tmp_path, folder))
        assert isinstance(race["original"], ProgramModule)
        assert (race["variant"], race["test"]) == ("scratch", "tests")


def test_a_folder_that_cannot_be_written_is_refused_before_the_race(races, capsys):
    assert main(["bench", "packed/magnitude.dovetail", "--out", "packed/magnitude.dovetail"]) == 2
    assert "packed/magnitude.dovetail" in capsys.readouterr().err


FLAGS = [
    "--against",
    "onnxruntime",
    "--against",
    "openvino-f32",
    "--threads",
    "1",
    "--batch",
    "3",
    "--blocks",
    "5",
    "--cold",
]


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


SHEET = """
network: { name: resnet8, options: { width: 0.5 } }
input: [3, 8, 8]
variants:
  dense: {}
  sparse90: { layers: { layer*.conv*: { format: sparse, density: 0.1 } } }
"""


@pytest.fixture
def sheet(races, tmp_path):
    """A sheet where sheets are looked for by name."""
    folder = tmp_path / "benchmarks/networks"
    folder.mkdir(parents=True)
    (folder / "small.yaml").write_text(SHEET)
    return folder / "small.yaml"


def test_a_sheet_races_every_variant_on_the_images_of_its_seed(races, sheet):
    by_path, by_name = races("benchmarks/networks/small.yaml"), races("small")
    assert [(race["network"], race["variant"]) for race in by_path] == [("small", "dense"), ("small", "sparse90")]
    assert [race["command"] for race in by_path] == [race["command"] for race in by_name]
    assert [race["compressed"] is None for race in by_path] == [True, False]
    for first, again in zip(by_path, by_name):
        ((images,), (same,)) = first["data"], again["data"]
        assert images.shape[1:] == (3, 8, 8)
        assert (images == same).all()
        assert first.get("test") is None


def test_one_variant_races_alone_and_its_command_asks_for_it_again(races, sheet):
    (race,) = races("small/sparse90", "--batch", "4")
    assert (race["network"], race["variant"], race["batch"]) == ("small", "sparse90_b4", 4)
    assert race["command"] == "dovetail bench small/sparse90 --batch 4"


def test_a_variant_brings_the_one_beside_it_into_its_race(races, sheet):
    sheet.write_text(SHEET.replace("sparse90: {", "sparse90: { beside: dense,"))
    dense, sparse = races("small")
    assert dense["beside"] is None
    name, program = sparse["beside"]
    assert name == "dense"
    assert {packed.spec.format for packed in program.weights.values()} == {"dense"}


def test_further_peers_of_a_sheet_race_unless_others_are_named(races, sheet):
    sheet.write_text(f"{SHEET}peers: [openvino-int4]\n")
    (race,) = races("small/dense")
    assert tuple(race["peers"]) == (*DEFAULT, "openvino-int4")
    (race,) = races("small/dense", "--against", "onnxruntime")
    assert tuple(race["peers"]) == ("onnxruntime",)


def test_a_sheet_elsewhere_is_recorded_by_its_path(races, sheet, tmp_path):
    sheet.rename(tmp_path / "mine.yaml")
    (race,) = races("mine.yaml/dense")
    assert race["command"] == "dovetail bench mine.yaml/dense"
    assert len(races(*shlex.split(race["command"])[2:])) == 1


def test_random_weights_never_replace_what_trained_ones_measured(races, sheet, tmp_path, capsys):
    assert len(races("small")) == 2
    assert len(races("small")) == 2  # its own evidence is renewed
    kept = tmp_path / "benchmarks/results/small_dense.json"
    kept.write_text('{"rows": []}')
    assert [race["variant"] for race in races("small")] == ["sparse90"]
    assert kept.read_text() == '{"rows": []}'
    assert "small/dense is left out" in capsys.readouterr().err


def test_damaged_evidence_fails_its_race_and_no_other(races, sheet, tmp_path, capsys):
    damaged = tmp_path / "benchmarks/results/small_dense.json"
    damaged.parent.mkdir(parents=True)
    damaged.write_text('{"rows": [')
    assert main(["bench", "small"]) == 1
    assert "small_dense.json is no race result" in " ".join(capsys.readouterr().err.split())
    assert (damaged.parent / "small_sparse90.json").is_file()


@pytest.mark.parametrize("flags", [["--original", "resnet8"], ["--weights", "w.safetensors"]])
def test_a_sheet_takes_no_other_network(races, sheet, capsys, flags):
    assert main(["bench", "small", *flags]) == 2
    assert "a sheet says itself what races" in " ".join(capsys.readouterr().err.split())


def test_a_wrong_name_stops_the_command_before_the_first_race(races, sheet, capsys, monkeypatch):
    monkeypatch.setattr("dovetail.peers.race.race", lambda *_, **__: pytest.fail("raced"))
    assert main(["bench", "small/dense", "small/spars"]) == 2
    assert "no variant 'spars'; did you mean 'sparse90'" in " ".join(capsys.readouterr().err.split())


def test_a_race_that_fails_leaves_the_others_their_turn(races, sheet, capsys, tmp_path):
    sheet.write_text(SHEET.replace("sparse90", "odd").replace("layer*.conv*", "nosuch"))
    assert main(["bench", "small/odd", "small/dense"]) == 1
    assert "1 of 2 races failed: no layer is called 'nosuch'" in " ".join(capsys.readouterr().err.split())
    assert (tmp_path / "benchmarks/results/small_dense.json").is_file()
    assert main(["bench", "small/odd"]) == 2
