"""Escalate as whole numbers will have it: rounded operands, depthwise layers of int8, scales of both signs."""

from __future__ import annotations

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from dovetail.api import compress, quantize
from dovetail.engine import Session
from dovetail.errors import Interrupted, SpecError
from dovetail.formats import KernelBasisSpec
from dovetail.formats.kernel_basis.layer import KernelBasisConv2d
from dovetail.formats.values import INT8
from dovetail.methods import Distill, Escalate, Kept, Plan
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


@pytest.mark.parametrize("options", [{}, {"block": 4}, {"shared": 4}, {"density": 0.05}])
@pytest.mark.parametrize("stride", [1, 2])
def test_a_layer_is_at_most_one_code_from_the_trained_one(options, stride):
    """On the codes that the program reads, the layer in floating point rounds to the program's codes or their next."""
    torch.manual_seed(3)
    convs = [nn.Conv2d(3, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 16, 3, stride, padding=1), nn.ReLU()]
    model = nn.Sequential(*convs, nn.Conv2d(16, 4, 1))
    batches = [(torch.randn(16, 3, 9, 7), torch.zeros(16, dtype=torch.long))]
    method = short(sparsify_epochs=0, ternarise_epochs=0, settle_epochs=0, rule="minmax", pointwise=False, **options)
    compress(model, method, train=batches)
    program = lower(model.eval(), batches[0][0][:1])
    whole = quantize(program, [batches[0][0].numpy()], **method.quantization().options())
    node = next(n for n in whole.graph.nodes if n.name == "2")
    assert whole.weights[node.weight].spec.coefficients == "ternary"
    values, tensors = run(whole, batches[0][0].numpy(), every=True), whole.graph.tensors
    read, made = tensors[node.inputs[0]], tensors[node.output]
    assert (read.dtype, made.dtype) == ("uint8", "uint8")
    x = (torch.from_numpy(values[node.inputs[0]].astype(np.float32)) - read.zero) * read.scale
    with torch.no_grad():
        y = torch.relu(model[2](x)) / made.scale + made.zero
    apart = np.abs(y.round().clamp(0, 255).numpy() - values[node.output])
    assert apart.max() <= 1
    assert (apart > 0).mean() < 0.03  # the program's biases are mended by means over the images
    assert len(np.unique(values[node.output])) > 50


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


@pytest.mark.parametrize("stop", [8, *(pytest.param(n, marks=pytest.mark.slow) for n in (10, 13)), 15])
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


def test_a_shared_kernel_that_8_bits_lose_is_told(build, data, caplog):
    model = build()
    with torch.no_grad():
        weight = model.same.weight
        alike = weight[:, :, :1, :1].sign() * weight[:1, :1]  # one kernel everywhere, up to its sign
        weight.copy_(alike + 1e-4 * weight)
    compress(model, short(sparsify_epochs=0, ternarise_epochs=0, settle_epochs=0), train=data)
    (told,) = {record.getMessage() for record in caplog.records if "'same'" in record.getMessage()}
    assert told == (
        "layer 'same': shared kernels 1, 2 reach less than 1/64 of the layer's largest number; 8 bits keep little"
    )


# Depthwise layers


class Separable(nn.Module):
    """A stem, two depthwise convolutions (a stride, and two outputs of each channel), 1x1 ones, a classifier."""

    def __init__(self):
        super().__init__()
        self.stem, self.bn = nn.Conv2d(1, 12, 3, padding=1, bias=False), nn.BatchNorm2d(12)
        self.deep, self.bn2 = nn.Conv2d(12, 12, 3, padding=1, groups=12, bias=False), nn.BatchNorm2d(12)
        self.point = nn.Conv2d(12, 14, 1)
        self.twice = nn.Conv2d(14, 28, (5, 3), stride=2, padding=(2, 1), groups=14)
        self.fc = nn.Linear(28, 3)

    def forward(self, x):
        x = F.relu(self.bn(self.stem(x)))
        x = F.relu(self.point(F.relu(self.bn2(self.deep(x)))))
        return self.fc(F.relu(self.twice(x)).mean((2, 3)))


DEEP = ("deep", "twice")


@pytest.fixture
def separable():
    def make():
        torch.manual_seed(7)
        return Separable()

    return make


