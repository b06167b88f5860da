"""The methods on scikit-learn's handwritten digits: real images, a few seconds."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import nn

from dovetail.api import compress
from dovetail.methods import Magnitude, Thin, Tucker
from dovetail.training import Settings
from dovetail.training.data import Images, Loader, split


@pytest.fixture(scope="module")
def digits():
    datasets = pytest.importorskip("sklearn.datasets")
    raw = datasets.load_digits()
    images = (raw.images[..., None] * 15).astype(np.uint8)
    train, test = split(Images(images, raw.target.astype(np.int64), 10), 400)
    return Loader(train, 64, mean=(0.3,), std=(0.35,), shuffle=True), Loader(test, 400, mean=(0.3,), std=(0.35,))


@pytest.fixture(scope="module")
def trained(digits):
    torch.manual_seed(0)
    convs = [nn.Conv2d(1, 16, 3, padding=1), nn.Conv2d(16, 24, 3, padding=1, stride=2), nn.Conv2d(24, 32, 3, padding=1)]
    body = [layer for conv in convs for layer in (conv, nn.BatchNorm2d(conv.out_channels), nn.ReLU())]
    model = nn.Sequential(*body, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 10))
    history = compress(model, Thin(epochs=6, learning_rate=0.2), train=digits[0], validate=digits[1]).history
    assert history.accuracy > 93
    return model, history.accuracy


@pytest.mark.parametrize("taught", [False, True])
@pytest.mark.parametrize(
    "make",
    [lambda: Tucker(ratio=0.5, epochs=3), lambda: Magnitude(density=0.2, epochs=4, interval=4)],
    ids=["tucker", "magnitude"],
)
def test_little_is_lost(digits, trained, make, taught):
    dense, accuracy = trained
    model = copy.deepcopy(dense)
    settings = Settings(precision="bf16" if taught else "f32", channels_last=taught)
    done = compress(
        model, make(), train=digits[0], validate=digits[1], teacher=model if taught else None, settings=settings
    )
    assert done.history.accuracy > accuracy - 2
    assert len(done.history.records) == make().epochs
