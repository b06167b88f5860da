"""The packed networks that are committed as evidence: whole, what their result says of them, and fit to run."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from torch import nn

import dovetail
from dovetail import zoo
from dovetail.cli import evidence, schema
from dovetail.engine import Session, native_status
from dovetail.program.counts import count
from dovetail.program.program import Program
from dovetail.program.reference import run
from dovetail.program.store import load, save
from programs import close

RECIPES = Path(dovetail.__file__).parents[2] / "recipes"
RESULTS_OF_RACES = RECIPES.parent / "benchmarks/results"
RESULTS = sorted((RECIPES / "results").glob("*.json"))
IGNORED = (RECIPES.parent / ".gitignore").read_text().split()  # among it networks too large to be committed
PROGRAMS, WEIGHTS = (
    [p for p in sorted((RECIPES / "results").glob(kind)) if f"recipes/results/{p.name}" not in IGNORED]
    for kind in ("*.dovetail", "*.safetensors")
)
each_program = pytest.mark.parametrize("file", PROGRAMS, ids=lambda file: file.stem)


def test_every_committed_network_has_its_result():
    assert PROGRAMS
    named = {evidence.read(path)["program"]["file"] for path in RESULTS}
    assert {file.name for file in PROGRAMS} <= named


@pytest.mark.parametrize("path", RESULTS, ids=lambda path: path.stem)
def test_a_result_says_what_the_design_asks(path):
    result = evidence.read(path)
    assert set(result) - {"weights"} == set(evidence.FIELDS)
    assert ("weights" in result) == (schema.read(RECIPES / f"{result['recipe']}.yaml").weights is not None)
    assert (RECIPES / f"{result['recipe']}.yaml").is_file()
    assert len(result["accuracy"]) == len(result["seeds"])
    assert all(0 < value <= 100 for value in (result["dense_accuracy"], *result["accuracy"]))


def test_committed_weights_are_those_of_their_results():
    results = [(evidence.read(path), path) for path in RESULTS]
    here = [(result, path) for result, path in results if path.with_suffix(".safetensors") in WEIGHTS]
    assert [evidence.weights_file(result, path) for result, path in here] == WEIGHTS


@pytest.mark.parametrize("file", PROGRAMS + WEIGHTS, ids=lambda file: file.name)
def test_a_committed_file_is_no_larger_than_it_may_be(file):
    assert file.stat().st_size <= evidence.LARGEST[file.suffix]


@each_program
def test_a_committed_network_is_the_one_of_its_result(file):
    path = file.with_suffix(".json")
    result = evidence.read(path)
    assert evidence.program_file(result, path) == file
    assert load(file).metadata["recipe"] == result["recipe"]


@each_program
def test_a_committed_network_is_saved_again_byte_for_byte(file, tmp_path):
    assert save(load(file), tmp_path / file.name).read_bytes() == file.read_bytes()


@each_program
def test_ratios_follow_from_the_file(file):
    result, program = evidence.read(file.with_suffix(".json")), load(file)
    original = program.metadata["original"]
    dense = dense_numbers(original["name"], json.dumps(original["options"]), image_shape(program))
    counts, payload = count(program), stored_bits(file)
    assert counts.bits == payload
    found = {
        "params_ratio": dense["params"] / counts.params,
        "macs_ratio": dense["macs"] / counts.macs,
        "bits_ratio": 32 * dense["params"] / payload,
        "bits_ratio_int8": (8 * dense["weights"] + 32 * (dense["params"] - dense["weights"])) / payload,
    }
    assert {name: round(value, 3) for name, value in found.items()} == {name: result[name] for name in found}


@pytest.mark.parametrize(
    "file",
    [
        pytest.param(
            file, id=file.stem, marks=[pytest.mark.slow] * ("resnet18" in file.stem or "resnet56" in file.stem)
        )
        for file in PROGRAMS
    ],
)
@pytest.mark.skipif(not native_status().available, reason="the native engine is not built")
def test_a_committed_network_runs(file):
    program = load(file)
    x = np.random.default_rng(0).standard_normal(image_shape(program)).astype(np.float32)
    assert close(Session(file)(x), run(program, x))


def stored_bits(file: Path) -> int:
    with safe_open(file, "numpy") as opened:
        return sum(8 * opened.get_tensor(name).nbytes for name in opened.keys())  # noqa: SIM118 - it is no mapping


def image_shape(program: Program) -> tuple[int, ...]:
    return program.graph.bind(batch=1)[program.graph.inputs[0]]


@cache
def dense_numbers(name: str, options: str, shape: tuple[int, ...]) -> dict[str, int]:
    """Of the dense original in torch: parameters, those in weights, and the work of its layers on one image."""
    model, found = zoo.build(name, **json.loads(options)).eval(), {"weights": 0, "macs": 0}

    def add(layer: Any, _: Any, output: torch.Tensor) -> None:
        found["macs"] += layer.weight[0].numel() * output[0].numel()

    for module in model.modules():
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            found["weights"] += module.weight.numel()
            module.register_forward_hook(add)
    with torch.no_grad():
        model(torch.zeros(shape))
    return found | {"params": sum(parameter.numel() for parameter in model.parameters())}


@pytest.mark.parametrize("share", [50, 35])
def test_a_fitted_network_keeps_its_budget_and_its_prediction(share):
    """As was aimed at: 8 % of the budget by paired ratios, 10 % of the prediction, a point on held-out images."""
    name = f"fit-resnet18-cifar10-{share}"
    notes = json.loads((RECIPES / f"{name}.fit.json").read_text())
    achieved, file = notes["achieved"], RECIPES / "results" / f"{name}.dovetail"
    assert notes["asked"]["budget"] == f"latency={share / 100:g}x"
    assert achieved["used"]["latency"] <= 1.08
    assert abs(achieved["off"]["latency"]) <= 0.1
    assert achieved["dense_accuracy"] - achieved["accuracy"] <= notes["asked"]["accuracy_drop"] == 1.0
    assert achieved["macs"] == count(load(file)).macs
    case = f"resnet18_cifar/fit{share}"
    race = json.loads((RESULTS_OF_RACES / f"{case.replace('/', '_')}.json").read_text())
    ratios = {ratio["case"]: ratio["value"] for ratio in race["ratios"]}
    assert ratios[f"{case}/vs_best"] >= 100 / share / 1.08
