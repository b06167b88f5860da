"""Models whose linear layers in blocks use kernels: the same model in every other respect."""

from __future__ import annotations

import copy
import itertools

import pytest
import torch
from torch import nn

import gpu_layers
from dovetail.formats import BlockCirculantSpec, PermutedDiagonalSpec
from dovetail.formats.base import Spec
from dovetail.formats.block_circulant.layer import BlockCirculantLinear
from dovetail.formats.layer import from_dense
from dovetail.formats.permuted_diagonal.layer import PermutedDiagonalLinear
from dovetail.gpu import launching, use_kernels
from dovetail.gpu.block_circulant import kernels as circulant
from dovetail.gpu.block_circulant import layer as circulant_layer
from dovetail.gpu.block_circulant.layer import BlockCirculantKernels
from dovetail.gpu.blocks import kernels as blocks
from dovetail.gpu.permuted_diagonal import kernels as diagonal
from dovetail.gpu.permuted_diagonal.layer import PermutedDiagonalKernels
from dovetail.program.lower import lower
from dovetail.program.reference import run
from played_triton import play

SPECS = (
    PermutedDiagonalSpec(size=3),
    PermutedDiagonalSpec(size=5, index="random", seed=7),
    PermutedDiagonalSpec(size=4, index="searched"),
    BlockCirculantSpec(size=4),
)


def network(bias: bool = True) -> nn.Sequential:
    """One layer of each index, one of circulant blocks, and a convolution that has no kernels."""
    torch.manual_seed(0)
    sizes = (18, 13, 11, 14, 9)
    linear = [nn.Linear(*pair, bias=bias) for pair in itertools.pairwise(sizes)]
    layers: list[nn.Module] = []
    for layer, spec in zip(linear, SPECS, strict=True):
        layers += [from_dense(layer, spec), nn.ReLU()]
    conv = from_dense(nn.Conv2d(2, 2, 3, padding=1), PermutedDiagonalSpec(size=2))
    return nn.Sequential(conv, nn.Flatten(), *layers[:-1])


X = torch.linspace(-1, 1, 3 * 2 * 3 * 3).view(3, 2, 3, 3)


@pytest.fixture
def played(monkeypatch):
    named = {name: (diagonal, name) for name in ("direct", "grouped")}
    return play(monkeypatch, **named, rotated=(circulant, "rotated"), added=(blocks, "added"))


def test_without_numbers_there_are_shapes():
    model = network().to("meta")
    with use_kernels(model):
        assert model(X.to("meta")).shape == (3, 9)


@pytest.mark.parametrize(("capability", "old"), [((6, 1), True), ((7, 5), True), ((8, 0), False), ((9, 0), False)])
def test_a_card_may_be_too_old(monkeypatch, capability, old):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "a card")
    told = f"Triton's kernels need compute capability 8.0, a card has {capability[0]}.{capability[1]}"
    assert launching.too_old(torch.device("cuda", 0)) == (told if old else None)
    assert launching.too_old(torch.device("cpu")) is None


def test_layers_on_a_card_that_is_too_old_are_left(monkeypatch):
    model = network()
    monkeypatch.setattr(launching, "too_old", lambda device: f"nothing for {device.type}")
    with use_kernels(model) as kernels:
        assert kernels.taken == []
        assert set(kernels.left) == {"0", "2", "4", "6", "8"}
        assert kernels.left["2"] == "nothing for cpu"
        assert type(model[2]) is PermutedDiagonalLinear


@pytest.mark.parametrize("bias", [True, False])
def test_layers_use_kernels_within_the_block(bias):
    model = network(bias)
    before = model(X)
    with use_kernels(model, precision="tf32") as kernels:
        assert kernels.taken == ["2", "4", "6", "8"]
        assert kernels.left == {"0": "PermutedDiagonalConv2d has no kernels for GPUs"}
        assert [type(model[int(name)]) for name in kernels.taken] == [PermutedDiagonalKernels] * 3 + [
            BlockCirculantKernels
        ]
        assert torch.allclose(model(X), before, atol=1e-6)
    assert [type(model[i]) for i in (2, 8)] == [PermutedDiagonalLinear, BlockCirculantLinear]
    assert torch.allclose(model(X), before, atol=1e-6)


