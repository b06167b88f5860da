"""Races of a tiny network with real peers in real processes. Nothing here asserts which is faster."""

import json

import numpy as np
import pytest
import torch
from torch import nn

import dovetail as dt
from dovetail.errors import PeerError
from dovetail.peers import peer

pytestmark = pytest.mark.slow
QUICK = {"threads": (1,), "blocks": 2, "network": "tiny", "variant": "dense"}


@pytest.fixture(params=["engine", "reference"])
def engine(request, monkeypatch):
    """The engine that runs ours: the real one, or the reference interpreter where a test is about peers."""
    if request.param == "reference":
        monkeypatch.setattr("dovetail.peers.engine.MODULE", "reference_engine")


@pytest.fixture
def reference(monkeypatch):
    monkeypatch.setattr("dovetail.peers.engine.MODULE", "reference_engine")


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1, bias=False),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Conv2d(8, 8, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(8, 5),
    ).eval()


@pytest.fixture(scope="module")
def program(model):
    return dt.lower(model, torch.zeros(1, 3, 12, 12))


@pytest.fixture(scope="module")
def images():
    """Labelled by the model itself, so that its own accuracy is 100 %."""
    return torch.from_numpy(np.random.default_rng(0).standard_normal((48, 3, 12, 12), dtype=np.float32))


def labelled(model, images):
    with torch.inference_mode():
        return [(part, model(part).argmax(1)) for part in images.split(16)]


def test_a_race_with_onnxruntime_gives_rows_ratios_and_a_file(engine, program, model, tmp_path):
    race = dt.race(program, model, peers=["onnxruntime"], **QUICK)
    assert not race.absent
    assert {row.target for row in race.rows} == {"dovetail", "dovetail-dense", "onnxruntime"}
    assert all(row.max_error < 1e-4 for row in race.rows)
    assert {ratio.name: ratio.peer for ratio in race.ratios} == {
        "vs_f32": "onnxruntime",
        "vs_best": "onnxruntime",
        "vs_own_dense": "dovetail-dense",
    }
    assert len(race.noise) == 1
    race.save(tmp_path / "tiny_dense.json")
    data = json.loads((tmp_path / "tiny_dense.json").read_text())
    assert {row["case"] for row in data["rows"]} == {"tiny/dense"}
    assert {"torch", "onnxruntime", "dovetail"} <= set(data["versions"])


def test_openvino_races_in_three_types_with_the_accuracy_of_int8_beside_it(reference, program, model, images):
    peers = ["openvino-f32", "openvino-bf16", "openvino-int8"]
    test = labelled(model, images)
    race = dt.race(program, model, peers=peers, data=images.split(16), test=test, batch=2, **QUICK)
    rows = {row.target: row for row in race.rows}
    if "openvino-bf16" in race.absent:
        assert "no bf16" in race.absent["openvino-bf16"]
    else:
        assert 1e-7 < rows["openvino-bf16"].max_error < 0.1
    assert rows["openvino-f32"].max_error < 1e-4
    assert rows["dovetail"].accuracy == 100.0
    assert not race.time_only
    assert 50.0 < rows["openvino-int8"].accuracy <= 100.0
    assert rows["openvino-int8"].agreement == rows["openvino-int8"].accuracy


def test_torch_races_compiled_and_eager_but_eager_is_no_baseline(reference, program, model):
    race = dt.race(program, model, peers=["torch-compile", "torch-eager"], **QUICK)
    rows = {row.target: row for row in race.rows}
    assert rows["torch-eager"].max_error < 1e-5
    if "torch-compile" in rows:
        assert race.ratio("vs_f32").peer == "torch-compile"
    else:
        assert "compiler" in race.absent["torch-compile"]
        assert race.ratio("vs_f32") is None


def test_a_peer_runs_our_network_for_vs_same(reference, program, model):
    race = dt.race(program, model, peers=["onnxruntime"], compressed=model, **QUICK)
    assert race.ratio("vs_same").peer == "onnxruntime-same"
    assert race.ratio("vs_f32").peer == "onnxruntime"


def test_int8_without_data_and_peers_not_installed_are_named(reference, program, model, monkeypatch):
    monkeypatch.setattr(peer, "find_spec", lambda name: None if name == "onnxruntime" else object())
    race = dt.race(program, model, peers=["onnxruntime", "openvino-int8"], **QUICK)
    assert "not installed: onnxruntime" in race.absent["onnxruntime"]
    assert "calibrate" in race.absent["openvino-int8"]
    assert race.to_json()["versions"]["openvino-int8"].startswith("not run: ")


def test_an_engine_that_computes_something_else_ends_the_race(reference, program, model):
    with pytest.raises(PeerError, match="outputs differ"):
        _race_with_error(program, model)


def _race_with_error(program, model):
    from dovetail.peers import engine

    with pytest.MonkeyPatch.context() as patch:
        make = engine.target

        def wrong(*args):
            target = make(*args)
            return type(target)(**{**vars(target), "arguments": {**target.arguments, "error": 0.5}})

        patch.setattr(engine, "target", wrong)
        return dt.race(program, model, peers=[], **QUICK)


def test_unknown_peers_are_refused_before_anything_runs(program, model):
    with pytest.raises(PeerError, match="unknown peer 'tensorrt'"):
        dt.race(program, model, peers=["tensorrt"])
