"""`shrink` on torch networks: the same function with fewer channels, or a refusal that says why."""

from __future__ import annotations

import copy
import json

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from dovetail.errors import DataError, SpecError
from dovetail.formats import structure
from dovetail.formats.kernel_basis import KernelBasisSpec
from dovetail.formats.layer import from_dense, swap
from dovetail.formats.sparse import SparseSpec
from dovetail.formats.svd import SvdSpec
from dovetail.formats.tucker import TuckerSpec
from dovetail.methods.shrink import ChannelMap, shrink


def norm(channels):
    return nn.BatchNorm2d(channels)


class Block(nn.Module):
    """conv, norm, relu, conv, norm, plus a shortcut: identity, projection, or option A."""

    def __init__(self, c, k, stride=1, shortcut="identity"):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(c, k, 3, stride, 1, bias=False), norm(k)
        self.conv2, self.bn2 = nn.Conv2d(k, k, 3, 1, 1, bias=False), norm(k)
        self.kind, self.extra = shortcut, k - c
        if shortcut == "projection":
            self.down = nn.Sequential(nn.Conv2d(c, k, 1, stride, bias=False), norm(k))

    def forward(self, x):
        y = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        if self.kind == "projection":
            x = self.down(x)
        elif self.kind == "A":
            x = F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, self.extra // 2, self.extra - self.extra // 2))
        return F.relu(y + x)


class Inverted(nn.Module):
    """MobileNetV2's block: expand, depthwise, project."""

    def __init__(self, c):
        super().__init__()
        self.expand, self.bn1 = nn.Conv2d(c, 3 * c, 1, bias=False), norm(3 * c)
        self.depth, self.bn2 = nn.Conv2d(3 * c, 3 * c, 3, padding=1, groups=3 * c, bias=False), norm(3 * c)
        self.project, self.bn3 = nn.Conv2d(3 * c, c, 1, bias=False), norm(c)

    def forward(self, x):
        y = F.relu6(self.bn2(self.depth(F.relu6(self.bn1(self.expand(x))))))
        return x + self.bn3(self.project(y))


class Fire(nn.Module):
    """SqueezeNet's block: two branches concatenated."""

    def __init__(self, c):
        super().__init__()
        self.squeeze, self.one, self.three = nn.Conv2d(c, 4, 1), nn.Conv2d(4, 6, 1), nn.Conv2d(4, 6, 3, padding=1)

    def forward(self, x):
        x = F.relu(self.squeeze(x))
        return F.relu(torch.cat([self.one(x), self.three(x)], 1))


class Gate(nn.Module):
    """Squeeze and excitation."""

    def __init__(self, c):
        super().__init__()
        self.down, self.up = nn.Conv2d(c, 4, 1), nn.Conv2d(4, c, 1)

    def forward(self, x):
        return x * self.up(F.relu(self.down(x.mean((2, 3), keepdim=True)))).sigmoid()


def stem(k=8):
    return [nn.Conv2d(3, k, 3, padding=1, bias=False), norm(k), nn.ReLU()]


def head(c):
    return [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(c, 5)]


NETWORKS = {
    "chain": lambda: [*stem(), nn.Conv2d(8, 10, 3), norm(10), nn.ReLU(), nn.Conv2d(10, 6, 1), nn.ReLU(), *head(6)],
    "projection": lambda: [*stem(), Block(8, 8), Block(8, 12, 2, "projection"), Block(12, 12), *head(12)],
    "option-a": lambda: [*stem(), Block(8, 8), Block(8, 16, 2, "A"), Block(16, 16), *head(16)],
    "depthwise": lambda: [*stem(), Inverted(8), Inverted(8), *head(8)],
    "concat": lambda: [*stem(), Fire(8), nn.MaxPool2d(2), Fire(12), nn.Conv2d(12, 5, 1), nn.AdaptiveAvgPool2d(1)],
    "gate": lambda: [*stem(), Gate(8), nn.Conv2d(8, 8, 3), nn.ReLU(), *head(8)],
    "vgg": lambda: [
        *stem(),
        nn.MaxPool2d(4),
        nn.Flatten(),
        nn.Linear(32, 20),
        nn.BatchNorm1d(20),
        nn.ReLU(),
        nn.Linear(20, 5),
    ],
}


def make(name, *, shift=0.0):
    """A network with random batch norm statistics, in eval mode; `shift` moves every norm's beta."""
    generator = torch.Generator().manual_seed(len(name))
    model = nn.Sequential(*NETWORKS[name]()).eval()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.5, generator=generator)
            module.running_var.uniform_(0.5, 2, generator=generator)
            module.weight.data.uniform_(0.5, 1.5, generator=generator)
            module.bias.data.normal_(0, 0.5, generator=generator).add_(shift)
    return model


