"""The benchmark of the GPU without one: its networks, its arithmetic, its files; clocks are played by numbers."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch import nn

import gpu_networks
import gpu_race
import gpu_tucker
from dovetail import zoo
from dovetail.cli.speed import read_races
from dovetail.errors import RecipeError
from dovetail.export.torch_module import to_torch
from dovetail.formats import spec_from_json
from dovetail.gpu import tuning
from dovetail.gpu.tiles import CORE_SHAPES
from dovetail.gpu.timing import Pace
from dovetail.methods.base import Plan
from gpu_race import AGAIN, Case, Found, Target


@dataclass
class Played:
    """Runs the work at once, and takes as long as it is told."""

    result: torch.Tensor
    milliseconds: float

    def replay(self) -> torch.Tensor:
        return self.result

    def time(self, runs: int) -> np.ndarray:
        return np.full(runs, self.milliseconds)


def played(times: dict[str, float]):
    """One after another, in the order of the targets."""
    left = list(times.values())
    return lambda work, repeats: Played(work(), left.pop(0))


def small(name: str = "resnet18", **options) -> gpu_networks.Network:
    """With the blocks of the real one and a quarter of its channels, on small images."""
    torch.manual_seed(0)
    images = torch.randn(2, 3, 32, 32)
    layers = {"layer1.0.conv1": tucker(8, 4), "layer3.1.conv2": tucker(6, 10), "layer2.0.conv1": tucker(4, 4)}
    model = zoo.build(name, width=0.25, stem="cifar", classes=10, **options)
    return gpu_networks.Network(name, (3, 32, 32), *gpu_networks.pair(model, layers, images))


def tucker(rank_in: int, rank_out: int) -> dict:
    return {"format": "tucker", "rank_in": rank_in, "rank_out": rank_out}


@pytest.fixture(scope="module")
def network():
    return small()


@pytest.mark.parametrize("which", ["dense", "tucker"])
@pytest.mark.parametrize("kernels", [False, True])
@pytest.mark.parametrize("batch", [1, 2])
def test_a_folded_network_is_the_network(network, which, kernels, batch):
    program, x = getattr(network, which), network.image(batch)
    folded = gpu_networks.Folded(program, batch, kernels=kernels)
    assert torch.allclose(folded(x), to_torch(program)(x), atol=1e-4)


def test_the_kernels_have_every_tucker_layer_with_all_that_follows(network):
    folded = gpu_networks.Folded(network.tucker, 1, kernels=True)
    taken = [step for step in folded.steps if getattr(step, "kernels", False)]
    assert len(taken) == 3
    assert all(step.relu and step.layer.bias is not None for step in taken)
    assert not any(getattr(step, "kernels", False) for step in gpu_networks.Folded(network.tucker, 1).steps)
    wires = [inputs for step, (inputs, _) in zip(folded.steps, folded.wires) if step in taken]
    assert sorted(len(inputs) for inputs in wires) == [1, 1, 2]


def test_norms_before_their_layers_stay():
    """DenseNet's norms come first, and most have no layer before them that could take them in."""
    torch.manual_seed(0)
    model = zoo.build("densenet121", width=0.25, classes=10)
    layers = {"features.denseblock*.denselayer1.conv2": tucker(8, 4)}
    dense, low = gpu_networks.pair(model, layers, torch.randn(2, 3, 64, 64))
    norms = [node for node in low.graph.nodes if node.op == "affine"]
    assert len(norms) == 62  # of the 58 layers, the three transitions, and the last
    x = torch.randn(2, 3, 64, 64)
    for program, kernels in ((dense, False), (low, False), (low, True)):
        folded = gpu_networks.Folded(program, 2, kernels=kernels)
        assert torch.allclose(folded(x), to_torch(program)(x), atol=1e-4)
    changed = dataclasses.replace(norms[0], epilogue=dataclasses.replace(norms[0].epilogue, bias=None))
    with pytest.raises(RecipeError, match=r"denselayer1\.norm1' is no norm of a map"):
        gpu_networks._norm(changed, low)


def test_a_folded_network_is_one_graph(network):
    folded = gpu_networks.Folded(network.tucker, 2, kernels=True)
    x = network.image(2)
    assert torch.allclose(torch.compile(folded, backend="aot_eager", fullgraph=True)(x), folded(x), atol=1e-5)


