"""Permuted diagonals and circulant blocks as methods: plans, starts, and numbers that are shared."""

from __future__ import annotations

import logging
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from dovetail.api import compress
from dovetail.errors import SpecError
from dovetail.formats import BlockCirculantSpec, PermutedDiagonalSpec, TuckerSpec
from dovetail.formats.block_circulant import PackedBlockCirculant
from dovetail.formats.values import CODEBOOK4, FIXED16
from dovetail.methods import CirCnn, Kept, PermDnn, Plan
from method_samples import batches, build


def mlp(*features: int) -> nn.Sequential:
    torch.manual_seed(3)
    return nn.Sequential(*(nn.Linear(a, b) for a, b in pairwise(features)))


X = torch.zeros(1, 1, 6, 6)
ONE = [(torch.zeros(1, 400), torch.zeros(1, dtype=torch.long))]


def test_small_layers_stay_dense_and_say_why() -> None:
    plan = PermDnn(size=4).plan(build(), X)
    assert plan.layers == {
        "stem": Kept("1 inputs and 16 outputs are too few for blocks of 4"),
        "same": PermutedDiagonalSpec(size=4),
        "down": PermutedDiagonalSpec(size=4),
        "fc": Kept("24 inputs and 3 outputs are too few for blocks of 4"),
    }
    plan = CirCnn(size=2, sizes={"same": 8, "down": 1}).plan(build(), X)
    assert plan.layers == {
        "stem": Kept("1 input channels (everything=True takes it)"),
        "same": BlockCirculantSpec(size=8),
        "down": Kept("size 1"),
        "fc": Kept("classifier of 3 classes (everything=True takes it)"),
    }
    every = CirCnn(size=2, everything=True).plan(build(), X)
    assert all(what == BlockCirculantSpec(size=2) for what in every.layers.values())
    given = PermDnn(size=4).plan(build(), X, Plan({"same": Kept("asked"), "fc": PermutedDiagonalSpec(size=3)}))
    assert given.layers["same"] == Kept("asked")
    assert given.layers["fc"] == PermutedDiagonalSpec(size=3)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"size": 0}, "permdnn size must be a whole number of at least 1, not 0"),
        ({"sizes": {"fc": 2.5}}, "permdnn fc must be a whole number of at least 1, not 2.5"),
        ({"sizes": 8}, "permdnn sizes must map names of layers to sizes, not be 8"),
        ({"start": "middle"}, "start must be pretrained or scratch"),
        ({"values": "ternary"}, "values must be one of f32, bf16, int8, fixed16, codebook4, not 'ternary'"),
        ({"values": "int8", "share_epochs": 2}, "share_epochs train a code book; values 'int8' have none"),
        ({"index": "searched", "start": "scratch"}, "start='scratch' has none"),
        ({"index": "best"}, "index must be one of"),
        ({"index": "random", "seed": -1}, "seed must be a whole number"),
    ],
)
def test_bad_options_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(SpecError, match=message):
        PermDnn(**options)


def test_bad_plans_are_refused() -> None:
    model = build()
    before = {name: p.clone() for name, p in model.named_parameters()}
    for method, given, message in (
        (PermDnn(sizes={"same": 17}), None, "layer 'same': permuted diagonals of size 17 in a 16 x 16 weight"),
        (PermDnn(sizes={"nosuch.*": 2}), None, "no layer is called 'nosuch"),
        (
            PermDnn(),
            Plan({"same": TuckerSpec(rank_in=4, rank_out=4)}),
            "trains the format permuted_diagonal, not tucker",
        ),
        (
            CirCnn(size=32),
            None,
            "finds no layer for blocks of 32; give another size .*16 inputs and 16 outputs are too few",
        ),
    ):
        with pytest.raises(SpecError, match=message):
            method.plan(model, X, given)
    assert all(torch.equal(before[name], p) for name, p in model.named_parameters())
    grouped = nn.Sequential(nn.Conv2d(16, 16, 3, groups=4), nn.Flatten())
    with pytest.raises(SpecError, match="holds no grouped convolutions"):
        PermDnn().plan(grouped, torch.zeros(1, 16, 3, 3), Plan({"0": PermutedDiagonalSpec(size=2)}))


