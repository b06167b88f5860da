"""A compressed model's structure goes through JSON into a freshly built original."""

import copy
import json

import pytest
import torch
from torch import nn

from dovetail.errors import SpecError
from dovetail.formats import KernelBasisSpec, SparseSpec, SvdSpec, TuckerSpec
from dovetail.formats import layer as layers
from dovetail.formats.structure import describe, rebuild


def build(width=8):
    return nn.Sequential(
        nn.Conv2d(3, width, 3, padding=1, bias=False),
        nn.BatchNorm2d(width),
        nn.Conv2d(width, 8, 3, stride=2, padding="valid"),
        nn.Sequential(nn.BatchNorm2d(8), nn.Identity(), nn.Conv2d(8, 10, 1)),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(10, 6),
        nn.Linear(6, 5),
    )


@pytest.fixture
def compressed():
    """Every format, a mask, and removed channels."""
    model = build(width=5)
    specs = {
        "0": KernelBasisSpec(bases=4, coefficients="sparse"),
        "2": TuckerSpec(rank_in=3, rank_out=4),
        "3.2": SvdSpec(rank=4),
        "6": SparseSpec(density=0.5),
    }
    for name, spec in specs.items():
        layers.swap(model, name, layers.from_dense(model.get_submodule(name), spec, name))
    model[0].prune(torch.rand(5, 3, 4) < 0.5)
    model(torch.randn(4, 3, 9, 9))
    return model.eval()


def through_json(model):
    return json.loads(json.dumps(describe(model)))


def test_weights_of_the_compressed_model_load_into_a_fresh_one(compressed):
    fresh = rebuild(build(), through_json(compressed))
    fresh.load_state_dict(compressed.state_dict())
    x = torch.randn(2, 3, 9, 9)
    assert torch.equal(fresh.eval()(x), compressed(x))
    assert describe(fresh) == describe(compressed)
    assert [m.name for m in fresh.modules() if isinstance(m, layers.FormatLayer)] == ["0", "2", "3.2", "6"]


def test_what_was_rebuilt_trains(compressed):
    fresh = rebuild(build(), through_json(compressed))
    assert all(parameter.requires_grad for parameter in fresh.parameters())


def test_layers_that_did_not_change_are_left_alone(compressed):
    fresh = build()
    before = dict(fresh.named_modules())
    rebuild(fresh, through_json(compressed))
    changed = {name for name, module in fresh.named_modules() if module is not before[name]}
    assert changed == {"0", "1", "2", "3.2", "6"}


def test_rebuilding_twice_changes_nothing(compressed):
    fresh = rebuild(build(), through_json(compressed))
    before = list(fresh.modules())
    rebuild(fresh, through_json(compressed))
    assert all(a is b for a, b in zip(before, fresh.modules()))


def test_no_random_numbers_are_drawn(compressed):
    fresh, description = build(), through_json(compressed)
    state = torch.get_rng_state()
    rebuild(fresh, description)
    assert torch.equal(torch.get_rng_state(), state)


def test_type_and_mode_follow_the_fresh_model(compressed):
    fresh = rebuild(build().double().eval(), through_json(compressed))
    assert {p.dtype for p in fresh.parameters()} == {torch.float64}
    assert not any(module.training for module in fresh.modules())


def test_formats_become_dense_again(compressed):
    dense = rebuild(compressed, describe(build()))
    assert describe(dense) == describe(build())
    assert not any(isinstance(module, layers.FormatLayer) for module in dense.modules())


def test_a_layer_may_become_the_identity():
    model = build()
    layers.swap(model, "3.0", nn.Identity())
    assert isinstance(rebuild(build(), through_json(model))[3][0], nn.Identity)


def change(description, name, **fields):
    description = copy.deepcopy(description)
    description["modules"].setdefault(name, {}).update(fields)
    return description


def without(description, name):
    description = copy.deepcopy(description)
    del description["modules"][name]
    return description


@pytest.mark.parametrize(
    "damage, message",
    [
        (lambda d: [], "describe"),
        (lambda d: {"version": 1}, "describe"),
        (lambda d: {**d, "version": 2}, "version 2"),
        (lambda d: change(d, "0", kind="conv3d"), "'0'"),
        (lambda d: change(d, "9", kind="linear"), "has no 9"),
        (lambda d: without(d, "6"), "also has 6"),
        (lambda d: change(d, "6", kind="conv2d"), "'6'.*conv2d.*linear"),
        (lambda d: change(d, "0", out_channels=-1), "'0'"),
        (lambda d: change(d, "0", out_channels="many"), "'0'"),
        (lambda d: change(d, "0", groups=2), "'0'"),
        (lambda d: change(d, "0", colour="red"), "'0'"),
        (lambda d: change(d, "0", mask=[5, 3, 3]), "'0'.*mask"),
        (lambda d: change(d, "0", spec={"format": "kernel_basis", "bases": 10}), "'0'"),
        (lambda d: change(d, "0", spec={"format": "nosuch"}), "'0'.*nosuch"),
        (lambda d: change(d, "0", spec=None), "'0'"),
        (lambda d: change(d, "1", features=0.5), "'1'"),
        (lambda d: change(d, "7", mask=[5, 6]), "'7'"),
        (lambda d: change(d, "3.1", channels=3), "3.1"),
    ],
)
def test_bad_descriptions_name_the_layer_and_change_nothing(compressed, damage, message):
    fresh = build()
    before = list(fresh.modules())
    with pytest.raises(SpecError, match=message):
        rebuild(fresh, damage(through_json(compressed)))
    assert all(a is b for a, b in zip(before, fresh.modules()))