@pytest.mark.parametrize("name", gpu_networks.NETWORKS)
def test_the_ranks_of_the_sheets_fit_their_networks(name):
    sheet, variant = gpu_networks.read_sheet(*gpu_networks.NETWORKS[name])
    with torch.device("meta"):
        model = zoo.build(sheet["network"]["name"])
    plan = Plan({layer: spec_from_json(spec) for layer, spec in variant["layers"].items()}).resolve(model)
    assert len(plan) == {"resnet18": 16, "resnet50": 16, "vgg16": 12, "densenet121": 58}[name]
    for layer, spec in plan.items():
        module = model.get_submodule(layer)
        assert isinstance(module, nn.Conv2d)
        assert module.kernel_size == (3, 3)
        spec.check(tuple(module.weight.shape), layer)


def times(**milliseconds: float) -> dict[str, list[np.ndarray]]:
    return {name.replace("_", "-"): [np.array([value, value * 2])] * 3 for name, value in milliseconds.items()}


def test_ratios_are_against_the_hardest_peer_of_each_role():
    roles = {"dovetail": "ours", "dovetail-compile": "ours", AGAIN: "ours", "a": "dense", "b": "dense", "c": "same"}
    judged, noise = gpu_race.judge(
        "gpu/x", times(dovetail=2, dovetail_compile=1, dovetail_again=0.5, a=4, b=3, c=5), roles
    )
    assert [(r.case, r.ours, r.peer, r.value) for r in judged] == [
        ("gpu/x/vs_best", "dovetail-compile", "b", 3.0),
        ("gpu/x/vs_same", "dovetail-compile", "c", 5.0),
    ]
    assert [(r.case, r.ours, r.peer, r.value) for r in noise] == [("gpu/x/noise", "dovetail", AGAIN, 0.25)]


def test_errors_are_relative_and_what_is_no_number_is_wrong():
    want = torch.tensor([[2.0, -4.0]])
    assert gpu_race.max_error(torch.tensor([[2.0, -3.0]]), want) == 0.25
    assert gpu_race.max_error(torch.tensor([[2.0, torch.nan]]), want) == float("inf")
    assert gpu_race.max_error(torch.tensor([[2.0]]), want) == float("inf")


def test_who_fails_or_is_wrong_leaves_with_the_reason():
    right = torch.ones(2)

    def broken():
        raise ValueError("no such luck\nand more")

    case = Case(
        "gpu/x",
        (
            Target("dovetail", "ours", lambda: lambda: right),
            Target("wrong", "same", lambda: lambda: right * 2),
            Target("broken", "same", broken),
            Target("peer", "same", lambda: lambda: right),
        ),
        lambda role: right,
        0.1,
    )
    found, said = Found(), []
    clock = played({"dovetail": 1.0, "wrong": 9.0, "peer": 3.0})
    gpu_race.race(case, "f16", Pace(2, 3, 1), clock, found, said.append)
    assert found.absent == {
        "gpu/x wrong": "DovetailError: its output is off by 1 of the range",
        "gpu/x broken": "ValueError: no such luck",
    }
    assert [row.target for row in found.rows] == ["dovetail", "peer"]
    assert [row.runs for row in found.rows] == [6, 6]
    assert [ratio.value for ratio in found.ratios] == [3.0]
    assert any("no such luck" in line for line in said)


def test_without_us_there_is_no_race():
    case = Case("gpu/x", (Target("peer", "same", lambda: lambda: torch.ones(1)),), lambda role: torch.ones(1), 0.1)
    found = Found()
    gpu_race.race(case, "f16", Pace(1, 1, 0), played({"peer": 1.0}), found, lambda line: None)
    assert found.rows == []


def test_a_broken_card_ends_everything():
    def broken():
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    case = Case("gpu/x", (Target("dovetail", "ours", broken),), lambda role: torch.ones(1), 0.1)
    with pytest.raises(RuntimeError, match="illegal"):
        gpu_race.race(case, "f16", Pace(), played({}), Found(), lambda line: None)


