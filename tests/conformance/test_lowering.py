"""Every network of the zoo, with random BatchNorm statistics: Program and engine compute what torch does."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from dovetail import zoo
from dovetail.engine import Schedule, Session, native_status
from dovetail.engine.kernels import candidates, place
from dovetail.program.counts import count
from dovetail.program.lower import lower
from dovetail.program.program import Program
from dovetail.program.reference import run
from dovetail.program.store import load, save
from dovetail.zoo.densenet import DenseNet
from programs import poisoned

THIN = {"width": 0.25, "classes": 10}
QUICK: dict[str, dict[str, Any]] = {
    "resnet8": {},
    "resnet20": {},
    "resnet18": THIN,
    "resnet50": THIN,
    "mobilenetv2": THIN,
    "vgg16_bn": THIN | {"width": 0.125},
    "squeezenet10": {"classes": 10},
}
LARGE = ("vgg", "squeezenet", "mobilenet", "resnet50", "densenet")
SLOW = [name for name in zoo.NETWORKS if QUICK.get(name) != {}]
NETWORKS = [
    *(pytest.param(name, options, id=f"{name}-small" if options else name) for name, options in QUICK.items()),
    *(pytest.param(name, {}, id=name, marks=pytest.mark.slow) for name in SLOW),
]


def network(name: str, options: dict[str, Any]) -> nn.Module:
    return randomise(zoo.build(name, **options))


def randomise(model: nn.Module) -> nn.Module:
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean, 0, 0.2)
            nn.init.uniform_(module.running_var, 0.5, 2)
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, 0, 0.2)
    return model


@pytest.mark.parametrize(("name", "options"), NETWORKS)
def test_lowering_agrees_with_torch(name, options, tmp_path):
    size = 64 if name.startswith(LARGE) else 32
    model, x = network(name, options), torch.randn(2, 3, size, size)
    program = lower(model, x[:1])
    with torch.no_grad():
        want = model.eval()(x).numpy()
    meant = run(program, x.numpy())
    assert np.abs(meant - want).max() <= 1e-4 * np.ptp(want)
    for session in sessions(program, x.shape):
        assert np.abs(poisoned(session, x.numpy()) - want).max() <= 1e-4 * np.ptp(want)
    left = {"affine"} if name.startswith("densenet") else set()  # a norm after a concatenation has no product to join
    assert {node.op for node in program.graph.nodes}.isdisjoint({"affine", "activation", "add"} - left)
    counts = count(program)
    assert counts.params == sum(parameter.numel() for parameter in model.parameters()) - folded_biases(model)
    assert counts.macs == counts.dense_macs == hooked_macs(model, x[:1])
    np.testing.assert_array_equal(run(load(save(program, tmp_path / "n.dovetail")), x.numpy()), meant)


def test_norms_before_convolutions_take_their_relu_along():
    """Two dense blocks: what lies between a concatenation and a convolution is one op."""
    model, x = randomise(DenseNet((2, 3), 0.25, in_channels=3, classes=10)), torch.randn(2, 3, 40, 36)
    program = lower(model, x[:1])
    with torch.no_grad():
        want = model.eval()(x).numpy()
    assert np.abs(run(program, x.numpy()) - want).max() <= 1e-4 * np.ptp(want)
    for session in sessions(program, x.shape):
        assert np.abs(poisoned(session, x.numpy()) - want).max() <= 1e-4 * np.ptp(want)
    alone = [node for node in program.graph.nodes if node.op == "affine"]
    assert len(alone) == 2 + 1 + 3 + 1  # the first norm of every layer, that of the transition, the last one
    assert {node.epilogue.activation.name for node in alone} == {"relu"}
    assert {node.op for node in program.graph.nodes}.isdisjoint({"activation", "add"})


def sessions(program: Program, shape: tuple[int, ...]) -> Iterator[Session]:
    """The engine with the first kernel that every layer can take, and with the last; none where it is not built."""
    if not native_status().available:
        return
    shapes = program.shapes(program.graph, {"batch": shape[0]})
    nodes = [node for node in program.graph.nodes if node.weight is not None]
    found = {n.name: candidates(n.op, program.weights[n.weight or ""], place(n, shapes)) for n in nodes}
    for at in (0, -1):
        yield Session(program, schedule=Schedule({name: rows[at].name for name, rows in found.items()}))


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
