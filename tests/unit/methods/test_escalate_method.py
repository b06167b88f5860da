from __future__ import annotations

import copy
import math

import numpy as np
import pytest
import torch
from torch import nn

from dovetail.api import compress
from dovetail.engine.quantize import quantize
from dovetail.errors import Interrupted, SpecError
from dovetail.formats import PackedKernelBasis
from dovetail.formats.kernel_basis import KernelBasisSpec
from dovetail.formats.kernel_basis.layer import KernelBasisConv2d, trained_ternary
from dovetail.methods import Escalate, Kept, Plan
from dovetail.methods.places import Places, together
from dovetail.program.lower import lower
from dovetail.program.reference import run as reference
from dovetail.training import Settings
from thinned import product, thinned

TERNARY = KernelBasisSpec(bases=3, coefficients="ternary")
NAMES = ("same", "down", "point", "grouped")


def short(**options):
    return Escalate(
        **{"bases": 3, "sparsify_epochs": 1, "ternarise_epochs": 2, "settle_epochs": 1, "update": 1, **options}
    )


def layers(model):
    return {name: model.get_submodule(name) for name in NAMES}


def test_numbers_of_the_layer_by_hand():
    """Two outputs, one channel, two bases; the mask leaves -1, 3 of the first basis and 2 of the second."""
    latent = torch.tensor([[[-1.0, 2.0]], [[3.0, 8.0]]])
    mask = torch.tensor([[[True, True]], [[True, False]]])
    bases = torch.tensor([[[127.0]], [[-63.4]]])
    scaled, coefficients = trained_ternary(bases, latent, mask)
    # alpha: (1 + 3) / 2 = 2 and 2. gamma: (1/2 + 2/2) / 2 = 0.75 of output 0, and 3/2 of output 1.
    assert coefficients.tolist() == [[[-0.75, 0.75]], [[1.5, 0.0]]]
    # 254 and -126.8 in units of 254 / 127 = 2: 127 and -63.4, rounded to -63.
    assert scaled.flatten().tolist() == [254.0, -126.0]


def test_a_latent_zero_is_zero_but_among_neighbours_at_a_place():
    latent, mask = torch.tensor([[[0.0], [-2.0]], [[2.0], [0.0]]]), torch.ones(2, 2, 1, dtype=torch.bool)
    scaled, coefficients = trained_ternary(torch.ones(1, 1, 1), latent, mask)
    assert (scaled.item(), coefficients.flatten().tolist()) == (2, [0, -1, 1, 0])
    scaled, coefficients = trained_ternary(torch.ones(1, 1, 1), latent, mask, place=(2, 1))
    assert (scaled.item(), coefficients.flatten().tolist()) == (1, [1, -1, 1, 1])
    layer = KernelBasisConv2d.from_dense(nn.Conv2d(2, 2, 1), KernelBasisSpec(bases=1))
    layer.spec, layer.latent = KernelBasisSpec(bases=1, coefficients="ternary"), True
    layer.coefficients.data.copy_(latent)
    layer.prune(mask)
    assert layer.pack().stored_coefficients() == 2
    layer.spec = KernelBasisSpec(bases=1, coefficients="ternary", shared=2)
    assert layer.pack().stored_coefficients() == 4


@pytest.mark.parametrize("masked", [True, False])
@pytest.mark.parametrize("place", [(1, 1), (2, 1), (2, 2), (1, 4), (4, 3)])
def test_a_place_of_nothing_but_latent_zeros_goes(place, masked):
    latent = torch.zeros(3, 5, 1)
    latent[1, 2], latent[2, 4] = -4.0, 1.0
    mask = torch.ones(3, 5, 1, dtype=torch.bool) if masked else None
    made = trained_ternary(torch.ones(1, 1, 1), latent, mask, place=place)[1]
    present = torch.zeros(3, 5, 1)
    for k, c in ((1, 2), (2, 4)):
        rows, columns = k // place[0] * place[0], c // place[1] * place[1]
        present[rows : rows + place[0], columns : columns + place[1]] = 1
    assert torch.equal((made != 0).float(), present)
    assert torch.equal(made < 0, latent < 0)


