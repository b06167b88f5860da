"""TDC: the quadratic's exact gradient, copies and duals by hand, a gap that falls, and what comes out of it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from dovetail.api import compress
from dovetail.engine.quantize import quantize
from dovetail.errors import SpecError, TrainingError
from dovetail.formats.svd import SvdSpec
from dovetail.formats.svd.layer import SvdConv2d, SvdLinear
from dovetail.formats.tucker import TuckerSpec
from dovetail.formats.tucker.layer import TuckerConv2d
from dovetail.methods import Distill, Int8, Tdc, Tucker
from dovetail.methods.projection import project
from dovetail.program.lower import lower
from dovetail.program.reference import run
from dovetail.training import Settings
from programs import close

RANKS = {"same": (4, 4), "down": (4, 8), "point": 6, "fc": 2}
SPECS = {
    "same": TuckerSpec(rank_in=4, rank_out=4),
    "down": TuckerSpec(rank_in=4, rank_out=8),
    "point": SvdSpec(rank=6),
    "fc": SvdSpec(rank=2),
}


def begun(model: nn.Module, example: torch.Tensor, **options) -> Tdc:
    method = Tdc(ranks=RANKS, **options)
    method.plan(model, example)
    method.begin(method.phases()[0], model)
    return method


def weights(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: model.get_submodule(name).weight.detach().clone() for name in RANKS}


def gap_of(model: nn.Module) -> float:
    pairs = [(weight, project(weight, SPECS[name])) for name, weight in weights(model).items()]
    apart = sum(float((weight - near).double().square().sum()) for weight, near in pairs)
    return (apart / sum(float(weight.double().square().sum()) for weight, _ in pairs)) ** 0.5


# The phases


def test_without_admm_it_is_tucker(build, data):
    plain, same = build(), build()
    options = {"ranks": RANKS, "epochs": 2, "learning_rate": 0.02}
    compress(plain, Tucker(**options), train=data)
    done = compress(same, Tdc(admm_epochs=0, **options), train=data)
    assert [record.phase for record in done.history.records] == ["finetune"] * 2
    for key, value in plain.state_dict().items():
        assert torch.equal(same.state_dict()[key], value)


def test_rates_and_epochs_of_the_phases():
    method = Tdc(
        ratio=0.5, admm_epochs=6, admm_learning_rate=0.3, epochs=4, learning_rate=0.1, schedule="step", warmup=1
    )
    admm, finetune = method.phases()
    assert (admm.name, admm.epochs, admm.learning_rate, admm.schedule, admm.warmup) == ("admm", 6, 0.3, "step", 1)
    assert (finetune.name, finetune.epochs, finetune.learning_rate) == ("finetune", 4, 0.1)


def test_the_network_is_dense_while_it_is_drawn_and_then_decomposed(build, example):
    model = build()
    method = begun(model, example)
    assert type(model.same) is type(model.down) is type(model.point) is nn.Conv2d
    method.end(method.phases()[0], model)
    before = weights(model)
    groups = method.begin(method.phases()[1], model)
    assert [type(model.get_submodule(name)) for name in RANKS] == [TuckerConv2d, TuckerConv2d, SvdConv2d, SvdLinear]
    for name, spec in SPECS.items():
        got = model.get_submodule(name).weight().detach()
        torch.testing.assert_close(got, project(before[name], spec), rtol=1e-4, atol=1e-5)
    trained = {id(p) for group in groups for p in group["params"]}
    assert all(id(p) in trained for name in RANKS for p in model.get_submodule(name).parameters())


def test_all_other_parameters_train_beside_the_drawn_ones(build, example):
    model = build()
    method = Tdc(ranks=RANKS)
    method.plan(model, example)
    groups = method.begin(method.phases()[0], model)
    assert {id(p) for p in groups[0]["params"]} == {id(p) for p in model.parameters()}


# The quadratic, copies and duals


def test_the_gradient_is_that_of_the_quadratic(build, data, example):
    model, rho = build(), 0.3
    method = begun(model, example, rho=rho)
    method.after_epoch(0)  # duals that are not zero
    state = method.state_dict()["copies"]

    def loss():
        return method.loss(model, data[0], nn.functional.cross_entropy)

    quadratic = sum(
        (model.get_submodule(name).weight - state[name]["near"] + state[name]["dual"]).square().sum() for name in RANKS
    )
    (loss() + rho / 2 * quadratic).backward()
    want = {name: p.grad.clone() for name, p in model.named_parameters()}
    model.zero_grad()
    loss().backward()
    method.before_step()
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.grad, want[name], rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("hooi", [False, True])
def test_copies_and_duals_by_hand(build, example, hooi):
    model = build()
    method = begun(model, example, hooi=hooi)
    start = weights(model)
    near = {name: project(start[name], spec, refine=hooi) for name, spec in SPECS.items()}
    dual = {name: torch.zeros_like(weight) for name, weight in start.items()}
    for epoch in range(3):
        for name in RANKS:
            copy = method.state_dict()["copies"][name]
            torch.testing.assert_close(copy["near"], near[name])
            torch.testing.assert_close(copy["dual"], dual[name])
            with torch.no_grad():
                model.get_submodule(name).weight.mul_(0.9).add_(0.01 * torch.randn_like(start[name]))
        method.after_epoch(epoch)
        for name, weight in weights(model).items():
            near[name] = project(weight + dual[name], SPECS[name], refine=hooi)
            dual[name] = dual[name] + weight - near[name]


def test_the_gap_that_is_told_is_that_of_the_weights(build, example):
    model = build()
    method = begun(model, example)
    assert method.metrics()["gap"] == pytest.approx(gap_of(model), rel=1e-5)
    with torch.no_grad():
        model.same.weight.copy_(project(model.same.weight, SPECS["same"]))
    method.after_epoch(0)
    assert method.metrics() == {"gap": pytest.approx(gap_of(model), rel=1e-5), "rho": 1e-3}


def test_weights_of_that_rank_are_left_in_peace(build, example):
    model = build()
    with torch.no_grad():
        for name, spec in SPECS.items():
            weight = model.get_submodule(name).weight
            weight.copy_(project(weight, spec))
    method = begun(model, example)
    assert method.metrics()["gap"] < 1e-6
    method.before_step()
    assert all(float(model.get_submodule(name).weight.grad.abs().max()) < 1e-8 for name in RANKS)


@pytest.mark.parametrize(("double_rho", "rhos"), [(0, [1, 1, 1, 1]), (1, [2, 4, 8, 16]), (2, [1, 2, 2, 4])])
def test_rho_doubles_where_the_gap_stalls(build, example, double_rho, rhos):
    model = build()
    method = begun(model, example, rho=1.0, double_rho=double_rho)
    for epoch, rho in enumerate(rhos):
        before = method.state_dict()
        method.after_epoch(epoch)  # nothing trains, so the gap stays
        assert method.metrics()["rho"] == rho
        copy, old = method.state_dict()["copies"]["same"], before["copies"]["same"]
        force = rho * copy["dual"]  # what a doubled rho must not change
        plain = before["rho"] * (model.same.weight + old["dual"] - copy["near"])
        torch.testing.assert_close(force, plain.detach())


def test_rho_stays_where_the_gap_falls(build, example):
    model = build()
    method = begun(model, example, rho=1.0, double_rho=1)
    with torch.no_grad():
        for name, spec in SPECS.items():
            weight = model.get_submodule(name).weight
            weight.lerp_(project(weight, spec), 0.5)
    method.after_epoch(0)
    assert method.metrics()["rho"] == 1.0


# Training


DRAWN = {"ranks": RANKS, "admm_epochs": 16, "admm_learning_rate": 0.02, "epochs": 0}


def test_the_gap_falls_and_what_was_drawn_loses_less_at_the_switch(build, data):
    """Forty batches an epoch: with few steps between them duals run ahead of the weights."""
    start = begun(build(), data[0][0][:1]).metrics()["gap"]
    drawn, cut = build(), build()
    done = compress(drawn, Tdc(rho=0.1, **DRAWN), train=data * 10, validate=data)
    admm, last = done.history.records[:-1], done.history.records[-1]
    gaps = [record.metrics["gap"] for record in admm]
    assert [record.phase for record in admm] == ["admm"] * 16
    assert gaps[-1] < 0.15 < 0.7 < start
    assert gaps[-1] < gaps[7] < gaps[0] < start
    assert (last.phase, last.metrics) == ("finetune", {})
    assert admm[-1].accuracy - last.accuracy <= 100 / 32 + 1e-6  # one image
    undrawn = compress(cut, Tdc(rho=1e-9, **DRAWN), train=data * 10, validate=data).history.records
    assert undrawn[-2].metrics["gap"] > 0.7
    assert undrawn[-2].accuracy > 90
    assert last.validation_loss < 0.5 * undrawn[-1].validation_loss


def test_without_a_loss_that_resists_the_gap_falls_as_the_page_says():
    """exp(-kappa E / 4) over E epochs of a cosine, kappa = rho * rate * steps / (1 - momentum), as an envelope."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(36, 12))
    data = [(torch.zeros(2, 1, 6, 6), torch.zeros(2, dtype=torch.int64))] * 40  # no input, so no gradient of the loss
    rate, epochs, rho = 0.05, 32, 0.025
    kappa = rho * rate * len(data) / (1 - 0.9)
    method = Tdc(ranks={"1": 3}, admm_epochs=epochs, admm_learning_rate=rate, rho=rho, epochs=0, weight_decay=0.0)
    gaps = [record.metrics.get("gap") for record in compress(model, method, train=data).history.records]
    assert (kappa, gaps[0] > 0.3) == (pytest.approx(0.5), True)
    assert gaps[epochs - 1] < np.exp(-kappa * epochs / 4)
    assert max(gaps[4:8]) > 10 * gaps[epochs - 1]


