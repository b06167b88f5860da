"""Several methods on one network."""

from __future__ import annotations

import math

import pytest
import torch

from dovetail.api import compress
from dovetail.errors import SpecError
from dovetail.formats import (
    BlockCirculantSpec,
    BlockSparseSpec,
    KernelBasisSpec,
    PermutedDiagonalSpec,
    SparseSpec,
    SvdSpec,
    TuckerSpec,
)
from dovetail.formats.values import CODEBOOK4
from dovetail.methods import METHODS, Kept, Mixed, Plan
from dovetail.methods.magnitude import cubic
from dovetail.methods.mixed import STAGED, TRAINS
from dovetail.methods.rounding import on_grid

ALONE = {
    "block": {"density": 0.4, "interval": 2},
    "circnn": {"size": 4, "values": "int8"},
    "escalate": {"bases": 2, "density": 0.5, "sparsify_epochs": 1, "ternarise_epochs": 1, "settle_epochs": 1},
    "magnitude": {"density": 0.4, "interval": 2},
    "penni": {"bases": 3, "channel_density": 0.6, "alternate_epochs": 1, "retrain_epochs": 1},
    "permdnn": {"size": 2},
    "tdc": {"ratio": 0.5, "svd": True, "admm_epochs": 1, "epochs": 1},
    "tucker": {"ratio": 0.5, "svd": True},
}
BOTH = {"block": {"interval": 2}, "tucker": {}}
PLAN = {
    "same": BlockSparseSpec(density=0.3),
    "down": TuckerSpec(rank_in=8, rank_out=8),
    "fc": SvdSpec(rank=2),
    "point": Kept("mine"),
    "grouped": Kept("mine"),
}


def test_what_can_be_mixed_is_known(build, example):
    assert set(TRAINS) <= set(METHODS)
    options = {"tdc": {"ratio": 0.5}, "tucker": {"ratio": 0.5}}
    for name in TRAINS:
        method = METHODS[name](**options.get(name, {}))
        method.plan(build(), example)
        assert (len(method.phases()) > 1) == (name in STAGED)


def test_every_layer_goes_to_the_method_that_trains_its_format(build, data):
    model = build()
    done = compress(model, Mixed(methods=BOTH, epochs=2), train=data, plan=PLAN)
    assert {name: done.plan.layers[name] for name in PLAN} == PLAN
    packed = model.same.pack()
    assert len(packed.indices()) == math.floor(0.3 * math.prod(BlockSparseSpec().grid(packed.shape)) + 0.5)
    assert model.down.spec == PLAN["down"]
    assert model.fc.spec == PLAN["fc"]
    assert isinstance(model.point, torch.nn.Conv2d)
    assert set(done.history.records[-1].metrics) == {"block density"}


def test_without_a_plan_each_takes_what_the_ones_before_leave(build, example):
    layers = Mixed(methods={"tucker": {"ratio": 0.5}, "block": {}}).plan(build(), example).layers
    kinds = {name: type(what) for name, what in layers.items()}
    assert kinds["same"] is kinds["down"] is TuckerSpec
    assert kinds["point"] is kinds["grouped"] is BlockSparseSpec
    assert kinds["fc"] is Kept


def test_the_method_of_several_phases_leads_and_the_others_ramp_over_all(build, data):
    model = build()
    options = {"sparsify_epochs": 1, "ternarise_epochs": 2, "settle_epochs": 1, "bases": 2, "density": 0.5}
    method = Mixed(methods={"block": {"interval": 1, "ramp": 0.75}, "escalate": options})
    plan = {"same": BlockSparseSpec(density=0.25), "down": KernelBasisSpec(bases=2, coefficients="ternary")}
    others = {name: Kept("mine") for name in ("stem", "point", "grouped", "fc")}
    done = compress(model, method, train=data, plan={**plan, **others})
    assert [record.phase for record in done.history.records] == ["sparsify", "ternarise", "ternarise", "settle"]
    left = [record.metrics["block density"] for record in done.history.records]
    assert left == [pytest.approx(cubic(epoch / 3, 0.25), abs=0.01) for epoch in (1, 2, 3, 3)]  # 0.75 of four
    assert method.quantization() is not None
    assert model.down.spec.coefficients == "ternary"
    assert not model.down.latent


