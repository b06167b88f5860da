"""The kernels of linear layers in blocks on a GPU: numbers, repeats, CUDA graphs, torch.compile, plans by timing."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
import torch
from torch import nn

import gpu_blocks
import gpu_layers
from dovetail.errors import install_hint
from dovetail.formats import BlockCirculantSpec, PermutedDiagonalSpec
from dovetail.formats.layer import from_dense
from dovetail.gpu import cache, support, tuning, use_kernels
from dovetail.gpu.block_circulant.choice import CirculantProblem
from dovetail.gpu.blocks.plan import Plan
from dovetail.gpu.permuted_diagonal.choice import DiagonalProblem
from dovetail.gpu.timing import Graph, full_float32
from gpu_blocks import CIRCULANT, DIAGONAL, Case

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.filterwarnings("default"),  # what torch has to say of its settings differs between versions
    pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no CUDA GPU here"),
    pytest.mark.skipif(not support.INSTALLED, reason=f"Triton is not installed: {install_hint('gpu')}"),
]
CUDA = torch.device("cuda", 0)

LARGE = [
    Case("fc6", DIAGONAL, 10, 4096, 9216),
    Case("fc7", DIAGONAL, 8, 4096, 4096),
    Case("fc7, stored shifts", DIAGONAL, 8, 4096, 4096, natural=False),
    Case("fc7", CIRCULANT, 64, 4096, 4096),
    Case("fc7, 128", CIRCULANT, 128, 4096, 4096),
]
SOME = [gpu_blocks.PLAIN, gpu_blocks.GROUPED, gpu_blocks.TURNED]
some = pytest.mark.parametrize("case", SOME, ids=lambda case: f"{case.kind} {case.tiles.partition(' ')[0]}")


@pytest.fixture(autouse=True)
def exact():
    with full_float32():
        yield


def problem_of(case: Case) -> DiagonalProblem | CirculantProblem:
    sizes = (case.batch, case.outputs, case.inputs, case.size)
    if case.kind == CIRCULANT:
        return CirculantProblem(*sizes, case.dtype)
    return DiagonalProblem(*sizes, case.natural, case.dtype)


@pytest.mark.parametrize("case", gpu_blocks.CASES, ids=str)
def test_a_layer_is_as_exact_as_torch_in_the_same_type(case):
    layer = gpu_blocks.make(case, "cuda")
    y = layer.run()
    assert y.is_cuda
    assert gpu_layers.error(y, layer.truth()) <= gpu_blocks.allowed(layer)
    assert torch.equal(y, layer.run())


@pytest.mark.parametrize(("dtype", "bound"), [("float32", 1e-4), ("float16", 5e-3), ("bfloat16", 4e-2)])
@pytest.mark.parametrize("batch", [1, 16, 64])
@pytest.mark.parametrize("case", LARGE, ids=str)
def test_large_layers_by_the_plans_of_the_model(case, batch, dtype, bound):
    """The best plan of each way."""
    layer = gpu_blocks.make(replace(case, batch=batch, dtype=dtype), "cuda")
    want = layer.truth()
    plans = problem_of(layer.case).plans(tuning.card(CUDA))
    for plan in {plan.way: plan for plan in reversed(plans)}.values():
        assert gpu_layers.error(layer.run(tiles=str(plan)), want) <= bound, plan


@pytest.mark.parametrize("case", LARGE[:4], ids=str)
def test_a_random_sample_of_plans_agrees(case):
    layer = gpu_blocks.make(replace(case, batch=3), "cuda")
    plans = problem_of(layer.case).plans(tuning.card(CUDA))
    want = layer.truth()
    for plan in random.Random(0).sample(plans, 6):
        assert gpu_layers.error(layer.run(tiles=str(plan)), want) <= 1e-4, plan


@some
def test_a_cuda_graph_gives_the_same_bits_on_any_stream(case):
    layer = gpu_blocks.make(replace(case, bias=True), "cuda")
    eager = layer.run()
    graph = Graph(layer.run, repeats=2)
    assert torch.equal(graph.replay(), eager)


@some
def test_gradients_are_those_of_the_dense_layer(case):
    found = []
    for device in ("cuda", "cpu"):
        there = gpu_blocks.make(case, device)
        leaves = [there.x.requires_grad_(), there.values.requires_grad_()]
        there.run(**({} if device == "cuda" else {"tiles": "auto"})).square().sum().backward()
        found.append([leaf.grad.cpu() for leaf in leaves])
    for got, want in zip(*found, strict=True):
        assert gpu_layers.error(got, want.double()) < 1e-4


@pytest.mark.slow
@some
def test_one_graph_under_torch_compile(case):
    layer = gpu_blocks.make(case, "cuda")

    def work(x: torch.Tensor) -> torch.Tensor:
        return replace(layer, x=x.relu()).run().relu() + 1

    compiled = torch.compile(work, fullgraph=True)
    assert torch.allclose(compiled(layer.x), work(layer.x), atol=1e-5)


@pytest.mark.parametrize("case", [LARGE[1], LARGE[3]], ids=str)
def test_the_oracle_finds_a_plan_and_keeps_it(case, tmp_path, monkeypatch):
    monkeypatch.setenv("DOVETAIL_CACHE", str(tmp_path))
    monkeypatch.setattr(tuning, "TRIED", 4)
    tuning.forget()
    layer = gpu_blocks.make(replace(case, dtype="float16"), "cuda")
    y = layer.run(tiles="oracle")
    assert gpu_layers.error(y, layer.truth()) <= 5e-3
    kept = cache.load(tuning.name_of(tuning.card(CUDA)))
    problem = problem_of(layer.case)
    assert Plan.parse(kept[problem.work], problem.ways)
    assert torch.equal(layer.run(tiles="auto"), y)
    tuning.forget()


def test_a_model_with_kernels_is_the_model():
    model = nn.Sequential(
        from_dense(nn.Linear(300, 200), PermutedDiagonalSpec(size=10)), nn.ReLU(),
        from_dense(nn.Linear(200, 256), PermutedDiagonalSpec(size=8, index="searched")), nn.ReLU(),
        from_dense(nn.Linear(256, 512), BlockCirculantSpec(size=16)), nn.ReLU(),
        from_dense(nn.Linear(512, 256), BlockCirculantSpec(size=128)),
    ).to(CUDA)  # fmt: skip
    for batch in (1, 40):
        x = torch.randn(batch, 300, device=CUDA)
        want = model(x)
        with use_kernels(model), torch.no_grad():
            for _ in range(2):
                assert torch.allclose(model(x), want, atol=1e-5)
    with use_kernels(model):
        assert torch.allclose(model.half()(x.half()).float(), want, atol=2e-2)