def test_state_comes_back_before_begin(build, data, example):
    model = build()
    method = begun(model, example, rho=0.5, double_rho=1)
    method.after_epoch(0)
    state = method.state_dict()
    again = Tdc(ranks=RANKS, rho=0.5, double_rho=1)
    again.plan(model, example)
    again.load_state_dict(state)
    again.begin(again.phases()[0], model)
    for name, copy in again.state_dict()["copies"].items():
        assert all(torch.equal(copy[part], state["copies"][name][part]) for part in ("near", "dual"))
    assert (again.metrics(), again.state_dict()["gaps"]) == (method.metrics(), state["gaps"])
    again.begin(again.phases()[0], model)  # twice is once
    assert torch.equal(again.state_dict()["copies"]["same"]["dual"], state["copies"]["same"]["dual"])


def test_a_finished_admm_keeps_no_copies(build, example):
    model = build()
    method = begun(model, example)
    method.after_epoch(0)
    method.end(method.phases()[0], model)
    assert method.state_dict()["copies"] == {}
    assert method.metrics()["gap"] > 0  # the record of the last epoch is yet to be made
    method.begin(method.phases()[1], model)
    assert method.metrics() == {}


# Beside others


def test_it_listens_to_a_teacher_and_goes_on_to_whole_numbers(build, data):
    model = build()
    method = Distill(Tdc(ranks=RANKS, admm_epochs=2, epochs=1, rho=0.1), build())
    done = compress(model, method, train=data, settings=Settings(precision="bf16"))
    assert [record.phase for record in done.history.records] == ["admm"] * 2 + ["finetune"]
    assert done.history.records[0].metrics["gap"] > done.history.records[1].metrics["gap"]
    trained = Int8(epochs=1, observe=2)
    compress(model, trained, train=data)
    x, batches = data[0][0], [images.numpy() for images, _ in data]
    program = lower(model.eval(), x[:1])
    made = quantize(program, batches, **trained.quantization().options())
    assert {packed.spec.values.name for packed in made.weights.values()} == {"int8"}
    error = np.abs(run(made, x.numpy()) - run(program, x.numpy())).max()
    assert error < 0.1 * np.ptp(run(program, x.numpy()))


