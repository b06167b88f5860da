"""The recipe that `dovetail fit` writes."""

from __future__ import annotations

import pytest

from dovetail.cli.fit import written
from dovetail.cli.schema import check, merge
from dovetail.errors import RecipeError

RECIPE = {
    "title": "a base",
    "network": {"name": "resnet18", "options": {"stem": "cifar"}, "trained": "dense-resnet18-cifar10"},
    "data": {"name": "cifar10", "held_out": 5000},
    "method": {
        "name": "block",
        "parameters": {"epochs": 3},
        "teacher": {"network": {"name": "resnet18", "trained": "teacher-resnet18-cifar10"}},
    },
    "control": "dense-resnet18-cifar10",
    "case": "resnet18_cifar/block85",
    "runs": "elsewhere",
}


def located(recipe):
    """As the command line has it, which has found the files of what other recipes trained."""
    network = recipe.network.model_copy(update={"weights": "somewhere/dense.safetensors"})
    teacher = recipe.method.teacher
    known = teacher.network.model_copy(update={"weights": "somewhere/teacher.safetensors"})
    method = recipe.method.model_copy(update={"teacher": teacher.model_copy(update={"network": known})})
    return recipe.model_copy(update={"network": network, "method": method})


def test_what_is_written_is_a_recipe_again_and_names_no_place():
    recipe = check(RECIPE, "here")
    data = written(located(recipe))
    assert "somewhere" not in str(data)
    assert "elsewhere" not in str(data)
    again = check(merge(data, {"method": {"quantize": True}}), "there")
    assert again.network == recipe.network
    assert again.method.teacher == recipe.method.teacher
    assert again.control == recipe.control
    assert again.case is None


def test_weights_by_name_stay():
    data = written(
        check({**RECIPE, "network": {"name": "resnet20", "weights": "resnet20_cifar10.safetensors"}}, "here")
    )
    assert data["network"]["weights"] == "resnet20_cifar10.safetensors"


def test_both_would_be_refused():
    with pytest.raises(RecipeError, match="weights or trained, not both"):
        check(merge(RECIPE, {"network": {"weights": "a.safetensors"}}), "here")
