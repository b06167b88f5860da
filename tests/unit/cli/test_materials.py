"""From names to objects: what is built is what was asked for, and what cannot be built is explained by its key."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest

from dovetail.cli import materials
from dovetail.cli.parameters import declared, words
from dovetail.cli.schema import Data, Method, check
from dovetail.engine.native import cores
from dovetail.errors import InputError, RecipeError
from dovetail.methods import METHODS
from dovetail.training.data import Images, Loader


def images(count: int, channels: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, 4, 5, channels), np.uint8)


def test_the_example_for_planning_is_a_training_image():
    pytest.importorskip("sklearn")
    sets = materials.open_sets(Data(name="digits", held_out=200), "resnet8", None)
    example = sets.example().numpy()
    assert example.shape == (1, 1, 8, 8)
    np.testing.assert_array_equal(example, materials.normalise(sets.train.data.images[:1], sets.mean, sets.std))


@pytest.mark.parametrize(
    ("mean", "std"), [((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)), ((0.1307,), (0.3081,)), ((0.0,), (1.0,))]
)
def test_an_image_is_normalised_bit_for_bit_as_in_training(mean, std):
    pixels = images(3, 3)
    loader = Loader(Images(pixels, np.zeros(3, np.int64), 1), 3, mean=mean, std=std)
    found = materials.normalise(pixels, mean, std)
    assert found.flags.c_contiguous
    np.testing.assert_array_equal(found, next(iter(loader))[0].numpy())
    want = ((pixels / 255.0 - mean) / std).transpose(0, 3, 1, 2)
    np.testing.assert_allclose(found, want, rtol=1e-5, atol=1e-6)


def test_a_mean_of_another_number_of_channels_is_refused():
    with pytest.raises(InputError, match="one per channel"):
        materials.normalise(images(1, 1), (0.1, 0.2), (1.0,))


@pytest.mark.parametrize(
    ("method", "parameters", "message"),
    [
        ("magnitude", {"epochs": "abc"}, "method.parameters.epochs: give a whole number, not 'abc'"),
        ("thin", {"epochs": True}, "method.parameters.epochs: give a whole number, not True"),
        ("thin", {"epochs": 1.5}, "method.parameters.epochs: give a whole number, not 1.5"),
        ("tucker", {"learning_rate": "x"}, "method.parameters.learning_rate: give a number, not 'x'"),
        ("magnitude", {"density": "half"}, "method.parameters.density: give a number, not 'half'"),
        ("magnitude", {"density": None}, "method.parameters.density: give a number, not None"),
        ("tucker", {"ratio": "0.5"}, "method.parameters.ratio: give a number or null, not '0.5'"),
        ("penni", {"bases": "foo"}, "bases: give a number or a mapping of names to a number, not 'foo'"),
        ("tucker", {"ranks": {"a": 3.5}}, "ranks: give a mapping of names to [a whole number, a whole number]"),
        ("tucker", {"ranks": {("a", "b"): [1, 2]}}, "ranks: give a mapping of names"),
        ("thin", {"schedule": "foo"}, "give 'constant', 'cosine', 'one-cycle' or 'step', not 'foo'"),
        ("penni", {"shrink": "perhaps"}, "give true or false or 'exact' or 'paper', not 'perhaps'"),
        ("penni", {"basis": 3}, "unknown key 'method.parameters.basis'; did you mean 'method.parameters.bases'"),
        ("tucker", {"plan": {}}, "unknown key 'method.parameters.plan'"),
        ("magnitude", {"density": 2}, "method.parameters: magnitude density 2.0 must lie above 0 and not above 1"),
    ],
)
def test_a_parameter_of_another_type_is_named_with_what_is_allowed(method, parameters, message):
    with pytest.raises(RecipeError) as error:
        materials.build_method(Method(name=method, parameters=parameters), None, None)
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("method", "parameters"),
    [
        ("tucker", {"ranks": {"conv*": [3, 4]}, "svd": True, "epochs": 3, "learning_rate": 1}),
        ("tucker", {"ratio": None, "warmup": 0.5}),
        ("tdc", {"ranks": {"conv*": [3, 4], "fc": 2}, "rho": 0.01, "admm_epochs": 3, "epochs": 2, "fold": False}),
        ("penni", {"bases": {"layer1.*": 4, "*": 0.9}, "shrink": "exact", "density": 0.5}),
        ("penni", {"bases": 5, "shrink": False, "retrain_learning_rate": None}),
        ("magnitude", {"density": 0.25, "interval": 10, "everything": True}),
    ],
)
def test_parameters_reach_the_method_as_they_were_given(method, parameters):
    built = materials.build_method(Method(name=method, parameters=parameters), None, None)
    for name, value in parameters.items():
        assert json.loads(json.dumps(getattr(built, name))) == value


def test_every_parameter_of_every_method_can_be_told_in_words():
    for kind in METHODS.values():
        for name, wanted in declared(kind).items():
            assert not re.search(r"[<.]|typing", words(wanted)), (kind, name)


def test_whole_bases_stay_a_count_and_broken_ones_an_energy():
    for bases in (5, 0.9):
        built = materials.build_method(Method(name="penni", parameters={"bases": bases}), None, None)
        assert type(built.bases) is type(bases)


def test_more_threads_than_cores_are_refused_before_training():
    given = {"network": {"name": "n"}, "data": {"name": "d"}, "method": {"name": "thin"}}
    recipe = check(given | {"settings": {"threads": 100_000}}, "a test")
    with pytest.raises(RecipeError, match=rf"settings.threads: 100000 threads on {cores()} cores; give 1 to {cores()}"):
        materials.settings(recipe, 0, None)
    assert materials.settings(check(given | {"settings": {"threads": 1}}, "a test"), 0, None).threads == 1
