"""Lowering: what a model may contain, what is refused, and that the model is left as it was."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from dovetail.errors import InputError, ProgramError, UnsupportedOp
from dovetail.formats import TuckerSpec
from dovetail.formats.layer import from_dense, swap
from dovetail.program.lower import lower
from dovetail.program.program import Activation
from dovetail.program.reference import run


class Say(nn.Module):
    """A module from a function of its layers and inputs."""

    def __init__(self, function, **layers):
        super().__init__()
        self.function = function
        for name, layer in layers.items():
            setattr(self, name, layer)

    def forward(self, *inputs):
        return self.function(self, *inputs)


def agree(model: nn.Module, *example: torch.Tensor, batch: int = 3):
    """The lowered program, after comparing it with the model at another batch size, in float64."""
    program = lower(model, example)
    inputs = [torch.randn(batch, *x.shape[1:]) for x in example]
    with torch.no_grad():
        want = model.eval()(*inputs)
    got = run(program, *(x.numpy() for x in inputs), dtype=np.float64)
    wants, gots = (y if isinstance(y, tuple) else (y,) for y in (want, got))
    for w, g in zip(wants, gots, strict=True):
        assert g.shape == tuple(w.shape)
        assert np.abs(g - w.numpy()).max() <= 1e-5 * max(np.ptp(w.numpy()), 1e-3)
    return program


def ops(program) -> list[str]:
    return [node.op for node in program.graph.nodes]


def image(channels: int = 4, height: int = 9, width: int = 7) -> torch.Tensor:
    return torch.randn(1, channels, height, width)


def randomise(model: nn.Module) -> nn.Module:
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_()
            module.running_var.uniform_(0.3, 3)
            for parameter in module.parameters():
                nn.init.normal_(parameter)
    return model


def test_a_block_becomes_two_nodes():
    layers = {"a": nn.Conv2d(4, 6, 3, 2, 1), "n": nn.BatchNorm2d(6), "s": nn.Conv2d(4, 6, 1, 2, bias=False)}
    model = randomise(Say(lambda m, x: F.relu6(m.n(m.a(x)) + m.s(x)), **layers))
    program = agree(model, image())
    first, last = program.graph.nodes
    assert [first.name, last.name] == ["a", "s"]
    assert first.epilogue.residual is None
    assert last.epilogue.residual == first.output
    assert last.epilogue.activation == Activation("clamp", (0.0, 6.0))
    assert set(program.weights) == {"a", "s"}


def both(x, write):
    """What an operation makes of `x`, and what it leaves of it."""
    made = write(x)
    return made + 3 * x


SNIPPETS = {
    "strided slices": lambda m, x: x[:, 1:4:2, ::2, 1:],
    "negative index": lambda m, x: x[:, -1],
    "chunk and cat": lambda m, x: torch.cat(x.chunk(2, 1)[::-1], 1),
    "split by sizes": lambda m, x: x.split([1, 3], 1)[1],
    "uneven chunk": lambda m, x: torch.cat(x.chunk(2, 3)[::-1], 3),
    "unbind and stack": lambda m, x: torch.stack(x.unbind(1)[::2], 2),
    "flatten": lambda m, x: x.flatten(2).transpose(1, 2),
    "view by shape": lambda m, x: x.view(x.shape[0], -1),
    "reshape into groups": lambda m, x: x.view(x.size(0), 2, 2, 9, 7).transpose(1, 2).reshape(x.size(0), 4, 9, 7),
    "heads in the batch": lambda m, x: (x.reshape(x.shape[0] * 2, 2, 63) * 2).softmax(-1).view(x.shape[0], 4, 63),
    "squeeze": lambda m, x: x.mean(1, keepdim=True).squeeze(1).unsqueeze(2),
    "scalars": lambda m, x: (2 - x * 3 + 1) / 4 - 0.5,
    "alpha": lambda m, x: torch.add(x, x.relu(), alpha=0.5) - torch.sub(x.tanh(), 1.0, alpha=2),
    "negation": lambda m, x: -x + abs(-2),
    "in place": lambda m, x: x.clone().mul_(2).add_(1).relu_(),
    "in place, of nobody else": lambda m, x: F.hardtanh_((x * 2).add_(x), -0.5, 0.5),
    "in place, read again": lambda m, x: both(x * 2, F.relu_),
    "in place, through a view": lambda m, x: both(x * 2, lambda y: y.flatten(2).relu_().mean(2)[..., None, None]),
    "in place, of the input": lambda m, x: both(x, lambda y: F.dropout(y, 0.5, m.training).relu_()),
    "into another": lambda m, x: both(x * 2, lambda y: torch.add(x, 1, out=y)),
    "sum with itself": lambda m, x: x + x,
    "same pad": lambda m, x: F.pad(x, (1, 2, 3, 0)),
    "crop by pad": lambda m, x: F.pad(x, (-1, 2, 0, -3), value=1.0),
    "channel pad": lambda m, x: F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 1, 1)),
    "max pool": lambda m, x: F.max_pool2d(x, 3, 2, 1),
    "max pool, ceil": lambda m, x: F.max_pool2d(x, 2, 2, ceil_mode=True),
    "max pool, ceil with padding": lambda m, x: F.max_pool2d(x, 3, 2, 1, ceil_mode=True),
    "avg pool": lambda m, x: F.avg_pool2d(x, 3, 2, 1),
    "avg pool, pad not counted": lambda m, x: F.avg_pool2d(x, (3, 2), 2, 1, count_include_pad=False),
    "avg pool, ceil": lambda m, x: F.avg_pool2d(x, 2, 2, ceil_mode=True),
    "avg pool, ceil with padding": lambda m, x: F.avg_pool2d(x, 4, 3, 1, ceil_mode=True),
    "adaptive pools": lambda m, x: F.adaptive_avg_pool2d(x, (3, 2)) + F.adaptive_max_pool2d(x, (3, 2)),
    "mean": lambda m, x: x.mean((2, 3)),
    "upsample": lambda m, x: F.interpolate(x, scale_factor=2),
    "activations": lambda m, x: F.silu(F.hardswish(x)) + F.leaky_relu(torch.sigmoid(x).tanh() - 0.6),
    "gelus": lambda m, x: F.gelu(x) * F.gelu(x, approximate="tanh"),
    "clamps": lambda m, x: x.clamp(-0.5, 0.7) + x.clamp(min=0) + F.hardtanh(x) + x.clamp(max=0.3) + x.clamp(min=0.1),
    "hardsigmoid gate": lambda m, x: x * F.hardsigmoid(x.mean((2, 3), keepdim=True)),
    "softmax": lambda m, x: x.softmax(1),
    "layer norm": lambda m, x: F.layer_norm(x, (9, 7)),
    "matmul": lambda m, x: torch.matmul(x, x.transpose(2, 3)),
    "attention": lambda m, x: F.scaled_dot_product_attention(x, x.tanh(), x.relu()),
    "causal attention": lambda m, x: F.scaled_dot_product_attention(x, x, x, is_causal=True, scale=0.3),
    "dropout": lambda m, x: F.dropout(x, 0.5, m.training).contiguous().detach() + 0,
    "several outputs": lambda m, x: (x + 1, x.relu()),
}


@pytest.mark.parametrize("snippet", SNIPPETS)
def test_operations(snippet):
    agree(Say(SNIPPETS[snippet]), image())


@pytest.mark.parametrize(
    "function, names",
    [
        (lambda m, x: F.relu_(F.relu_(x * 2) + x), ["relu", "relu_1"]),
        (lambda m, x: F.relu_(x.relu() + x), ["relu", "relu_"]),  # the first name is not free
    ],
)
def test_a_write_in_place_has_the_name_of_the_operation(function, names):
    assert [node.output for node in agree(Say(function), image()).graph.nodes] == names


LAYERS = {
    "uneven conv": nn.Conv2d(4, 6, (3, 2), (2, 1), (1, 0), (1, 2)),
    "grouped conv": nn.Conv2d(4, 6, 3, groups=2, bias=False),
    "depthwise conv": nn.Conv2d(4, 8, 3, padding=1, groups=4),
    "same conv": nn.Conv2d(4, 6, (2, 3), padding="same", dilation=2),
    "linear on rows": nn.Linear(7, 5),
    "linear without bias": nn.Linear(7, 5, bias=False),
    "layer norm": nn.LayerNorm((9, 7)),
    "layer norm without bias": nn.LayerNorm(7, bias=False),
    "batch norm without parameters": nn.BatchNorm2d(4, affine=False),
    "pre-activation": nn.Sequential(nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 5, 3)),
    "weight norm": nn.utils.parametrizations.weight_norm(nn.Conv2d(4, 5, 3)),
}


@pytest.mark.parametrize("name", LAYERS)
def test_layers(name):
    agree(randomise(nn.Sequential(LAYERS[name], nn.Identity(), nn.Dropout())), image())


def test_constants_and_several_inputs():
    model = Say(lambda m, x, y: x + m.place + y * m.gain, place=nn.Parameter(torch.randn(1, 6, 5)))
    model.register_buffer("gain", torch.tensor(0.25))
    program = agree(model, torch.randn(2, 6, 5), torch.randn(2, 6, 5))
    assert len(program.graph.inputs) == 2
    assert "place" in program.arrays


def test_a_class_token_is_joined():
    model = Say(
        lambda m, x: torch.cat([m.token.expand(x.shape[0], -1, -1), x], 1), token=nn.Parameter(torch.randn(1, 1, 5))
    )
    agree(model, torch.randn(2, 6, 5))


def test_multi_head_attention():
    attention = nn.MultiheadAttention(8, 2, batch_first=True)
    agree(Say(lambda m, x: m.a(x, x, x, need_weights=False)[0], a=attention), torch.randn(2, 5, 8))


def test_a_module_used_twice_shares_its_weight():
    program = agree(Say(lambda m, x: m.c(m.c(x).relu()), c=nn.Conv2d(4, 4, 3, padding=1)), image())
    assert set(program.weights) == {"c"}
    assert [node.name for node in program.graph.nodes] == ["c", "c:2"]


def test_tied_parameters_share_their_weight():
    a, b = nn.Linear(7, 7), nn.Linear(7, 7)
    b.weight = a.weight
    assert len(agree(Say(lambda m, x: m.b(m.a(x)), a=a, b=b), image()).weights) == 1


def test_unused_layers_are_left_out():
    program = agree(
        Say(lambda m, x: (m.used(x), m.dead(x))[0], used=nn.Conv2d(4, 2, 1), dead=nn.Conv2d(4, 3, 1)), image()
    )
    assert set(program.weights) == {"used"}
    assert set(program.arrays) == {"used.bias"}


@pytest.mark.parametrize("bias", [True, False])
def test_format_layers_keep_their_format(bias):
    model = nn.Sequential(nn.Conv2d(4, 6, 3, 2, 1, bias=bias), nn.BatchNorm2d(6), nn.ReLU())
    swap(model, "0", from_dense(model[0], TuckerSpec(rank_in=2, rank_out=3)))
    program = agree(randomise(model), image())
    assert ops(program) == ["conv2d"]
    assert program.weights["0"].spec == TuckerSpec(rank_in=2, rank_out=3)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_other_types_become_float32(dtype):
    program = lower(nn.Linear(7, 5).to(dtype), torch.randn(2, 7, dtype=dtype))
    assert program.weights["weight"].dense().dtype == np.float32


def test_the_model_stays_as_it_was():
    model = nn.Sequential(nn.Conv2d(4, 6, 3), nn.BatchNorm2d(6), nn.Dropout()).double().train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    lower(model, image().double())
    assert model.training
    assert all(module.training for module in model.modules())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert model[0].weight.requires_grad


def test_the_source_line_travels_with_the_node():
    program = lower(Say(lambda m, x: x.relu()), image())
    assert program.graph.nodes[0].source.startswith("program/test_lower.py:")


def test_metadata_travels():
    assert lower(nn.ReLU(), image(), metadata={"classes": ["a"]}).metadata == {"classes": ["a"]}


def refused(model: nn.Module, *example: torch.Tensor, error=UnsupportedOp) -> str:
    with pytest.raises(error) as caught:
        lower(model, example)
    return str(caught.value)


@pytest.mark.parametrize(
    ("function", "op"),
    [
        (lambda m, x: x.sort(1).values, "sort"),
        (lambda m, x: x.cumsum(1), "cumsum"),
        (lambda m, x: F.pad(x, (1, 1, 1, 1), mode="reflect"), "reflect"),
        (lambda m, x: x / (x + 1), "div"),
        (lambda m, x: x.mean(), "mean"),
        (lambda m, x: F.interpolate(x, size=(10, 10)), "upsample_nearest2d"),
        (lambda m, x: x[0], "select"),
        (lambda m, x: F.avg_pool2d(x, 2, divisor_override=3), "avg_pool2d"),
        (lambda m, x: F.instance_norm(x), "norm"),
        (lambda m, x: torch.cat([x, x]), "cat"),
    ],
)
def test_unknown_operations_name_themselves(function, op):
    message = refused(Say(function), image())
    assert op in message


def test_the_error_names_node_operation_layer_and_line():
    class Sorts(nn.Module):
        def forward(self, x):
            return x.sort(1).values  # this line

    line = next(i for i, text in enumerate(Path(__file__).read_text().splitlines(), 1) if text.endswith("# this line"))
    message = refused(nn.Sequential(nn.ReLU(), Sorts()), image())
    for words in ("sort", "'1'", f"test_lower.py:{line}", "rewrite"):
        assert words in message


def test_transposed_convolutions_are_refused():
    assert "conv" in refused(nn.ConvTranspose2d(4, 4, 3), image())


def test_batch_statistics_are_refused():
    assert "norm" in refused(nn.BatchNorm2d(4, track_running_stats=False), image())


@pytest.mark.parametrize("part", ["weight", "bias", "running_var"])
def test_a_weight_that_is_no_number_is_refused_by_layer(part):
    model = nn.Sequential(nn.Conv2d(4, 6, 3), nn.BatchNorm2d(6))
    layer = model[1] if part == "running_var" else model[0]
    with torch.no_grad():
        getattr(layer, part).view(-1)[1] = float("nan")
    message = refused(model, image(), error=ProgramError)
    assert "NaN" in message
    assert ("1." if part == "running_var" else "0.") + part in message


@pytest.mark.parametrize(
    "function", [lambda m, x: x.view(2, -1), lambda m, x: x * 2 if x.shape[0] == 2 else x], ids=["reshape", "branch"]
)
def test_a_fixed_batch_is_refused_with_its_line(function):
    message = refused(Say(function), torch.randn(2, 4, 3))
    assert "fixes its batch size" in message
    assert f"test_lower.py:{function.__code__.co_firstlineno}" in message


def test_branches_by_torch_are_refused():
    def branch(m, x):
        return torch.cond(x.shape[0] > 2, torch.relu, torch.tanh, (x,))

    with pytest.raises(UnsupportedOp, match="branches or loops by a torch operation"):
        lower(Say(branch), image())


def test_branches_on_values_are_refused():
    def branch(m, x):
        return x if x.sum() > 0 else -x

    assert "test_lower.py" in refused(Say(branch), image())


@pytest.mark.parametrize("example", [None, (), torch.zeros(0, 3, 4, 4), torch.zeros(2, 3, dtype=torch.int64)])
def test_an_example_must_be_images(example):
    with pytest.raises(InputError, match="example"):
        lower(nn.ReLU(), example)


def test_fusion_leaves_one_node_per_layer():
    layers = (nn.Conv2d(4, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, 6, 1), nn.Hardswish(), nn.Flatten())
    assert Counter(ops(agree(randomise(nn.Sequential(*layers)), image()))) == {"conv2d": 2, "reshape": 1}
