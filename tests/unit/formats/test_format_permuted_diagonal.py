"""Permuted diagonals: equation 1 by hand, counts, the nearest weight, and which layers mix their inputs."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import nn

from dovetail.errors import ProgramError, SpecError
from dovetail.formats import PackedPermutedDiagonal, PermutedDiagonalSpec
from dovetail.formats import layer as layers
from dovetail.formats.permuted_diagonal import reach
from dovetail.formats.permuted_diagonal.packed import columns_of
from dovetail.formats.values import CODEBOOK4, F32, INT8, Values

RANDOM = np.random.default_rng(11)


def by_equation(weight: PackedPermutedDiagonal) -> np.ndarray:
    """Entry by entry: `W[i, j] = q[R, G, c]` where `(c + k[R, G]) mod p` is j's place in its block."""
    (outputs, inputs), p, k, q = weight.shape[:2], weight.spec.size, weight.index(), weight.diagonals()
    dense = np.zeros(weight.shape, np.float32)
    for i, j in np.ndindex(outputs, inputs):
        if (i % p + k[i // p, j // p]) % p == j % p:
            dense[i, j] = q[i // p, j // p, i % p]
    return dense


def test_the_example_of_the_specification() -> None:
    """m = n = 4, p = 2, natural index, q = 1 … 8."""
    spec = PermutedDiagonalSpec(size=2)
    q = np.arange(1, 9, dtype=np.float32).reshape(2, 2, 2)
    weight = PackedPermutedDiagonal.from_diagonals(q, spec, (4, 4), spec.shifts((4, 4)))
    assert weight.index().tolist() == [[0, 1], [0, 1]]
    assert weight.dense().tolist() == [[1, 0, 0, 3], [0, 2, 4, 0], [5, 0, 0, 7], [0, 6, 8, 0]]
    layer = layers.from_packed(nn.Linear(4, 4, bias=False), weight)
    x = torch.tensor([[1.0, 2, 3, 4]], requires_grad=True)
    y = layer(x)
    assert y.tolist() == [[13, 16, 33, 36]]
    y.backward(y.detach())
    assert x.grad is not None
    assert x.grad.tolist() == [[178, 248, 352, 270]]
    assert layer.values.grad.flatten().tolist() == [13, 32, 52, 48, 33, 72, 132, 108]  # x[j] y[i] where q stands


@pytest.mark.parametrize("number", range(200))
def test_any_size_is_what_the_equation_says(number: int) -> None:
    random = np.random.default_rng(number)
    outputs, inputs = random.integers(1, 40, 2).tolist()
    size = 1 if number % 10 == 0 else int(random.integers(1, min(outputs, inputs) + 1))
    index = ("natural", "random", "searched")[number % 3]
    spec = PermutedDiagonalSpec(size=size, index=index, seed=number if index == "random" else None)
    weight = PackedPermutedDiagonal.random((outputs, inputs), spec, random)
    weight.validate()
    assert np.array_equal(weight.dense(), by_equation(weight))
    layer = layers.from_packed(nn.Linear(inputs, outputs), weight)
    dense = torch.from_numpy(by_equation(weight)).double()
    x, grad = torch.randn(3, inputs, requires_grad=True), torch.randn(3, outputs)
    want, by_x, by_weight = x.double() @ dense.T + layer.bias, grad.double() @ dense, (grad.T @ x).detach().numpy()
    for how in ("train", "factored"):
        with layers.appear(how):
            y = layer(x)
        assert torch.allclose(y.double(), want, atol=1e-5)
        x_grad, q_grad = torch.autograd.grad(y, (x, layer.values), grad)
        assert torch.allclose(x_grad.double(), by_x, atol=1e-5)
        moved = PackedPermutedDiagonal.from_diagonals(
            q_grad.numpy().reshape(weight.diagonals().shape), spec, weight.shape, weight.index()
        )
        assert np.allclose(moved.dense(), np.where(weight.kept(), by_weight, 0), atol=1e-5)
    codes, scale = weight.cast(INT8).integers() or pytest.fail("int8 has whole numbers")
    assert np.abs(codes * scale[:, None] - by_equation(weight)).max() <= scale.max() / 2 + 1e-6
    assert not codes[~weight.kept()].any()
    shape = (spec.grid(weight.shape)[0] * size, spec.grid(weight.shape)[1] * size)
    whole = PackedPermutedDiagonal.random(shape, spec, random)
    assert (whole.kept().sum(axis=1) == shape[1] // size).all()
    assert (whole.kept().sum(axis=0) == shape[0] // size).all()
    assert whole.nonzeros() == whole.params() == shape[0] * shape[1] // size


@pytest.mark.parametrize("values, bits", [(F32, 32), (INT8, 8), (CODEBOOK4, 4)])
@pytest.mark.parametrize("index, index_bits", [("natural", 0), ("searched", 4)])
def test_size_of_the_file_is_the_formula(values: object, bits: int, index: str, index_bits: int) -> None:
    """16 numbers of 16 bits or a scale of 32 for each output besides."""
    spec = PermutedDiagonalSpec(size=10, index=index, values=values)  # type: ignore[arg-type]
    weight = PackedPermutedDiagonal.random((40, 100), spec, RANDOM)
    besides = {32: 0, 8: 40 * 32, 4: 16 * 16}[bits]
    assert weight.bits() == bits * 40 * 100 // 10 + index_bits * 40 * 100 // 100 + besides


def test_projection_is_the_nearest_and_a_search_never_worse() -> None:
    weight = RANDOM.standard_normal((12, 20)).astype(np.float32)
    spec = PermutedDiagonalSpec(size=4)
    nearest = np.linalg.norm(weight - PackedPermutedDiagonal.from_dense(weight, spec).dense())
    for _ in range(1000):
        other = PackedPermutedDiagonal.random((12, 20), spec, RANDOM)
        assert np.linalg.norm(weight - other.dense()) > nearest
    searched = PackedPermutedDiagonal.from_dense(weight, PermutedDiagonalSpec(size=4, index="searched"))
    assert np.linalg.norm(weight - searched.dense()) < nearest
    for row, column in np.ndindex(3, 5):
        block = weight[4 * row : 4 * row + 4, 4 * column : 4 * column + 4]
        norms = [np.square(block[np.arange(4), (np.arange(4) + k) % 4]).sum() for k in range(4)]
        assert searched.index()[row, column] == np.argmax(norms)


@pytest.mark.parametrize(
    "size, inputs",
    [(2, 8), (3, 12), (4, 16), (4, 12), (5, 20), (3, 6), (4, 20), (6, 42), (8, 40), (9, 99), (10, 1050)],
)
def test_layers_mix_unless_columns_and_size_share_a_divisor(size: int, inputs: int) -> None:
    shape = (inputs, inputs)
    natural, random = (PermutedDiagonalSpec(size=size, index=n, seed=s) for n, s in (("natural", None), ("random", 5)))
    mask = PackedPermutedDiagonal.random(shape, natural, RANDOM).kept().astype(np.float32)
    reached, apart = np.minimum(mask @ mask, 1), math.gcd(inputs // size + 1, size)
    assert natural.mixes(shape) == (apart == 1)
    if inputs // size >= size:
        assert reached.mean() == pytest.approx(1 / apart)
    for _ in range(6):
        reached = np.minimum(reached @ mask, 1)
    assert reached.mean() == pytest.approx(1 / apart)
    assert random.mixes(shape)
    assert natural.mixing(shape, seed=5) == (natural if apart == 1 else random)
    kept = PackedPermutedDiagonal.random(shape, random, RANDOM).kept().astype(np.float32)
    assert (np.linalg.matrix_power(kept, 9) > 0).all()


@pytest.mark.parametrize(
    "first, second, sizes, share",
    [
        ((512, 512), (512, 512), (8, 4), 1 / 2),
        ((512, 512), (512, 512), (4, 2), 1 / 2),
        ((1024, 1024), (1024, 1024), (32, 8), 1 / 4),
        ((512, 512), (512, 512), (4, 8), 1),
        ((512, 512), (512, 512), (8, 8), 1),
        ((100, 300), (250, 100), (8, 4), None),
        ((96, 48), (64, 96), (13, 5), None),
        ((50, 20), (7, 50), (7, 3), None),
        ((32, 16, 3, 3), (48, 32, 3, 3), (8, 4), None),
        ((64, 32, 3, 3), (64, 64, 1, 1), (4, 2), None),
        ((32, 16, 3, 3), (40, 32 * 9), (8, 4), None),
        ((32, 16, 3, 3), (40, 32 * 16), (4, 16), None),
    ],
)
def test_the_reach_of_a_layer_is_that_of_the_product_of_the_masks(
    first: tuple[int, ...], second: tuple[int, ...], sizes: tuple[int, int], share: float | None
) -> None:
    """The first inputs of the layer before, as many as its blocks are large, are one of each class."""
    before, after = (PermutedDiagonalSpec(size=size) for size in sizes)
    masks = [
        PackedPermutedDiagonal.random(shape, spec, RANDOM).kept().reshape(*shape[:2], -1)[:, :, 0].astype(np.float32)
        for shape, spec in ((first, before), (second, after))
    ]
    each = second[1] // first[0]
    reached = masks[1] @ np.repeat(masks[0], each, axis=0) > 0
    got = reach(before, first, after, second)
    assert got.found == pytest.approx(reached[:, : sizes[0]].mean())
    assert got.found <= got.best <= 1
    if share is not None:
        assert (got.best, got.found) == (1, pytest.approx(share))
        assert reached.mean() == pytest.approx(share)
        assert got.mixes == (share == 1)


def test_few_inputs_cannot_reach_all_classes() -> None:
    """32 inputs in blocks of 8: four of each class, so at most half of the eight classes before."""
    got = reach(PermutedDiagonalSpec(size=8), (32, 32), PermutedDiagonalSpec(size=8), (32, 32))
    assert got.best == 0.5
    assert got.mixes


def test_only_natural_neighbours_have_a_reach() -> None:
    natural, random = PermutedDiagonalSpec(size=4), PermutedDiagonalSpec(size=4, index="random", seed=1)
    with pytest.raises(SpecError, match="natural indices have classes to reach, not a natural and a random one"):
        reach(natural, (16, 16), random, (16, 16))
    with pytest.raises(SpecError, match="24 inputs are no multiple of the 16 outputs of the layer before"):
        reach(natural, (16, 16), natural, (16, 24))


@pytest.mark.parametrize(
    "q, shifts, message",
    [
        ((2, 2, 5), [[0, 1], [2, 10]], "0 to 4, not from 0 to 10"),
        ((2, 2, 5), [[0, 1], [2, -1]], "0 to 4, not from -1 to 2"),
        ((2, 2, 5), [[0, 1]], r"shifts of \(2, 2\)"),
        ((2, 2, 5), [[0, 1, 2, 3]], r"shifts of \(2, 2\)"),
        ((1, 2, 5), [[0, 1], [2, 3]], r"diagonals of \(2, 2, 5\)"),
        ((5,), [[0, 1], [2, 3]], r"diagonals of \(2, 2, 5\)"),
    ],
)
def test_diagonals_are_as_many_as_the_blocks(q: tuple[int, ...], shifts: list[list[int]], message: str) -> None:
    spec = PermutedDiagonalSpec(size=5, index="searched")
    with pytest.raises(SpecError, match=message):
        PackedPermutedDiagonal.from_diagonals(np.ones(q, np.float32), spec, (10, 9), np.array(shifts))


@pytest.mark.parametrize("shifts", [np.array([[0.0, 1], [2, 3]]), np.ones((2, 2), bool), np.full((2, 2), 1j)])
def test_shifts_are_whole_numbers(shifts: np.ndarray) -> None:
    spec = PermutedDiagonalSpec(size=5, index="searched")
    with pytest.raises(SpecError, match=f"shifts must be whole numbers, not {shifts.dtype}"):
        PackedPermutedDiagonal.from_diagonals(np.ones((2, 2, 5), np.float32), spec, (10, 9), shifts)


def test_whole_numbers_of_any_width_and_lists_are_shifts() -> None:
    spec, q = PermutedDiagonalSpec(size=5, index="searched"), np.ones((2, 2, 5), np.float32)
    want = PackedPermutedDiagonal.from_diagonals(q, spec, (10, 9), np.array([[0, 1], [2, 4]])).dense()
    for shifts in ([[0, 1], [2, 4]], np.array([[0, 1], [2, 4]], np.uint64), np.array([[0, 1], [2, 4]], np.int8)):
        got = PackedPermutedDiagonal.from_diagonals(q, spec, (10, 9), shifts)  # type: ignore[arg-type]
        got.validate()
        assert np.array_equal(got.dense(), want)


@pytest.mark.parametrize("values", [F32, CODEBOOK4])
def test_diagonals_that_are_no_real_numbers_are_refused(values: Values) -> None:
    spec = PermutedDiagonalSpec(size=5, values=values)
    with pytest.raises(SpecError, match="must be of real numbers, not of complex128"):
        PackedPermutedDiagonal.from_diagonals(np.ones((2, 2, 5)) * 1j, spec, (10, 9), spec.shifts((10, 9)))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "spec, own", [(PermutedDiagonalSpec(size=5), 1), (PermutedDiagonalSpec(size=5, index="random", seed=2), 0)]
)
def test_shifts_of_another_index_are_refused(spec: PermutedDiagonalSpec, own: int) -> None:
    """They are not stored, so the weight would be read on other diagonals than it was written on."""
    shifts = spec.shifts((10, 9))
    shifts[0, 1] = own + 2
    message = rf"a {spec.index} index shifts block \(0, 1\) by {own}, not by {own + 2}; index='searched' stores any"
    with pytest.raises(SpecError, match=message):
        PackedPermutedDiagonal.from_diagonals(np.ones((2, 2, 5), np.float32), spec, (10, 9), shifts)


def test_random_shifts_are_part_of_the_format() -> None:
    """The same in every version: these were written down when the format was made."""
    shifts = PermutedDiagonalSpec(size=10, index="random", seed=3).shifts((40, 40))
    assert shifts.tolist() == [[3, 0, 5, 7], [9, 6, 8, 2], [8, 5, 8, 1], [0, 8, 8, 7]]
    many = PermutedDiagonalSpec(size=7, index="random", seed=0).shifts((700, 700))
    counts = np.bincount(many.ravel(), minlength=7)
    assert abs(counts / many.size - 1 / 7).max() < 0.01
    assert not np.array_equal(many, PermutedDiagonalSpec(size=7, index="random", seed=1).shifts((700, 700)))


def test_convolutions_have_whole_kernels_on_their_diagonals() -> None:
    weight = RANDOM.standard_normal((6, 9, 3, 2)).astype(np.float32)
    packed = PackedPermutedDiagonal.from_dense(weight, PermutedDiagonalSpec(size=3))
    want = by_equation(packed)
    assert np.array_equal(packed.dense(), want)
    kept = want.any(axis=(2, 3))
    assert kept.sum() == 6 * 9 // 3
    assert np.array_equal(want[kept], weight[kept])
    assert columns_of(packed.index(), 3).shape == (2, 3, 3)


@pytest.mark.parametrize(
    "fields, message",
    [
        ({"size": 0}, "size must be a whole number of at least 1"),
        ({"size": 2, "index": "best"}, "natural, random, searched, not 'best'"),
        ({"size": 2, "seed": 1}, "a seed belongs to a random index"),
        ({"size": 2, "index": "random"}, "seed must be a whole number from 0 to 4294967295, not None"),
        ({"size": 2, "index": "random", "seed": 1 << 32}, "seed must be"),
    ],
)
def test_bad_specs_are_refused(fields: dict[str, object], message: str) -> None:
    with pytest.raises(SpecError, match=message):
        PermutedDiagonalSpec(**fields)  # type: ignore[arg-type]


def test_a_size_above_the_layer_is_refused() -> None:
    with pytest.raises(SpecError, match=r"layer 'fc': permuted diagonals of size 11 in a 10 x 64 weight; at most 10"):
        layers.from_dense(nn.Linear(64, 10), PermutedDiagonalSpec(size=11), "fc")


def test_damaged_indices_are_refused() -> None:
    spec = PermutedDiagonalSpec(size=5, index="searched")
    weight = PackedPermutedDiagonal.random((10, 15), spec, RANDOM)
    good = weight.arrays["weight.index"]
    assert good.shape == (3,)  # 6 shifts of 3 bits
    for bad, message in (
        (good[:2], "6 shifts, 3 bits each, is 3 bytes; it is uint8 of shape"),
        (good | np.array([7, 0, 0], np.uint8), "shifts of 5 or more"),
        (good | np.array([0, 0, 128], np.uint8), "bits after the last one"),
    ):
        with pytest.raises(ProgramError, match=message):
            PackedPermutedDiagonal(spec, weight.shape, {**weight.arrays, "weight.index": bad}).validate()
    beyond = PackedPermutedDiagonal.random((9, 15), spec, RANDOM)
    q = beyond.diagonals().copy()
    q[1, 0, 4] = 1
    with pytest.raises(ProgramError, match="values beyond its last channel"):
        PackedPermutedDiagonal(spec, (9, 15), {**beyond.arrays, "weight": q}).validate()
