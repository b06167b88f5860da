"""PENNI: the start, the turns, sparsity, pruning to a target, shrinking; and the counts."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from dovetail.errors import SpecError
from dovetail.formats import KernelBasisSpec, structure
from dovetail.formats.base import Geometry
from dovetail.formats.kernel_basis.layer import KernelBasisConv2d
from dovetail.methods import METHODS, Kept, Penni, Plan
from dovetail.methods.kernels import bases_for, basis_macs
from dovetail.methods.shrink import bind
from dovetail.methods.shrinking.groups import ChannelGroups
from dovetail.methods.shrinking.selection import dense_macs, importance, total_macs, weakest, within
from dovetail.program.counts import count
from dovetail.program.lower import lower


class Net(nn.Module):
    """Stem, residual block, strided convolution, 1x1, depthwise, classifier."""

    def __init__(self):
        super().__init__()
        self.stem, self.bn = nn.Conv2d(1, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)
        self.one, self.bn1 = nn.Conv2d(8, 12, 3, padding=1, bias=False), nn.BatchNorm2d(12)
        self.two, self.bn2 = nn.Conv2d(12, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)
        self.down = nn.Conv2d(8, 16, 3, stride=2, padding=1)
        self.point = nn.Conv2d(16, 12, 1)
        self.depth = nn.Conv2d(12, 12, 3, padding=1, groups=12)
        self.fc = nn.Linear(12, 3)

    def forward(self, x):
        x = F.relu(self.bn(self.stem(x)))
        x = F.relu(x + self.bn2(self.two(F.relu(self.bn1(self.one(x))))))
        x = F.relu(self.point(F.relu(self.down(x))))
        return self.fc(F.relu(self.depth(x)).mean((2, 3)))


@pytest.fixture
def net():
    torch.manual_seed(3)
    return Net()


@pytest.fixture(scope="module")
def coupling():
    """The channels of the untouched network."""
    torch.manual_seed(3)
    return bind(Net(), torch.zeros(1, 1, 6, 6)).coupling


@pytest.fixture
def batch():
    generator = torch.Generator().manual_seed(4)
    return torch.randn(8, 1, 6, 6, generator=generator), torch.arange(8) % 3


def started(model, batch, **options):
    """A method at the beginning of its first phase, with the optimizer that the phase asks for."""
    method = Penni(**{"shrink": False, **options})
    method.steps_per_epoch = 2
    method.plan(model, batch[0][:1])
    phase = method.phases()[0]
    groups = method.begin(phase, model)
    return method, torch.optim.SGD(groups, 0.05, momentum=0.9, weight_decay=1e-2)


def step(method, model, batch, optimizer):
    optimizer.zero_grad()
    method.loss(model.train(), batch, F.cross_entropy).backward()
    method.before_step()
    optimizer.step()
    method.after_step()


def finish(method, model):
    """The phases without training."""
    for phase in method.phases():
        method.begin(phase, model)
        method.end(phase, model)
    return model.eval()


def layers(model):
    return {n: m for n, m in model.named_modules() if isinstance(m, KernelBasisConv2d)}


def test_the_plan_decomposes_what_has_kernels_to_share(net, batch):
    plan = Penni(bases=4).plan(net, batch[0]).layers
    assert [plan[n].bases for n in ("stem", "one", "two", "down")] == [4] * 4
    assert {n for n, what in plan.items() if isinstance(what, Kept)} == {"point", "depth", "fc"}
    assert "depthwise" in plan["depth"].reason
    more = Penni(bases={"*": 3, "two": 7}, skip_first=True, pointwise=True).plan(net, batch[0]).layers
    assert isinstance(more["stem"], Kept)
    assert (more["one"].bases, more["two"].bases, more["point"].bases) == (3, 7, 1)
    assert METHODS["penni"] is Penni


def test_all_bases_are_the_original_layer(net, batch):
    net.eval()
    before = net(batch[0])
    started(net, batch, bases=9, pointwise=True)
    assert len(layers(net)) == 5
    torch.testing.assert_close(net.eval()(batch[0]), before, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("bases", [1, 3, 5, 8])
def test_the_start_is_the_best_and_beats_the_released_one(net, batch, bases):
    weight = net.one.weight.detach().double().reshape(-1, 9)
    best = torch.linalg.svdvals(weight)[bases:].square().sum().sqrt().item()
    residual = {}
    for init in ("svd", "pca_nomean", "pca_mean"):
        model = copy.deepcopy(net)
        started(model, batch, bases=bases, init=init)
        residual[init] = (model.one.weight().double().detach().reshape(-1, 9) - weight).norm().item()
    assert residual["svd"] == pytest.approx(best, rel=1e-5)
    assert residual["svd"] <= residual["pca_nomean"] + 1e-9
    assert residual["pca_mean"] <= residual["pca_nomean"] + 1e-9


def test_bases_by_energy():
    q = np.linalg.qr(np.random.default_rng(0).normal(size=(9, 9)))[0]
    weight = (np.eye(18, 9) * [8, 4, 2, 1, 0, 0, 0, 0, 0] @ q).reshape(6, 3, 3, 3).astype(np.float32)
    # energies 64, 16, 4, 1 of 85
    assert [bases_for(weight, e) for e in (0.5, 0.9, 0.95, 0.99)] == [1, 2, 3, 4]
    with pytest.raises(SpecError, match="whole number"):
        bases_for(weight, 2.5)


@pytest.mark.parametrize(
    ("interval", "start", "turns"),
    [
        (2, "coefficients", "abbaabb"),
        (3, "coefficients", "aabbbaa"),
        (1, "coefficients", "bababab"),
        (2, "both", "xbbaabb"),
        (0, "coefficients", "xxxxxxx"),
    ],
)
def test_turns(interval, start, turns):
    method = Penni(interval=interval, start=start)
    names = {"a": "coefficients", "b": "bases", "x": "both"}
    assert [method.turn(epoch) for epoch in range(7)] == [names[letter] for letter in turns]


@pytest.mark.parametrize("zeros", [True, False], ids=["no-grad", "zeroed-grad"])
def test_the_frozen_side_does_not_move_by_a_bit(net, batch, zeros):
    """Also after it has been trained, so that it has momentum, with weight decay, and with gradients of zeros."""
    method, optimizer = started(net, batch)
    for epoch in range(5):
        method.before_epoch(epoch)
        before = {n: (m.bases.detach().clone(), m.coefficients.detach().clone()) for n, m in layers(net).items()}
        for _ in range(2):
            optimizer.zero_grad(set_to_none=zeros)
            method.loss(net.train(), batch, F.cross_entropy).backward()
            method.before_step()
            optimizer.step()
            method.after_step()
        for name, layer in layers(net).items():
            still = torch.equal(layer.bases, before[name][0]), torch.equal(layer.coefficients, before[name][1])
            assert still == ((False, True) if method.turn(epoch) == "bases" else (True, False)), name


def test_the_penalty_is_the_l1_norm_of_what_trains(net, batch):
    method, _ = started(net, batch, l1=0.1)
    method.before_epoch(0)
    expected = 0.1 * sum(layer.coefficients.abs().sum() for layer in layers(net).values())
    torch.testing.assert_close(method.penalty(), expected)
    method.before_epoch(1)
    assert method.penalty() == 0


def test_groups_hold_rows_and_columns_of_a_channel(net, batch):
    started(net, batch)
    coupling = bind(net, batch[0]).coupling
    groups = ChannelGroups(net, coupling)
    a = {name: layer.coefficients.detach().double() for name, layer in layers(net).items()}
    expected = {}
    for k in range(12):  # inner channel of the block: one -> two
        expected[int(coupling.sites["one"].outputs[k])] = a["one"][k].square().sum() + a["two"][:, k].square().sum()
    for k in range(8):  # the stream: stem + two -> one, down
        rows, columns = (a["stem"][k], a["two"][k]), (a["one"][:, k], a["down"][:, k])
        expected[int(coupling.sites["stem"].outputs[k])] = sum(t.square().sum() for t in rows + columns)
    for k in range(16):  # down -> point, which is dense
        expected[int(coupling.sites["down"].outputs[k])] = a["down"][k].square().sum()
    squares = dict(zip(coupling.free.tolist(), groups.squares(net).tolist(), strict=True))
    for atom, value in expected.items():
        assert squares[atom] == pytest.approx(float(value), rel=1e-5)
    roots = dict(zip(coupling.free.tolist(), groups.roots.tolist(), strict=True))
    assert roots[int(coupling.sites["one"].outputs[0])] ** 2 == pytest.approx(8 * 5 + 8 * 5)
    expected_penalty = sum(roots[atom] * squares[atom] ** 0.5 for atom in squares)
    assert groups.penalty(net).item() == pytest.approx(expected_penalty, rel=1e-4)


def test_prox_softens_by_the_learning_rate_times_lambda(net, batch):
    method, _ = started(net, batch, sparsifier="prox", l1=0.5, schedule="constant", learning_rate=0.02)
    method.before_epoch(0)
    before = net.one.coefficients.detach().clone()
    method.after_step()
    expected = before.sign() * (before.abs() - 0.01).clamp_min(0)
    assert torch.equal(net.one.coefficients, expected)
    assert (expected == 0).any()
    assert method.penalty() == 0.0


def test_prox_removes_whole_channels(net, batch):
    method, _ = started(net, batch, sparsifier="prox", l1=0, group_l1=1.0, schedule="constant", learning_rate=0.05)
    method.before_epoch(0)
    before = {n: m.coefficients.detach().clone() for n, m in layers(net).items()}
    groups = ChannelGroups(net, bind(net, batch[0]).coupling)
    squares = groups.squares(net)
    method.after_step()
    gone = squares.sqrt() <= 0.05 * groups.roots
    assert gone.any()
    assert ((groups.squares(net) == 0) == gone).all()
    assert all((m.coefficients.abs() <= before[n].abs()).all() for n, m in layers(net).items())


def test_pruning_cuts_below_one_standard_deviation(net, batch):
    method, _ = started(net, batch, shrink=False)
    with torch.no_grad():
        net.one.bases.mul_(3.0)  # not of norm 1: pruning must compare the coefficients of unit bases
    weight = net.one.weight().detach()
    true = net.one.coefficients.detach() * 3.0
    for phase in method.phases()[:2]:
        method.begin(phase, net)
        method.end(phase, net)
    torch.testing.assert_close(net.one.bases.flatten(1).norm(dim=1), torch.ones(5))
    kept = true.abs() >= true.std()
    assert torch.equal(net.one.mask, kept)
    torch.testing.assert_close(net.one.coefficients, true * kept)
    assert (net.one.weight() - weight).norm() > 0


@pytest.mark.parametrize(("option", "per_layer"), [("density", True), ("global_density", False)])
def test_pruning_to_a_density(net, batch, option, per_layer):
    method = Penni(**{option: 0.3}, shrink=False)
    method.plan(net, batch[0])
    finish(method, net)
    counts = {n: (int((m.coefficients != 0).sum()), m.coefficients.numel()) for n, m in layers(net).items()}
    if per_layer:
        assert all(kept == round(0.3 * size) for kept, size in counts.values())
    else:
        assert sum(kept for kept, _ in counts.values()) == round(0.3 * sum(size for _, size in counts.values()))


@pytest.mark.parametrize("option", [{}, {"density": 0.3}, {"global_density": 0.3}], ids=str)
def test_layers_are_pruned_to_the_densities_of_a_plan(net, batch, option):
    wanted = KernelBasisSpec(bases=3, coefficients="sparse", density=0.1)
    method = Penni(**option, shrink=False)
    assert method.plan(net, batch[0], Plan({"one": wanted})).layers["one"] == wanted
    method.begin(method.phases()[0], net)
    assert int((net.one.coefficients != 0).sum()) == net.one.coefficients.numel()  # all of them train
    finish(method, net)
    kept = {name: float((layer.coefficients != 0).double().mean()) for name, layer in layers(net).items()}
    assert kept["one"] == pytest.approx(0.1, abs=1 / net.one.coefficients.numel())
    if "density" in option:
        assert kept["two"] == pytest.approx(0.3, abs=1 / net.two.coefficients.numel())
    if "global_density" in option:
        others = [layer for name, layer in layers(net).items() if name != "one"]
        assert sum(int((x.coefficients != 0).sum()) for x in others) == round(
            0.3 * sum(x.coefficients.numel() for x in others)
        )
    assert net.one.pack().spec == KernelBasisSpec(bases=3, coefficients="sparse")


def test_zeros_stay_zero_while_retraining(net, batch):
    method = Penni(threshold=1.0, interval=2, shrink=False)
    method.steps_per_epoch = 2
    method.plan(net, batch[0])
    for phase in method.phases():
        groups = method.begin(phase, net)
        if phase.name == "retrain":
            optimizer = torch.optim.SGD(groups, 0.05, momentum=0.9, weight_decay=1e-2, nesterov=True)
            dead = {n: m.coefficients == 0 for n, m in layers(net).items()}
            before = {n: m.coefficients.detach().clone() for n, m in layers(net).items()}
            assert all(d.any() for d in dead.values())
            for epoch in range(3):
                method.before_epoch(epoch)
                step(method, net, batch, optimizer)
            for name, layer in layers(net).items():
                assert (layer.coefficients[dead[name]] == 0).all()
                assert not torch.equal(layer.coefficients, before[name])
                assert layer.bases.grad is not None
        method.end(phase, net)


def test_metrics_count_the_zeros_and_the_sizes(net, batch):
    method, _ = started(net, batch, density=0.25)
    assert method.metrics()["zeros"] == 0
    for phase in method.phases()[:2]:
        method.end(phase, net)
    coefficients = torch.cat([layer.coefficients.detach().flatten() for layer in layers(net).values()])
    assert method.metrics() == {
        "zeros": pytest.approx(float((coefficients == 0).double().mean())),
        "l1": pytest.approx(float(coefficients.abs().sum())),
    }
    assert method.metrics()["zeros"] == pytest.approx(0.75, abs=0.05)


@pytest.mark.parametrize("final", ["dense", "kernel_basis", "auto"])
def test_macs_target_is_met_and_not_overshot(net, batch, final, coupling):
    nothing = np.zeros(coupling.count, bool)
    dense = total_macs(coupling, nothing)
    method = Penni(macs_target=0.35, density=0.2, finish=final, shrink="paper")
    plan = method.plan(net, batch[0])
    finish(method, net)
    settled = method.settled(net, plan)
    assert dict(settled.specs()).keys() == layers(net).keys()
    assert all(final in settled.layers[name].reason for name in dict(plan.specs()).keys() - layers(net).keys())
    counts = count(lower(net, batch[0]))
    assert counts.macs <= 0.35 * dense
    assert counts.macs <= counts.dense_macs < dense
    for row in counts.rows:
        if row.format == "kernel_basis":
            assert final != "dense"
            assert final == "kernel_basis" or row.macs <= 0.5 * row.dense_macs
        elif row.name in ("one", "two", "down"):
            assert final != "kernel_basis"
    steps = [dense - total_macs(coupling, np.arange(coupling.count) == atom) for atom in coupling.free]
    if final == "dense":  # one channel fewer removed would have left too many multiplications
        assert counts.macs > 0.35 * dense - max(steps)
    assert method.channel_map.layers["one"].before == (8, 12)
    assert net(batch[0]).isfinite().all()


def test_channel_density_keeps_the_strongest(coupling):
    nothing = np.zeros(coupling.count, bool)
    score = importance(coupling)
    removed = weakest(coupling, score, nothing, 20)
    free = coupling.free
    assert (~removed[free]).sum() == 20
    assert score[free][removed[free]].max() <= score[free][~removed[free]].min()
    emptied = weakest(coupling, score, nothing, 0)
    for site in coupling.sites.values():
        assert (~emptied[site.outputs]).any()


def test_importance_by_hand(net, coupling):
    rows = net.one.weight.detach().flatten(1).norm(dim=1)
    columns = net.two.weight.detach().transpose(0, 1).flatten(1).norm(dim=1)
    expected = rows * columns / (rows * columns).mean()
    inner = coupling.sites["one"].outputs
    assert importance(coupling)[inner] == pytest.approx(expected.numpy(), rel=1e-4)
    saved = 36 * 9 * (8 + 8)  # one row of 8 kernels and one column of 8, at 36 positions
    thrifty = importance(coupling, thrift=0.5)
    assert thrifty[inner] == pytest.approx(expected.numpy() / saved**0.5, rel=1e-4)
    stream = coupling.sites["stem"].outputs[0]
    assert importance(coupling)[stream] / thrifty[stream] == pytest.approx((36 * 9 * (1 + 12 + 12) + 9 * 9 * 16) ** 0.5)


def test_removal_stops_at_the_first_sufficient_channel(coupling):
    nothing, score = np.zeros(coupling.count, bool), importance(coupling)
    total = total_macs(coupling, nothing)
    for share in (0.9, 0.6, 0.4):
        removed = within(coupling, score, nothing, int(share * total), {})
        assert total_macs(coupling, removed) <= share * total
        last = max(coupling.free[removed[coupling.free]], key=lambda atom: score[atom])
        less = removed.copy()
        less[last] = False
        assert total_macs(coupling, less) > share * total
    with pytest.raises(SpecError, match="raise the target"):
        within(coupling, score, nothing, 10, {})


def test_macs_agree_with_a_brute_force_count(coupling):
    """Every multiplication of a convolution, position by position, zeros left out where the format leaves them out."""
    every = {n: (np.ones(len(s.outputs), bool), np.ones(len(s.inputs), bool)) for n, s in coupling.sites.items()}
    by_hand = {"stem": 36 * 8 * 9, "down": 9 * 16 * 8 * 9, "point": 9 * 12 * 16, "depth": 9 * 12 * 9, "fc": 36}
    for name, macs in by_hand.items():
        assert dense_macs(coupling.sites[name], *every[name]) == macs
    rng = np.random.default_rng(5)
    coefficients = rng.normal(size=(4, 3, 5)) * (rng.random((4, 3, 5)) < 0.3)
    coefficients[..., 2] = 0
    bases, at = rng.normal(size=(5, 3, 3)), Geometry(inputs=36, outputs=9)
    conv_first = sum(9 * 9 for _ in range(3) for b in range(5) if b != 2) + 9 * np.count_nonzero(coefficients)
    coef_first = 36 * np.count_nonzero(coefficients) + sum(9 * 9 for _ in range(4) for b in range(5) if b != 2)
    recomposed = sum(9 * 9 for k in range(4) for c in range(3) if coefficients[k, c].any())
    assert basis_macs(bases, coefficients, at) == min(conv_first, coef_first, recomposed)


def test_exact_shrinking_keeps_the_pruned_function(net, batch):
    method = Penni(threshold=0.5, group_l1=0, shrink=False)
    method.plan(net, batch[0])
    for phase in method.phases()[:1]:
        method.begin(phase, net)
    with torch.no_grad():
        net.one.coefficients[::3] = 0
        net.two.coefficients[:, 1::3] = 0
        net.down.coefficients[4:9] = 0
    pruned = copy.deepcopy(net)
    finish(method, pruned)
    exact = Penni(threshold=0.5, shrink="exact")
    exact.plan(Net(), batch[0])
    finish(exact, net)
    assert net.one.out_channels < 12
    assert (net(batch[0]) - pruned(batch[0])).abs().max() <= 1e-5


def test_begin_twice_changes_nothing_and_the_structure_is_rebuilt(net, batch):
    method, optimizer = started(net, batch, l1=1e-3, group_l1=1e-3)
    method.before_epoch(0)
    step(method, net, batch, optimizer)
    modules, weights = dict(net.named_modules()), copy.deepcopy(net.state_dict())
    other = Penni(l1=1e-3, group_l1=1e-3)
    fresh = Net()
    other.plan(fresh, batch[0])
    structure.rebuild(fresh, structure.describe(net))
    fresh.load_state_dict(weights)
    other.load_state_dict(method.state_dict())
    rebuilt = dict(fresh.named_modules())
    other.begin(other.phases()[0], fresh)
    method.begin(method.phases()[0], net)
    assert dict(net.named_modules()) == modules
    assert dict(fresh.named_modules()) == rebuilt
    assert other.state_dict() == method.state_dict()
    assert method.state_dict()["step"] == 1
    assert all(torch.equal(a, b) for a, b in zip(net.state_dict().values(), fresh.state_dict().values(), strict=True))


def test_the_mean_keeps_its_coefficient(net, batch):
    method, optimizer = started(net, batch, bases=4, init="pca_mean", sparsifier="prox", l1=10.0)
    method.before_epoch(0)
    step(method, net, batch, optimizer)
    assert net.one.spec.bases == 5
    assert (net.one.coefficients[..., -1] == 1).all()
    assert (net.one.coefficients[..., :-1] == 0).any()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"density": 0.0}, "density 0.0 must lie"),
        ({"density": 0.5, "global_density": 0.5}, "not both"),
        ({"l1": -1.0}, "must not be negative"),
        ({"init": "random"}, "unknown penni init"),
        ({"finish": "tucker"}, "kernel_basis, dense, auto"),
        ({"shrink": "fast"}, "unknown penni shrink"),
    ],
)
def test_impossible_options(options, message):
    with pytest.raises(SpecError, match=message):
        Penni(**options)


def test_a_target_that_is_hardly_in_reach_is_told_in_plan(net, batch, coupling, caplog):
    """One channel and one coefficient per layer: stem, one and two cost a 3x3 kernel per pixel, down one per four."""
    lowest = 3 * 9 * 36 + 9 * 9 + 9 + 9 * 9 + 3
    share = lowest / total_macs(coupling, np.zeros(coupling.count, bool))
    Penni(macs_target=1.01 * share, finish="kernel_basis").plan(net, batch[0])
    assert "hardly in reach" not in caplog.text
    Penni(macs_target=0.99 * share, finish="kernel_basis").plan(net, batch[0])
    assert f"and one coefficient, {share:.3f} of the dense network" in caplog.text


def test_impossible_plans(net, batch):
    from dovetail.formats import SparseSpec

    with pytest.raises(SpecError, match="no layer is called 'nothing'"):
        Penni(bases={"nothing": 3}).plan(net, batch[0])
    with pytest.raises(SpecError, match="trains the format kernel_basis"):
        Penni().plan(net, batch[0], Plan({"one": SparseSpec()}))
    with pytest.raises(SpecError, match="not ternary"):
        Penni().plan(net, batch[0], Plan({"one": KernelBasisSpec(bases=2, coefficients="ternary")}))
    for final in ("dense", "kernel_basis", "auto"):
        with pytest.raises(SpecError, match="out of reach"):
            Penni(macs_target=0.001, finish=final).plan(net, batch[0])
    with pytest.raises(SpecError, match="no convolution larger"):
        Penni().plan(nn.Sequential(nn.Flatten(), nn.Linear(36, 3)), batch[0])