def test_blended_coefficients_by_hand():
    """A quarter of the ternary numbers above, three quarters of -1 / 2, 2 / 2, 3 / 2 and of the zero of the mask."""
    latent = torch.tensor([[[-1.0, 2.0]], [[3.0, 8.0]]])
    mask = torch.tensor([[[True, True]], [[True, False]]])
    scaled, coefficients = trained_ternary(torch.tensor([[[127.0]], [[-63.4]]]), latent, mask, 0.25)
    assert coefficients.tolist() == [[[-0.5625, 0.9375]], [[1.5, 0.0]]]
    assert scaled.flatten().tolist() == [254.0, -126.0]


def test_blending_leaves_the_gradients():
    torch.manual_seed(0)
    mask, g = torch.rand(4, 3, 2) > 0.5, torch.randn(4, 3, 2)
    latent, bases = torch.randn(4, 3, 2, requires_grad=True), torch.randn(2, 3, 3)
    found = []
    for blend in (0.0, 0.4, 1.0):
        latent.grad = None
        (trained_ternary(bases, latent, mask, blend)[1] * g).sum().backward()
        found.append(latent.grad)
    assert torch.equal(found[0], found[2])
    assert torch.equal(found[1], found[2])


def test_only_training_computes_with_blended_coefficients():
    torch.manual_seed(0)
    layer = KernelBasisConv2d.from_dense(nn.Conv2d(4, 6, 3), KernelBasisSpec(bases=3))
    layer.prune(torch.rand(6, 4, 3) > 0.3)
    x = torch.randn(2, 4, 7, 7)
    with torch.no_grad():
        real = layer(x)
        layer.spec, layer.latent, layer.blend = TERNARY, True, 0.0
        assert float((layer.train()(x) - real).abs().max()) < 0.02 * np.ptp(real.numpy())  # bases are on their grid
        evaluated = layer.eval()(x)
        packed = torch.from_numpy(layer.train().pack().dense())
        torch.testing.assert_close(evaluated, layer.convolve(x, packed, layer.bias))
        assert float((evaluated - real).abs().max()) > 0.1 * np.ptp(real.numpy())
        layer.blend = 1.0
        assert torch.equal(evaluated, layer(x))


def test_gradients_pass_as_if_nothing_had_been_rounded():
    torch.manual_seed(0)
    latent, bases = torch.randn(4, 3, 2, requires_grad=True), torch.randn(2, 3, 3, requires_grad=True)
    mask = torch.rand(4, 3, 2) > 0.5
    scaled, coefficients = trained_ternary(bases, latent, mask)
    weight = torch.einsum("kcm,mrs->kcrs", coefficients, scaled)
    g = torch.randn_like(weight)
    (weight * g).sum().backward()
    alpha = torch.stack([latent[..., m][mask[..., m]].abs().mean() for m in range(2)]).detach()
    through = torch.einsum("kcrs,mrs->kcm", g, scaled.detach()) / alpha
    torch.testing.assert_close(latent.grad, through)
    assert (latent.grad[~mask] != 0).all()
    onto = torch.einsum("kcrs,kcm->mrs", g, coefficients.detach()) * alpha[:, None, None]
    torch.testing.assert_close(bases.grad, onto)


def test_the_scale_of_a_basis_moves_with_its_numbers_as_its_gradient_would():
    """A step along the latent gradients moves alpha by -rate / n of the gradient of the loss by alpha."""
    torch.manual_seed(1)
    latent, bases = torch.randn(5, 4, 1, requires_grad=True), torch.randn(1, 3, 3)
    g = torch.randn(5, 4, 3, 3)
    scaled, coefficients = trained_ternary(bases, latent, None)
    (torch.einsum("kcm,mrs->kcrs", coefficients, scaled) * g).sum().backward()
    along = float((latent.grad * latent.detach().sign()).sum())
    moved = (latent.detach() - 1e-3 * latent.grad).abs().mean() - latent.detach().abs().mean()
    assert float(moved) == pytest.approx(-1e-3 * along / latent.numel(), rel=1e-3)


