"""The published ResNets, through torch and through the engine: the same accuracy, the same predictions."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
import torch

from dovetail.engine import Schedule, Session, native_status
from dovetail.program.lower import lower
from dovetail.training.data import Loader
from dovetail.zoo import data, normalisation, pretrained

pytestmark = [
    pytest.mark.data,
    pytest.mark.skipif(not native_status().available, reason="the native engine is not built"),
]


def hits(name: str, root: Path, *, images: int, tuned: bool) -> tuple[int, int, int]:
    """Of so many test images: right by torch, right by the engine, and put into different classes by the two."""
    model, norm = pretrained(name, "cifar10", root).eval(), normalisation(name, "cifar10")
    program = lower(model, torch.zeros(2, 3, 32, 32))
    dense = Schedule({node.name: "conv2d_dense" for node in program.graph.nodes if node.op == "conv2d"})
    session = Session(program, schedule=None if tuned else dense)
    test = Loader(data.open_data("cifar10", root).test, 100, mean=norm.mean, std=norm.std)
    found = np.zeros(3, dtype=int)
    for pixels, labels in itertools.islice(test, images // 100):
        with torch.no_grad():
            theirs = model(pixels).argmax(1).numpy()
        ours = session(pixels.contiguous()).argmax(axis=1)
        found += [np.sum(theirs == labels.numpy()), np.sum(ours == labels.numpy()), np.sum(ours != theirs)]
    return int(found[0]), int(found[1]), int(found[2])


def test_a_thousand_images(data_file):
    theirs, ours, differ = hits("resnet20", data_file("resnet20_cifar10.safetensors").parent, images=1000, tuned=False)
    assert theirs == 914
    assert abs(ours - 914) <= differ <= 1


@pytest.mark.slow
@pytest.mark.parametrize(("name", "right"), [("resnet20", 9173), ("resnet56", 9339)])
def test_engine_predicts_what_torch_predicts(name, right, data_file):
    root = data_file(f"{name}_cifar10.safetensors").parent
    _, ours, differ = hits(name, root, images=10_000, tuned=True)
    assert differ <= 5
    assert abs(ours - right) <= 5
