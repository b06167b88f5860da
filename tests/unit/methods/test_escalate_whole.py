"""Escalate as whole numbers will have it: operands rounded in training."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch

from dovetail.api import compress, quantize
from dovetail.errors import Interrupted
from dovetail.methods import Distill, Escalate
from dovetail.methods.operands import Operands
from dovetail.methods.rounding import on_grid
from dovetail.program.lower import lower
from dovetail.program.reference import run
from dovetail.training import Settings

TERNARY = ("same", "down", "point", "grouped")
DENSE = ("stem", "fc")


def short(**options):
    return Escalate(
        **{"bases": 3, "density": 0.3, "sparsify_epochs": 1, "ternarise_epochs": 1, "settle_epochs": 2, "update": 1}
        | options
    )


def images(data):
    return torch.cat([batch for batch, _ in data])


def spying(method, data):
    """What the network gives in evaluation just before a phase ends, by the phase's name."""
    seen, end, x = {}, method.end, images(data)

    def spy(phase, model):
        with torch.no_grad():
            seen[phase.name] = model.eval()(x).numpy()
        end(phase, model)
        model.train()

    method.end = spy
    return seen


def quantised(model, method, data):
    """What the packed network gives in floating point, and in whole numbers."""
    x = images(data)
    program = lower(model.eval(), x[:1])
    made = quantize(program, [batch.numpy() for batch, _ in data], **method.quantization().options())
    return run(program, x.numpy()), run(made, x.numpy())


def train_stopped(build, data, run, options, stop):
    """The weights of a training that was stopped after so many steps and resumed, and of one that was not."""
    whole, broken = build(), short(**options)
    compress(whole, short(**options), train=data)
    settings, after, steps = Settings(run=run, checkpoint_minutes=0.0), broken.after_step, 0

    def counted():
        nonlocal steps
        if (steps := steps + 1) > stop:
            raise Interrupted("stopped")
        after()

    broken.after_step = counted
    with pytest.raises(Interrupted):
        compress(build(), broken, train=data, settings=settings)
    resumed = build()
    compress(resumed, short(**options), train=data, settings=settings)
    return whole.state_dict(), resumed.state_dict()


# Rounded operands


def test_the_network_settles_as_its_program_will_compute(build, data):
    """In evaluation the rounded network gives what the program gives in whole numbers, up to rare steps of a code."""
    model, method = build(), short(rounded=True, rule="minmax", learning_rate=0.05)
    seen = spying(method, data)
    compress(model, method, train=data)
    real, whole = quantised(model, method, data)
    assert np.abs(whole - seen["settle"]).mean() < 0.01 * real.std()
    assert np.abs(real - seen["settle"]).mean() > 0


def test_rounded_operands_and_spared_weights_are_those_of_the_program(build, data):
    """With the reach of codes that calibration finds most numbers are the same; the others, one code apart."""
    model, method, x = build(), short(rounded=True, rule="minmax"), images(data)
    compress(model, method, train=data)
    real, whole = quantised(model, method, data)
    operands = Operands("minmax", observe=1)
    operands.watch(model, whole=TERNARY)
    operands.before_epoch(0)
    with torch.no_grad(), operands.observing():
        model(x)
    rounded = model(x).detach().numpy()
    operands.release()
    assert np.median(np.abs(whole - rounded)) < 0.05 * np.median(np.abs(real - rounded))


def test_only_settling_rounds_and_the_hooks_go(build, data):
    """A layer that reads the image, whose numbers are no codes, finds codes in the last phase alone."""
    seen = {}

    class Watched(Escalate):
        def before_step(self):
            super().before_step()
            seen.setdefault(self._where, []).append(bool(self._operands.state_dict()["reaches"]))

        def begin(self, phase, model):
            groups = super().begin(phase, model)
            self.hooked = [*getattr(self, "hooked", []), bool(model._forward_hooks)]
            return groups

    model = build()
    method = Watched(bases=3, sparsify_epochs=1, ternarise_epochs=1, settle_epochs=2, rounded=True)
    compress(model, method, train=data)
    # Four batches observe, the last of them sets the reach; the next epoch begins with that of the first.
    assert seen == {"sparsify": [False] * 4, "ternarise": [False] * 4, "settle": [False] * 3 + [True] * 5}
    assert method.hooked == [False, False, True]
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_dense_weights_end_on_their_grids_and_ternary_ones_stay(build, data):
    model = build()
    compress(model, short(rounded=True), train=data)
    for name in DENSE:
        weight = model.get_submodule(name).weight.detach()
        torch.testing.assert_close(weight, on_grid(weight), rtol=1e-6, atol=0)
    assert all(model.get_submodule(name).spec.coefficients == "ternary" for name in TERNARY)
    compress(other := build(), short(), train=data)
    assert not torch.allclose(other.fc.weight, on_grid(other.fc.weight), rtol=1e-6, atol=0)


def test_weights_of_whole_numbers_are_not_rounded_again(build, data):
    """Sums of a few bases do not lie on a grid of 255 numbers up to the largest of an output."""
    model, x, made = build(), images(data), {}
    compress(model, short(), train=data[:1])
    weight = model.same.weight().detach()
    assert not torch.allclose(weight, on_grid(weight), rtol=1e-6, atol=0)
    inside = torch.randn(2, 16, 5, 5)
    for spared, want in ((("same",), weight), ((), on_grid(weight))):
        operands = Operands("minmax")
        operands.watch(model, whole=spared)
        hook = model.fc.register_forward_pre_hook(lambda *_, to=spared: made.update({to: model.same(inside)}))
        with torch.no_grad():
            model.eval()(x)
        hook.remove()
        operands.release()
        torch.testing.assert_close(made[spared], model.same.convolve(inside, want), rtol=1e-6, atol=1e-7)


def test_what_was_trained_with_roundings_is_not_mended(build, data):
    assert short().quantization().reestimate
    assert short(rounded=True, settle_epochs=0).quantization().reestimate
    assert not short(rounded=True).quantization().reestimate
    assert not Distill(short(rounded=True), build()).quantization().reestimate


def test_without_it_states_and_options_are_those_of_earlier_versions(build, data):
    """Runs that an earlier version began go on."""
    plain, method = short(), short(rounded=True)
    compress(build(), plain, train=data)
    compress(build(), method, train=data)
    assert set(plain.state_dict()) == {"phase", "step", "channels"}
    assert "rounded" not in plain.options()
    assert method.options()["rounded"] == "True"
    other = short(rounded=True)
    other.plan(build(), data[0][0][:1])
    other.load_state_dict(copy.deepcopy(method.state_dict()))
    assert other.state_dict() == method.state_dict()
    assert len(method.state_dict()["operands"]["reaches"]) == 7  # what six layers and the mean read


@pytest.mark.parametrize("stop", [8, 10, 13, 15])
def test_a_stopped_training_of_rounded_operands_goes_on_exactly(build, data, tmp_path, stop):
    """Stopped before it settles, while it observes first, and while it rounds, of 16 steps."""
    whole, resumed = train_stopped(build, data, tmp_path, {"rounded": True, "learning_rate": 0.05}, stop)
    for name, tensor in whole.items():
        assert torch.equal(resumed[name], tensor), name


def test_channels_leave_a_network_that_was_rounded(build, data):
    model = build()
    with torch.no_grad():
        model.down.weight[:8], model.down.bias[:8] = 0, 0
    compress(model, short(rounded=True, shrink=True, l1=0.0, learning_rate=1e-4), train=data)
    assert model.down.out_channels < 32
    assert torch.isfinite(model.eval()(images(data))).all()
