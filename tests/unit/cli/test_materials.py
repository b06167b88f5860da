"""From names to objects: what is built is what was asked for, and what cannot be built is explained by its key."""

from __future__ import annotations

import numpy as np
import pytest

from dovetail.cli import materials
from dovetail.cli.schema import Data
from dovetail.errors import InputError
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
