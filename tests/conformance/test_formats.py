"""What every registered format must satisfy; a new format adds one row to SAMPLES (tests/samples.py)."""

from __future__ import annotations

import copy
import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.autograd import gradcheck

from dovetail.errors import SpecError
from dovetail.formats import (
    FORMATS,
    spec_from_json,
)
from dovetail.formats import layer as layers
from dovetail.formats.values import BF16, F32, INT8, TERNARY, VALUES
from samples import (
    ONE_ROW_EACH,
    ROWS,
    SAMPLES,
    Case,
    Shape,
    each_held,
    every_row,
    few_rows,
    is_ternary,
    make,
    packed,
    worst,
)


def test_every_format_has_a_sample_and_every_sample_a_format() -> None:
    assert set(SAMPLES) == set(FORMATS)


@every_row
def test_layer_pack_and_oracle_agree(name: str, case: Case, number: int) -> None:
    _, layer = make(name, case, number)
    x = case.input()
    with torch.no_grad():
        oracle = layer.pack().dense() if name != "dense" else layers.pack(layer).dense()
        got, want = layer(x), case.oracle(x, torch.from_numpy(oracle.copy()), layer.bias)
        if name != "dense":
            assert worst(oracle, layer.weight()) <= 1e-6
    assert worst(got, want) <= 1e-5


@pytest.mark.parametrize("name, case, number", [row for row in ROWS if row.values[2] == 0])
def test_lossless_spec_gives_the_weight_back(name: str, case: Case, number: int) -> None:
    assert worst(packed(name, case, 0).dense(), np.random.default_rng(3).standard_normal(case.shape)) <= 1e-5
    dense, layer = make(name, case, 0)
    x = case.input()
    with torch.no_grad():
        assert worst(layer(x), dense(x)) <= 1e-5


FACTORED = ("kernel_basis", "permuted_diagonal", "svd", "tucker")
"""Formats whose layers show their structure in standard ops; the others export the product with their weight."""


@few_rows
def test_which_formats_show_their_structure(name: str, case: Case, number: int) -> None:
    _, layer = make(name, case, number)
    base = layers.FormatLinear if isinstance(layer, layers.FormatLinear) else layers.FormatConv2d
    assert (getattr(type(layer), "factored", base.factored) is not base.factored) == (name in FACTORED)


@pytest.mark.parametrize("name, case, number", [row for row in ROWS if row.values[0] in FACTORED])
@pytest.mark.parametrize("dtype, tolerance", [(torch.float32, 1e-4), (torch.float64, 1e-10)], ids=["f32", "f64"])
def test_factored_equals_recomposed(name: str, case: Case, number: int, dtype: torch.dtype, tolerance: float) -> None:
    """Permuted diagonals of a random or searched index have no classes: there it is the recomposed weight again."""
    _, layer = make(name, case, number, dtype)
    x = case.input().to(dtype)
    with torch.no_grad(), layers.appear("factored"):
        assert worst(layer(x), case.oracle(x, layer.weight(), layer.bias)) <= tolerance


@pytest.mark.parametrize("name, case, number", [row for row in ROWS if row.values[0] not in FACTORED])
def test_without_factors_it_is_the_product_that_trains(name: str, case: Case, number: int) -> None:
    """The transforms of circulant blocks are no standard ops: what ONNX gets is their weight, rotated out."""
    _, layer = make(name, case, number)
    x = case.input()
    with torch.no_grad(), layers.appear("factored"):
        appears = layer(x)
    with torch.no_grad():
        assert torch.equal(appears, layer(x))
        dense = torch.from_numpy(layers.pack(layer).dense().copy())
        assert worst(appears, case.oracle(x, dense, layer.bias)) <= 1e-5


