"""Ternary coefficients with a scale for either sign of an output."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from dovetail.errors import ProgramError, SpecError
from dovetail.formats import Geometry, KernelBasisSpec, PackedKernelBasis
from dovetail.formats.base import spec_from_json
from dovetail.formats.kernel_basis.layer import KernelBasisConv2d, trained_ternary
from dovetail.formats.kernel_basis.packed import decompose
from dovetail.formats.kernel_basis.ternary import LEAST, ternarise
from dovetail.formats.values import BF16, F32, INT8, Values
from dovetail.program import reference
from dovetail.program.check import check
from dovetail.program.program import Tensor
from dovetail.program.quantize import quantize
from dovetail.program.store import load, save
from programs import Sketch

RANDOM = np.random.default_rng(4)
SPEC = KernelBasisSpec(bases=4, coefficients="ternary", asymmetric=True)
SHAPES = [(7, 70, 3, 3, 4), (1, 1, 1, 1, 1), (5, 9, 3, 1, 2), (6, 1, 5, 5, 11), (3, 33, 1, 1, 1)]


def bases(count: int = 4, size: tuple[int, int] = (3, 3)) -> np.ndarray:
    return RANDOM.standard_normal((count, *size)).astype(np.float32)


def coefficients(k: int, c: int, d: int, *, shared: int = 1, block: int = 1, density: float = 0.3) -> np.ndarray:
    """Signs times scales of both of each output, at places that neighbours share."""
    there = RANDOM.random((-(-k // shared), -(-c // block), d)) < density
    there = there.repeat(shared, axis=0)[:k].repeat(block, axis=1)[:, :c]
    positive = RANDOM.random((k, c, d)) < 0.5
    plus, minus = (np.float32(RANDOM.uniform(0.1, 3, (k, 1, 1)).astype(np.float16)) for _ in range(2))
    return np.where(positive, plus, -minus) * there


@pytest.mark.parametrize("values", [F32, BF16, INT8], ids=lambda values: values.name)
@pytest.mark.parametrize("together", [{}, {"shared": 3}, {"block": 4}], ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_coefficients_come_back_bit_for_bit(shape: Any, together: dict[str, int], values: Values) -> None:
    k, c, r, s, d = shape
    given = coefficients(k, c, d, **together)
    spec = replace(SPEC, bases=d, values=values, **together)
    packed = PackedKernelBasis.from_factors(bases(d, (r, s)), given, spec)
    packed.validate()
    assert np.array_equal(packed.factors()[1], given)
    again = PackedKernelBasis.from_factors(*packed.factors(), spec)
    assert all(np.array_equal(again.arrays[name], packed.arrays[name]) for name in packed.arrays)
    want = np.einsum("kcb,brs->kcrs", *(part.astype(np.float64) for part in packed.factors()[::-1]))
    np.testing.assert_allclose(packed.dense(), want, rtol=1e-6, atol=1e-6)


def test_a_layer_by_hand() -> None:
    """Two outputs, three channels, one basis; the second has nothing above zero, so the median stands there."""
    given = np.array([[2.0, -1.0, 0.0], [0.0, -0.5, -0.5]])[:, :, None]
    packed = PackedKernelBasis.from_factors(bases(1), given, replace(SPEC, bases=1))
    assert packed.arrays["coefficients.scale"].tolist() == [2, 1, 1, 0.5]
    assert packed.arrays["coefficients.scale"].dtype == np.float16
    assert packed.arrays["coefficients"].tolist() == [0b1110]
    assert packed.arrays["coefficients.bitmap"].tolist() == [0b110011]
    assert packed.bits() == 8 + 8 + 4 * 16 + 9 * 32
    assert packed.params() == 4 + 9


@pytest.mark.parametrize("together", [{}, {"shared": 4}, {"block": 4}], ids=str)
def test_it_takes_one_more_scale_of_16_bits_an_output(together: dict[str, int]) -> None:
    weight = RANDOM.standard_normal((10, 9, 3, 3)).astype(np.float32)
    spec = replace(SPEC, values=INT8, density=0.2, **together)
    packed, plain = (PackedKernelBasis.from_dense(weight, replace(spec, asymmetric=a)) for a in (True, False))
    assert packed.bits() - plain.bits() == 16 * 10
    assert packed.params() == plain.params()


def test_from_dense_gives_either_sign_the_mean_of_its_own() -> None:
    weight = RANDOM.standard_normal((6, 8, 3, 3)).astype(np.float32)
    packed = PackedKernelBasis.from_dense(weight, SPEC)
    shared, real = decompose(weight, 4)
    signs, scales = ternarise(real)
    found = packed.factors()[1]
    np.testing.assert_allclose(packed.factors()[0], shared * scales[:, None, None], rtol=1e-6)
    assert np.array_equal(np.sign(found), signs)
    for k in range(6):
        for sign in (1, -1):
            there = signs[k] == sign
            mean = np.float16((np.abs(real[k]) / scales)[there].mean())
            assert (found[k][there] == sign * np.float32(mean)).all()
    plain = PackedKernelBasis.from_dense(weight, replace(SPEC, asymmetric=False))
    assert np.square(packed.dense() - weight).sum() < np.square(plain.dense() - weight).sum()


def test_a_weight_of_zeros_is_stored() -> None:
    for spec in (SPEC, replace(SPEC, density=0.5)):
        packed = PackedKernelBasis.from_dense(np.zeros((3, 5, 3, 3), np.float32), spec)
        packed.validate()
        assert not packed.dense().any()


def test_what_is_not_ternary_of_either_sign_is_refused() -> None:
    given = np.array([[2.0, 2.0, -1.0], [1.0, -0.5, -0.25]])[:, :, None]
    with pytest.raises(SpecError, match=r"the negative coefficients of output 1 have magnitudes from 0\.25 to 0\.5"):
        PackedKernelBasis.from_factors(bases(1), given, replace(SPEC, bases=1))
    given[1, 2], given[0, 0] = -0.5, 3
    with pytest.raises(SpecError, match="the positive coefficients of output 0 have magnitudes from 2 to 3"):
        PackedKernelBasis.from_factors(bases(1), given, replace(SPEC, bases=1))
    given[0, 0] = 2
    with pytest.raises(SpecError, match="the coefficients of output 0 have magnitudes from 1 to 2"):
        PackedKernelBasis.from_factors(bases(1), given, replace(SPEC, bases=1, asymmetric=False))


def test_specs_say_so_only_where_it_is_so() -> None:
    assert SPEC.to_json()["asymmetric"] is True
    assert spec_from_json(SPEC.to_json()) == SPEC
    assert "asymmetric" not in replace(SPEC, asymmetric=False).to_json()
    for kind in ("dense", "sparse"):
        with pytest.raises(SpecError, match="ternary coefficients only"):
            KernelBasisSpec(bases=2, coefficients=kind, asymmetric=True)  # type: ignore[arg-type]
    for wrong in (1, "yes", None):
        with pytest.raises(SpecError, match="must be true or false"):
            spec_from_json({**SPEC.to_json(), "asymmetric": wrong})


def test_factors_of_outputs_go_into_the_scales() -> None:
    """A negative one changes the sides; where one side becomes too small, its places are free."""
    given = np.array([[2.0, -1.0], [1.0, -0.5], [4.0, -2e-7]])[:, :, None]
    packed = PackedKernelBasis.from_factors(bases(1), given, replace(SPEC, bases=1, block=2))
    assert packed.cast(INT8, np.array([1, -2, 1], np.float32)).spec == replace(SPEC, bases=1, block=2, values=INT8)
    cast = packed.cast(INT8, np.array([1, -2, 0.1], np.float32))
    assert cast.spec == replace(SPEC, bases=1, values=INT8)
    assert cast.arrays["coefficients.scale"].tolist() == [2, 1, 1, 2, np.float16(0.4), 1]
    np.testing.assert_array_equal(cast.factors()[1][:2, :, 0], [[2, -1], [-2, 1]])
    assert cast.factors()[1][2].tolist() == [[float(np.float16(0.4))], [0]]
    cast.validate()


@pytest.mark.parametrize(
    ("scale", "said"),
    [(np.ones(6, np.float16), "expected"), (np.zeros(12, np.float16), "positive and finite")],
)
def test_damaged_scales_are_refused(scale: np.ndarray, said: str) -> None:
    packed = PackedKernelBasis.from_factors(bases(), coefficients(6, 5, 4), SPEC)
    packed.arrays["coefficients.scale"] = scale
    with pytest.raises(ProgramError, match=said):
        packed.validate()
    packed.arrays["coefficients"] = packed.arrays["coefficients"][:-1]
    with pytest.raises(ProgramError, match="signs have"):
        packed.validate()


def test_work_by_hand() -> None:
    """As that of other ternary ones, and a multiplication for each sum: an output's, or a basis' of an output."""
    wide = PackedKernelBasis.from_factors(bases(1), np.ones((20, 2, 1)), replace(SPEC, bases=1))
    assert (wide.macs(Geometry(16, 16)), wide.additions(Geometry(16, 16))) == (2 * 9 * 16 + 20 * 16, 40 * 16)
    deep = PackedKernelBasis.from_factors(bases(1), np.ones((2, 20, 1)), replace(SPEC, bases=1))
    assert (deep.macs(Geometry(64, 16)), deep.additions(Geometry(64, 16))) == (2 * 9 * 16 + 2 * 64, 40 * 64)


# Programs


def sketch_of(packed: PackedKernelBasis, **options: Any) -> Any:
    sketch = Sketch(3)
    x = sketch.input("batch", packed.shape[1], 5, 6)
    made = sketch.add("conv2d", x, packed=packed, padding=(1, 1, 1, 1), **options)
    return sketch.program(made), sketch.random.standard_normal((2, packed.shape[1], 5, 6)).astype(np.float32)


def test_files_hold_it_bit_for_bit(tmp_path) -> None:
    packed = PackedKernelBasis.from_factors(bases(), coefficients(6, 5, 4, shared=2), replace(SPEC, shared=2))
    file = save(sketch_of(packed)[0], tmp_path / "a.dovetail")
    (found,) = load(file).weights.values()
    assert found.spec == packed.spec
    assert {name: (a.dtype, a.tolist()) for name, a in found.arrays.items()} == {
        name: (a.dtype, a.tolist()) for name, a in packed.arrays.items()
    }
    assert save(load(file), tmp_path / "b.dovetail").read_bytes() == file.read_bytes()


@pytest.mark.parametrize(("density", "format"), [(0.9, "dense"), (0.02, "sparse")])
@pytest.mark.parametrize("values", [F32, INT8], ids=lambda values: values.name)
def test_whole_numbers_take_the_weight_that_it_stands_for(values: Values, density: float, format: str) -> None:
    given = coefficients(6, 5, 4, density=density)
    packed = PackedKernelBasis.from_factors(bases(), given, replace(SPEC, values=values))
    assert packed.cast(INT8).integers() is None
    with pytest.raises(ProgramError, match="asymmetric ternary coefficients are no whole numbers"):
        packed.cast(INT8).codes()
    program, x = sketch_of(packed, scaled=True, biased=True)
    real = reference.run(program, x, every=True)
    whole = quantize(program, {name: (float(t.min()), float(t.max())) for name, t in real.items()})
    (weight,) = whole.weights.values()
    assert (weight.spec.format, weight.spec.values) == (format, INT8)
    want = real[program.graph.outputs[0]]
    assert np.abs(reference.run(whole, x) - want).max() < 0.03 * np.ptp(want)
    kept = quantize(program, {name: (float(t.min()), float(t.max())) for name, t in real.items()}, keep=["conv2d0"])
    assert [weight.spec for weight in kept.weights.values()] == [packed.spec]


def test_codes_do_not_meet_it() -> None:
    packed = PackedKernelBasis.from_factors(bases(), coefficients(6, 5, 4), replace(SPEC, values=INT8))
    program, _ = sketch_of(packed)
    graph, node = program.graph, program.graph.nodes[0]
    codes = Tensor("codes", graph.tensors["x0"].shape, "uint8", 0.1, 3)
    nodes = (replace(node, op="quantize", name="q", output="codes", weight=None, attributes={}), node)
    nodes = (nodes[0], replace(nodes[1], inputs=("codes",)))
    made = replace(graph, nodes=nodes, tensors={**graph.tensors, "codes": codes})
    with pytest.raises(ProgramError, match="is no product of whole numbers"):
        check(program.with_graph(made))


# The layer


def test_numbers_of_the_layer_by_hand() -> None:
    """alpha is 2 of all three; of output 0 the mean of 1/2 above zero, of 2/2 and 4/2 below."""
    latent = torch.tensor([[[1.0], [-2.0], [-4.0]], [[1.0], [9.0], [3.0]]])
    mask = torch.tensor([[[True], [True], [True]], [[True], [False], [False]]])
    kernels = torch.full((1, 1, 1), 127.0)
    scaled, made = trained_ternary(kernels, latent, mask, asymmetric=True)
    assert scaled.item() == 254  # of 1, 2, 4 and 1
    assert made[:, :, 0].tolist() == [[0.5, -1.5, -1.5], [0.5, 0, 0]]
    half = trained_ternary(kernels, latent, mask, 0.5, asymmetric=True)[1]
    assert half[:, :, 0].tolist() == [[0.5, -1.25, -1.75], [0.5, 0, 0]]


def test_scales_move_as_those_of_trained_ternary_quantization() -> None:
    """dL/dw of a side is the sum of dL/dq over it; a step on the latent numbers moves w by the rate's n-th of that."""
    torch.manual_seed(2)
    latent, kernels, g = torch.randn(3, 6, 1, requires_grad=True), torch.randn(1, 3, 3), torch.randn(3, 6, 3, 3)
    mask = torch.rand(3, 6, 1) > 0.2

    def sides(numbers: torch.Tensor) -> torch.Tensor:
        """w_p and w_n of each output: gamma times alpha, here without the rounding of gamma."""
        kept = [(numbers.sign() == sign) & mask for sign in (1, -1)]
        return torch.stack([(numbers.abs() * k).sum((1, 2)) / k.sum((1, 2)) for k in kept])

    scaled, made = trained_ternary(kernels, latent, mask, asymmetric=True)
    (torch.einsum("kcm,mrs->kcrs", made, scaled) * g).sum().backward()
    onto = torch.einsum("kcrs,mrs->kcm", g, scaled.detach()) / float((scaled.detach() / kernels).median())
    torch.testing.assert_close(latent.grad, onto, rtol=2e-2, atol=2e-2)  # bases are on their grid
    before = sides(latent.detach())
    moved = sides(latent.detach() - 1e-4 * latent.grad) - before
    for i, sign in enumerate((1, -1)):
        kept = (latent.sign() == sign) & mask
        along = sign * (latent.grad * kept).sum((1, 2)) / kept.sum((1, 2))
        torch.testing.assert_close(moved[i], -1e-4 * along, rtol=1e-2, atol=1e-7)
    # and the layer computes with them, gamma as float16 has it
    alpha = latent.detach().abs()[mask].mean()
    for k in range(3):
        for i, sign in enumerate((1, -1)):
            there = (latent[k].sign() == sign) & mask[k]
            np.testing.assert_allclose(made.detach()[k][there] * alpha, sign * before[i, k], rtol=1e-3)


