"""Every method of the registry: plans without touching, resumes exactly, and leaves what can be packed."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import nn

from dovetail.api import compress
from dovetail.engine.quantize import quantize
from dovetail.methods import METHODS, Distill, Method
from dovetail.program.lower import lower
from dovetail.program.reference import run
from dovetail.training import Settings
from method_samples import SAMPLES, batches, build
from programs import close
from thinned import thinned

each_method = pytest.mark.parametrize("name", SAMPLES)


@pytest.fixture(scope="module")
def data() -> list[tuple[torch.Tensor, torch.Tensor]]:
    return batches()


class Stopped(Exception):
    """The moment at which a training is torn down."""


def stop_after(method: Method, steps: int) -> Method:
    after, left = method.after_step, steps

    def counted() -> None:
        nonlocal left
        left -= 1
        if left < 0:
            raise Stopped
        after()

    method.after_step = counted
    return method


def test_every_method_has_a_sample() -> None:
    assert set(SAMPLES) == set(METHODS)
    assert all(type(make()) is METHODS[name] for name, make in SAMPLES.items())


@each_method
def test_a_plan_names_every_layer_and_touches_nothing(name, data) -> None:
    model = build()
    plan = SAMPLES[name]().plan(model, data[0][0][:1])
    assert set(plan.layers) == {"stem", "same", "down", "fc"}
    for key, tensor in build().state_dict().items():
        assert torch.equal(model.state_dict()[key], tensor)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


STOPPED = [
    pytest.param(name, taught, steps, id=f"{name}-{'taught' if taught else 'plain'}-{steps}")
    for name, taught, steps in itertools.product(SAMPLES, (False, True), (2, 7))
]


@pytest.mark.parametrize(("name", "taught", "steps"), thinned(STOPPED, every=4, key=lambda name, taught, steps: name))
def test_a_training_that_was_torn_down_goes_on_exactly(name, taught, steps, data, tmp_path) -> None:
    def train(stopped: int | None, run) -> nn.Module:
        model, method = build(), SAMPLES[name]()
        method = Distill(method, build()) if taught else method
        method = method if stopped is None else stop_after(method, stopped)
        compress(model, method, train=data, validate=data, settings=Settings(run=run, checkpoint_minutes=0, seed=3))
        return model

    left_alone = train(None, None)
    with pytest.raises(Stopped):
        train(steps, tmp_path)
    resumed = train(None, tmp_path)
    assert [type(module) for module in resumed.modules()] == [type(module) for module in left_alone.modules()]
    for key, tensor in left_alone.state_dict().items():
        assert torch.equal(resumed.state_dict()[key], tensor), key


@each_method
def test_what_comes_out_can_be_packed(name, data) -> None:
    model, method = build(), SAMPLES[name]()
    compress(model, method, train=data)
    x = data[0][0]
    program = lower(model.eval(), x[:1])
    with torch.no_grad():
        assert close(run(program, x.numpy()), model(x).numpy())
    how = method.quantization()
    assert (how is not None) == (name in ("escalate", "int8", "mixed"))
    if how is not None:
        made = quantize(program, [images.numpy() for images, _ in data], **how.options())
        assert {packed.spec.values.name for packed in made.weights.values()} == {"int8"}