def test_layers_end_up_packed_as_they_compute(build, data, example):
    model = build()
    compress(model, short(density=0.3), train=data)
    for name, layer in layers(model).items():
        assert isinstance(layer, KernelBasisConv2d), name
        assert layer.spec.coefficients == "ternary"
        assert not layer.latent
        packed = layer.pack()
        assert isinstance(packed, PackedKernelBasis)
        np.testing.assert_allclose(packed.dense(), layer.weight().detach().numpy(), rtol=1e-6, atol=1e-9)
    assert isinstance(model.stem, nn.Conv2d)
    assert isinstance(model.fc, nn.Linear)


def test_whole_numbers_lose_nothing_of_bases_and_coefficients(build, data, example):
    from dovetail.formats.values import INT8

    model = build()
    compress(model, short(density=0.3), train=data)
    for layer in layers(model).values():
        packed = layer.pack()
        np.testing.assert_allclose(packed.cast(INT8).dense(), packed.dense(), rtol=2e-6, atol=1e-9)


def test_the_quantised_network_computes_like_the_trained_one(build, data, example):
    model = build()
    method = short(density=0.3)
    compress(model, method, train=data)
    model.eval()
    images = data[0][0]
    program = lower(model, example)
    whole = quantize(program, [images.numpy()], **method.quantization().options())
    with torch.no_grad():
        want = model(images).numpy()
    got = reference(whole, images.numpy())
    assert np.abs(got - want).max() < 0.05 * np.ptp(want)


@pytest.mark.parametrize("density", [0.05, 0.25, 1.0])
def test_the_density_is_met_over_all_layers(build, data, density):
    model = build()
    done = compress(model, short(density=density, least=0.0), train=data)
    found = layers(model).values()
    total = sum(layer.coefficients.numel() for layer in found)
    kept = sum(int((layer.live_coefficients() != 0).sum()) for layer in found)
    assert kept == pytest.approx(density * total, abs=1)
    assert done.history.records[-1].metrics["density"] == pytest.approx(kept / total)


@pytest.mark.parametrize("count", [2, 3])
@pytest.mark.parametrize(("field", "axis"), [("shared", 0), ("block", 1)])
def test_neighbours_share_their_places(build, data, field, axis, count):
    model = build()
    compress(model, short(density=0.2, **{field: count}), train=data)
    found = layers(model).values()
    for layer in found:
        present = np.moveaxis(layer.pack().factors()[1] != 0, axis, 0)
        for first in range(0, len(present), count):
            assert (present[first : first + count] == present[first]).all()
    kept = sum(int((layer.coefficients != 0).sum()) for layer in found)
    assert kept == pytest.approx(0.2 * sum(layer.coefficients.numel() for layer in found), rel=0.03)


def test_means_of_neighbours_by_hand():
    sizes = torch.tensor([1.0, 3.0, 5.0, 7.0, 9.0]).view(5, 1, 1)
    assert together(sizes, 2).flatten().tolist() == [2.0, 6.0, 9.0]
    assert torch.equal(together(sizes, 1), sizes)
    assert together(sizes.view(1, 5, 1), 3, axis=1).flatten().tolist() == [3.0, 8.0]


def test_uniform_gives_every_layer_the_same_share(build, data):
    model = build()
    compress(model, short(density=0.25, allocation="uniform"), train=data)
    for layer in layers(model).values():
        assert int((layer.coefficients != 0).sum()) == pytest.approx(0.25 * layer.coefficients.numel(), abs=1)


def test_layers_keep_shares_of_their_own(build, data):
    model = build()
    compress(model, short(density={"*": 0.25, "down": 0.5}, shared=2), train=data)
    for name, layer in layers(model).items():
        want = (0.5 if name == "down" else 0.25) * layer.coefficients.numel()
        assert int((layer.coefficients != 0).sum()) == pytest.approx(want, abs=2)


def test_no_layer_falls_below_the_least(build, data):
    model = build()
    with torch.no_grad():
        model.grouped.weight.mul_(1e-4)
    compress(model, short(density=0.1, least=0.05, l1=0.0, sparsify_epochs=0, ternarise_epochs=0), train=data)
    share = float((model.grouped.coefficients != 0).double().mean())
    assert share == pytest.approx(0.05, abs=0.01)