def weight_layers(model):
    return {n: m for n, m in model.named_modules() if isinstance(m, nn.Conv2d | nn.Linear)}


@torch.no_grad()
def cut(model, share=0.4, *, rows=True, columns=True, seed=0):
    """Zero a random share of every layer's rows and columns."""
    generator = torch.Generator().manual_seed(seed)
    for layer in weight_layers(model).values():
        for axis, wanted in ((0, rows), (1, columns)):
            chosen = torch.rand(layer.weight.shape[axis], generator=generator) < share
            if wanted and layer.weight.shape[1] > 1:
                layer.weight[(slice(None),) * axis + (chosen,)] = 0
    return model


def params(model):
    return sum(p.numel() for p in model.parameters())


def images():
    return torch.randn(3, 3, 8, 8, generator=torch.Generator().manual_seed(9))


@pytest.mark.parametrize("name", NETWORKS)
def test_exact_keeps_the_function_and_leaves_nothing_to_remove(name):
    model, x = cut(make(name)), images()
    before, size = model(x), params(model)
    result = shrink(model, x)
    assert params(model) < 0.8 * size
    assert (model(x) - before).abs().max() <= 1e-5
    assert shrink(model, x).removed == 0
    for layer_name, channels in result.layers.items():
        layer = model.get_submodule(layer_name)
        width = layer.weight.shape[0]
        assert width == len(channels.outputs) >= 1


@pytest.mark.parametrize("name", ["chain", "projection", "option-a"])
def test_paper_mode_is_exact_where_all_constants_are_zero(name):
    """Beta far below zero before every ReLU makes relu(shift) = 0 for a dead row, and the whole network constant at
    first; so the live channels are shifted back.
    """
    model, x = make(name), images()
    live = []
    for producer, following in zip(list(model.modules()), list(model.modules())[1:]):
        if isinstance(producer, nn.Conv2d) and isinstance(following, nn.BatchNorm2d):
            live.append((producer, following))
    with torch.no_grad():
        for producer, following in live:
            dead = torch.arange(producer.out_channels) % 3 == 0
            producer.weight[dead] = 0
            following.bias[dead] = -50.0
            following.running_mean[dead] = 0.0
    before, size = model(x), params(model)
    shrink(model, x, mode="paper")
    assert params(model) < size
    assert (model(x) - before).abs().max() <= 1e-5


def test_paper_removes_what_exact_must_keep():
    model, x = make("option-a", shift=2.0), images()
    cut(model, columns=False)
    exact, paper = copy.deepcopy(model), copy.deepcopy(model)
    before = model(x)
    kept, gone = shrink(exact, x), shrink(paper, x, mode="paper")
    assert gone.removed > kept.removed
    assert (exact(x) - before).abs().max() <= 1e-5
    assert (paper(x) - before).abs().max() > 1e-3


@pytest.mark.parametrize("name", ["projection", "option-a"])
def test_added_tensors_keep_the_same_channels(name):
    model, x = cut(make(name), 0.5), images()
    result = shrink(model, x).layers
    assert result["0"].outputs == result["3.conv2"].outputs
    assert result["4.conv2"].outputs == result["5.conv2"].outputs
    if name == "projection":
        assert result["4.down.0"].outputs == result["4.conv2"].outputs
    else:
        assert all(result[layer].whole for layer in ("0", "3.bn2", "4.bn2", "6" if "6" in result else "4.bn2"))


def test_constants_fold_into_bias_or_norm():
    """1x1 consumers: one with a bias, one with a norm behind it."""
    model = nn.Sequential(*stem(), nn.Conv2d(8, 6, 1), nn.ReLU(), nn.Conv2d(6, 4, 1, bias=False), norm(4)).eval()
    with torch.no_grad():
        model[0].weight[:4] = 0
        model[1].bias.fill_(1.0)
        model[3].weight[:3] = 0
        model[3].bias.fill_(2.0)
    x = images()
    before, mean = model(x), model[6].running_mean.clone()
    result = shrink(model, x)
    assert result.layers["0"].outputs == (4, 5, 6, 7)
    assert result.layers["3"].outputs == (3, 4, 5)
    assert not torch.equal(model[6].running_mean, mean)
    assert (model(x) - before).abs().max() <= 1e-5


def test_keep_takes_the_callers_choice():
    model, x = make("projection"), images()
    wanted = {"0": [0, 2, 5], "3.conv1": [1], "4.bn1": [3, 4]}
    result = shrink(model, x, keep=wanted)
    assert result.layers["3.conv2"].outputs == (0, 2, 5)
    assert model[3].conv1.weight.shape == (1, 3, 3, 3)
    assert model[4].conv2.weight.shape == (12, 2, 3, 3)
    again = shrink(make("projection"), x, keep=result)
    assert again.layers == result.layers