@few_rows
def test_layers_survive_storage(name: str, case: Case, number: int) -> None:
    dense, layer = make(name, case, number)
    stored = layers.pack(layer)
    again = layers.pack(layers.from_packed(dense, stored))
    assert set(again.arrays) == set(stored.arrays)
    assert all(np.array_equal(again.arrays[key], stored.arrays[key]) for key in stored.arrays)
    x = case.input()
    with torch.no_grad():
        back = layers.from_packed(layer, stored)
        assert worst(back(x), layer(x)) <= 1e-6
        if name != "dense":
            assert worst(layer.to_dense()(x), layer(x)) <= 1e-5


@few_rows
def test_packed_weight_must_fit_the_layer(name: str, case: Case, number: int) -> None:
    _, layer = make(name, case, number)
    other = replace(case, shape=(case.shape[0] + 1, *case.shape[1:])).layer()
    with pytest.raises(SpecError, match="does not fit"):
        layers.from_packed(other, layers.pack(layer))


@few_rows
def test_gradients(name: str, case: Case, number: int) -> None:
    _, layer = make(name, replace(case, size=(4, 3)), number, torch.float64)
    x = replace(case, size=(4, 3)).input(1).double().requires_grad_()
    names, parameters = zip(*layer.named_parameters())

    def run(x: torch.Tensor, *values: torch.Tensor) -> torch.Tensor:
        return torch.func.functional_call(layer, dict(zip(names, values)), (x,))

    assert gradcheck(run, (x, *(p.detach().requires_grad_() for p in parameters)))


@few_rows
def test_training_keeps_to_the_structure(name: str, case: Case, number: int) -> None:
    """A step of SGD changes the weight, and what is packed afterwards is still what the layer computes."""
    _, layer = make(name, case, number)
    before = layers.pack(layer).dense().copy()
    optimizer = torch.optim.SGD(layer.parameters(), 0.1)
    layer(case.input()).square().mean().backward()
    optimizer.step()
    if name != "dense" and is_ternary(layer.spec):
        check_ternary_after_training(layer, before)
        return
    after = layers.pack(layer)
    after.validate()
    assert not np.array_equal(before, after.dense())
    if name != "dense":
        assert worst(after.dense(), layer.weight().detach()) <= 1e-6
    if name == "sparse":
        assert not (after.dense() != 0)[before == 0].any()


def check_ternary_after_training(layer: Any, before: np.ndarray) -> None:
    """Weights are rounded to signs again, as to any other value type; coefficients have to be trained towards them."""
    if layer.spec.values == TERNARY:
        after = layers.pack(layer).dense()
        assert not np.array_equal(before, after)
        assert not after[before == 0].any()
        return
    magnitudes = layer.coefficients.detach().abs().flatten(1)
    if ((magnitudes == magnitudes.amax(1, keepdim=True)) | (magnitudes == 0)).all():
        layers.pack(layer).validate()
        return
    with pytest.raises(SpecError, match="have magnitudes from"):
        layers.pack(layer)


@every_row
def test_autocast_and_channels_last(name: str, case: Case, number: int) -> None:
    """bf16 costs at most four times what it costs a dense layer of the same weight."""
    _, layer = make(name, case, number)
    reference = layer if name == "dense" else layer.to_dense()
    x = case.input()
    if x.ndim == 4:
        x, layer = x.to(memory_format=torch.channels_last), layer.to(memory_format=torch.channels_last)
    with torch.no_grad():
        exact = reference(x)
        assert worst(layer(x), exact) <= 1e-5
        with torch.autocast("cpu", torch.bfloat16):
            assert layer(x).dtype == torch.bfloat16
            allowed = 4 * worst(reference(x).float(), exact) + 2**-8
            assert worst(layer(x).float(), exact) <= allowed


@pytest.mark.parametrize("name, case, number", [row for row in ONE_ROW_EACH if not SAMPLES[row.values[0]].slices])
def test_layers_that_cannot_lose_channels_say_so(name: str, case: Case, number: int) -> None:
    _, layer = make(name, case, number)
    layers.swap(nn.ModuleDict({"fc": nn.Identity()}), "fc", layer)
    with pytest.raises(SpecError, match=r"layer 'fc': .* cannot lose single channels"):
        layer.slice_channels(torch.tensor([0, 3]))