def test_dear_coefficients_go_first():
    """Four of price 1 and four of 1/4: half of the cost of 5 buys the cheap 8, 6 and 4, and the dear 4."""
    sizes = torch.tensor([4.0, 3.0, 2.0, 1.0])
    places = Places({}, density=0.5, least=0.0, shares={}, costs={"dear": 4.0, "cheap": 1.0})
    kept = places.kept({"dear": sizes, "cheap": sizes}, 1.0)
    assert kept["dear"].tolist() == [True, False, False, False]
    assert kept["cheap"].tolist() == [True, True, True, False]


def test_a_budget_is_met(build, data):
    model = build()
    cost = {"same": 9.0, "down": 4.0, "point": 1.0, "grouped": 2.0}
    compress(model, short(density=0.3, cost=cost), train=data)
    shares = {name: float((layer.coefficients != 0).double().mean()) for name, layer in layers(model).items()}
    assert sum(cost[name] * share for name, share in shares.items()) == pytest.approx(0.3 * 16, rel=0.01)


def test_the_structure_stands_while_it_settles(build, data):
    class Watched(Escalate):
        def begin(self, phase, model):
            groups = super().begin(phase, model)
            if phase.name == "settle":
                self.before = {n: layer.live_coefficients().detach().sign() for n, layer in self._layers.items()}
                self.bases = {n: layer.bases.detach().clone() for n, layer in self._layers.items()}
            return groups

        def end(self, phase, model):
            if phase.name == "settle":
                self.moved = any(not torch.equal(x.bases.detach(), self.bases[n]) for n, x in self._layers.items())
            super().end(phase, model)

    model = build()
    method = Watched(bases=3, sparsify_epochs=0, ternarise_epochs=1, settle_epochs=3, density=0.3, learning_rate=0.1)
    compress(model, method, train=data)
    for name, layer in layers(model).items():
        assert torch.equal(layer.coefficients.detach().sign(), method.before[name])
    assert method.moved


def test_a_zero_comes_back_when_its_latent_number_outgrows_others(build, data):
    class Pushed(Escalate):
        def after_step(self):
            layer = self._layers["same"]
            if self._where == "ternarise" and self._step == 2:
                self.place = tuple((~layer.mask).nonzero()[0].tolist())
                with torch.no_grad():
                    layer.coefficients[self.place] = -10.0
            super().after_step()
            if self._where == "ternarise" and self._step == 3:
                self.back = float(layer.live_coefficients().detach()[self.place])

    method = Pushed(bases=3, sparsify_epochs=0, ternarise_epochs=1, settle_epochs=0, density=0.3, update=1)
    compress(build(), method, train=data)
    assert method.back < 0


def test_l1_makes_zeros_and_turns_are_taken(build, data):
    class Watched(Escalate):
        def before_epoch(self, epoch):
            super().before_epoch(epoch)
            if self._where == "sparsify":
                layer = self._layers["same"]
                turn = (layer.bases.requires_grad, layer.coefficients.requires_grad)
                self.turns = [*getattr(self, "turns", []), turn]

        def end(self, phase, model):
            if phase.name == "sparsify":
                self.zeros = float((self._layers["same"].coefficients == 0).double().mean())
            super().end(phase, model)

    method = Watched(
        bases=3,
        sparsify_epochs=6,
        ternarise_epochs=0,
        settle_epochs=0,
        density=1.0,
        interval=2,
        l1=3.0,
        learning_rate=0.01,
    )
    compress(build(), method, train=data)
    assert method.turns == [(False, True), (True, False), (True, False), (False, True), (False, True), (True, False)]
    assert method.zeros > 0.1


def with_dead_channels(build):
    """Of `down` outputs 0 to 7 are a constant, which `point` reads, 8 to 15 and 17 are not read."""
    model = build()
    with torch.no_grad():
        model.down.weight[:8], model.down.bias[:8] = 0, 1
        model.point.weight[:, [*range(8, 16), 17]] = 0
    return model