def test_depthwise_layers_are_planned_where_asked(separable, example):
    kept = short().plan(separable(), example).layers
    assert all(isinstance(kept[name], Kept) for name in DEEP)
    plan = short(depthwise=4, density={"*": 0.5}, cost=None).plan(separable(), example).layers
    assert {name: plan[name] for name in DEEP} == dict.fromkeys(DEEP, KernelBasisSpec(bases=4, values=INT8))
    assert plan["point"] == KernelBasisSpec(bases=1, coefficients="ternary")
    assert short(depthwise=12).plan(separable(), example).layers["deep"].bases == 9
    with pytest.raises(SpecError, match="depthwise 40: kernels there have 15 taps at most"):
        short(depthwise=40).plan(separable(), example)
    # shares and costs are those of ternary layers
    assert short(density={"point": 0.5}, depthwise=2).plan(separable(), example).layers["deep"].bases == 2
    given = short().plan(separable(), example, Plan({"deep": KernelBasisSpec(bases=3, values=INT8)}))
    assert given.layers["deep"].bases == 3
    for spec, name in ((KernelBasisSpec(bases=3), "deep"), (KernelBasisSpec(bases=1, values=INT8), "point")):
        with pytest.raises(SpecError, match="depthwise layers it trains dense ones of int8"):
            short().plan(separable(), example, Plan({name: spec}))
    with pytest.raises(SpecError, match="no layer to decompose into ternary"):
        short(depthwise=4, pointwise=False).plan(separable(), example)
    with pytest.raises(SpecError, match="depthwise 0"):
        short(depthwise=0)


def test_whole_factors_by_hand():
    """One basis grid in units of 254 / 127 = 2, and one of coefficients for each output."""
    layer = KernelBasisConv2d.from_dense(nn.Conv2d(2, 2, 2, groups=2), KernelBasisSpec(bases=2, values=INT8))
    with torch.no_grad():
        layer.bases.copy_(torch.tensor([[[254.0, 3.1], [1.0, -253.0]], [[0.9, 0.0], [-5.0, 100.9]]]))
        layer.coefficients.copy_(torch.tensor([[[127.0, 3.4]], [[0.2, -12.7]]]))
    layer.latent = True
    bases, coefficients = layer.live_factors()
    want = torch.tensor([[[254.0, 4.0], [0.0, -252.0]], [[0.0, 0.0], [-4.0, 100.0]]])
    torch.testing.assert_close(bases, want)
    torch.testing.assert_close(coefficients, torch.tensor([[[127.0, 3.0]], [[0.2, -12.7]]]))
    packed = layer.pack()
    assert packed.codes()[0].ravel().tolist() == [127, 2, 0, -126, 0, 0, -2, 50]
    assert packed.codes()[1].ravel().tolist() == [127, 3, 2, -127]
    assert packed.bits() == 8 * 8 + 32 + 8 * 4 + 2 * 32
    before = layer.weight().detach()
    layer.settle_latent()
    assert torch.equal(layer.weight(), before)


def test_gradients_of_whole_factors_are_those_of_real_ones():
    torch.manual_seed(0)
    layer = KernelBasisConv2d.from_dense(nn.Conv2d(5, 10, 3, groups=5), KernelBasisSpec(bases=4, values=INT8))
    layer.latent, g = True, torch.randn(10, 1, 3, 3)
    (layer.weight() * g).sum().backward()
    bases, coefficients = (factor.detach() for factor in layer.live_factors())
    torch.testing.assert_close(layer.coefficients.grad, torch.einsum("kcrs,mrs->kcm", g, bases))
    torch.testing.assert_close(layer.bases.grad, torch.einsum("kcrs,kcm->mrs", g, coefficients))


def test_depthwise_layers_train_as_they_are_packed(separable, data):
    """They are no part of the density, move in every phase, and stay what they are in whole numbers."""

    class Watched(Escalate):
        def begin(self, phase, model):
            groups = super().begin(phase, model)
            self.before = {name: copy.deepcopy(model.get_submodule(name).state_dict()) for name in DEEP}
            return groups

        def end(self, phase, model):
            for name in DEEP:
                layer = model.get_submodule(name)
                assert layer.latent == (phase.name != "sparsify")
                for key, tensor in self.before[name].items():
                    assert not torch.equal(layer.state_dict()[key], tensor), (phase.name, name, key)
            super().end(phase, model)

    options = {"density": 0.3, "sparsify_epochs": 1, "ternarise_epochs": 1, "settle_epochs": 1, "learning_rate": 0.05}
    model, method = separable(), Watched(depthwise=4, **options)
    done = compress(model, method, train=data)
    ternary = model.point.coefficients
    assert done.history.records[-1].metrics["density"] == pytest.approx(float((ternary != 0).double().mean()))
    for name in DEEP:
        layer = model.get_submodule(name)
        assert not layer.latent
        packed = layer.pack()
        assert packed.spec == KernelBasisSpec(bases=4, values=INT8)
        packed.validate()
        np.testing.assert_allclose(packed.dense(), layer.weight().detach().numpy(), rtol=1e-5, atol=1e-8)
        assert (packed.codes()[1].ravel() != 0).mean() > 0.8