def test_layers_that_would_never_mix_take_a_random_index(caplog: pytest.LogCaptureFixture) -> None:
    """12 inputs in blocks of 4: three columns of blocks, and one more is a multiple of 4; 20 inputs: one of 2."""
    with caplog.at_level(logging.WARNING, logger="dovetail.methods"):
        plan = PermDnn(size=4, everything=True, seed=9).plan(mlp(12, 20, 16, 16), torch.zeros(1, 12))
    assert list(plan.layers.values()) == [
        PermutedDiagonalSpec(size=4, index="random", seed=9),
        PermutedDiagonalSpec(size=4, index="random", seed=9),
        PermutedDiagonalSpec(size=4),
    ]
    said = (
        "takes a random index: with the natural one of size 4, layers of %d inputs one after another never mix them all"
    )
    assert [message.partition(";")[0] for message in caplog.messages] == [
        f"layer '{number}' {said % inputs}" for number, inputs in ((0, 12), (1, 20))
    ]


def indices(plan: Plan) -> list[str]:
    return [getattr(what, "index", "dense") for what in plan.layers.values()]


def test_a_layer_that_does_not_mix_the_one_before_takes_a_random_index(caplog: pytest.LogCaptureFixture) -> None:
    """Sizes of 8 then 4 meet half of the classes; 4 then 8 all; the third has a random one before it."""
    model, x = mlp(512, 512, 512, 512), torch.zeros(1, 512)
    plan = PermDnn(sizes={"0": 8, "1": 4, "2": 2}, everything=True, seed=7).plan(model, x)
    assert indices(plan) == ["natural", "random", "natural"]
    assert plan.layers["1"] == PermutedDiagonalSpec(size=4, index="random", seed=7)
    assert [message.partition(";")[0] for message in caplog.messages] == [
        "layer '1' takes a random index: with natural ones of size 4 after 8 of layer '0', an output reaches 0.5 of "
        "what its inputs could"
    ]
    caplog.clear()
    assert indices(PermDnn(sizes={"0": 4, "1": 8, "2": 8}, everything=True).plan(model, x)) == ["natural"] * 3
    assert not caplog.messages


def test_a_dense_layer_between_mixes_and_a_depthwise_one_does_not() -> None:
    def chain(middle: nn.Module) -> nn.Module:
        return nn.Sequential(nn.Conv2d(64, 64, 1), middle, nn.Conv2d(64, 64, 1))

    for middle, last in (
        (nn.ReLU(), "random"),
        (nn.Conv2d(64, 64, 3, padding=1, groups=64), "random"),
        (nn.Conv2d(64, 64, 3, padding=1, groups=2), "natural"),
        (nn.Conv2d(64, 64, 3, padding=1), "natural"),
    ):
        method = PermDnn(size=1, sizes={"0": 8, "2": 4}, everything=True)
        assert indices(method.plan(chain(middle), torch.zeros(1, 64, 4, 4)))[-1] == last


@pytest.mark.parametrize("size, index", [(2, "natural"), (8, "natural"), (32, "random")])
def test_flattened_maps_are_the_channels_that_they_came_from(size: int, index: str) -> None:
    """Each channel is four inputs: a class of 8 reads every second or more, one of 32 every eighth."""
    model = nn.Sequential(nn.Conv2d(32, 32, 3), nn.ReLU(), nn.Flatten(), nn.Linear(32 * 4, 64))
    method = PermDnn(sizes={"0": 4, "3": size}, everything=True)
    assert indices(method.plan(model, torch.zeros(1, 32, 4, 4))) == ["natural", index]


def test_given_formats_are_kept_and_only_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    model, x = mlp(512, 512, 512), torch.zeros(1, 512)
    given = Plan({"0": PermutedDiagonalSpec(size=8), "1": PermutedDiagonalSpec(size=4)})
    assert PermDnn().plan(model, x, given).layers == given.layers
    (message,) = caplog.messages
    assert message.startswith("layer '1' keeps its natural index: with natural ones of size 4 after 8 of layer '0'")
    caplog.clear()
    random = Plan({"0": PermutedDiagonalSpec(size=8), "1": PermutedDiagonalSpec(size=4, index="random", seed=1)})
    assert PermDnn().plan(model, x, random).layers == random.layers
    assert not caplog.messages
    first = Plan({"0": PermutedDiagonalSpec(size=8)})
    assert indices(PermDnn(size=4, everything=True).plan(model, x, first)) == ["natural", "random"]