@pytest.mark.parametrize("shared", [1, 4])
def test_dead_channels_leave_with_all_that_was_theirs(build, data, tmp_path, shared):
    options = {"density": 0.3, "shared": shared, "l1": 0.0, "ternarise_epochs": 1, "learning_rate": 1e-4}
    whole, small, method = with_dead_channels(build), with_dead_channels(build), short(shrink=True, **options)
    compress(whole, short(**options), train=data)
    settings = Settings(run=tmp_path / "run")
    done = compress(small, method, train=data, settings=settings)
    every = torch.cat([layer.coefficients.detach().flatten() for layer in layers(small).values()])
    assert done.history.records[-1].metrics["density"] == pytest.approx(float((every != 0).double().mean()))
    kept = [k for k in range(16, 32) if k != 17 or shared > 1]
    assert small.down.weight_shape == (len(kept), 16, 3, 3)
    assert list(method.channel_map.layers["down"].outputs) == kept
    assert {layer.spec.shared for layer in layers(small).values()} == {shared}
    for got, want in (
        (small.down.coefficients, whole.down.coefficients[kept]),
        (small.point.coefficients, whole.point.coefficients[:, kept]),
        (small.down.bases, whole.down.bases),
    ):
        assert torch.equal(got, want)
    x = data[0][0]
    torch.testing.assert_close(small.eval()(x), whole.eval()(x), atol=1e-5, rtol=1e-5)
    again, finished = with_dead_channels(build), short(shrink=True, **options)
    compress(again, finished, train=data, settings=settings)
    assert finished.channel_map == method.channel_map
    assert torch.equal(again.eval()(x), small(x))


@pytest.mark.parametrize(("blend", "want"), [(0.5, [0, 0.25, 0.5, 0.75, 1, 1, 1, 1]), (0.0, [1] * 8)])
def test_ternary_coefficients_take_over_evenly(build, data, blend, want):
    """Over four of the eight steps of `ternarise`; real ones have no part in `settle`, nor in what is evaluated."""

    seen = {}

    class Watched(Escalate):
        def loss(self, model, batch, criterion):
            seen.setdefault(self._where, []).append(float(model.same.blend))
            return super().loss(model, batch, criterion)

    method = Watched(bases=3, sparsify_epochs=1, ternarise_epochs=2, settle_epochs=1, blend=blend, update=1)
    compress(build(), method, train=data)
    assert seen == {"sparsify": [1] * 4, "ternarise": want, "settle": [1] * 4}


STOPS = product((2, 3, 7, 8, 11, 16, 17, 19), (0.0, 0.75))


@pytest.mark.parametrize(("stop", "blend"), thinned(STOPS, every=2, key=lambda stop, blend: stop))
def test_a_stopped_training_ends_as_an_unbroken_one(build, data, tmp_path, stop, blend):
    """Of 20 steps, 8 sparsify (coefficients, then bases), 8 ternarise and 4 settle."""
    options = {"density": 0.2, "interval": 1, "sparsify_epochs": 2, "update": 3, "blend": blend}
    whole, broken = build(), build()
    compress(whole, short(**options), train=data)
    settings = Settings(run=tmp_path / "run", checkpoint_minutes=0.0)
    stopping, steps = short(**options), 0
    after = stopping.after_step

    def counted():
        nonlocal steps
        if (steps := steps + 1) > stop:
            raise Interrupted("stopped")
        after()

    stopping.after_step = counted
    with pytest.raises(Interrupted):
        compress(broken, stopping, train=data, settings=settings)
    broken = build()
    compress(broken, short(**options), train=data, settings=settings)
    for (name, a), b in zip(whole.state_dict().items(), broken.state_dict().values()):
        assert torch.equal(a, b), name


