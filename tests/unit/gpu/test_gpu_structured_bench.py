"""The benchmark of linear layers in blocks without a GPU: its cases, its peers, its files; the clock is played."""

from __future__ import annotations

import itertools
import json

import pytest
import torch
from test_gpu_bench import Played

import gpu_race
import gpu_structured
from dovetail.cli.speed import read_races
from dovetail.gpu import tuning
from gpu_structured import Shape

SMALL = (Shape("diagonal", 3, 17, 23), Shape("circulant", 4, 18, 22))
by_shape = pytest.mark.parametrize("shape", SMALL, ids=str)


@pytest.fixture(autouse=True)
def on_the_cpu(monkeypatch):
    monkeypatch.setattr(gpu_race, "DEVICE", "cpu")
    monkeypatch.setattr(gpu_structured, "LAYERS", SMALL)


@by_shape
def test_the_layer_in_torchs_ops_is_the_layer(shape):
    values, x = torch.randn(shape.stored), torch.randn(5, shape.inputs)
    product, prepare = gpu_structured.same(shape)
    want = x @ gpu_structured.dense(shape, values).T
    assert torch.allclose(product(x, *prepare(values)), want, atol=1e-5)
    product, prepare = gpu_structured.structured(shape, "ieee", "model")
    assert torch.allclose(product(x, *prepare(values)), want, atol=1e-5)


@by_shape
def test_a_dense_layer_is_what_the_numbers_stand_for(shape):
    values = torch.randn(shape.stored)
    weight = gpu_structured.dense(shape, values)
    assert weight.shape == (shape.outputs, shape.inputs)
    kept = (weight != 0).float().mean().item()
    assert kept == pytest.approx(1 / shape.size if shape.kind == "diagonal" else 1, rel=0.1)


def test_weights_take_turns():
    weights = [(torch.tensor(float(n)),) for n in range(3)]
    work = gpu_structured.rotating(torch.mul, torch.tensor(2.0), weights)
    assert [work().item() for _ in range(4)] == [0, 2, 4, 0]


@pytest.mark.parametrize(("option", "copies", "told"), [([], 20, "weights-20-copies"), (["--warm"], 1, "weights-warm")])
def test_every_repetition_has_a_weight_of_its_own_unless_asked_otherwise(monkeypatch, option, copies, told):
    asked = []
    monkeypatch.setattr(gpu_structured, "case_of", lambda *given: asked.append(given[-1]))
    options = gpu_structured.parse(option)
    assert list(gpu_structured.cases(options, 1)) == [None, None]
    assert asked == [copies, copies]
    assert options.conditions == (told,)
    assert options.batches == [1, 16, 64]


def test_the_whole_benchmark_on_the_cpu(tmp_path):
    out = tmp_path / "gpu_structured.json"
    options = gpu_structured.parse(
        ["--out", str(out), "--dtype", "f32", "--no-compile", "--blocks", "2", "--runs", "3"]
    )
    options.batches = [1, 16]
    clock = itertools.cycle([1, 1.1, 1.5, 4, 2])
    gpu_race.run(
        options, "command", lambda work, repeats: Played(work(), next(clock)), {"gpu": "a card"}, gpu_structured.cases
    )
    assert "gpu/diagonal3_17x23_f32" in read_races(tmp_path)
    for path, end in ((out, "_f32"), (tmp_path / "gpu_structured_b16.json", "_f32_b16")):
        told = json.loads(path.read_text())
        assert (told["bench"], told["time_only"]) == (path.stem, True)
        assert told["conditions"] == ["cuda-graph", "tiles-oracle", "weights-20-copies"]
        names = {"dovetail", gpu_race.AGAIN, "dovetail-model", "cublas", "torch-same"}
        for shape in SMALL:
            case = f"gpu/{shape}{end}"
            rows = [row for row in told["rows"] if row["case"] == case]
            assert {row["target"] for row in rows} == names
            assert all(row["max_error"] < 1e-4 and row["runs"] == 6 for row in rows)
            ratios = {ratio["case"]: (ratio["peer"], ratio["value"]) for ratio in told["ratios"]}
            assert ratios[f"{case}/vs_best"] == ("cublas", 4.0)
            assert ratios[f"{case}/vs_same"] == ("torch-same", 2.0)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_without_a_gpu_it_says_so(capsys, monkeypatch):
    monkeypatch.setattr(tuning, "TRIED", tuning.TRIED)  # main sets it
    assert gpu_structured.main([]) == 1
    assert "gpu_structured: this needs a CUDA GPU" in capsys.readouterr().err