@pytest.mark.parametrize("rounded", [False, True])
def test_the_engine_runs_depthwise_bases_in_whole_numbers(separable, data, rounded):
    """Bit for bit what the reference gives; bases and coefficients are the codes that training had."""
    model, method = separable(), short(depthwise=4, rounded=rounded, rule="minmax")
    compress(model, method, train=data)
    x = images(data)
    program = lower(model.eval(), x[:1])
    made = quantize(program, [batch.numpy() for batch, _ in data], **method.quantization().options())
    for name in DEEP:
        codes = zip(made.weights[name].codes(), model.get_submodule(name).pack().codes())
        scales = {node.weight: node.epilogue.scale for node in program.graph.nodes}
        sign = 1 if scales[name] is None else np.sign(program.arrays[scales[name]])[:, None, None]
        for (got, want), flip in zip(codes, (1, sign)):
            assert np.array_equal(got, want * flip)
    assert np.array_equal(Session(made)(x.numpy()), run(made, x.numpy()))


@pytest.mark.parametrize("stop", [*(pytest.param(n, marks=pytest.mark.slow) for n in (2, 9)), 6, 13])
def test_a_stopped_training_of_depthwise_layers_goes_on_exactly(separable, data, tmp_path, stop):
    options = {"depthwise": 3, "interval": 1, "blend": 0.5, "learning_rate": 0.05}
    whole, resumed = train_stopped(separable, data, tmp_path, options, stop)
    for name, tensor in whole.items():
        assert torch.equal(resumed[name], tensor), name


def test_dead_channels_leave_depthwise_layers(separable, data):
    """With the rows of their coefficients; the others compute the same."""
    options = {"depthwise": 4, "l1": 0.0, "learning_rate": 1e-4, "density": 0.5}
    made = {}
    for shrinking in (False, True):
        model = separable()
        with torch.no_grad():
            model.point.weight[:, 3:8] = 0
        compress(model, short(shrink=shrinking, **options), train=data)
        made[shrinking] = model.eval()
    whole, small = made[False].deep, made[True].deep
    kept = [c for c in range(12) if bool((made[False].point.coefficients[:, c] != 0).any())]
    assert small.groups == small.out_channels == len(kept) < 12
    assert torch.equal(small.coefficients, whole.coefficients[kept])
    assert small.pack().spec == whole.pack().spec
    torch.testing.assert_close(made[True](images(data)), made[False](images(data)), atol=1e-5, rtol=1e-5)


# Scales of both signs


def test_asymmetric_layers_train_as_they_are_packed(build, data):
    model = build()
    compress(model, short(asymmetric=True, learning_rate=0.05), train=data)
    for name in TERNARY:
        layer = model.get_submodule(name)
        packed = layer.pack()
        assert packed.spec == replace(layer.spec, coefficients="ternary", asymmetric=True)
        np.testing.assert_allclose(packed.dense(), layer.weight().detach().numpy(), rtol=1e-5, atol=1e-8)
        plus, minus = packed.arrays["coefficients.scale"].reshape(-1, 2).T
        assert (plus != minus).mean() > 0.8
    assert "asymmetric" not in short().options()
    assert short(asymmetric=True).options()["asymmetric"] == "True"


@pytest.mark.parametrize("rounded", [False, True])
def test_asymmetric_layers_are_recomposed_for_whole_numbers(build, data, rounded):
    """And rounded as such in training, where that rounds."""
    model, method, x = build(), short(asymmetric=True, rounded=rounded, rule="minmax"), images(data)
    seen = spying(method, data)
    compress(model, method, train=data)
    program = lower(model.eval(), x[:1])
    made = quantize(program, [batch.numpy() for batch, _ in data], **method.quantization().options())
    assert {made.weights[name].spec.format for name in TERNARY} <= {"dense", "sparse"}
    whole, real = run(made, x.numpy()), run(program, x.numpy())
    assert np.array_equal(Session(made)(x.numpy()), whole)
    assert np.abs(whole - real).max() < 0.05 * np.ptp(real)
    if rounded:
        assert np.abs(whole - seen["settle"]).mean() < 0.01 * real.std()


@pytest.mark.parametrize("stop", [2, 6, pytest.param(13, marks=pytest.mark.slow)])
def test_a_stopped_training_of_asymmetric_layers_goes_on_exactly(build, data, tmp_path, stop):
    options = {"asymmetric": True, "shared": 2, "blend": 0.5, "rounded": True, "learning_rate": 0.05}
    whole, resumed = train_stopped(build, data, tmp_path, options, stop)
    for name, tensor in whole.items():
        assert torch.equal(resumed[name], tensor), name
