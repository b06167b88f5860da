"""What every registered format must satisfy; a new format adds one row to SAMPLES."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.autograd import gradcheck
from torch.nn import functional as F

from dovetail.errors import ProgramError, SpecError
from dovetail.formats import (
    FORMATS,
    DenseSpec,
    Geometry,
    KernelBasisSpec,
    Packed,
    SparseSpec,
    Spec,
    SvdSpec,
    TuckerSpec,
    spec_from_json,
)
from dovetail.formats import layer as layers
from dovetail.formats.values import BF16, F32, VALUES

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Sample:
    """How to try a format: a spec without loss, lossy specs, and what layers it holds."""

    full: Callable[[Shape], Spec]
    lossy: tuple[Callable[[Shape], Spec], ...] = ()
    linear: bool = True
    convolution: bool = True
    groups: bool = True
    pointwise_only: bool = False

    def specs(self, shape: Shape) -> list[Spec]:
        return [self.full(shape), *(spec(shape) for spec in self.lossy)]

    def holds(self, shape: Shape, groups: int = 1) -> bool:
        if len(shape) == 2:
            return self.linear
        return self.convolution and (groups == 1 or self.groups) and (not self.pointwise_only or shape[2:] == (1, 1))


def some(n: int) -> int:
    return max(1, n // 2)


def area(shape: Shape) -> int:
    return shape[2] * shape[3]


SAMPLES = {
    "dense": Sample(lambda s: DenseSpec()),
    "svd": Sample(
        lambda s: SvdSpec(rank=min(s[:2])),
        (lambda s: SvdSpec(rank=some(min(s[:2]))),),
        groups=False,
        pointwise_only=True,
    ),
    "tucker": Sample(
        lambda s: TuckerSpec(rank_in=s[1], rank_out=s[0]),
        (lambda s: TuckerSpec(rank_in=some(s[1]), rank_out=max(1, s[0] - 1)),),
        linear=False,
        groups=False,
    ),
    "kernel_basis": Sample(
        lambda s: KernelBasisSpec(bases=area(s)),
        (
            lambda s: KernelBasisSpec(bases=some(area(s))),
            lambda s: KernelBasisSpec(bases=some(area(s)), coefficients="sparse"),
            lambda s: KernelBasisSpec(bases=area(s), coefficients="sparse"),
        ),
        linear=False,
    ),
    "sparse": Sample(lambda s: SparseSpec(), (lambda s: SparseSpec(density=0.3), lambda s: SparseSpec(density=0.02))),
}


@dataclass(frozen=True)
class Case:
    """A convolution (K, C/groups, R, S) on an H x W map, or a linear layer (K, C)."""

    shape: Shape
    stride: int = 1
    padding: int | tuple[int, int] = 0
    dilation: int = 1
    groups: int = 1
    bias: bool = True
    size: tuple[int, int] = (8, 7)

    def __str__(self) -> str:
        return f"{'x'.join(map(str, self.shape))}-s{self.stride}p{self.padding}d{self.dilation}g{self.groups}"

    @property
    def channels(self) -> int:
        return self.shape[1] * self.groups

    def layer(self) -> Any:
        if len(self.shape) == 2:
            return nn.Linear(self.shape[1], self.shape[0], self.bias)
        geometry = (self.shape[2:], self.stride, self.padding, self.dilation, self.groups, self.bias)
        return nn.Conv2d(self.channels, self.shape[0], *geometry)

    def input(self, batch: int = 2) -> torch.Tensor:
        return torch.randn(batch, self.channels, *(self.size if len(self.shape) == 4 else ()))

    def oracle(self, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        if len(self.shape) == 2:
            return F.linear(x, weight, bias)
        return F.conv2d(x, weight, bias, self.stride, self.padding, self.dilation, self.groups)


CASES = [
    Case((5, 7)),
    Case((1, 3), bias=False),
    Case((5, 7, 1, 1)),
    Case((6, 5, 1, 1), stride=2, bias=False),
    Case((4, 3, 1, 1), padding=1),
    Case((5, 3, 3, 3), padding=1),
    Case((3, 5, 3, 3), stride=2, padding=1, bias=False),
    Case((7, 1, 3, 3), padding=2, dilation=2),
    Case((4, 3, 5, 5), stride=2, padding=2),
    Case((3, 4, 3, 1), padding=(1, 0)),
    Case((6, 2, 3, 3), groups=3, padding=1),
    Case((6, 1, 3, 3), groups=6, stride=2, padding=1, bias=False),
]
ROWS = [
    pytest.param(name, case, number, id=f"{name}-{case}-{number}")
    for name, sample in SAMPLES.items()
    for case in CASES
    if sample.holds(case.shape, case.groups)
    for number in range(len(sample.specs(case.shape)))
]
ONE_ROW_EACH = [
    pytest.param(name, case, number, id=f"{name}-{case}-{number}")
    for name, sample in SAMPLES.items()
    for case in (Case((5, 7)), Case((5, 4, 1, 1), padding=1), Case((5, 3, 3, 3), stride=2, padding=1))
    if sample.holds(case.shape)
    for number in range(len(sample.specs(case.shape)))
]
every_row = pytest.mark.parametrize("name, case, number", ROWS)
few_rows = pytest.mark.parametrize("name, case, number", ONE_ROW_EACH)


def make(name: str, case: Case, number: int, dtype: torch.dtype = torch.float32) -> tuple[Any, Any]:
    """The dense layer and its twin in the format."""
    dense = case.layer()
    dense.weight.requires_grad_()
    return dense.to(dtype), layers.from_dense(dense.to(dtype), SAMPLES[name].specs(case.shape)[number])


def packed(name: str, case: Case, number: int, values: Any = F32) -> Packed:
    spec = replace(SAMPLES[name].specs(case.shape)[number], values=values)
    weight = np.random.default_rng(3).standard_normal(case.shape).astype(np.float32)
    return FORMATS[name].packed.from_dense(weight, spec)


def worst(got: Any, want: Any) -> float:
    """Largest error as a fraction of the range of what is wanted."""
    got, want = np.asarray(got, dtype=np.float64), np.asarray(want, dtype=np.float64)
    assert got.shape == want.shape
    return float(np.abs(got - want).max() / max(np.abs(want).max(), 1e-30))


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


@every_row
@pytest.mark.parametrize("dtype, tolerance", [(torch.float32, 1e-4), (torch.float64, 1e-10)], ids=["f32", "f64"])
def test_factored_equals_recomposed(name: str, case: Case, number: int, dtype: torch.dtype, tolerance: float) -> None:
    _, layer = make(name, case, number, dtype)
    x = case.input().to(dtype)
    with torch.no_grad(), layers.appear("factored"):
        weight = layer.weight() if name != "dense" else layer.weight
        assert worst(layer(x), case.oracle(x, weight, layer.bias)) <= tolerance


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
    after = layers.pack(layer)
    after.validate()
    assert not np.array_equal(before, after.dense())
    if name != "dense":
        assert worst(after.dense(), layer.weight().detach()) <= 1e-6
    if name == "sparse":
        assert not (after.dense() != 0)[before == 0].any()


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


@pytest.mark.parametrize("name, case, number", [row for row in ONE_ROW_EACH if row.values[0] != "dense"])
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


# Counts


@few_rows
@pytest.mark.parametrize("values", VALUES.values(), ids=VALUES)
def test_counts_are_of_what_is_stored(name: str, case: Case, number: int, values: Any) -> None:
    weight = packed(name, case, number, values)
    weight.validate()
    numbers = [key for key in weight.arrays if not key.endswith((".bitmap", ".gaps"))]
    assert weight.params() == sum(weight.arrays[key].size for key in numbers)
    assert weight.nonzeros() == sum(np.count_nonzero(values.decode(key, weight.arrays)) for key in numbers)
    assert weight.bits() == 8 * sum(len(array.tobytes()) for array in weight.arrays.values())
    assert weight.bits() >= weight.params() * values.bits
    assert weight.dense().dtype == np.float32
    assert weight.dense().shape == case.shape


class Meter:
    """Convolves by plain loops and counts every multiplication by a stored number, zero padding included."""

    def __init__(self) -> None:
        self.macs = 0

    def conv(
        self, x: np.ndarray, weight: np.ndarray, *, stride: int = 1, padding: int = 0, groups: int = 1
    ) -> np.ndarray:
        """`weight` holds NaN where nothing is stored."""
        k, c, r, s = weight.shape
        x = np.pad(x, ((0, 0), (padding, padding), (padding, padding)))
        h, w = (x.shape[1] - r) // stride + 1, (x.shape[2] - s) // stride + 1
        y = np.zeros((k, h, w))
        for out, channel, row, column in zip(*np.nonzero(~np.isnan(weight))):
            source = x[out // (k // groups) * c + channel]
            for i in range(h):
                for j in range(w):
                    y[out, i, j] += weight[out, channel, row, column] * source[i * stride + row, j * stride + column]
                    self.macs += 1
        return y


def stored_coefficients(weight: Any) -> np.ndarray:
    """(K, C, d), NaN where nothing is stored."""
    coefficients = weight.factors()[1].astype(np.float64)
    if weight.spec.coefficients == "sparse":
        coefficients[coefficients == 0] = np.nan
    return coefficients


def plain(weight: Any, x: np.ndarray, case: Case) -> Iterator[tuple[int, np.ndarray]]:
    meter, dense = Meter(), weight.dense().astype(np.float64).reshape(*case.shape[:2], *(case.shape[2:] or (1, 1)))
    if weight.spec.format == "sparse":
        dense[dense == 0] = np.nan
    yield meter.conv(x, dense, stride=case.stride, padding=case.padding, groups=case.groups), meter.macs


def low_rank(weight: Any, x: np.ndarray, case: Case) -> Iterator[tuple[int, np.ndarray]]:
    meter, (output, inputs) = Meter(), weight.factors()
    z = meter.conv(x, inputs[:, :, None, None], stride=case.stride, padding=case.padding)
    yield meter.conv(z, output[:, :, None, None]), meter.macs


def tucker(weight: Any, x: np.ndarray, case: Case) -> Iterator[tuple[int, np.ndarray]]:
    meter, (output, core, inputs) = Meter(), weight.factors()
    z = meter.conv(x, inputs[:, :, None, None])
    z = meter.conv(z, core, stride=case.stride, padding=case.padding)
    yield meter.conv(z, output[:, :, None, None]), meter.macs


def kernel_basis(weight: Any, x: np.ndarray, case: Case) -> Iterator[tuple[int, np.ndarray]]:
    """The three orders: conv-first, coefficients-first, recomposed."""
    (k, c), bases, coefficients = case.shape[:2], weight.factors()[0], stored_coefficients(weight)
    d, place = len(bases), {"stride": case.stride, "padding": case.padding}
    meter = Meter()
    maps = meter.conv(x, np.tile(bases, (case.channels, 1, 1))[:, None], groups=case.channels, **place)
    yield meter.conv(maps, coefficients.reshape(k, c * d, 1, 1), groups=case.groups), meter.macs
    meter = Meter()
    mixed = meter.conv(x, coefficients.transpose(0, 2, 1).reshape(k * d, c, 1, 1), groups=case.groups)
    yield meter.conv(mixed, np.tile(bases, (k, 1, 1)).reshape(k, d, *bases.shape[1:]), groups=k, **place), meter.macs
    meter, dense = Meter(), weight.dense().astype(np.float64)
    dense[np.isnan(coefficients).all(axis=2)] = np.nan
    yield meter.conv(x, dense, groups=case.groups, **place), meter.macs


ORDERS = {"dense": plain, "sparse": plain, "svd": low_rank, "tucker": tucker, "kernel_basis": kernel_basis}
COUNTED = [
    Case((3, 2), size=(1, 1)),
    Case((3, 4, 1, 1), stride=2, size=(5, 4)),
    Case((2, 5, 3, 3), padding=1, size=(4, 4)),
    Case((5, 2, 3, 3), stride=2, padding=1, size=(4, 5)),
    Case((4, 2, 3, 3), groups=2, padding=1, size=(4, 3)),
]


@pytest.mark.parametrize("thinned", [False, True], ids=["as-is", "thinned"])
@pytest.mark.parametrize(
    "name, case, number",
    [
        pytest.param(name, case, number, id=f"{name}-{case}-{number}")
        for name, sample in SAMPLES.items()
        for case in COUNTED
        if sample.holds(case.shape, case.groups)
        for number in range(len(sample.specs(case.shape)))
    ],
)
def test_macs_by_brute_force(name: str, case: Case, number: int, thinned: bool) -> None:
    """Every order that is counted is run by loops: it gives the oracle's output, and the least count is `macs`."""
    weight = packed(name, case, number)
    if thinned and name == "kernel_basis":
        bases, coefficients = weight.factors()
        kept = np.random.default_rng(1).random(coefficients.shape) < 0.2
        weight = type(weight).from_factors(bases, coefficients * kept, weight.spec)
    x = np.random.default_rng(2).standard_normal((case.channels, *case.size))
    dense = torch.from_numpy(weight.dense().astype(np.float64)).reshape(*case.shape[:2], *(case.shape[2:] or (1, 1)))
    oracle = F.conv2d(torch.from_numpy(x)[None], dense, None, case.stride, case.padding, 1, case.groups)[0].numpy()
    counts = []
    for y, macs in ORDERS[name](weight, x, case):
        assert np.abs(y - oracle).max() <= 1e-5
        counts.append(macs)
    at = Geometry(inputs=x[0].size, outputs=oracle[0].size, groups=case.groups)
    assert weight.macs(at) == min(counts)


