"""Models whose Tucker layers use kernels: the same model in every other respect."""

from __future__ import annotations

import copy
import io

import pytest
import safetensors.torch
import torch
from torch import nn

from dovetail.errors import GpuError
from dovetail.formats import SvdSpec, TuckerSpec
from dovetail.formats.layer import from_dense
from dovetail.formats.tucker.layer import TuckerConv2d
from dovetail.gpu import use_kernels
from dovetail.gpu.tucker.layer import TuckerKernels
from dovetail.program.lower import lower
from dovetail.program.reference import run


def network() -> nn.Sequential:
    torch.manual_seed(0)
    layers = [
        from_dense(nn.Conv2d(4, 6, 3, padding=1), TuckerSpec(rank_in=3, rank_out=4)),
        nn.ReLU(),
        from_dense(nn.Conv2d(6, 5, 3, stride=2, bias=False), TuckerSpec(rank_in=2, rank_out=3)),
        nn.Flatten(),
        from_dense(nn.Linear(45, 7), SvdSpec(rank=3)),
    ]
    return nn.Sequential(*layers)


X = torch.linspace(-1, 1, 2 * 4 * 7 * 7).view(2, 4, 7, 7)


def test_within_the_block_layers_use_kernels_and_after_it_they_do_not():
    model = network()
    before = model(X)
    with use_kernels(model, precision="tf32", tiles="model") as kernels:
        assert kernels.taken == ["0", "2"]
        assert kernels.left == {"4": "SvdLinear has no kernels for GPUs"}
        assert type(model[0]) is TuckerKernels
        assert (model[0].kernel_precision, model[0].kernel_tiles) == ("tf32", "model")
        assert torch.allclose(model(X), before, atol=1e-6)
    assert type(model[0]) is TuckerConv2d
    assert not {"kernel_precision", "kernel_tiles"} & set(vars(model[0]))
    assert torch.allclose(model(X), before, atol=1e-6)


@pytest.mark.parametrize(("rank_in", "rank_out"), [(4, 3), (2, 6), (4, 6)])
@pytest.mark.parametrize("bias", [True, False])
def test_folded_sides_have_no_convolution(rank_in, rank_out, bias):
    spec = TuckerSpec(rank_in=rank_in, rank_out=rank_out, fold=True)
    layer = from_dense(nn.Conv2d(4, 6, 3, padding=1, stride=2, bias=bias), spec)
    before = layer(X)
    with use_kernels(nn.Sequential(layer)):
        assert torch.allclose(layer(X), before, atol=1e-6)
        layer(X).sum().backward()
    assert layer.core.grad is not None


def test_a_block_that_fails_restores_too():
    model = network()
    with pytest.raises(KeyError), use_kernels(model):
        raise KeyError
    assert type(model[0]) is TuckerConv2d


@pytest.mark.parametrize("tiles", ["rubbish", "4x4x16x16:1:4:3", ""])
def test_tiles_that_are_none_are_refused_before_anything_changes(tiles):
    model = network()
    with pytest.raises(GpuError, match=r"layer '0': .* or say auto, model, oracle or exhaustive"):
        use_kernels(model, tiles=tiles)
    assert type(model[0]) is TuckerConv2d
    use_kernels(model[3:], tiles=tiles)  # no layer to which it could matter


def test_a_folded_layer_takes_the_tiles_of_its_core():
    layer = from_dense(nn.Conv2d(4, 6, 3), TuckerSpec(rank_in=4, rank_out=3, fold=True))
    with use_kernels(layer, tiles="4x4x16x16:1:4:3"):
        layer(X)
    with pytest.raises(GpuError, match="are no tiles"):
        use_kernels(layer, tiles=" ".join(["1x16x16x16:1:4:3"] * 3))


def test_without_a_block_it_stays_until_restored():
    model = network()
    kernels = use_kernels(model)
    assert type(model[0]) is TuckerKernels
    kernels.restore()
    kernels.restore()
    assert type(model[0]) is TuckerConv2d


def test_a_layer_alone():
    layer = network()[0]
    with use_kernels(layer) as kernels:
        assert kernels.taken == [""]
        assert type(layer) is TuckerKernels


def test_twice_is_as_once():
    model = network()
    with use_kernels(model), use_kernels(model) as inner:
        assert inner.taken == []
        assert inner.left == {
            "0": "it runs on kernels already",
            "2": "it runs on kernels already",
            "4": "SvdLinear has no kernels for GPUs",
        }
        assert type(model[0]) is TuckerKernels
    assert type(model[0]) is TuckerConv2d


def test_training_takes_the_same_steps():
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
        assert torch.allclose(steps[1][name], value, atol=1e-6), name


def test_parameters_stay_the_same_objects_with_the_same_numbers():
    model = network()
    parameters, numbers = list(model.parameters()), {n: p.clone() for n, p in model.named_parameters()}
    with use_kernels(model):
        assert all(one is other for one, other in zip(parameters, model.parameters(), strict=True))
        assert all(torch.equal(p, numbers[n]) for n, p in model.named_parameters())
        assert model[0].core.stride() == (1, 4, 3 * 3 * 4, 3 * 4)


def test_the_memory_lies_as_before_too():
    model = network()
    model[2].core.data = model[2].core.data.transpose(0, 1).contiguous().transpose(0, 1)
    strides, numbers = [p.stride() for p in model.parameters()], [p.clone() for p in model.parameters()]
    with use_kernels(model):
        assert [p.stride() for p in model.parameters()] != strides
    assert [p.stride() for p in model.parameters()] == strides
    assert all(map(torch.equal, model.parameters(), numbers))
    assert "kernel_strides" not in vars(model[0])
    saved = safetensors.torch.load(safetensors.torch.save(model[:1].state_dict()))
    assert torch.equal(saved["0.core"], model[0].core)


def test_without_numbers_there_are_shapes():
    model = network().to("meta")
    with use_kernels(model):
        assert model(X.to("meta")).shape == (2, 7)
    assert type(model[0]) is TuckerConv2d


def test_copies_and_files():
    model = network()
    with use_kernels(model):
        copied = copy.deepcopy(model)
        file = io.BytesIO()
        torch.save(model.state_dict(), file)
    file.seek(0)
    other = network()
    other.load_state_dict(torch.load(file, weights_only=True))
    assert torch.allclose(copied(X), other(X), atol=1e-6)
    assert type(copied[0]) is TuckerKernels


def test_it_is_packed_and_lowered_as_ever():
    model = network()
    before = lower(model, X)
    with use_kernels(model):
        after = lower(model, X)
        assert model[0].pack().spec == model[0].spec
    assert {n: p.spec for n, p in after.weights.items()} == {n: p.spec for n, p in before.weights.items()}
    assert (run(after, X.numpy()) == run(before, X.numpy())).all()


def test_one_graph_under_torch_compile():
    model = network()
    want = model(X)
    with use_kernels(model):
        compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
        assert torch.allclose(compiled(X), want, atol=1e-6)


def test_a_precision_that_does_not_exist():
    with pytest.raises(GpuError, match="ieee, tf32, tf32x3"):
        use_kernels(network(), precision="half")