SLICED = [row for row in ONE_ROW_EACH if row.values[0] != "dense" and SAMPLES[row.values[0]].slices]


@pytest.mark.parametrize("name, case, number", SLICED)
def test_slicing_channels_slices_the_weight(name: str, case: Case, number: int) -> None:
    _, layer = make(name, case, number)
    out, into = torch.tensor([0, 3]), torch.arange(case.shape[1]) != 1
    thin = layer.slice_channels(out, into)
    assert thin.weight_shape == (2, case.shape[1] - 1, *case.shape[2:])
    assert worst(thin.weight().detach(), layer.weight().detach()[out][:, into]) <= 1e-5
    assert torch.equal(thin.bias, layer.bias[out])
    thin.pack().validate()
    x = case.input()[:, into]
    assert thin(x).shape[1] == 2
    assert layer.weight_shape == case.shape
    with pytest.raises(SpecError):
        layer.slice_channels(torch.tensor([case.shape[0]]))
    with pytest.raises(SpecError):
        layer.slice_channels(torch.zeros(case.shape[0], dtype=torch.bool))


# Values

WORST = {"f32": 1e-6, "bf16": 0.02, "int8": 0.03, "ternary": 1e-6, "fixed16": 1e-4, "codebook4": 0.2}


@each_held(ROWS)
def test_cast_keeps_the_structure(name: str, case: Case, number: int, values: Any) -> None:
    weight = packed(name, case, number)
    multiply = np.random.default_rng(4).uniform(0.5, 2, case.shape[0]).astype(np.float32)
    cast = weight.cast(values, multiply)
    cast.validate()
    assert cast.spec == replace(weight.spec, values=values)
    want = weight.dense() * multiply.reshape(-1, *(1,) * (len(case.shape) - 1))
    if values == TERNARY != weight.spec.values:
        want = values.round(want)  # what is within the threshold is lost
    scales = 2**-11 if is_ternary(cast.spec) else 0  # float16
    assert worst(cast.dense(), want) < WORST[values.name] + scales


@pytest.mark.parametrize("name", SAMPLES)
def test_values_that_a_format_does_not_hold_are_refused(name: str) -> None:
    spec = SAMPLES[name].full((5, 4, 1, 1))
    for values in set(VALUES.values()) - set(spec.holds):
        with pytest.raises(SpecError, match=f"{name!r} holds no {values.name} values; it holds f32"):
            replace(spec, values=values)


@every_row
def test_integers_are_the_weight(name: str, case: Case, number: int) -> None:
    """One product of whole numbers and a scale per output, unless the format rounds in between or has more scales."""
    weight = packed(name, case, number)
    weight = weight if weight.spec.values == TERNARY else packed(name, case, number, INT8)
    assert packed(name, case, number, F32).integers() is None
    found = weight.integers()
    assert (found is None) == (name in ("svd", "tucker") or getattr(weight.spec, "asymmetric", False))
    if found is not None:
        codes, scale = found
        assert codes.dtype == np.int32
        assert scale.shape == case.shape[:1]
        assert weight.spec.values != TERNARY or set(np.unique(codes)) <= {-1, 0, 1}
        assert worst(codes * scale.reshape(-1, *(1,) * (len(case.shape) - 1)), weight.dense()) < 1e-6


# Specs


@pytest.mark.parametrize("name", SAMPLES)
def test_spec_json_round_trip(name: str) -> None:
    for spec in SAMPLES[name].specs((5, 4, 1, 1)):
        for values in spec.holds:
            spec = replace(spec, values=values)
            data = json.loads(json.dumps(spec.to_json()))
            assert spec_from_json(data) == spec
            assert hash(spec_from_json(data)) == hash(spec)
            assert data["format"] == name