def test_the_kernels_give_what_the_layers_give(played):
    model = network()
    before = model(X)
    with use_kernels(model):
        assert gpu_layers.error(model(X).detach(), before.detach().double()) < 1e-5
    assert played["direct"].launches == 3
    assert played["rotated"].launches == 1


def test_a_large_batch_runs_by_classes(played):
    model = network()
    before = model(X.repeat(6, 1, 1, 1))
    with use_kernels(model):
        assert gpu_layers.error(model(X.repeat(6, 1, 1, 1)).detach(), before.detach().double()) < 1e-5
    assert played["grouped"].launches == 1


@pytest.mark.parametrize("on_kernels", [False, True])
def test_training_takes_the_same_steps(request, on_kernels):
    if on_kernels:
        request.getfixturevalue("played")
    steps = []
    for kernels in (False, True):
        model = network()
        if kernels:
            use_kernels(model)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
        for _ in range(3):
            optimizer.zero_grad()
            model(X).square().mean().backward()
            optimizer.step()
        steps.append(model.state_dict())
    assert steps[0].keys() == steps[1].keys()
    for name, value in steps[0].items():
        assert torch.allclose(steps[1][name], value, atol=1e-5), name


def test_it_is_packed_and_lowered_as_ever():
    model = network()
    before = lower(model, X)
    with use_kernels(model):
        after = lower(model, X)
    assert {n: p.spec for n, p in after.weights.items()} == {n: p.spec for n, p in before.weights.items()}
    assert (run(after, X.numpy()) == run(before, X.numpy())).all()


def test_one_graph_under_torch_compile():
    model = network()
    want = model(X)
    with use_kernels(model):
        compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
        assert torch.allclose(compiled(X), want, atol=1e-6)
        compiled(X).sum().backward()
    assert model[2].values.grad is not None


def layer_of(spec: Spec, inputs: int = 12, outputs: int = 10) -> nn.Module:
    torch.manual_seed(1)
    return from_dense(nn.Linear(inputs, outputs), spec)


def test_a_gain_comes_before_the_bias(played):
    from dovetail.formats.layer import from_packed

    layer = layer_of(BlockCirculantSpec(size=4))
    gained = from_packed(layer, layer.pack().cast(layer.spec.values, torch.linspace(0.5, 2, 10).numpy()))
    x = torch.randn(2, 12)
    want = gained(x)
    with use_kernels(gained):
        assert torch.allclose(gained(x), want, atol=1e-5)
    assert played["rotated"].launches == 1


@pytest.fixture
def counted(monkeypatch):
    """How often spectra are made by the layer."""
    made = []
    make = circulant_layer.spectra_of
    monkeypatch.setattr(circulant_layer, "spectra_of", lambda *given: made.append(1) or make(*given))
    return made


@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode])
def test_spectra_are_made_once_and_again_after_a_change(played, counted, context):
    layer = layer_of(BlockCirculantSpec(size=4)).eval()
    x = torch.randn(2, 12)
    with use_kernels(layer, tiles="fft"):
        for step in range(3):
            with torch.no_grad():
                layer.values.mul_(2)
            with context():
                want = torch.nn.functional.linear(x, layer.weight(), layer.bias)
                for _ in range(2):
                    assert torch.allclose(layer(x), want, atol=1e-5)
            assert len(counted) == step + 1
        copied = copy.deepcopy(layer)
        layer.train()
        assert "kernel_spectra" not in vars(layer)
        assert layer(x).requires_grad
        assert len(counted) == 3
    assert "kernel_spectra" not in vars(layer)
    with torch.no_grad():
        assert torch.allclose(copied(x), want, atol=1e-5)


def test_no_spectra_where_none_are_needed(played, counted):
    layer = layer_of(BlockCirculantSpec(size=4)).eval()
    with use_kernels(layer, tiles="direct 1x16x16x16:1:4:3"), torch.no_grad():
        layer(torch.randn(2, 12))
        layer(torch.randn(0, 12))
    assert counted == []