def test_layers_of_other_methods_end_in_their_formats_where_the_rest_is_rounded(build, data):
    model = build()
    options = {"rounded": True, "sparsify_epochs": 0, "ternarise_epochs": 0, "settle_epochs": 1, "bases": 2}
    plan = {
        "same": BlockSparseSpec(density=0.25),
        "down": KernelBasisSpec(bases=2, coefficients="ternary"),
        **{name: Kept("mine") for name in ("stem", "point", "grouped", "fc")},
    }
    compress(model, Mixed(methods={"block": {}, "escalate": options}), train=data, plan=plan)
    assert isinstance(model.same.pack().spec, BlockSparseSpec)
    for name in ("stem", "point", "grouped", "fc"):
        weight = model.get_submodule(name).weight
        assert torch.equal(weight, on_grid(weight))


@pytest.mark.parametrize("name", TRAINS)
def test_a_single_method_is_that_method(name, build, data):
    alone, mixed = build(), build()
    training = {} if name in STAGED else {"epochs": 2}
    single = compress(alone, METHODS[name](**ALONE[name], **training), train=data)
    done = compress(mixed, Mixed(methods={name: ALONE[name]}, **training), train=data)
    assert all(torch.equal(a, b) for a, b in zip(alone.state_dict().values(), mixed.state_dict().values(), strict=True))
    assert [type(module) for module in alone.modules()] == [type(module) for module in mixed.modules()]
    assert dict(done.plan.specs()) == dict(single.plan.specs())


def test_learning_rates_of_one_member_stay_beside_others(build, example):
    model = build()
    method = Mixed(methods={"circnn": {"size": 4}, "tucker": {}}, learning_rate=0.1)
    plan = {**PLAN, "same": BlockCirculantSpec(size=4), "fc": Kept("mine")}
    method.plan(model, example, Plan(plan))
    own, rest = method.begin(method.phases()[0], model)
    assert [id(p) for p in own["params"]] == [id(model.same.values)]
    assert own["lr"] == 0.1 / 4
    assert {id(p) for p in rest["params"]} == {id(p) for p in model.parameters()} - {id(model.same.values)}


def test_each_member_settles_its_own_layers(build, data):
    methods = {
        "penni": {"alternate_epochs": 0, "retrain_epochs": 0, "shrink": False, "finish": "dense"},
        "permdnn": {"values": "codebook4"},
        "tucker": {},
    }
    plan = {
        "same": KernelBasisSpec(bases=2, coefficients="sparse"),
        "down": TuckerSpec(rank_in=8, rank_out=8),
        "point": PermutedDiagonalSpec(size=2),
        **{name: Kept("mine") for name in ("stem", "grouped", "fc")},
    }
    settled = compress(build(), Mixed(methods=methods), train=data, plan=plan).plan.layers
    assert settled["same"] == Kept("made dense again (finish='dense')")
    assert settled["down"] == plan["down"]
    assert settled["point"] == PermutedDiagonalSpec(size=2, values=CODEBOOK4)
    assert settled["fc"] == Kept("mine")


@pytest.mark.parametrize(
    ("methods", "message"),
    [
        ({}, "one or several of block"),
        ({"thin": {}}, "cannot mix thin; it mixes block"),
        ({"block": {"densty": 0.5}}, "densty"),
        ({"block": {"density": 2}}, "density 2 must lie above 0"),
        ({"block": {"epochs": 2}}, "block: epochs belong to the whole training"),
        ({"permdnn": {"share_epochs": 2}}, "permdnn: share_epochs are a phase after the others"),
        ({"penni": {}, "magnitude": {}}, "penni with shrink takes channels of layers that magnitude train on"),
        ({"tucker": {}, "penni": {"shrink": False, "macs_target": 0.5}}, "penni with macs_target takes channels"),
        (
            {"escalate": {"shrink": True}, "permdnn": {"size": 2}},
            "escalate with shrink may take channels of layers of permdnn",
        ),
    ],
)
def test_impossible_options(methods, message):
    with pytest.raises(SpecError, match=message):
        Mixed(methods=methods)


def test_training_options_beside_a_method_with_phases_of_its_own():
    with pytest.raises(SpecError, match="escalate has phases of its own, and epochs would change none of them"):
        Mixed(methods={"escalate": {}, "block": {}}, epochs=3)


def test_plans_are_checked(build, example):
    with pytest.raises(SpecError, match="'same': none of block, tucker trains"):
        Mixed(methods=BOTH).plan(build(), example, Plan({"same": SparseSpec()}))
    two = Plan({
        "same": KernelBasisSpec(bases=2, coefficients="ternary"),
        "down": KernelBasisSpec(bases=2, coefficients="sparse"),
    })  # fmt: skip
    with pytest.raises(SpecError, match="escalate and penni at once"):
        Mixed(methods={"escalate": {}, "penni": {"shrink": False}}).plan(build(), example, two)
    with pytest.raises(SpecError, match="none of tucker changes a layer"):
        Mixed(methods={"tucker": {}}).plan(build(), example)