@pytest.mark.parametrize("name", SAMPLES)
def test_spec_json_is_checked(name: str) -> None:
    good = SAMPLES[name].full((5, 4, 1, 1)).to_json()
    for change, message in (
        ({"colour": 1}, "does not know colour"),
        ({"version": good["version"] + 1}, "newer"),
        ({"version": "1"}, "version"),
        ({"version": 0}, "version"),
        ({"values": "f31"}, "unknown value type"),
        ({"values": []}, "unknown value type"),
        ({"format": "nosuch"}, "unknown format"),
    ):
        with pytest.raises(SpecError, match=message):
            spec_from_json({**good, **change})
    for field in set(good) - {"format", "version", "values"}:
        for bad in ("one", [1], -1, 0, True):
            with pytest.raises(SpecError):
                spec_from_json({**good, field: bad})
    with pytest.raises(SpecError):
        spec_from_json([good])  # type: ignore[arg-type]


@pytest.mark.parametrize("name", SAMPLES)
def test_specs_name_the_layer_they_cannot_hold(name: str) -> None:
    spec = SAMPLES[name].full((5, 4, 1, 1))
    with pytest.raises(SpecError, match=r"stage\.conv"):
        spec.check((5, 4, 3), "stage.conv")
    if not SAMPLES[name].linear:
        with pytest.raises(SpecError, match=r"stage\.conv"):
            spec.check((5, 4), "stage.conv")
    if not SAMPLES[name].groups:
        with pytest.raises(SpecError, match="group"):
            layers.from_dense(nn.Conv2d(10, 8, 1, groups=2), SAMPLES[name].full((8, 5, 1, 1)))


# Properties


@pytest.mark.parametrize("name", SAMPLES)
@settings(deadline=None, max_examples=25)
@given(data=st.data())
def test_any_shape_packs_and_validates(name: str, data: st.DataObject) -> None:
    sample = SAMPLES[name]
    channels = st.integers(1, 6)
    size = 1 if sample.pointwise_only else data.draw(st.integers(1, 5))
    shape: Shape = (data.draw(channels), data.draw(channels))
    if sample.convolution and (not sample.linear or data.draw(st.booleans())):
        shape = (*shape, size, data.draw(st.integers(1, size)))
    rng = np.random.default_rng(data.draw(st.integers(0, 2**16)))
    weight = rng.standard_normal(shape).astype(np.float32) * (rng.random(shape) < data.draw(st.floats(0, 1)))
    for spec in sample.specs(shape):
        for values, tolerance in ((F32, 1e-5), (BF16, 2**-5), (TERNARY, 2**-11)):
            if values not in spec.holds or (values != TERNARY == spec.values):
                continue
            stored = FORMATS[name].packed.from_dense(weight, replace(spec, values=values))
            stored.validate()
            error = np.linalg.norm(stored.dense() - weight)
            scale = np.linalg.norm(weight)
            lossless = spec == sample.full(shape) and values != TERNARY
            assert error <= (tolerance if lossless else 1 + tolerance) * scale + 1e-30
            assert 0 <= stored.nonzeros() <= stored.params()
            twin = type(stored)(stored.spec, stored.shape, copy.deepcopy(stored.arrays))
            assert np.array_equal(twin.dense(), stored.dense())


@every_row
def test_random_weights_have_the_structure(name: str, case: Case, number: int) -> None:
    spec = SAMPLES[name].specs(case.shape)[number]
    first, again = (FORMATS[name].packed.random(case.shape, spec, np.random.default_rng(0)) for _ in range(2))
    first.validate()
    assert first.shape == case.shape
    like = FORMATS[name].packed.from_dense(first.dense(), spec)
    assert first.spec == like.spec
    assert np.array_equal(first.dense(), again.dense())
    assert first.nonzeros() > 0
