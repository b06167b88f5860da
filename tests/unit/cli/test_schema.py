"""What a recipe may say, and what it is told when it says something else."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from dovetail.cli import schema
from dovetail.errors import RecipeError

MINIMAL = {"network": {"name": "resnet8"}, "data": {"name": "digits"}, "method": {"name": "penni"}}
RECIPES = sorted((Path(__file__).parents[3] / "recipes").glob("*.yaml"))


@pytest.fixture
def write(tmp_path):
    def write(name, data):
        path = tmp_path / f"{name}.yaml"
        path.write_text(data if isinstance(data, str) else yaml.safe_dump(data))
        return path

    return write


def test_a_minimal_recipe_has_the_documented_defaults(write):
    recipe = schema.read(write("r", MINIMAL))
    assert recipe.data.held_out is None
    assert recipe.settings.seeds == (0,)
    assert recipe.dense == recipe.network


def test_overrides_win_and_reach_deep(write):
    overrides = ["settings.seeds=[3, 4]", "method.parameters.bases=4", "data.batch=64"]
    recipe = schema.read(write("r", MINIMAL), overrides)
    assert recipe.settings.seeds == (3, 4)
    assert recipe.method.parameters == {"bases": 4}
    assert recipe.data.batch == 64


def test_a_recipe_stands_on_its_base(write):
    write("below", MINIMAL | {"settings": {"precision": "bf16", "seeds": [1]}})
    recipe = schema.read(write("above", {"base": "below", "settings": {"seeds": [2]}}))
    assert recipe.settings.precision == "bf16"
    assert recipe.settings.seeds == (2,)


def test_bases_in_a_circle_are_refused(write):
    write("a", {"base": "b"})
    with pytest.raises(RecipeError, match="a → b → a"):
        schema.read(write("b", {"base": "a"}).with_name("a.yaml"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"metod": {}}, "unknown key 'metod'; did you mean 'method'"),
        ({"method": {"name": "penni", "teachr": {}}}, "unknown key 'method.teachr'; did you mean 'method.teacher'"),
        ({"data": {"name": "digits", "augment": {"crops": 4}}}, "did you mean 'data.augment.crop'"),
        ({"network": {}}, "key 'network.name' is missing"),
        ({"data": {"name": "digits", "batch": 0}}, "data.batch: .*greater than or equal to 1 .got 0"),
        ({"network": {"name": "n", "weights": "/tmp/w.safetensors"}}, "network.weights: give a file name"),
        ({"network": {"name": "n", "weights": "w.safetensors", "trained": "r"}}, "give weights or trained, not both"),
        ({"network": {"name": "n", "trained": "recipes/r"}}, "network.trained: give the name of a recipe"),
        ({"start": "../x"}, "start: give the name of a recipe in the same folder"),
        ({"control": "../x"}, "control: give the name of a recipe in the same folder"),
        ({"base": "sub/x"}, "base: give the name of a recipe in the same folder"),
        ({"base": ["x"]}, "base: give the name of a recipe in the same folder"),
        ({"weights": "int8"}, "weights: method penni may leave other layers .*leave this out .got 'int8'"),
        ({"method": {"name": "thin"}, "weights": "f32"}, "weights: "),
        ({"settings": {"seeds": []}}, "settings.seeds"),
        ({"settings": {"precision": "f16"}}, "settings.precision"),
        ({"case": "no-slash"}, "case: "),
        ({"method": {"name": "tucker", "plan": {"layer1": 5}}}, "method.plan: layer 'layer1' has 5; give a spec such"),
        ({"method": {"name": "tucker", "plan": {"layer1:5": None}}}, "layer 'layer1:5' has None; give a spec"),
        ({"method": {"name": "tucker", "plan": 5}}, "method.plan: .*valid dictionary"),
    ],
)
def test_errors_name_the_dotted_key_and_the_nearest_known_one(write, change, message):
    with pytest.raises(RecipeError, match=message):
        schema.read(write("r", MINIMAL | change))


@pytest.mark.parametrize("text", ["- a\n- b\n", "{", "3"])
def test_files_that_are_no_recipes(write, text):
    with pytest.raises(RecipeError, match=r"r\.yaml"):
        schema.read(write("r", text))


def test_a_missing_file_points_to_the_list(tmp_path):
    with pytest.raises(RecipeError, match="dovetail recipe list"):
        schema.read(tmp_path / "none.yaml")


@pytest.mark.parametrize("override", ["no-equals", "=1", "a..b=1"])
def test_a_malformed_override_is_explained(override):
    with pytest.raises(RecipeError, match="key=value"):
        schema.parse_overrides([override])


def test_overrides_read_yaml_values():
    assert schema.parse_overrides(["a.b=true", "a.c=null", "d=1e-3", "e=x"]) == {
        "a": {"b": True, "c": None},
        "d": 1e-3,
        "e": "x",
    }


def test_a_network_that_starts_from_no_other_recipe_is_told_as_it_always_was():
    before = {"name": "resnet8", "options": {}, "weights": None}
    assert schema.Network(name="resnet8").model_dump(mode="json") == before
    trained = schema.Network(name="resnet8", trained="dense")
    assert trained.model_dump(mode="json") == before | {"trained": "dense"}
    assert schema.Network.model_validate(trained.model_dump(mode="json")) == trained
    assert trained.model_dump(mode="json", include={"name", "options"}) == {"name": "resnet8", "options": {}}
    assert [network.random for network in (schema.Network(name="n"), trained)] == [True, False]


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_every_recipe_of_the_house_is_valid(path):
    recipe = schema.read(path)
    assert recipe.title
    assert recipe.control is None or path.with_name(f"{recipe.control}.yaml").exists()
    teacher = recipe.method.teacher
    for network in (recipe.network, recipe.dense, *([] if teacher is None else [teacher.network])):
        if network.trained is not None:
            assert schema.read(path.with_name(f"{network.trained}.yaml")).weights == "int8"
