"""The Tucker kernels on a GPU: numbers, repeats, CUDA graphs, torch.compile, tiles by timing."""

from __future__ import annotations

import random
from dataclasses import replace
from functools import partial

import pytest
import torch

import gpu_layers
from dovetail.errors import install_hint
from dovetail.gpu import cache, support, tucker_conv2d, tucker_core, tuning, use_kernels
from dovetail.gpu.tiles import CORE_SHAPES, CoreShape
from dovetail.gpu.timing import Graph
from dovetail.gpu.tucker import choice, launch
from dovetail.gpu.tucker.choice import TuckerTiles
from dovetail.gpu.tucker.op import plain
from gpu_layers import Case, Layer

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.filterwarnings("default"),  # what torch has to say of its settings differs between versions
    pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no CUDA GPU here"),
    pytest.mark.skipif(not support.INSTALLED, reason=f"Triton is not installed: {install_hint('gpu')}"),
]
CUDA = torch.device("cuda", 0)
EXACT = 1e-4
"""Of the range, in float32, as of every target."""


@pytest.fixture(autouse=True)
def full_float32():
    before = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    yield
    torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = before


def run(layer: Layer, **options: str) -> torch.Tensor:
    case = layer.case
    return tucker_conv2d(
        layer.x, *layer.weights, layer.bias, case.stride, case.padding, case.dilation,
        residual=layer.residual, relu=case.relu, **{"tiles": case.tiles, **options},
    )  # fmt: skip


def core_of(shape: CoreShape, dtype: str = "float32") -> tuple[torch.Tensor, torch.Tensor]:
    layer = gpu_layers.make(
        Case(str(shape), (1, shape.inputs, shape.outputs, 1), size=(shape.height, shape.width), dtype=dtype), "cuda"
    )
    z = torch.randn(1, shape.inputs, shape.height, shape.width, device=CUDA).to(layer.x.dtype)
    return z.contiguous(memory_format=torch.channels_last), layer.weights[1]


@pytest.mark.parametrize("case", gpu_layers.CASES, ids=str)
def test_a_layer_is_as_exact_as_torch_in_the_same_type(case):
    layer = gpu_layers.make(case, "cuda")
    y = run(layer)
    assert y.is_cuda
    assert gpu_layers.error(y, layer.truth()) <= gpu_layers.allowed(layer)
    assert torch.equal(y, run(layer))


@pytest.mark.parametrize(("precision", "bound"), [("ieee", EXACT), ("tf32x3", EXACT), ("tf32", 5e-3)])
@pytest.mark.parametrize("shape", CORE_SHAPES, ids=str)
def test_the_core_shapes_in_float32(shape, precision, bound):
    z, core = core_of(shape)
    want = torch.nn.functional.conv2d(z.double(), core.double(), padding=1).cpu()
    assert gpu_layers.error(tucker_core(z, core, padding=1, precision=precision), want) <= bound


def test_a_random_sample_of_tiles_agrees():
    shape = CORE_SHAPES[8]
    z, core = core_of(shape)
    want = torch.nn.functional.conv2d(z.double(), core.double(), padding=1).cpu()
    problem = launch.problem_of(z, core, (1, 1), (1, 1), (1, 1), "ieee")
    tiles = list(choice.candidates(problem, tuning.card(CUDA)))
    for each in random.Random(0).sample(tiles, 30):
        assert gpu_layers.error(tucker_core(z, core, padding=1, tiles=str(each)), want) <= EXACT, each


@pytest.mark.parametrize("batch", [1, 16])
def test_plans_of_the_model_agree_in_half_precision(batch):
    for shape in CORE_SHAPES[3:]:
        case = Case(str(shape), (128, shape.inputs, shape.outputs, 128), batch, (shape.height, shape.width))
        layer = gpu_layers.make(replace(case, dtype="float16", residual=True, relu=True), "cuda")
        problem = launch.problem_of(layer.x, layer.weights[1], (1, 1), (1, 1), (1, 1), "ieee")
        plans = choice.plans(problem, 128, 128, tuning.card(CUDA), 40)
        want = layer.truth()
        for plan in {plan.fused: plan for plan in reversed(plans)}.values():
            assert gpu_layers.error(run(layer, tiles=str(plan)), want) <= 5e-3, (shape, plan)


