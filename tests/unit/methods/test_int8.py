"""Fine-tuning as if in int8, from dense networks and from networks in formats."""

from __future__ import annotations

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from dovetail.api import compress, quantize
from dovetail.errors import SpecError
from dovetail.formats import DenseSpec, KernelBasisSpec, SparseSpec, SvdSpec, TuckerSpec
from dovetail.formats.layer import FormatLayer, from_dense, pack, swap
from dovetail.formats.recurrent import Lstm
from dovetail.formats.values import INT8, TERNARY
from dovetail.methods import Distill, Int8, Kept, Plan
from dovetail.methods.base import Quantization
from dovetail.program.lower import lower
from dovetail.program.reference import run
from dovetail.training import Settings

FORMATS = {
    "same": SparseSpec(density=0.4),
    "down": TuckerSpec(rank_in=8, rank_out=8),
    "point": SvdSpec(rank=8),
    "stem": KernelBasisSpec(bases=4),
}


@pytest.fixture
def compressed(build):
    """The small network with a layer in each of several formats."""
    model = build()
    for name, spec in FORMATS.items():
        swap(model, name, from_dense(model.get_submodule(name), spec, name))
    return model


def on_grids(layer):
    """Whether int8 holds every number of the layer's factors."""
    packed = pack(layer)
    return all(
        np.allclose(packed.decode(name), packed.cast(INT8).decode(name), rtol=1e-6, atol=0)
        for name in packed.arrays
        if packed.arrays[name].dtype == np.float32
    )


def images(data):
    return [batch.numpy() for batch, _ in data]


def test_every_layer_keeps_its_format(build, compressed, example):
    plan = Int8().plan(build(), example)
    assert set(plan.layers.values()) == {DenseSpec(values=INT8)}
    plan = Int8().plan(compressed, example, Plan({"fc": Kept("last")}))
    assert plan.layers["down"] == TuckerSpec(rank_in=8, rank_out=8, values=INT8)
    assert plan.layers["same"] == SparseSpec(values=INT8)
    assert plan.layers["stem"] == DenseSpec(values=INT8)  # what its shared kernels stand for
    assert plan.layers["fc"] == Kept("last")


def test_ternary_layers_stay_what_they_are_and_are_not_trained(build, example):
    model = build()
    specs = {"same": SparseSpec(values=TERNARY), "stem": KernelBasisSpec(bases=4, coefficients="ternary")}
    for name, spec in specs.items():
        swap(model, name, from_dense(model.get_submodule(name), spec, name))
    plan = Int8(epochs=0).plan(model, example)
    assert plan.layers["same"] == specs["same"]
    assert plan.layers["stem"] == replace(specs["stem"], values=INT8)
    with pytest.raises(SpecError, match="int8 trains no ternary numbers"):
        Int8().plan(model, example)


@pytest.mark.parametrize(
    ("plan", "message"),
    [
        ({"nosuch": Kept("")}, "no layer is called 'nosuch'"),
        ({"*": Kept("all of them")}, "finds no convolution"),
        ({"same": TuckerSpec(rank_in=8, rank_out=8)}, "'same': int8 leaves formats as they are"),
        ({"same": DenseSpec()}, "so it takes DenseSpec.*Integer8"),
    ],
)
def test_impossible_plans(build, example, plan, message):
    with pytest.raises(SpecError, match=message):
        Int8().plan(build(), example, Plan(plan))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rule": "best"}, "unknown int8 rule 'best'; known are minmax"),
        ({"observe": 0}, "observe 0 must be at least 1"),
        ({"images": 0}, "images 0 must be at least 1"),
        ({"freeze": 1.5}, "freeze 1.5 must lie between 0 and 1"),
    ],
)
def test_impossible_options(options, message):
    with pytest.raises(SpecError, match=message):
        Int8(**options)


def test_a_recurrent_network_is_refused_before_it_is_trained():
    model = nn.Sequential(Lstm(4, 3, last=True), nn.Linear(3, 2))
    with pytest.raises(SpecError, match="layer '0' is recurrent"):
        Int8(epochs=1).plan(model, torch.randn(1, 5, 4))


def test_without_epochs_the_model_is_left_as_it_is(build, data):
    model, method = build(), Int8(epochs=0, rule="minmax", reestimate=True, images=7)
    done = compress(model, method, train=data, plan={"stem": Kept("first")})
    for name, tensor in build().state_dict().items():
        assert torch.equal(model.state_dict()[name], tensor)
    assert not model._forward_hooks
    assert method.quantization() == Quantization("minmax", ("stem",), correct=True, reestimate=True, images=7)
    assert done.plan.layers["stem"] == Kept("first")


