from __future__ import annotations

import pytest
import torch
from torch import nn

from dovetail import zoo
from dovetail.api import compress
from dovetail.errors import SpecError
from dovetail.formats.layer import FormatLayer
from dovetail.formats.svd import SvdSpec
from dovetail.formats.tucker import TuckerSpec
from dovetail.methods import Kept, Plan, Tucker


def test_full_ranks_change_nothing(build, data):
    model, images = build().eval(), data[0][0]
    expected = model(images)
    full = {"same": (16, 16), "down": (16, 32)}
    plan = {"point": SvdSpec(rank=32), "fc": SvdSpec(rank=3)}
    compress(model, Tucker(ranks=full, epochs=0), train=data, plan=plan)
    assert [name for name, m in model.named_modules() if isinstance(m, FormatLayer)] == ["same", "down", "point", "fc"]
    torch.testing.assert_close(model(images), expected, rtol=1e-4, atol=1e-5)


def test_ranks_are_a_fraction_of_the_channels_in_steps_of_eight(example):
    model = nn.Sequential(
        nn.Conv2d(1, 48, 3), nn.Conv2d(48, 64, 3), nn.Conv2d(64, 12, 3), nn.Conv2d(12, 8, 3), nn.Conv2d(8, 40, 1)
    )
    layers = Tucker(ratio=0.4).plan(model, example).layers
    assert [layers[str(i)] for i in (1, 2)] == [TuckerSpec(rank_in=16, rank_out=24), TuckerSpec(rank_in=24, rank_out=8)]
    assert [layers[str(i)].reason.split(":")[0] for i in (0, 3, 4)] == [
        "1 to 48 channels",
        "12 to 8 channels",
        "1x1 or linear",
    ]


def test_layers_that_would_not_get_cheaper_stay_dense(build, example):
    layers = Tucker(ratio=1.0, svd=True).plan(build(), example).layers
    assert layers["same"] == Kept("ranks (16, 16) take 2304 multiplications for each output position, dense 2304")
    unfolded = Tucker(ratio=1.0, fold=False).plan(build(), example).layers["same"]
    assert unfolded == Kept("ranks (16, 16) take 2816 multiplications for each output position, dense 2304")
    assert layers["point"] == Kept("rank 32 takes 3072 multiplications, dense 2048")
    assert layers["grouped"].reason.startswith("4 groups")


def test_a_stride_makes_the_first_factor_dearer(example):
    """16 -> 16 channels, ranks 8: 4 * 128 + 576 + 128 multiplications against 2304; with a 1x3 kernel against 768."""
    layers = [nn.Conv2d(16, 16, 3, 2), nn.Conv2d(16, 16, (1, 3), 2), nn.Conv2d(16, 16, (1, 3), 1)]
    plan = Tucker(ratio=0.5).plan(nn.Sequential(*layers), example).layers
    assert [isinstance(plan[name], TuckerSpec) for name in "012"] == [True, False, True]
    assert "take 832 multiplications" in plan["1"].reason


def test_linear_and_pointwise_layers_by_request(build, example):
    assert isinstance(Tucker(ratio=0.25).plan(build(), example).layers["point"], Kept)
    layers = Tucker(ratio=0.25, svd=True).plan(build(), example).layers
    assert layers["point"] == SvdSpec(rank=8)
    assert layers["fc"] == Kept("rank 3 takes 201 multiplications, dense 192")


def test_a_side_of_full_rank_is_folded_unless_the_plan_says_how(build, example):
    ranks, plan = {"same": (16, 8), "down": (8, 32)}, {"down": TuckerSpec(rank_in=16, rank_out=8)}
    layers = Tucker(ranks=ranks).plan(build(), example, Plan(plan)).layers
    assert layers["same"] == TuckerSpec(rank_in=16, rank_out=8, fold=True)
    assert layers["down"] == plan["down"]
    assert Tucker(ranks={"down": (8, 32)}).plan(build(), example).layers["down"].fold
    assert not Tucker(ranks={"same": (8, 8)}).plan(build(), example).layers["same"].fold
    assert Tucker(ranks=ranks, fold=False).plan(build(), example).layers["same"] == TuckerSpec(rank_in=16, rank_out=8)


def test_one_rank_is_that_of_an_svd(build, example):
    layers = Tucker(ranks={"fc": 2, "point": 8}).plan(build(), example).layers
    assert (layers["fc"], layers["point"]) == (SvdSpec(rank=2), SvdSpec(rank=8))


def test_ranks_may_be_a_shipped_set():
    model = zoo.build("resnet18", stem="cifar", classes=10)
    layers = Tucker(ranks="resnet18").plan(model, torch.zeros(1, 3, 32, 32)).layers
    assert layers["layer1.0.conv1"] == TuckerSpec(rank_in=64, rank_out=32, fold=True)
    assert layers["layer4.1.conv2"] == TuckerSpec(rank_in=192, rank_out=160)
    assert layers["layer2.0.downsample.0"] == layers["fc"] == Kept("not in the plan")
    with pytest.raises(SpecError, match=r"no ranks called 'alexnet'.*resnet18"):
        Tucker(ranks="alexnet")


def test_the_plan_wins_over_ranks_over_ratio(build, example):
    small, tiny = TuckerSpec(rank_in=4, rank_out=4), TuckerSpec(rank_in=2, rank_out=2)
    method = Tucker(ratio=0.5, ranks={"same": (8, 8), "down": (8, 8)}, plan=Plan({"down": small}))
    layers = method.plan(build(), example).layers
    assert (layers["same"], layers["down"]) == (TuckerSpec(rank_in=8, rank_out=8), small)
    assert method.plan(build(), example, Plan({"*": Kept("no"), "down": tiny})).layers["same"] == Kept("no")


def test_fine_tuning_trains_all_three_factors(build, data, example):
    model, method = build(), Tucker(ratio=0.5, epochs=20, learning_rate=0.01, optimizer="adamw")
    method.plan(model, example)
    method.begin(method.phases()[0], model)
    start = {name: p.detach().clone() for name, p in model.same.named_parameters()}
    done = compress(model := build(), method, train=data, validate=data)
    assert set(start) == {"input", "core", "output"}
    assert all(not torch.equal(p, start[name]) for name, p in model.same.named_parameters())
    assert done.history.accuracy > 85


def test_begin_leaves_layers_that_are_in_their_format(build, example):
    model, method = build(), Tucker(ratio=0.5)
    method.plan(model, example)
    phase = method.phases()[0]
    method.begin(phase, model)
    layer = model.same
    groups = method.begin(phase, model)
    assert model.same is layer
    assert any(p is layer.core for p in groups[0]["params"])


@pytest.mark.parametrize("training", [True, False])
def test_swapped_layers_take_the_mode_of_the_old_ones(build, example, training):
    model, method = build().train(training), Tucker(ratio=0.5)
    method.plan(model, example)
    method.begin(method.phases()[0], model)
    assert model.same.training is training
