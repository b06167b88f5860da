"""The kernels compiled for cards that need not be here: matrix instructions, wide copies, shared memory, registers.

Compiling runs nothing. That numbers come out right is the interpreter's to say, and in the end a GPU's.
"""

from __future__ import annotations

from dataclasses import dataclass

import pytest

import gpu_compiling
from dovetail.errors import install_hint
from dovetail.gpu import support
from dovetail.gpu.block_circulant.choice import CirculantProblem
from dovetail.gpu.cards import GPUS
from dovetail.gpu.permuted_diagonal.choice import DiagonalProblem, class_tiles, strips
from dovetail.gpu.tiles import CORE_SHAPES, CoreShape
from dovetail.gpu.tucker import choice
from dovetail.gpu.tucker.choice import Problem, Tiles, TuckerTiles
from gpu_compiling import Compiled

CARDS = {80: GPUS["A100"], 90: GPUS["H100"]}
A_FEW_REGISTERS = 16
"""Bytes of a thread that may lie in memory."""

pytestmark = [
    pytest.mark.skipif(not support.INSTALLED, reason=f"Triton is not installed: {install_hint('gpu')}"),
    pytest.mark.skipif(support.INTERPRETED, reason="Triton interprets here"),
]
each_card = pytest.mark.parametrize("capability", CARDS, ids="sm_{}".format)


@pytest.fixture(autouse=True, scope="module")
def own_cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRITON_CACHE_DIR", str(tmp_path_factory.mktemp("triton")))
        yield


def require(made: Compiled, tiles: Tiles, product: str, capability: int, shared: int) -> None:
    """Matrix units where there are any for this product, copies as wide as they go, and nothing spilled."""
    wgmma = capability == 90 and tiles.pixels >= 64 and tiles.warps >= 4
    expected = None if product == "f32" else "wgmma.mma_async" if wgmma else "mma.sync"
    for instruction in ("wgmma.mma_async", "mma.sync"):
        assert bool(made.count(instruction)) == (instruction == expected)
    assert made.wide_copies
    assert made.shared <= min(shared, CARDS[capability].shared_per_block)
    assert made.local is None or made.local <= A_FEW_REGISTERS


def problem(shape: CoreShape, **fields: str) -> Problem:
    return Problem(1, shape.inputs, shape.outputs, shape.height, shape.width, **fields)


@dataclass(frozen=True)
class One:
    tiles: Tiles
    dtype: str
    precision: str
    product: str

    def __str__(self) -> str:
        return f"{self.product}-{self.tiles}"


ONES = [
    One(Tiles(4, 4, 32, 64, 2, 2, 3), "float16", "ieee", "f16"),
    One(Tiles(8, 8, 32, 32, 1, 4, 3), "bfloat16", "ieee", "f16"),
    One(Tiles(8, 8, 32, 32, 1, 4, 3), "float32", "tf32", "tf32"),
    One(Tiles(4, 8, 32, 16, 1, 2, 3), "float32", "tf32x3", "tf32"),
    One(Tiles(4, 8, 32, 16, 1, 2, 3), "float32", "ieee", "f32"),
]


@each_card
@pytest.mark.parametrize("one", ONES, ids=str)
def test_a_core_of_each_product(one, capability):
    made = gpu_compiling.core(one.tiles, one.dtype, one.precision, capability)
    require(made, one.tiles, one.product, capability, one.tiles.shared(one.dtype))


@each_card
def test_three_products_of_tf32_for_one(capability):
    one, three = (gpu_compiling.core(ONES[2].tiles, "float32", name, capability) for name in ("tf32", "tf32x3"))
    names = ("wgmma.mma_async", "mma.sync")
    assert sum(map(three.count, names)) == 3 * sum(map(one.count, names)) > 0


