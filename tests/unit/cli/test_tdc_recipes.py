"""The recipes that set TDC against a plain cut: same ranks, epochs and teacher, and the work that their titles name."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

import dovetail
from counted import counted
from dovetail import zoo
from dovetail.cli import materials, schema

RECIPES = Path(dovetail.__file__).parents[2] / "recipes"
pairs = pytest.mark.parametrize("network", ["resnet20", "resnet18"])


def arms(network: str) -> tuple[schema.Recipe, schema.Recipe]:
    return tuple(schema.read(RECIPES / f"{method}-{network}-cifar10.yaml") for method in ("tucker", "tdc"))  # type: ignore[return-value]


def method_of(recipe: schema.Recipe):
    plain = recipe.method.model_copy(update={"teacher": None})
    return materials.build_method(plain, None, None)


@pairs
def test_both_arms_are_alike_but_for_the_method(network):
    cut, drawn = arms(network)
    for part in ("network", "data", "settings", "control"):
        assert getattr(cut, part) == getattr(drawn, part)
    assert cut.method.teacher == drawn.method.teacher
    assert cut.method.parameters["ranks"] == drawn.method.parameters["ranks"]
    at_once, (admm, finetune) = method_of(cut).phases()[0], method_of(drawn).phases()
    assert (admm.name, finetune.name) == ("admm", "finetune")
    assert admm.epochs + finetune.epochs == at_once.epochs
    assert admm.epochs == round(0.6 * at_once.epochs)
    assert admm.weight_decay == finetune.weight_decay == at_once.weight_decay


@pairs
@pytest.mark.parametrize("arm", [0, 1], ids=["tucker", "tdc"])
def test_the_work_is_what_the_title_says(network, arm):
    recipe = arms(network)[arm]
    with torch.device("meta"):
        model = zoo.build(recipe.network.name, **recipe.network.options)
    real = zoo.build(recipe.network.name, **recipe.network.options)
    plan = method_of(recipe).plan(real, torch.zeros(1, 3, 32, 32))
    dense, compressed = counted(model, plan.layers, (3, 32, 32))["macs"]
    fewer = 100 * (1 - compressed / dense)
    assert 55 <= fewer <= (60 if network == "resnet20" else 62)  # 60 was asked for; TDC's own ranks are beyond
    assert f"{fewer:.0f} %" == re.search(r"\d+ %", recipe.title)[0]
    ranks = [rank for _, spec in plan.specs() for rank in (spec.rank_in, spec.rank_out)]
    assert all(rank % (8 if network == "resnet20" else 32) == 0 for rank in ranks)