def test_a_cuda_graph_gives_the_same_bits():
    layer = gpu_layers.make(replace(gpu_layers.SMALL, tiles="model", bias=True, relu=True), "cuda")
    eager = run(layer)
    graph = Graph(lambda: run(layer), repeats=2)
    assert torch.equal(graph.replay(), eager)
    assert len(graph.time(3)) == 3


@pytest.mark.slow
def test_one_graph_under_torch_compile():
    layer = gpu_layers.make(replace(gpu_layers.SMALL, tiles="model"), "cuda")

    def work(x: torch.Tensor) -> torch.Tensor:
        first, core, last = layer.weights
        return tucker_conv2d(x.relu(), first, core, last, padding=1, tiles="model").relu() + 1

    compiled = torch.compile(work, fullgraph=True)
    assert torch.allclose(compiled(layer.x), work(layer.x), atol=1e-5)


def test_gradients_are_those_of_torch():
    layer = gpu_layers.make(replace(gpu_layers.CASES[0], bias=True, residual=True, relu=True), "cuda")
    leaves = [layer.x, *layer.weights, layer.bias, layer.residual]
    found = []
    for kernels in (True, False):
        for leaf in leaves:
            leaf.requires_grad_().grad = None
        y = run(layer) if kernels else plain(*leaves, (1, 1), (1, 1), (1, 1), True)
        y.square().sum().backward()
        found.append([leaf.grad.clone() for leaf in leaves])
    for got, want in zip(*found, strict=True):
        assert torch.allclose(got, want, atol=1e-4)


@pytest.mark.parametrize("tiles", ["oracle", "exhaustive"])
def test_timing_finds_tiles_and_keeps_them(tmp_path, monkeypatch, tiles):
    monkeypatch.setenv("DOVETAIL_CACHE", str(tmp_path))
    monkeypatch.setattr(tuning, "TRIED", 4)
    tuning.forget()
    layer = gpu_layers.make(Case(tiles, (32, 16, 16, 32), size=(8, 8), dtype="float16"), "cuda")
    y = run(layer, tiles=tiles)
    assert gpu_layers.error(y, layer.truth()) <= gpu_layers.allowed(layer)
    assert TuckerTiles.parse(next(iter(cache.load(tuning.name_of(tuning.card(CUDA))).values())))
    assert torch.equal(run(layer, tiles="auto"), y)
    tuning.forget()


def test_a_model_with_kernels_is_the_model():
    from torch import nn

    from dovetail.formats import TuckerSpec
    from dovetail.formats.layer import from_dense

    model = nn.Sequential(
        from_dense(nn.Conv2d(16, 32, 3, padding=1), TuckerSpec(rank_in=8, rank_out=16)), nn.ReLU()
    ).to(CUDA)
    x = torch.randn(2, 16, 14, 14, device=CUDA)
    want = model(x)
    with use_kernels(model, tiles="model"):
        assert torch.allclose(model(x), want, atol=1e-5)
        assert torch.allclose(model.half()(x.half()).float(), want, atol=2e-2)


def test_a_graph_keeps_what_its_work_reads():
    """Replayed after all else has let go of it, and the memory has been asked for again."""
    layer = gpu_layers.make(replace(gpu_layers.SMALL, tiles="model"), "cuda")
    want = run(layer)
    graph = Graph(partial(run, layer))
    del layer
    taken = [torch.full((1 << 20,), torch.inf, device=CUDA) for _ in range(16)]
    torch.cuda.empty_cache()
    assert torch.equal(graph.replay(), want)
    assert len(taken) == 16


def test_another_stream():
    """Launches follow the current stream."""
    layer = gpu_layers.make(replace(gpu_layers.SMALL, tiles="model"), "cuda")
    want = run(layer)
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        got = run(layer)
    stream.synchronize()
    assert torch.equal(got, want)
