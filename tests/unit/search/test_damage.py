"""What formats spoil, before training."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from dovetail.errors import BudgetError, DataError
from dovetail.formats import BlockSparseSpec, PackedTucker, SparseSpec, TuckerSpec
from dovetail.formats.tucker.packed import hosvd, truncation_errors
from dovetail.search.damage import Sensitivity, errors, load, save, sensitivities


@pytest.fixture
def model():
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 12, 3, padding=1), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(12, 5))


@pytest.fixture
def images():
    return list(torch.randn(6, 3, 8, 8, generator=torch.Generator().manual_seed(1)).split(4))


@pytest.mark.parametrize("shape", [(6, 5, 3, 3), (3, 7, 1, 1), (8, 2, 5, 3)])
def test_truncation_errors_are_those_of_hosvd_at_every_rank(shape):
    weight = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    table = truncation_errors(weight)
    assert table.shape == (shape[0] + 1, shape[1] + 1)
    assert table[0, 0] == 1.0
    assert table[-1, -1] == pytest.approx(0.0, abs=1e-12)
    for d2 in range(1, shape[0] + 1):
        for d1 in range(1, shape[1] + 1):
            out, into = hosvd(weight.astype(np.float64), d2, d1)
            close = np.einsum("kcrs,kb,lb,ca,da->ldrs", weight, out, out, into, into)
            want = np.square(weight - close).sum() / np.square(weight).sum()
            assert table[d2, d1] == pytest.approx(want, abs=1e-6)


def test_errors_are_those_of_the_packed_weights():
    weight = np.random.default_rng(0).standard_normal((8, 12, 3, 3)).astype(np.float32)
    specs = [TuckerSpec(rank_in=6, rank_out=4), SparseSpec(density=0.3), BlockSparseSpec(density=0.3)]
    tucker, sparse, block = errors(weight, specs)
    best = PackedTucker.from_dense(weight, specs[0]).dense()
    assert tucker >= np.square(weight - best).sum() / np.square(weight).sum() - 1e-6  # HOOI is at least as good
    sizes = np.sort(np.square(weight).ravel())
    assert sparse == pytest.approx(sizes[: int(0.7 * sizes.size)].sum() / sizes.sum(), rel=0.02)
    assert 0 < sparse < block < 1
    assert errors(np.zeros_like(weight), [SparseSpec(density=0.5)]) == [0.0]


def test_a_layer_is_as_sensitive_as_its_answers_say(model, images):
    specs = [SparseSpec(density=density) for density in (0.9, 0.6, 0.1)]
    before = {name: value.clone() for name, value in model.state_dict().items()}
    found = sensitivities(model, images, {"2": specs})
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    one = found["2", "sparse"]
    each = errors(model[2].weight.detach().numpy(), specs)
    assert one.spec == specs[int(np.argmin(np.abs(np.array(each) - 0.2)))]
    with torch.no_grad():
        old = [F.log_softmax(model(batch), dim=1) for batch in images]
        weight = model[2].weight
        array = weight.numpy().copy()
        weight.copy_(torch.from_numpy(array * (np.abs(array) >= np.quantile(np.abs(array), 0.4))))
        new = [F.log_softmax(model(batch), dim=1) for batch in images]
    apart = sum(float((o.exp() * (o - n)).sum()) for o, n in zip(old, new)) / 6
    assert one.divergence == pytest.approx(apart, rel=1e-3)
    assert one.damage(one.error) == one.divergence
    assert one.damage(0.01) / one.damage(0.005) == pytest.approx(2.0, rel=0.01)
    assert one.damage(0.99) > 50 * one.damage(0.5)


def test_every_format_is_tried_once_and_nothing_known_again(model, images):
    candidates = {"2": [SparseSpec(density=0.5), BlockSparseSpec(density=0.5)], "6": [SparseSpec(density=0.5)]}
    told = []
    found = sensitivities(model, images, candidates, report=lambda *row: told.append(row[:2]))
    assert list(found) == told == [("2", "sparse"), ("2", "block_sparse"), ("6", "sparse")]
    known = {("2", "sparse"): Sensitivity(SparseSpec(density=0.5), 0.25, 99.0)}
    assert sensitivities(model, images, candidates, known=known)["2", "sparse"].divergence == 99.0


def test_findings_outlive_a_stopped_search(tmp_path):
    path = tmp_path / "runs" / "sensitivity.json"
    found = {("2", "sparse"): Sensitivity(SparseSpec(density=0.5), 0.25, 1.5)}
    assert load(path, "abc") == {}
    save(found, path, "abc")
    assert load(path, "abc") == found
    assert load(path, "another network") == {}
    path.write_text('{"network": "abc", "layers": [{"layer": "2"}]}')
    with pytest.raises(DataError, match="holds no sensitivities"):
        load(path, "abc")


def test_sensitivity_needs_images_and_finite_answers(model, images):
    with pytest.raises(BudgetError, match="there are none"):
        sensitivities(model, [], {"2": [SparseSpec(density=0.5)]})
    with torch.no_grad():
        model[0].weight.fill_(float("nan"))
    with pytest.raises(BudgetError, match="not finite"):
        sensitivities(model, images, {"2": [SparseSpec(density=0.5)]})


def test_what_is_exact_spoils_nothing_and_says_nothing_of_the_others():
    exact, tried = (Sensitivity(SparseSpec(density=0.5), error, 0.3) for error in (0.0, 0.2))
    assert exact.damage(0.0) == tried.damage(0.0) == 0.0
    assert exact.damage(0.5) == np.inf
    assert tried.damage(0.5) == pytest.approx(1.2)  # four times the energy lost over the energy kept


def test_a_layer_of_low_rank_is_tried_with_a_candidate_that_loses_something(model, images):
    with torch.no_grad():
        weight = model[2].weight
        weight.copy_(torch.einsum("kr,rcij->kcij", torch.randn(12, 4), torch.randn(4, 8, 3, 3)))
    exact, lossy = (TuckerSpec(rank_in=8, rank_out=rank) for rank in (4, 1))
    each = errors(weight.detach().numpy(), [exact, lossy])
    assert each[0] < 1e-6
    assert each[1] - 0.2 > 0.2 - each[0]  # the exact one is nearer what is tried as a rule
    found = sensitivities(model, images, {"2": [exact, lossy]})["2", "tucker"]
    assert (found.spec, found.error) == (lossy, each[1])
    assert found.damage(each[1]) == found.divergence > 0
    assert found.damage(each[0]) < 1e-4 * found.divergence
    known = {("2", "tucker"): Sensitivity(exact, each[0], 0.0)}
    assert sensitivities(model, images, {"2": [exact, lossy]}, known=known)["2", "tucker"] == found
    assert sensitivities(model, images, {"2": [exact]})["2", "tucker"].spec == exact
