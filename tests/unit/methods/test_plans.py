from __future__ import annotations

import pytest
import torch
from torch import nn

from dovetail.api import compress
from dovetail.errors import SpecError, TrainingError
from dovetail.formats.kernel_basis import KernelBasisSpec
from dovetail.formats.layer import FormatLayer
from dovetail.formats.sparse import SparseSpec
from dovetail.formats.svd import SvdSpec
from dovetail.formats.tucker import TuckerSpec
from dovetail.methods import METHODS, Kept, Magnitude, Plan, Thin, Tucker
from dovetail.methods.base import execution_order

RANKS = TuckerSpec(rank_in=8, rank_out=8)


def test_later_entries_of_a_plan_win(build):
    plan = Plan({"*": Kept("all"), "d*": RANKS, "down": Kept("but not this")})
    resolved = plan.resolve(build())
    assert list(resolved) == ["stem", "same", "down", "point", "grouped", "fc"]
    assert resolved["down"] == Kept("but not this")
    assert resolved["same"] == Kept("all")


@pytest.mark.parametrize(
    ("method", "plan", "message"),
    [
        (Tucker(), None, "needs ranks"),
        (Tucker(ranks={"layer9.*": (8, 8)}), None, r"no layer is called 'layer9.\*'; the model has stem, same"),
        (Tucker(ranks={"same": (8, 17)}), None, "'same': Tucker rank 17 .* 16 channels"),
        (Tucker(ranks={"same": (8, 8)}), {"down": TuckerSpec(rank_in=17, rank_out=8)}, "'down': Tucker rank 17"),
        (Tucker(), {"fc": RANKS}, "'fc'"),
        (Tucker(), {"grouped": RANKS}, "groups"),
        (Tucker(), {"same": SvdSpec(rank=4)}, "1x1"),
        (Tucker(), {"same": SparseSpec()}, "tucker and svd, not sparse"),
        (Tucker(), {"bn": RANKS}, "no layer is called 'bn'"),
        (Magnitude(), {"sam": SparseSpec()}, "no layer is called 'sam'"),
        (Magnitude(), {"same": RANKS}, "'same': magnitude trains the format sparse, not tucker"),
        (Magnitude(), {"*": Kept("no")}, "no layer to prune"),
        (Thin(), {"same": KernelBasisSpec(bases=3)}, "takes no formats"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_impossible_plans_are_refused_before_anything_changes(build, data, method, plan, message):
    model = build()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(SpecError, match=message):
        compress(model, method, train=data, plan=plan)
    assert not any(isinstance(module, FormatLayer) for module in model.modules())
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize("make", [lambda: Tucker(ranks={"same": (8, 8)}), Magnitude])
def test_weights_that_are_not_finite_are_refused(build, data, make):
    model = build()
    nn.init.constant_(model.same.weight, torch.nan)
    with pytest.raises(SpecError, match="'same' has NaN or Inf"):
        compress(model, make(), train=data)


@pytest.mark.parametrize(
    "make",
    [
        lambda: Tucker(ratio=0),
        lambda: Magnitude(density=0),
        lambda: Magnitude(density=1.1),
        lambda: Magnitude(ramp=0),
        lambda: Magnitude(interval=0),
    ],
)
def test_options_out_of_range(make):
    with pytest.raises(SpecError, match="must"):
        make()


def test_layers_in_the_order_in_which_they_run(build, example):
    model = build().train()
    model.spare = nn.Linear(2, 2)
    mean = model.bn.running_mean.clone()
    assert execution_order(model, example) == ["stem", "same", "down", "point", "grouped", "fc"]
    assert model.training
    assert torch.equal(model.bn.running_mean, mean)
    assert not any(module._forward_hooks for module in model.modules())


def test_thin_trains_the_network_as_it_is(build, data):
    model = build()
    done = compress(model, Thin(epochs=20, learning_rate=0.1), train=data, validate=data)
    assert set(done.plan.layers.values()) == {Kept("trained as it is")}
    assert [type(m) for m in model.modules()] == [type(m) for m in build().modules()]
    assert done.history.accuracy > 85


def test_the_registry_knows_every_method_by_its_name():
    assert {"tucker", "magnitude", "thin"} <= set(METHODS)
    assert all(method.name == name for name, method in METHODS.items())


def test_compress_needs_data(build):
    with pytest.raises(TrainingError, match="no batch"):
        compress(build(), Thin(), train=[])
    with pytest.raises(TrainingError, match="train must be batches of images and labels, not None"):
        compress(build(), Thin(), train=None)


def test_options_tell_methods_apart():
    assert Magnitude(density=0.2).options() != Magnitude(density=0.3).options()
    assert Tucker(ratio=0.5).options() == Tucker(ratio=0.5).options()