# Damage


def damages(weight: Packed) -> Iterator[tuple[str, Packed]]:
    """The lies about the whole, and every array of a good weight damaged in every way."""
    k, c, *kernel = weight.shape
    for shape in ((k + 8, c, *kernel), (k, c + 9, *kernel), (-k, c, *kernel), (k, 0, *kernel), (k, c, 3)):
        yield f"shape {shape}", type(weight)(weight.spec, shape, weight.arrays)
    changes: list[tuple[str, dict[str, Any]]] = [("an unknown array", {"strange": np.zeros(1, np.float32)})]
    for key, array in weight.arrays.items():
        changes += [(f"no {key}", {key: None}), *((f"{key}: {what}", new) for what, new in damaged_array(key, array))]
    for what, change in changes:
        arrays = {key: array for key, array in {**weight.arrays, **change}.items() if array is not None}
        yield what, type(weight)(weight.spec, weight.shape, arrays)


def damaged_array(key: str, array: np.ndarray) -> Iterator[tuple[str, dict[str, np.ndarray]]]:
    yield "float16", {key: array.astype(np.float16)}
    yield "another axis", {key: array[None]}
    yield "truncated", {key: array[:-1]}
    yield "too long", {key: np.concatenate([array, array[:1]])}
    if array.dtype == np.float32:
        yield "NaN", {key: with_entry(array, np.nan)}
        yield "infinity", {key: with_entry(array, -np.inf)}
    if array.dtype == np.uint16:
        yield "a NaN of bf16", {key: with_entry(array, 0x7FC0)}
    if key.endswith(".bitmap"):
        yield "beside gaps", {key.replace(".bitmap", ".gaps"): array}
        yield "one bit flipped", {key: with_entry(array, array.flat[array.size // 2] ^ 1)}
    if key.endswith(".gaps"):
        yield "beside a bitmap", {key.replace(".gaps", ".bitmap"): array}
        yield "ends in a gap", {key: np.append(array, np.uint8(255))}
        yield "out of bounds", {key: np.append(np.uint8(255), array)}
        yield "a longer gap", {key: with_entry(array, array.flat[array.size // 2] + 1)}


def with_entry(array: np.ndarray, value: Any) -> np.ndarray:
    array = array.copy()
    array.flat[array.size // 2] = value
    return array


def passes(weight: Packed) -> bool:
    try:
        weight.validate()
    except ProgramError:
        return False
    return True


BIG_SPARSE = [
    pytest.param("sparse", Case((9, 8, 3, 3)), 2, id="sparse-gaps"),
    pytest.param("sparse", Case((9, 8, 3, 3)), 1, id="sparse-bitmap"),
    pytest.param("kernel_basis", Case((9, 8, 3, 3)), 2, id="coefficients-bitmap"),
]


@pytest.mark.parametrize("values", [F32, BF16], ids=["f32", "bf16"])
@pytest.mark.parametrize("name, case, number", [*ONE_ROW_EACH, *BIG_SPARSE])
def test_validate_rejects_all_damage(name: str, case: Case, number: int, values: Any) -> None:
    weight = packed(name, case, number, values)
    weight.validate()
    assert [what for what, bad in damages(weight) if passes(bad)] == []


def test_nan_weights_are_refused() -> None:
    for name, sample in SAMPLES.items():
        shape = (4, 3, 1, 1)
        with pytest.raises(SpecError, match="NaN"):
            FORMATS[name].packed.from_dense(np.full(shape, np.nan, np.float32), sample.full(shape))


# Specs


@pytest.mark.parametrize("name", SAMPLES)
def test_spec_json_round_trip(name: str) -> None:
    for values in VALUES.values():
        for spec in SAMPLES[name].specs((5, 4, 1, 1)):
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
        for values, tolerance in ((F32, 1e-5), (BF16, 2**-5)):
            stored = FORMATS[name].packed.from_dense(weight, replace(spec, values=values))
            stored.validate()
            error = np.linalg.norm(stored.dense() - weight)
            scale = np.linalg.norm(weight)
            assert error <= (tolerance if spec == sample.full(shape) else 1 + tolerance) * scale + 1e-30
            assert 0 <= stored.nonzeros() <= stored.params()
            twin = type(stored)(stored.spec, stored.shape, copy.deepcopy(stored.arrays))
            assert np.array_equal(twin.dense(), stored.dense())