def test_a_folded_layer_trains_and_is_packed_as_such(build, data):
    model = build()
    done = compress(model, Tdc(ranks={"same": (16, 4), "down": (4, 32)}, admm_epochs=1, epochs=1), train=data)
    assert done.plan.layers["same"] == TuckerSpec(rank_in=16, rank_out=4, fold=True)
    assert model.same.input is None
    assert model.down.output is None
    x = data[0][0]
    program = lower(model.eval(), x[:1])
    with torch.no_grad():
        assert close(run(program, x.numpy()), model(x).numpy())


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"rho": 0.0}, "tdc rho 0.0 must be above 0"),
        ({"rho": float("nan")}, "tdc rho nan"),
        ({"double_rho": -1}, "tdc double_rho -1 must be a number of epochs"),
        ({"ratio": 1.5}, "tdc ratio 1.5"),
    ],
)
def test_options_that_make_no_sense(options, told):
    with pytest.raises(SpecError, match=told):
        Tdc(**options)


def test_epochs_that_make_no_sense():
    with pytest.raises(TrainingError, match="phase 'admm': epochs is -1"):
        Tdc(ratio=0.5, admm_epochs=-1).phases()


def test_it_says_its_own_name(build, example):
    with pytest.raises(SpecError, match="tdc needs ranks"):
        Tdc().plan(build(), example)