def test_keep_slices_the_very_weights():
    model, x = make("chain"), images()
    weight = model[3].weight.clone()
    shrink(model, x, keep={"0": [1, 6], "3": [0, 9]})
    assert torch.equal(model[3].weight, weight[[0, 9]][:, [1, 6]])
    assert model[3].weight.requires_grad


SPECS = {
    "kernel_basis": KernelBasisSpec(bases=4, coefficients="sparse"),
    "sparse": SparseSpec(density=0.7),
    "tucker": TuckerSpec(rank_in=6, rank_out=6),
}


@pytest.mark.parametrize("format_name", SPECS)
def test_every_format_is_sliced(format_name):
    model, x = make("chain"), images()
    swap(model, "3", from_dense(model[3], SPECS[format_name], "3"))
    swap(model, "6", from_dense(model[6], SvdSpec(rank=5), "6"))
    dense = copy.deepcopy(model)
    for name in ("3", "6"):
        swap(dense, name, dense.get_submodule(name).to_dense())
    keep = {"0": [0, 3, 4], "3": [0, 2, 5, 7], "6": [1, 2]}
    shrink(model, x, keep=keep)
    shrink(dense, x, keep=keep)
    torch.testing.assert_close(model(x), dense(x), atol=1e-5, rtol=1e-4)
    fresh = structure.rebuild(make("chain"), structure.describe(model))
    fresh.load_state_dict(model.state_dict())
    assert torch.equal(fresh.eval()(x), model(x))


def test_idle_bases_leave_too():
    model, x = make("chain"), images()
    layer = from_dense(model[3], SPECS["kernel_basis"], "3")
    with torch.no_grad():
        layer.coefficients[:, :, 1] = 0
    swap(model, "3", layer)
    before = model(x)
    shrink(model, x)
    assert model[3].spec.bases == 3
    assert (model(x) - before).abs().max() <= 1e-5


class Fixed(nn.Module):
    """Hard-codes a channel number where no trace shows it."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 4, 3)

    def forward(self, x):
        y = self.a(x)
        return self.b(y[:, :8] if y.shape[1] == 8 else y.reshape(x.shape[0], 8, 8, 8))


def test_a_model_that_cannot_shrink_is_restored():
    model, x = Fixed(), images()
    modules, before = dict(model.named_modules()), model(x)
    with pytest.raises(SpecError, match="the model is unchanged"):
        shrink(model, x, keep={"a": [0, 1]})
    assert dict(model.named_modules()) == modules
    assert torch.equal(model(x), before)


class Own(nn.Module):
    """A parameter that no known layer holds, and a layer used twice."""

    def __init__(self):
        super().__init__()
        self.a, self.twice, self.b = nn.Conv2d(3, 6, 3), nn.Conv2d(6, 6, 1), nn.Conv2d(6, 6, 3)
        self.kernel = nn.Parameter(torch.randn(4, 6, 1, 1))

    def forward(self, x):
        return F.conv2d(F.relu(self.b(self.twice(self.twice(self.a(x))))), self.kernel)


def test_what_cannot_be_followed_is_left_alone_and_named():
    model, x = Own(), images()
    with torch.no_grad():
        for layer in (model.a, model.twice, model.b):
            layer.weight[:3] = 0
    before = model(x)
    result = shrink(model, x, mode="paper")
    assert result.removed == 0
    assert torch.equal(model(x), before)
    reasons = " ".join(result.left.values())
    assert "used more than once" in reasons
    assert "not held by" in reasons


def test_train_mode_and_statistics_survive():
    model, x = make("chain"), images()
    model.train()
    model[4].eval()
    mean = model[1].running_mean.clone()
    shrink(model, x, keep={"3": [0, 1]})
    assert model[1].training
    assert not model[4].training
    assert torch.equal(model[1].running_mean, mean)


def test_the_map_is_plain_data():
    result = shrink(cut(make("option-a")), images())
    text = json.dumps(result.to_json())
    assert ChannelMap.from_json(json.loads(text)) == result
    for broken in ({}, {"layers": {"a": {}}, "left": {}, "mode": "exact"}, {"layers": 3, "left": {}, "mode": ""}):
        with pytest.raises(DataError, match="not a channel map"):
            ChannelMap.from_json(broken)


def test_an_unknown_mode_is_refused():
    with pytest.raises(SpecError, match="exact, paper"):
        shrink(make("chain"), images(), mode="fast")
