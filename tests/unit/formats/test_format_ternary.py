"""Ternary coefficients and weights: what is stored by hand, what it means, and what is refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from dovetail.errors import ProgramError, SpecError
from dovetail.formats import Geometry, KernelBasisSpec, PackedKernelBasis, PackedSparse, SparseSpec
from dovetail.formats import layer as layers
from dovetail.formats.kernel_basis.layer import KernelBasisConv2d
from dovetail.formats.kernel_basis.packed import decompose
from dovetail.formats.kernel_basis.ternary import ternarise
from dovetail.formats.values import BF16, F32, INT8, TERNARY, Rows, Values
from dovetail.program.program import Program
from dovetail.program.store import load, save
from programs import POSITIONS, Sketch, ternary_basis

RANDOM = np.random.default_rng(3)
SPEC = KernelBasisSpec(bases=4, coefficients="ternary", values=INT8)


def signs(*shape: int, density: float = 0.3) -> np.ndarray:
    return RANDOM.choice([-1.0, 1.0], shape) * (RANDOM.random(shape) < density)


def bases(count: int = 4, size: int = 3) -> np.ndarray:
    return RANDOM.standard_normal((count, size, size)).astype(np.float32)


# Kernel bases


@pytest.mark.parametrize("values", [F32, BF16, INT8], ids=lambda values: values.name)
def test_coefficients_come_back_bit_for_bit(values: Values) -> None:
    spec = KernelBasisSpec(bases=4, coefficients="ternary", values=values)
    given, scales = signs(7, 70, 4), np.float32(RANDOM.uniform(0.1, 3, 7).astype(np.float16))
    packed = PackedKernelBasis.from_factors(bases(), given * scales[:, None, None], spec)
    packed.validate()
    assert np.array_equal(packed.factors()[1], given * scales[:, None, None])
    again = PackedKernelBasis.from_factors(*packed.factors(), spec)
    assert all(np.array_equal(again.arrays[name], packed.arrays[name]) for name in packed.arrays)


def test_a_layer_by_hand() -> None:
    """Two outputs, three bases, ten channels: rows 0 and 4 have members, at 1 and 9, and at 0 to 9."""
    given = np.zeros((2, 10, 3))
    given[0, [1, 9], 0] = [1, -1]
    given[1, :, 1] = -0.5
    packed = PackedKernelBasis.from_factors(bases(3), given, KernelBasisSpec(bases=3, coefficients="ternary"))
    assert packed.arrays["coefficients.rows"].tolist() == [0b10001]
    assert packed.arrays["coefficients.bitmap"].tolist() == [0b10, 0b11111110, 0b1111]
    assert packed.arrays["coefficients"].tolist() == [0b11111110, 0b1111]
    assert packed.arrays["coefficients.scale"].tolist() == [1, 0.5]
    assert packed.arrays["coefficients.scale"].dtype == np.float16
    assert packed.bits() == 8 * (1 + 3 + 2) + 2 * 16 + 27 * 32
    assert packed.params() == 12 + 27
    assert packed.live_kernels() == 2 + 10


def test_a_layer_of_shared_places_by_hand() -> None:
    """Five outputs, places shared by two, the last one alone; one basis, three channels."""
    pattern = np.array([[1, 0, 1], [0, 0, 0], [0, 1, 0]])
    given = pattern.repeat(2, axis=0)[:5, :, None] * np.array([1, -1, 1, 1, -1])[:, None, None]
    spec = KernelBasisSpec(bases=1, coefficients="ternary", shared=2)
    packed = PackedKernelBasis.from_factors(bases(1), given, spec)
    packed.validate()
    # As one set 1, 0, 1 / 0, 0, 0 / 0, 1, 0: a byte and a bit, where rows (one byte) and 101 010 would take two, too.
    assert packed.arrays["coefficients.bitmap"].tolist() == [0b10000101, 0]
    assert packed.arrays["coefficients"].tolist() == [0b11100]  # plus twice, minus twice, and the minus of the last
    assert packed.params() == 5 + 9
    assert packed.live_kernels() == packed.nonzeros() - np.count_nonzero(packed.decode("bases")) == 5
    assert np.array_equal(packed.factors()[1], given)


@pytest.mark.parametrize("shared", [2, 3, 4, 9])
def test_shared_places_come_back_and_take_their_part_of_the_bits(shared: int) -> None:
    pattern = RANDOM.random((-(-64 // shared), 96, 4)) < 0.05
    given = np.where(RANDOM.random((64, 96, 4)) < 0.5, -1.0, 1.0) * pattern.repeat(shared, axis=0)[:64]
    spec = KernelBasisSpec(bases=4, coefficients="ternary", values=INT8, shared=shared)
    kernels = bases()
    alone = PackedKernelBasis.from_factors(kernels, given, SPEC)
    packed = PackedKernelBasis.from_factors(kernels, given, spec)
    packed.validate()
    assert np.array_equal(packed.codes()[1], given)
    assert np.array_equal(packed.dense(), alone.dense())
    signs, places = (packed.arrays[name].nbytes for name in ("coefficients", "coefficients.runs"))
    assert signs == alone.arrays["coefficients"].nbytes
    assert places < 1.1 * alone.arrays["coefficients.runs"].nbytes / shared + 30
    assert spec == type(spec).from_json(spec.to_json())
    assert "shared" not in SPEC.to_json()  # files from before it was there stay the same, byte for byte


def test_a_layer_of_blocks_by_hand() -> None:
    """Two outputs, five inputs in blocks of two, the last one alone; one basis."""
    pattern = np.array([[1, 1, 0, 0, 1], [0, 0, 1, 1, 0]])
    given = (pattern * np.array([1, -1, 1, -1, -1]))[:, :, None]
    spec = KernelBasisSpec(bases=1, coefficients="ternary", block=2)
    packed = PackedKernelBasis.from_factors(bases(1), given, spec)
    packed.validate()
    assert packed.arrays["coefficients.bitmap"].tolist() == [0b010101]  # blocks 0 and 2, and 1 of the other output
    assert packed.arrays["coefficients"].tolist() == [0b10110]  # + - -, + -
    assert packed.params() == 5 + 9
    assert packed.live_kernels() == 5
    assert np.array_equal(packed.factors()[1], given)


@pytest.mark.parametrize("block", [2, 3, 4, 200])
def test_blocks_come_back_and_take_their_part_of_the_bits(block: int) -> None:
    pattern = RANDOM.random((64, -(-98 // block), 4)) < 0.05
    given = np.where(RANDOM.random((64, 98, 4)) < 0.5, -1.0, 1.0) * pattern.repeat(block, axis=1)[:, :98]
    kernels = bases()
    spec = KernelBasisSpec(bases=4, coefficients="ternary", values=INT8, block=block)
    alone = PackedKernelBasis.from_factors(kernels, given, SPEC)
    packed = PackedKernelBasis.from_factors(kernels, given, spec)
    packed.validate()
    assert np.array_equal(packed.codes()[1], given)
    assert np.array_equal(packed.dense(), alone.dense())
    assert packed.arrays["coefficients"].nbytes == alone.arrays["coefficients"].nbytes  # signs
    assert packed.bits() < alone.bits()
    assert spec == type(spec).from_json(spec.to_json())
    assert "block" not in SPEC.to_json()


@pytest.mark.parametrize(("field", "axis"), [("shared", 0), ("block", 1)])
def test_rounding_keeps_neighbours_together(field: str, axis: int) -> None:
    weight = RANDOM.standard_normal((10, 9, 3, 3)).astype(np.float32)
    spec = KernelBasisSpec(bases=5, coefficients="ternary", **{field: 4})  # type: ignore[arg-type]
    weight[4:8, :3] *= 1e-3
    present = np.moveaxis(PackedKernelBasis.from_dense(weight, spec).factors()[1] != 0, axis, 0)
    assert not present.all()
    assert present.any()
    for first in (0, 4, 8):
        assert (present[first : first + 4] == present[first]).all()


def test_an_output_that_vanishes_leaves_the_places_of_its_neighbours() -> None:
    given = np.ones((4, 3, 1)) * np.array([1, -1, 1])[:, None]
    packed = PackedKernelBasis.from_factors(bases(1), given, KernelBasisSpec(bases=1, coefficients="ternary", shared=4))
    cast = packed.cast(INT8, np.array([1, 0, 1, 1], np.float32))
    assert cast.spec == KernelBasisSpec(bases=1, coefficients="ternary", values=INT8)
    assert np.array_equal(cast.codes()[1], given * np.array([1, 0, 1, 1])[:, None, None])
    assert packed.cast(INT8, np.full(4, 0.5, np.float32)).spec.shared == 4


def test_outputs_that_go_keep_places_shared_only_within_their_groups() -> None:
    conv = nn.Conv2d(5, 8, 3)
    for out, shared in (([0, 1, 2, 3], 4), ([0, 3], 4), ([0, 2, 3, 4], 1)):
        layer = KernelBasisConv2d.from_dense(conv, KernelBasisSpec(bases=4, coefficients="ternary", shared=4))
        smaller = layer.slice_channels(torch.tensor(out))
        assert smaller.spec.shared == shared
        smaller.pack().validate()


def test_inputs_that_go_keep_only_whole_blocks() -> None:
    conv = nn.Conv2d(9, 4, 3)
    for into, block in (([0, 1, 2, 3, 8], 4), ([4, 5, 6, 7], 4), ([0, 1, 2, 4, 8], 1), ([1, 2], 4)):
        layer = KernelBasisConv2d.from_dense(conv, KernelBasisSpec(bases=4, coefficients="ternary", block=4))
        smaller = layer.slice_channels(torch.arange(4), torch.tensor(into))
        assert smaller.spec.block == block
        smaller.pack().validate()


def test_bases_of_ternary_coefficients_keep_their_norms() -> None:
    layer = KernelBasisConv2d.from_dense(nn.Conv2d(5, 8, 3), KernelBasisSpec(bases=4, coefficients="ternary"))
    with pytest.raises(SpecError, match="keep their norms"):
        layer.normalise_bases()


def test_shared_places_are_refused_where_they_are_none() -> None:
    given = np.ones((4, 3, 1))
    given[3, 1] = 0
    spec = KernelBasisSpec(bases=1, coefficients="ternary", shared=2)
    with pytest.raises(SpecError, match="output 3 lacks a coefficient that a neighbour has, and 2 outputs share"):
        PackedKernelBasis.from_factors(bases(1), given, spec)
    spec = KernelBasisSpec(bases=1, coefficients="ternary", block=2)
    with pytest.raises(SpecError, match="input 1 lacks a coefficient that a neighbour has, and 2 inputs share"):
        PackedKernelBasis.from_factors(bases(1), given, spec)
    for field in ("shared", "block"):
        with pytest.raises(SpecError, match="ternary coefficients only"):
            KernelBasisSpec(bases=2, coefficients="sparse", **{field: 4})  # type: ignore[arg-type]
    with pytest.raises(SpecError, match="not both"):
        KernelBasisSpec(bases=2, coefficients="ternary", shared=4, block=4)
    with pytest.raises(SpecError, match="shared must be a whole number of at least 1, not 0"):
        KernelBasisSpec(bases=2, coefficients="ternary", shared=0)


def test_a_layer_without_coefficients_is_stored() -> None:
    packed = PackedKernelBasis.from_factors(bases(), np.zeros((6, 500, 4)), SPEC)
    packed.validate()
    # A bit for each of 24 rows; the absent places would take 3 counts of 12 bits, 6 bytes with the first.
    assert packed.arrays["coefficients.rows"].tolist() == [0, 0, 0]
    assert packed.arrays["coefficients.bitmap"].tolist() == []
    assert packed.bits() == 8 * 3 + 6 * 16 + 36 * 8 + 32
    assert not packed.dense().any()
    assert packed.macs(Geometry(9, 9)) == packed.additions(Geometry(9, 9)) == packed.stored_coefficients() == 0


@pytest.mark.parametrize("values", [F32, INT8], ids=lambda values: values.name)
def test_as_many_bases_as_places(values: Values) -> None:
    """Of unit kernels, which int8 holds exactly: any ternary weight."""
    unit = np.eye(9, dtype=np.float32).reshape(9, 3, 3)
    weight = signs(5, 6, 3, 3).astype(np.float32)
    spec = KernelBasisSpec(bases=9, coefficients="ternary", values=values)
    packed = PackedKernelBasis.from_factors(unit, weight.reshape(5, 6, 9), spec)
    assert np.abs(packed.dense() - weight).max() <= (0 if values == F32 else 1e-7)
    with pytest.raises(SpecError, match="10 bases for 3x3 kernels; at most 9"):
        PackedKernelBasis.from_dense(weight, KernelBasisSpec(bases=10, coefficients="ternary"))


def test_scales_fold_into_the_bases_before_these_are_rounded() -> None:
    weight = RANDOM.standard_normal((12, 9, 3, 3)).astype(np.float32)
    shared, coefficients = decompose(weight, 6)
    kept, scales = ternarise(coefficients)
    unfolded = np.einsum("kcm,m,mrs->kcrs", kept, scales, shared)
    for values, tolerance in ((F32, 1e-5), (INT8, 6 * 0.5 / 127)):
        packed = PackedKernelBasis.from_dense(weight, KernelBasisSpec(bases=6, coefficients="ternary", values=values))
        assert np.array_equal(packed.factors()[1], kept)
        assert np.abs(packed.dense() - unfolded).max() <= tolerance * np.abs(scales[:, None, None] * shared).max()


def test_the_threshold_is_of_each_basis() -> None:
    coefficients = np.array([[[1.0, 100.0], [0.05, 5.1]], [[-0.5, -4.9], [0.051, 0.0]]])
    kept, scales = ternarise(coefficients)
    assert kept.tolist() == [[[1, 1], [0, 1]], [[-1, 0], [1, 0]]]
    np.testing.assert_allclose(scales, [(1 + 0.5 + 0.051) / 3, (100 + 5.1) / 2])
    kept, scales = ternarise(coefficients, 0.5)
    assert kept.tolist() == [[[1, 1], [0, 0]], [[0, 0], [0, 0]]]
    assert ternarise(np.zeros((2, 2, 2)))[1].tolist() == [0, 0]


def test_a_density_keeps_the_largest() -> None:
    coefficients = np.array([[[1.0, 4.0], [-8.0, 2.0]], [[3.0, 0.0], [-2.0, -16.0]], [[9.0, 1.0], [0.0, 0.0]]])
    kept, scales = ternarise(coefficients, density=0.25)
    assert kept.tolist() == [[[0, 0], [-1, 0]], [[0, 0], [0, -1]], [[1, 0], [0, 0]]]
    assert scales.tolist() == [8.5, 16]
    kept, _ = ternarise(coefficients, density=0.375, shared=2)  # of places: means 2, 2, 5, 9 and 9, 1, 0, 0 of one
    assert kept.tolist() == [[[0, 0], [-1, 1]], [[0, 0], [-1, -1]], [[1, 0], [0, 0]]]
    kept, _ = ternarise(coefficients, density=1e-9)
    assert np.flatnonzero(kept).tolist() == [7]


def test_zeros_stay_zeros_whatever_the_density() -> None:
    coefficients = np.array([[0.0, 2.0, 0.0], [0.0, -1.0, 0.0], [0.0, 0.0, 0.0]])[:, :, None]
    kept, scales = ternarise(coefficients, density=1.0)
    assert kept[:, :, 0].tolist() == [[0, 1, 0], [0, -1, 0], [0, 0, 0]]
    assert scales.tolist() == [1.5]
    kept, _ = ternarise(coefficients, density=1.0, block=2)  # but for the neighbours of others at a place
    assert kept[:, :, 0].tolist() == [[1, 1, 0], [1, -1, 0], [0, 0, 0]]
    weight = np.zeros((4, 6, 1, 1), np.float32)
    weight[1, :3, 0, 0] = [1, -2, 3]
    packed = PackedKernelBasis.from_dense(weight, KernelBasisSpec(bases=1, coefficients="ternary", density=0.5))
    assert np.array_equal(np.sign(packed.dense()), np.sign(weight))


@pytest.mark.parametrize("coefficients", ["sparse", "ternary"])
def test_what_is_packed_has_the_density_in_its_coefficients_alone(coefficients: Any) -> None:
    spec = KernelBasisSpec(bases=4, coefficients=coefficients, density=0.1)
    packed = PackedKernelBasis.from_dense(RANDOM.standard_normal((10, 15, 3, 3)).astype(np.float32), spec)
    assert packed.stored_coefficients() == 60
    assert packed.spec == KernelBasisSpec(bases=4, coefficients=coefficients)
    assert "density" not in packed.spec.to_json()


@pytest.mark.parametrize(
    ("coefficients", "density", "said"),
    [
        ("dense", 0.5, "keeps all dense coefficients"),
        ("ternary", 0, "above 0 and not above 1, not 0"),
        ("sparse", 1.5, "not 1.5"),
        ("ternary", True, "not True"),
    ],
)
def test_densities_that_are_none(coefficients: Any, density: float, said: str) -> None:
    with pytest.raises(SpecError, match=said):
        KernelBasisSpec(bases=4, coefficients=coefficients, density=density)


@pytest.mark.parametrize("density", [0.1, 0.03, 0.01])
def test_bits_per_coefficient_are_those_of_the_formula(density: float) -> None:
    """Runs, with a sign each: p b / (1 - (1-p)^(2^b - 1)) + p."""
    k, c, d = 64, 256, 6
    given = signs(k, c, d, density=density)
    spec = KernelBasisSpec(bases=d, coefficients="ternary", values=INT8)
    packed = PackedKernelBasis.from_factors(bases(d), given, spec)
    p = np.count_nonzero(given) / given.size
    expected = min(p * b / (1 - (1 - p) ** (2**b - 1)) + p for b in range(2, 13))
    others = 8 * d * 9 + 32 + 16 * k
    assert {"coefficients.runs", "coefficients.gaps"} & set(packed.arrays)  # gaps are of 8 bits, which is best at 1 %
    assert (packed.bits() - others) / given.size == pytest.approx(expected, rel=0.02)


def test_work_by_hand() -> None:
    """20 outputs share 2 inputs and 1 basis, 40 signs: conv-first. One sign alone is recomposed, and multiplies."""
    spec = KernelBasisSpec(bases=1, coefficients="ternary")
    packed = PackedKernelBasis.from_factors(bases(1), np.ones((20, 2, 1)), spec)
    assert (packed.macs(Geometry(16, 16)), packed.additions(Geometry(16, 16))) == (2 * 9 * 16, 40 * 16)
    packed = PackedKernelBasis.from_factors(bases(1), np.ones((2, 20, 1)), spec)
    assert (packed.macs(Geometry(64, 16)), packed.additions(Geometry(64, 16))) == (2 * 9 * 16, 40 * 64)
    one = np.zeros((3, 2, 1))
    one[0, 0] = 1
    packed = PackedKernelBasis.from_factors(bases(1), one, spec)
    assert (packed.macs(Geometry(16, 16)), packed.additions(Geometry(16, 16))) == (9 * 16, 0)


@pytest.mark.parametrize(("size", "count"), [(1, 1), (3, 4), (5, 12)])
@pytest.mark.parametrize("stride", [1, 2])
def test_every_order_gives_the_same_whole_numbers(size: int, count: int, stride: int) -> None:
    spec = KernelBasisSpec(bases=count, coefficients="ternary", values=INT8)
    packed = PackedKernelBasis.from_factors(bases(count, size), signs(5, 6, count), spec)
    shared, coefficients = (torch.from_numpy(part.astype(np.float64)) for part in packed.codes())
    assert set(np.unique(coefficients)) == {-1, 0, 1}
    x = torch.from_numpy(RANDOM.integers(-255, 256, (1, 6, 7, 8)).astype(np.float64))
    place = {"stride": stride, "padding": size // 2}
    recomposed = nn.functional.conv2d(x, torch.from_numpy(packed.integers()[0].astype(np.float64)), **place)
    mixed = nn.functional.conv2d(x, coefficients.transpose(1, 2).reshape(5 * count, 6, 1, 1))
    coef_first = nn.functional.conv2d(mixed, shared.repeat(5, 1, 1).view(5, count, size, size), groups=5, **place)
    maps = nn.functional.conv2d(x, shared.repeat(6, 1, 1)[:, None], groups=6, **place)
    conv_first = nn.functional.conv2d(maps, coefficients.reshape(5, 6 * count, 1, 1))
    assert torch.equal(coef_first, recomposed)
    assert torch.equal(conv_first, recomposed)


@pytest.mark.parametrize("stride", [1, 2])
def test_every_order_of_a_depthwise_layer_gives_the_same_whole_numbers(stride: int) -> None:
    """Its coefficients are codes of 8 bits; a channel has a kernel of its own."""
    given = RANDOM.standard_normal((6, 1, 4)).astype(np.float32)
    packed = PackedKernelBasis.from_factors(bases(), given, KernelBasisSpec(bases=4, values=INT8))
    shared, coefficients = (torch.from_numpy(part.astype(np.float64)) for part in packed.codes())
    assert len(np.unique(coefficients)) > 12
    x = torch.from_numpy(RANDOM.integers(-255, 256, (1, 6, 7, 8)).astype(np.float64))
    place = {"stride": stride, "padding": 1}
    recomposed = nn.functional.conv2d(x, torch.from_numpy(packed.integers()[0].astype(np.float64)), groups=6, **place)
    mixed = nn.functional.conv2d(x, coefficients.transpose(1, 2).reshape(24, 1, 1, 1), groups=6)
    coef_first = nn.functional.conv2d(mixed, shared.repeat(6, 1, 1).view(6, 4, 3, 3), groups=6, **place)
    maps = nn.functional.conv2d(x, shared.repeat(6, 1, 1)[:, None], groups=6, **place)
    conv_first = nn.functional.conv2d(maps, coefficients.reshape(6, 4, 1, 1), groups=6)
    assert torch.equal(coef_first, recomposed)
    assert torch.equal(conv_first, recomposed)


def test_casting_keeps_signs_and_takes_factors_into_the_scales() -> None:
    given = signs(5, 6, 4)
    given[:, 0, 0] = 1
    packed = PackedKernelBasis.from_factors(bases(), given, SPEC)
    multiply = np.array([1, -2, 0, 0.3, 1e-9], np.float32)
    cast = packed.cast(INT8, multiply)
    wanted = np.sign(multiply) * (np.abs(multiply) > 1e-8)
    assert np.array_equal(cast.codes()[1], given * wanted[:, None, None])
    assert cast.arrays["coefficients.scale"].tolist() == [1, 2, 1, np.float16(0.3), 1]
    with pytest.raises(SpecError, match=r"row 0 have the scale 1e.05, which 16 bits do not hold"):
        packed.cast(INT8, multiply * np.float32(1e5))


@pytest.mark.parametrize(
    ("factor", "message"),
    [
        (np.linspace(1, 2, 24).reshape(6, 4), "coefficients of output 0 have magnitudes from 1 to 2"),
        (1e5, "row 0 have the scale 1e.05"),
        (1e-9, "row 0 have the scale 1e-09"),
        (np.nan, "NaN"),
    ],
)
def test_what_is_not_ternary_is_refused(factor: np.ndarray | float, message: str) -> None:
    with pytest.raises(SpecError, match=message):
        PackedKernelBasis.from_factors(bases(), np.ones((5, 6, 4)) * factor, SPEC)


@pytest.mark.parametrize("scale", [0.0, -1.0, np.nan, np.inf])
def test_scales_are_positive(scale: float) -> None:
    packed = ternary_basis("runs", (6, 6, 3, 3))
    packed.arrays["coefficients.scale"][2] = scale
    with pytest.raises(ProgramError, match="positive and finite"):
        packed.validate()


@pytest.mark.parametrize("kind", POSITIONS)
def test_files_hold_it_bit_for_bit(kind: str, tmp_path) -> None:
    packed = ternary_basis(kind, (6, 6, 3, 3), INT8)
    file = save(program_of(packed), tmp_path / "a.dovetail")
    (found,) = load(file).weights.values()
    assert found.spec == packed.spec
    assert {name: (a.dtype, a.tolist()) for name, a in found.arrays.items()} == {
        name: (a.dtype, a.tolist()) for name, a in packed.arrays.items()
    }
    assert save(load(file), tmp_path / "b.dovetail").read_bytes() == file.read_bytes()


def program_of(packed: PackedKernelBasis) -> Program:
    sketch = Sketch()
    x = sketch.input("batch", packed.shape[1], 5, 5)
    return sketch.program(sketch.add("conv2d", x, packed=packed, padding=(1, 1, 1, 1)))


def test_a_layer_of_ternary_coefficients_packs_them() -> None:
    conv = nn.Conv2d(6, 5, 3, padding=1)
    layer = KernelBasisConv2d.from_dense(conv, KernelBasisSpec(bases=4, coefficients="ternary"))
    assert set(layer.coefficients.unique().tolist()) <= {-1, 0, 1}
    given = torch.from_numpy(signs(5, 6, 4)).float()
    with torch.no_grad():
        layer.coefficients.copy_(given * torch.tensor([1, 0.5, 2, 3, 0.25]).view(5, 1, 1))
    packed = layer.pack()
    assert packed.spec.coefficients == "ternary"
    assert np.array_equal(np.sign(packed.factors()[1]), given.numpy())
    assert torch.allclose(torch.from_numpy(packed.dense()), layer.weight(), atol=1e-6)
    layer.prune(given > 0)
    assert layer.pack().stored_coefficients() == int((given > 0).sum())
    with torch.no_grad():
        layer.coefficients[0].copy_(torch.linspace(1, 2, 24).view(6, 4))
    layer.prune(torch.ones_like(given, dtype=torch.bool))
    with pytest.raises(SpecError, match="output 0 have magnitudes"):
        layer.pack()


# Sparse weights


def test_a_linear_layer_by_hand() -> None:
    weight = np.zeros((3, 20), np.float32)
    weight[0, [2, 5]], weight[2, 19] = [0.5, -0.5], 2
    packed = PackedSparse.from_dense(weight, SparseSpec(values=TERNARY))
    packed.validate()
    assert packed.arrays["weight"].tolist() == [0b010]
    assert packed.arrays["weight.scale"].tolist() == [0.5, 1.25, 2]  # the median for the row without any
    assert np.array_equal(packed.dense(), weight)
    codes, scale = packed.integers()
    assert np.array_equal(codes, np.sign(weight))
    assert scale.dtype == np.float32
    assert (packed.params(), packed.macs(Geometry()), packed.additions(Geometry())) == (3, 0, 3)
    # Gaps 2, 2, 53 and 0: each a byte.
    assert packed.arrays["weight.gaps"].tolist() == [2, 2, 53, 0]
    assert packed.bits() == 8 * (1 + 4) + 3 * 16


def test_a_pointwise_layer_becomes_ternary_by_its_outputs() -> None:
    conv = nn.Conv2d(4, 2, 1, bias=False)
    with torch.no_grad():
        conv.weight.copy_(torch.tensor([[1, -2, 0.1, 0], [0.01, 0.02, 0.03, -0.04]]).view(2, 4, 1, 1))
    layer = layers.from_dense(conv, SparseSpec(values=TERNARY))
    half = float(np.float16(0.025))
    wanted = torch.tensor([[1.5, -1.5, 0, 0], [half, half, half, -half]])
    assert torch.equal(layer.weight()[:, :, 0, 0], wanted)
    assert layer.pack().spec == SparseSpec(values=TERNARY)


def test_signs_that_are_no_list_are_refused() -> None:
    for array in (np.ones((2, 2), np.float32), np.array([1, 0], np.float32)):
        with pytest.raises(SpecError, match="a list of numbers that are not zero"):
            TERNARY.encode("w", array, Rows(np.zeros(array.shape, np.int64), 1))
    with pytest.raises(SpecError, match="a list"):
        TERNARY.encode("w", np.ones(2, np.float32))


def test_what_is_too_small_for_a_scale_becomes_zero() -> None:
    array = np.array([[1e-9, -1e-9], [1, 0.04], [2e5, 0]], np.float32)
    assert TERNARY.round(array[:2]).tolist() == [[0, 0], [1, 0]]
    with pytest.raises(SpecError, match=r"row 2 have the scale 2e.05"):
        TERNARY.round(array)