@each_card
def test_a_fused_and_a_pointwise_kernel(capability):
    plan = TuckerTiles.parse("1x16x16x64:1:4:3 8x8x32x64:1:4:3 8x8x32x32:1:4:3 fused")
    made = gpu_compiling.fused(plan, "float16", "ieee", capability)
    require(made, plan.core, "f16", capability, choice.fused_shared(plan.core, plan.last.outputs, "float16"))
    made = gpu_compiling.pointwise(Tiles(1, 32, 32, 64, 1, 4, 3), "float16", "ieee", capability, splits=2)
    assert made.count("mma.sync")
    assert made.wide_copies


@pytest.mark.slow
@each_card
@pytest.mark.parametrize("shape", CORE_SHAPES, ids=str)
def test_the_cores_of_all_shapes(shape, capability):
    card = CARDS[capability]
    for fields in ({"dtype": "float16"}, {"dtype": "float32", "precision": "tf32"}, {"dtype": "float32"}):
        asked = problem(shape, **fields)
        tiles = choice.best(asked, card)
        made = gpu_compiling.core(tiles, asked.dtype, asked.precision, capability)
        require(made, tiles, asked.product, capability, tiles.shared(asked.dtype))


@pytest.mark.slow
@each_card
@pytest.mark.parametrize("shape", CORE_SHAPES[::2], ids=str)
def test_the_plans_of_layers(shape, capability):
    """Whichever way the core runs best by the model, fused and apart."""
    asked = problem(shape, dtype="float16")
    plans = choice.plans(asked, 256, 256, CARDS[capability], 40)
    for plan in {plan.fused: plan for plan in reversed(plans)}.values():
        if plan.fused:
            made = gpu_compiling.fused(plan, "float16", "ieee", capability)
            room = choice.fused_shared(plan.core, plan.last.outputs, "float16")
            require(made, plan.core, "f16", capability, room)
        made = gpu_compiling.pointwise(plan.first, "float16", "ieee", capability)
        require(made, plan.first, "f16", capability, plan.first.shared("float16"))


@each_card
@pytest.mark.parametrize("natural", [True, False])
@pytest.mark.parametrize("size", [8, 10])
@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
def test_diagonals_read_in_the_order_of_memory(dtype, size, natural, capability):
    """No shared memory but for the sum at the end, nothing spilled, and no multiplication on matrix units."""
    problem = DiagonalProblem(1, 4096, 4096, size, natural, dtype)
    for strip in strips(problem, CARDS[capability])[:2]:
        made = gpu_compiling.direct(strip, size, natural, dtype, capability)
        assert made.count("fma.rn.f32")
        assert not made.count("mma.sync")
        assert made.local is None or made.local <= A_FEW_REGISTERS


@each_card
@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
def test_the_classes_of_diagonals_are_products(dtype, capability):
    problem = DiagonalProblem(64, 4096, 4096, 8, dtype=dtype)
    tiles = class_tiles(problem, CARDS[capability])[0]
    require_products(gpu_compiling.products("grouped", tiles, 8, dtype, "ieee", capability), tiles, dtype, capability)


@each_card
@pytest.mark.parametrize("size", [8, 64, 100])
@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_rotations_are_one_product(dtype, size, capability):
    problem = CirculantProblem(1, 4096, 4096, size, dtype)
    tiles = next(plan.tiles for plan in problem.plans(CARDS[capability]) if plan.way == "direct")
    require_products(
        gpu_compiling.products("rotated", tiles, size, dtype, "ieee", capability), tiles, dtype, capability
    )


def require_products(made: Compiled, tiles: Tiles, dtype: str, capability: int) -> None:
    """Matrix units for 16 bits; no more memory than the card has, and nothing spilled."""
    matrix = made.count("mma.sync") + made.count("wgmma.mma_async")
    assert bool(matrix) == (dtype != "float32")
    assert made.shared <= CARDS[capability].shared_per_block
    assert made.local is None or made.local <= A_FEW_REGISTERS


@each_card
def test_splits_are_added_in_wide_loads(capability):
    made = gpu_compiling.added(4, "float16", capability)
    assert made.count("ld.global") >= 5