def test_the_whole_benchmark_on_the_cpu(tmp_path, monkeypatch, network):
    """Everything but the clock and the card: cases are built, checked and judged, and the files can be read."""
    monkeypatch.setattr(gpu_race, "DEVICE", "cpu")
    monkeypatch.setattr(gpu_networks, "build", lambda name: network)
    monkeypatch.setattr(gpu_networks, "NETWORKS", {"resnet18": ("", "")})
    monkeypatch.setattr(gpu_tucker, "CORE_SHAPES", CORE_SHAPES[-4:-3])
    out = tmp_path / "gpu_tucker.json"
    options = gpu_tucker.parse(["--out", str(out), "--dtype", "f32", "--no-compile", "--blocks", "2", "--runs", "3"])
    options.batches = [1, 2]
    clock = iter([1, 1.1, 1.5, 3, 2, *[1, 1.1, 1.5, 6, 4, 3, 2]] * 2)
    gpu_race.run(
        options, "command", lambda work, repeats: Played(work(), next(clock)), {"gpu": "a card"}, gpu_tucker.cases
    )
    races = read_races(tmp_path)
    assert set(races) == {"gpu/core_32_32_7_f32", "gpu/core_32_32_7_f32_b2"}
    for path, batch, end in ((out, 1, "_f32"), (tmp_path / "gpu_tucker_b2.json", 2, "_f32_b2")):
        told = json.loads(path.read_text())
        assert (told["bench"], told["batch"], told["time_only"]) == (path.stem, batch, True)
        assert told["machine"]["gpu"] == "a card"
        assert told["conditions"] == ["cuda-graph", "tiles-oracle"]
        assert not any(str(version).startswith("not run") for version in told["versions"].values())
        cases = {row["case"] for row in told["rows"]}
        assert cases == {f"gpu/core_32_32_7{end}", f"gpu/resnet18_tucker_tdc{end}"}
        assert all(row["max_error"] < 1e-4 and row["runs"] == 6 for row in told["rows"])
        assert {ratio["case"]: (ratio["peer"], ratio["value"]) for ratio in told["ratios"]} == {
            f"gpu/core_32_32_7{end}/vs_same": ("cudnn-last", 2.0),
            f"gpu/resnet18_tucker_tdc{end}/vs_best": ("cudnn-last-dense", 4.0),
            f"gpu/resnet18_tucker_tdc{end}/vs_same": ("cudnn-last-same", 2.0),
        }
        assert {ratio["value"] for ratio in told["noise"]} == {1.1}


def test_what_is_not_begun_in_time_is_named(tmp_path, monkeypatch):
    options = gpu_tucker.parse(["--minutes", "-1", "--batches", "1"])
    found = []
    monkeypatch.setattr(gpu_race, "Found", lambda: found.append(Found()) or found[-1])
    late = Case("gpu/late", (), lambda role: None, 0.1)
    gpu_race.run(options, "", lambda work, repeats: None, {}, lambda options, batch: iter([late]))
    assert found[0].absent == {"gpu/late": "not begun within -1 minutes"}


@pytest.mark.parametrize(
    ("batch", "dtype", "end"), [(1, "f16", ""), (16, "f16", "_b16"), (1, "tf32", "_tf32"), (16, "f32", "_f32_b16")]
)
def test_conditions_join_the_case(batch, dtype, end):
    assert gpu_race.suffix(batch, dtype) == end


def test_only_what_is_asked_for():
    options = gpu_tucker.parse(["--only", "core_*_7", "resnet18"])
    names = [*(f"core_{shape}" for shape in CORE_SHAPES), *gpu_networks.NETWORKS]
    assert [name for name in names if gpu_race.wanted(options, name)] == [
        "core_32_32_7", "core_64_32_7", "core_96_64_7", "core_192_160_7", "resnet18",
    ]  # fmt: skip


def test_numbers_below_one_are_refused(capsys):
    with pytest.raises(SystemExit):
        gpu_tucker.parse(["--batches", "0"])
    assert "at least 1" in capsys.readouterr().err


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_without_a_gpu_it_says_so(capsys, monkeypatch):
    monkeypatch.setattr(tuning, "TRIED", tuning.TRIED)  # main sets it
    assert gpu_tucker.main([]) == 1
    assert "needs a CUDA GPU" in capsys.readouterr().err
