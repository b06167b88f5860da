"""Every network of the zoo, with random BatchNorm statistics: the Program means what torch computes."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from torch import nn

from dovetail import zoo
from dovetail.program.counts import count
from dovetail.program.lower import lower
from dovetail.program.reference import run
from dovetail.program.store import load, save

QUICK = ("resnet8", "resnet20", "resnet18", "squeezenet10")
LARGE = ("vgg", "squeezenet", "mobilenet", "resnet50")


def network(name: str) -> nn.Module:
    model = zoo.build(name)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean, 0, 0.2)
            nn.init.uniform_(module.running_var, 0.5, 2)
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, 0, 0.2)
    return model


@pytest.mark.parametrize("name", [n if n in QUICK else pytest.param(n, marks=pytest.mark.slow) for n in zoo.NETWORKS])
def test_lowering_agrees_with_torch(name, tmp_path):
    size = 64 if name.startswith(LARGE) else 32
    model, x = network(name), torch.randn(2, 3, size, size)
    program = lower(model, x[:1])
    with torch.no_grad():
        want = model.eval()(x).numpy()
    assert np.abs(run(program, x.numpy()) - want).max() <= 1e-4 * np.ptp(want)
    assert {node.op for node in program.graph.nodes}.isdisjoint({"affine", "activation", "add"})
    counts = count(program)
    assert counts.params == sum(parameter.numel() for parameter in model.parameters()) - folded_biases(model)
    assert counts.macs == counts.dense_macs == hooked_macs(model, x[:1])
    np.testing.assert_array_equal(run(load(save(program, tmp_path / "n.dovetail")), x.numpy()), run(program, x.numpy()))


def folded_biases(model: nn.Module) -> int:
    """Biases of convolutions that the BatchNorm after them takes in."""
    layers = list(model.modules())
    return sum(
        layer.bias.numel()
        for layer, after in itertools.pairwise(layers)
        if isinstance(layer, nn.Conv2d) and layer.bias is not None and isinstance(after, nn.BatchNorm2d)
    )


def hooked_macs(model: nn.Module, x: torch.Tensor) -> int:
    """Multiply-accumulates by the sizes that the layers really see."""
    total = 0

    def add(layer, inputs, output):
        nonlocal total
        total += layer.weight[0].numel() * output[0].numel()

    for module in model.modules():
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            module.register_forward_hook(add)
    with torch.no_grad():
        model(x)
    return total