def test_gradients_pass_as_if_nothing_had_been_rounded() -> None:
    torch.manual_seed(0)
    latent, kernels = torch.randn(4, 3, 2, requires_grad=True), torch.randn(2, 3, 3)
    mask, g = torch.rand(4, 3, 2) > 0.5, torch.randn(4, 3, 2)
    found = []
    for asymmetric, blend in ((False, 1.0), (True, 1.0), (True, 0.3)):
        latent.grad = None
        (trained_ternary(kernels, latent, mask, blend, asymmetric)[1] * g).sum().backward()
        found.append(latent.grad)
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[0], found[2])
    assert (latent.grad[~mask] != 0).all()


@pytest.mark.parametrize("together", [{}, {"shared": 4}, {"block": 4}], ids=str)
@torch.no_grad()
def test_a_layer_packs_settles_and_loses_channels_as_it_computes(together: dict[str, int]) -> None:
    torch.manual_seed(1)
    dense = nn.Conv2d(9, 8, 3, padding=1)
    layer = KernelBasisConv2d.from_dense(dense, KernelBasisSpec(bases=4))
    layer.spec, layer.latent = replace(SPEC, **together), True
    shared, block = together.get("shared", 1), together.get("block", 1)
    mask = torch.rand(-(-8 // shared), -(-9 // block), 4) > 0.4
    layer.prune(mask.repeat_interleave(shared, 0)[:8].repeat_interleave(block, 1)[:, :9])
    before = layer.weight().clone()
    signs = layer.live_coefficients()
    assert {len(set(signs[k].abs()[signs[k] != 0].tolist())) for k in range(8)} == {2}
    out, into = [0, 1, 2, 3, 6], [0, 1, 2, 3, 8]
    for _ in range(2):  # latent, then settled
        packed = layer.pack()
        packed.validate()
        np.testing.assert_allclose(packed.dense(), before.numpy(), rtol=1e-5, atol=1e-7)
        smaller = layer.slice_channels(torch.tensor(out), torch.tensor(into))
        assert smaller.spec == layer.spec
        smaller.pack().validate()
        layer.settle_latent()
    np.testing.assert_allclose(smaller.to_dense().weight, before[out][:, into], rtol=1e-5, atol=1e-7)


def test_the_smallest_scale_is_one_that_16_bits_hold() -> None:
    made = trained_ternary(torch.ones(2, 1, 1), torch.tensor([[[1e9, 1e9]], [[-1e-9, 1e9]]]), None, asymmetric=True)[1]
    assert made[1, 0].tolist() == [-LEAST, 1]
