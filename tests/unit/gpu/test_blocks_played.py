"""The kernels of layers in blocks, played program by program: what they read and write, and what comes of it."""

from __future__ import annotations

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import HealthCheck, given, settings

import gpu_blocks
import gpu_layers
from dovetail.gpu.block_circulant import kernels as circulant
from dovetail.gpu.blocks import kernels as blocks
from dovetail.gpu.permuted_diagonal import kernels as diagonal
from gpu_blocks import CIRCULANT, DIAGONAL, Case
from played_triton import play

KERNELS = {
    "direct": (diagonal, "direct"),
    "grouped": (diagonal, "grouped"),
    "rotated": (circulant, "rotated"),
    "added": (blocks, "added"),
}


@pytest.fixture(scope="module")
def played():
    with pytest.MonkeyPatch.context() as patch:
        yield play(patch, **KERNELS)


def taken(case: Case) -> set[str]:
    """The kernels that a plan launches."""
    way, _, tiles = case.tiles.partition(" ")
    if not tiles:
        return set()
    name = {(DIAGONAL, "direct"): "direct", (DIAGONAL, "grouped"): "grouped", (CIRCULANT, "direct"): "rotated"}
    return {name[case.kind, way]} | ({"added"} if int(tiles.split(":")[1]) > 1 else set())


@pytest.mark.parametrize("case", gpu_blocks.interpreted(quick=False), ids=str)
def test_a_layer_is_as_exact_as_torch_in_the_same_type(played, case):
    layer = gpu_blocks.make(case)
    before = {name: kernel.launches for name, kernel in played.items()}
    y = layer.run()
    assert gpu_layers.error(y, layer.truth()) <= gpu_blocks.allowed(layer)
    assert y.dtype == layer.x.dtype
    launched = {name for name, kernel in played.items() if kernel.launches > before[name]}
    assert launched == taken(case) or case.tiles == "model"


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=40)
@given(data=st.data())
def test_any_shape_by_any_kernel(played, data):
    kind = data.draw(st.sampled_from([DIAGONAL, CIRCULANT]))
    size, batch = data.draw(st.integers(1, 9)), data.draw(st.integers(1, 6))
    outputs, inputs = data.draw(st.integers(size, 40)), data.draw(st.integers(size, 40))
    splits = data.draw(st.integers(1, 3))
    strip = "x".join(str(data.draw(st.sampled_from([1, 2, 4]))) for _ in range(3))
    natural = data.draw(st.booleans())
    ways = [f"direct {strip}:{splits}:1", f"grouped 1x16x16x16:{splits}:4:3"][: 2 if natural else 1]
    tiles = data.draw(st.sampled_from(ways)) if kind == DIAGONAL else f"direct 1x16x16x16:{splits}:4:3"
    layer = gpu_blocks.make(Case("any", kind, size, outputs, inputs, batch, natural, bias=True, tiles=tiles))
    assert gpu_layers.error(layer.run(), layer.truth()) < 1e-5


def test_a_nan_stays_in_the_outputs_that_read_it(played):
    for case in (gpu_blocks.GROUPED, gpu_blocks.PLAIN, gpu_blocks.TURNED):
        layer = gpu_blocks.make(case)
        layer.x[0, 1] = torch.nan
        reads = layer.weight[:, 1] != 0
        assert torch.equal(layer.run()[0].isnan(), reads)


def test_inputs_of_any_number_of_axes_and_any_layout(played):
    layer = gpu_blocks.make(gpu_blocks.GROUPED)
    turned = torch.randn(15, 2, 3).permute(2, 1, 0)
    got = gpu_blocks.permuted_diagonal_linear(turned, layer.values, 3, 12, tiles=layer.case.tiles)
    assert got.shape == (3, 2, 12)
    assert torch.allclose(got, turned @ layer.weight.T, atol=1e-5)


def test_shifts_may_be_of_any_whole_type(played):
    layer = gpu_blocks.make(next(case for case in gpu_blocks.CASES if case.name == "stored shifts"))
    for kind in (torch.uint8, torch.int16, torch.int32):
        got = gpu_blocks.permuted_diagonal_linear(
            layer.x, layer.values, 5, 17, layer.bias, shifts=layer.shifts.to(kind), tiles="direct 1x1x4:1:1"
        )
        assert gpu_layers.error(got, layer.truth()) <= gpu_blocks.allowed(layer)