def test_layers_that_stay_dense_are_not_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    model = nn.Sequential(nn.Conv2d(3, 16, 3), nn.ReLU(), nn.Conv2d(16, 16, 3), nn.Flatten(), nn.Linear(64, 10))
    plan = PermDnn(size=2).plan(model, torch.zeros(1, 3, 6, 6))
    assert isinstance(plan.layers["0"], Kept)
    assert not PermutedDiagonalSpec(size=2).mixes((16, 1, 3, 3))
    assert not caplog.messages


def test_the_start_is_the_nearest_weight_or_a_new_one_of_the_right_deviation() -> None:
    dense: Any = mlp(400, 400, 300)
    weight = dense[0].weight.detach().numpy().copy()
    method = PermDnn(size=8, epochs=0, index="searched", everything=True)
    compress(dense, method, train=ONE)
    kept = dense[0].weight().detach().numpy()
    assert np.array_equal(kept[kept != 0], weight[kept != 0])
    for method, inputs in (
        (PermDnn(size=8, start="scratch", epochs=0, everything=True), 400 / 8),
        (CirCnn(size=8, start="scratch", epochs=0, everything=True), 400),
    ):
        made: Any = mlp(400, 400, 300)
        compress(made, method, train=ONE)
        values = made[0].values.detach()
        assert float(values.std()) == pytest.approx((2 / inputs) ** 0.5, rel=0.05)


@pytest.mark.parametrize("kind", [PermDnn, CirCnn])
def test_shared_numbers_move_together_and_are_what_is_packed(kind: Any) -> None:
    """Fifteen steps: every number of a code takes the mean gradient, and the packed book loses nothing but float16."""
    method = kind(size=3, epochs=1, share_epochs=2, share_learning_rate=0.05)
    model = build()
    plan = compress(model, method, train=batches()).plan
    assert {spec.values for _, spec in plan.specs()} == {CODEBOOK4}
    for name, _ in plan.specs():
        layer = model.get_submodule(name)
        packed = layer.pack()
        assert packed.spec.values == CODEBOOK4
        assert len(np.unique(packed.dense()[packed.dense() != 0])) <= 16
        assert np.array_equal(packed.dense(), layer.weight().detach().numpy())


def test_a_step_of_shared_numbers_is_one_of_gradient_descent_on_their_means() -> None:
    method = PermDnn(size=2, epochs=0, share_epochs=1, everything=True, momentum=0.0, nesterov=False)
    model = mlp(8, 6, 4)
    method.plan(model, torch.zeros(1, 8))
    for phase in method.phases():
        method.begin(phase, model)
    layer: Any = model[0]
    with torch.no_grad():
        codes, before = method.state_dict()["codes"]["0"], layer.values.clone()
    layer(torch.randn(5, 8)).square().sum().backward()
    gradient = layer.values.grad.clone().flatten()
    method.before_step()
    for code in codes.unique():
        chosen = codes == code
        assert torch.allclose(layer.values.grad.flatten()[chosen], gradient[chosen].mean())
        assert len(before.flatten()[chosen].unique()) == 1


def test_a_step_of_circulant_numbers_is_that_of_the_dense_weight_brought_to_the_nearest() -> None:
    method, model = CirCnn(size=4, epochs=1, everything=True, learning_rate=0.1), mlp(12, 8)
    method.plan(model, torch.zeros(1, 12))
    (phase,) = method.phases()
    groups = method.begin(phase, model)
    layer: Any = model[0]
    x, dense = torch.randn(5, 12), layer.weight().detach().requires_grad_()
    nn.functional.linear(x, dense, layer.bias.detach()).square().sum().backward()
    layer(x).square().sum().backward()
    torch.optim.SGD(groups, lr=phase.learning_rate).step()
    stepped = (dense - 0.1 * dense.grad).detach().numpy()
    nearest = PackedBlockCirculant.from_dense(stepped, layer.spec).dense()
    assert np.allclose(layer.weight().detach().numpy(), nearest, atol=1e-6)
    assert not np.allclose(nearest, dense.detach().numpy(), atol=1e-2)


def test_values_of_sixteen_bits_are_rounded_in_the_end() -> None:
    model = build()
    plan = compress(model, PermDnn(size=4, epochs=1, values="fixed16"), train=batches()).plan
    assert plan.layers["same"] == PermutedDiagonalSpec(size=4, values=FIXED16)
    layer: Any = model.get_submodule("same")
    assert np.array_equal(layer.pack().dense(), layer.weight().detach().numpy())