def test_what_sparsify_removes_stays_at_zero(build, data):
    class Watched(Escalate):
        def after_step(self):
            super().after_step()
            if self._where == "sparsify":
                for layer in self._layers.values():
                    assert layer.mask is None or not layer.coefficients.detach()[~layer.mask].any()

    epochs = {"sparsify_epochs": 4, "ternarise_epochs": 0, "settle_epochs": 0}
    compress(build(), Watched(bases=3, density=0.3, update=4, learning_rate=0.1, **epochs), train=data)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"density": 0.0}, "density"),
        ({"density": 0.001}, "least"),
        ({"density": {"*": 0.1, "a": 2.0}}, "density of 'a' 2.0"),
        ({"density": {"*": 0.1}, "cost": {"a": 1.0}}, "cost"),
        ({"ramp": 2.0}, "ramp"),
        ({"blend": 1.5}, "blend"),
        ({"l1": -1.0}, "l1"),
        ({"update": 0}, "update"),
        ({"allocation": "fair"}, "known are global, uniform"),
        ({"allocation": "uniform", "cost": {"a": 1.0}}, "cost"),
        ({"cost": {"a": -1.0}}, "positive"),
        ({"rule": "guess"}, "rule"),
    ],
)
def test_options_that_make_no_sense_are_refused(options, said):
    with pytest.raises(SpecError, match=said):
        Escalate(**options)


def test_plans_that_make_no_sense_are_refused_and_leave_the_model(build, example):
    model = build()
    before = copy.deepcopy(model.state_dict())
    wrong = [
        (short(), Plan({"same": KernelBasisSpec(bases=3)}), "ternary"),
        (short(), Plan({"nowhere": TERNARY}), "nowhere"),
        (short(), Plan({"same": KernelBasisSpec(bases=10, coefficients="ternary")}), "at most 9"),
        (short(), Plan(dict.fromkeys(NAMES, Kept("no"))), "no layer to decompose"),
        (short(bases={"nowhere": 3}), None, "nowhere"),
        (short(bases=10), None, "bases 10 of '\\*': kernels there have 9 taps at most"),
        (short(bases={"*": 4, "down": 12}), None, "bases 12 of 'down'"),
        (short(density={"down": 0.3}), None, "says nothing of same"),
        (short(cost={"same": 1.0}), None, "says nothing of"),
        (short(density=0.0005, least=0.0, allocation="uniform"), None, "without a coefficient"),
        (short(density=0.0005, least=0.0, cost=None), None, r"density 0\.0005 is below 0\.\d+, what \d+ layers keep"),
    ]
    for method, plan, said in wrong:
        with pytest.raises(SpecError, match=said):
            method.plan(model, example, plan)
    assert all(torch.equal(a, b) for a, b in zip(before.values(), model.state_dict().values()))


def test_a_layer_of_zeros_is_refused(build, example):
    model = build()
    nn.init.zeros_(model.get_submodule("down").weight)
    with pytest.raises(SpecError, match="layer 'down' holds nothing but zeros"):
        short().plan(model, example)
    assert "down" not in dict(short().plan(model, example, Plan({"down": Kept("zeros")})).specs())


@pytest.mark.parametrize(("taps", "bases"), [(2, 3), (3, 6), (5, 12), (7, 12)])
def test_two_thirds_of_the_taps_are_usual(taps, bases):
    model = nn.Sequential(nn.Conv2d(3, 8, 1), nn.Conv2d(8, 8, taps))
    plan = Escalate().plan(model, torch.zeros(1, 3, 8, 8))
    assert plan.layers["1"].bases == bases


def test_bases_by_name(build, example):
    plan = short(bases={"*": 4, "down": 2}).plan(build(), example)
    assert {name: spec.bases for name, spec in plan.specs()} == {"same": 4, "down": 2, "point": 1, "grouped": 4}


def test_layers_with_a_density_in_the_plan_keep_their_own(build, data):
    model = build()
    own = {
        "same": KernelBasisSpec(bases=3, coefficients="ternary", block=4, density=0.5),
        "down": KernelBasisSpec(bases=4, coefficients="ternary", density=0.1),
    }
    method = Escalate(density=0.25, sparsify_epochs=1, ternarise_epochs=1, settle_epochs=0, update=2)
    done = compress(model, method, train=data, plan=own)
    for name, share in (("same", 0.5), ("down", 0.1), ("point", 0.25)):
        layer = model.get_submodule(name)
        kept = layer.pack().factors()[1] != 0
        block = layer.spec.block
        places = kept[:, ::block].size
        assert kept[:, ::block].sum() == max(1, math.floor(share * places + 0.5))
        assert layer.spec.density is None
    assert {name: done.plan.layers[name] for name in own} == own