def test_a_trained_network_is_not_mended(build, data):
    method = Int8(epochs=1, reestimate=True)
    compress(build(), method, train=data)
    assert not method.quantization().correct
    assert not method.quantization().reestimate
    assert Distill(method, build()).quantization() == method.quantization()


@pytest.mark.parametrize("made", ["dense", "compressed"])
def test_trained_weights_lie_on_their_grids(build, compressed, data, made):
    model = build() if made == "dense" else compressed
    before = {name: pack(model.get_submodule(name)).dense() for name in FORMATS}
    compress(model, Int8(epochs=2, learning_rate=0.05), train=data, plan={"fc": Kept("last")})
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
    for name in FORMATS:
        assert on_grids(model.get_submodule(name)), name
        assert not np.allclose(pack(model.get_submodule(name)).dense(), before[name])
    assert not on_grids(model.fc)
    if made == "compressed":
        assert type(model.stem) is nn.Conv2d  # products of kernels and coefficients are no codes
        assert isinstance(model.same, FormatLayer)
        assert ((before["same"] == 0) <= (pack(model.same).dense() == 0)).all()


@pytest.mark.parametrize("made", ["dense", "compressed"])
def test_the_network_trains_as_its_program_will_compute(build, compressed, data, made):
    """In evaluation the rounded model gives what the quantised program gives, up to rare steps of a code."""
    model, method = (build() if made == "dense" else compressed), Int8(epochs=2, learning_rate=0.05, rule="minmax")
    x, seen = torch.cat([batch for batch, _ in data]), {}
    end = method.end

    def spy(phase, model):
        model.eval()
        with torch.no_grad():
            seen["rounded"] = model(x).numpy()
        end(phase, model)

    method.end = spy
    compress(model, method, train=data)
    program = lower(model.eval(), x[:1])
    real = run(program, x.numpy())
    made = run(quantize(program, images(data), **method.quantization().options()), x.numpy())
    assert np.abs(made - seen["rounded"]).mean() < 0.01 * real.std()
    assert np.abs(real - seen["rounded"]).mean() > 0


def test_batch_norms_keep_their_statistics_in_the_last_epochs(build, data):
    model, method, seen = build(), Int8(epochs=4, freeze=0.5, learning_rate=0.05), []
    after = method.after_epoch

    def spy(epoch):
        seen.append(model.bn.running_mean.clone())
        after(epoch)

    method.after_epoch = spy
    compress(model, method, train=data)
    assert not torch.equal(seen[0], seen[1])
    assert torch.equal(seen[1], seen[2])
    assert torch.equal(seen[1], seen[3])
    assert model.bn.training == model.training


def test_an_epoch_shorter_than_the_observation_still_sets_the_reach(build, data):
    model, method = build(), Int8(epochs=2, observe=100)
    compress(model, method, train=data)
    assert len(method.state_dict()["reaches"]) == 7  # what six layers and the mean read
    assert all(low <= 0 < high for low, high in method.state_dict()["reaches"])


def test_the_state_goes_through_a_checkpoint(build, data):
    method = Int8(epochs=1, observe=2)
    compress(build(), method, train=data[:3])
    other = Int8(epochs=1, observe=2)
    other.plan(build(), data[0][0][:1])
    other.load_state_dict(copy.deepcopy(method.state_dict()))
    assert other.state_dict() == method.state_dict()
    assert method.state_dict()["seen"] == 2


class Stopped(Exception):
    """The moment at which a training is torn down."""


@pytest.mark.parametrize("stop", [1, 3, 6])
def test_a_stopped_run_goes_on_exactly(build, data, tmp_path, stop):
    """Stopped while it observes, while it rounds, and with frozen batch norms."""

    def run(method, run=None):
        model = build()
        compress(model, method, train=data, settings=Settings(run=run, checkpoint_minutes=0, seed=3))
        return model

    options = {"epochs": 2, "observe": 2, "freeze": 0.5, "learning_rate": 0.05}
    whole, broken, steps = run(Int8(**options)), Int8(**options), 0
    after = broken.after_step

    def stopping():
        nonlocal steps
        after()
        steps += 1
        if steps == stop + 1:
            raise Stopped

    broken.after_step = stopping
    with pytest.raises(Stopped):
        run(broken, tmp_path)
    resumed = run(Int8(**options), tmp_path)
    for name, tensor in whole.state_dict().items():
        assert torch.equal(resumed.state_dict()[name], tensor), name
