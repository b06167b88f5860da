"""The published ResNets, through torch and through the engine: the same accuracy, the same predictions."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from dovetail.engine import Session, native_status
from dovetail.program.lower import lower
from dovetail.training.data import Loader
from dovetail.zoo import data, normalisation, pretrained

pytestmark = [
    pytest.mark.data,
    pytest.mark.slow,
    pytest.mark.skipif(not native_status().available, reason="the native engine is not built"),
]


@pytest.mark.parametrize(("name", "hits"), [("resnet20", 9173), ("resnet56", 9339)])
def test_engine_predicts_what_torch_predicts(name, hits, data_file):
    root = data_file(f"{name}_cifar10.safetensors").parent
    model, norm = pretrained(name, "cifar10", root).eval(), normalisation(name, "cifar10")
    test = data.open_data("cifar10", root).test
    session = Session(lower(model, torch.zeros(2, 3, 32, 32)))
    right = differ = 0
    for images, labels in Loader(test, 100, mean=norm.mean, std=norm.std):
        with torch.no_grad():
            theirs = model(images).argmax(1).numpy()
        ours = session(images.contiguous()).argmax(axis=1)
        right += int(np.sum(ours == labels.numpy()))
        differ += int(np.sum(ours != theirs))
    assert differ <= 5
    assert abs(right - hits) <= 5
