"""The torch ops without a GPU: the convolutions they stand for, their shapes, gradients and refusals."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

import gpu_layers
from dovetail.errors import GpuError, InputError
from dovetail.gpu import launching, tucker_conv2d, tucker_core
from dovetail.gpu.tucker import launch, op
from gpu_layers import Case

CASES = [
    Case("plain", (5, 3, 4, 6)),
    Case("all", (5, 3, 4, 6), batch=2, stride=(2, 1), padding=(0, 1), size=(6, 5), bias=True, residual=True, relu=True),
    Case("dilated", (4, 2, 2, 3), kernel=(3, 2), dilation=(2, 1), padding=(2, 0), bias=True),
]
each_case = pytest.mark.parametrize("case", CASES, ids=str)


def arguments(layer: gpu_layers.Layer) -> tuple:
    case = layer.case
    pairs = [list(pair) for pair in (case.stride, case.padding, case.dilation)]
    return (layer.x, *layer.weights, layer.bias, layer.residual, *pairs, case.relu, "ieee", "auto")


@each_case
def test_without_a_gpu_it_is_three_convolutions(case):
    layer = gpu_layers.make(case)
    y = tucker_conv2d(
        layer.x, *layer.weights, layer.bias, case.stride, case.padding, case.dilation,
        residual=layer.residual, relu=case.relu,
    )  # fmt: skip
    assert gpu_layers.error(y, layer.truth()) < 1e-6
    assert torch.equal(y, torch.ops.dovetail.tucker(*arguments(layer)))


@each_case
def test_the_op_passes_torchs_checks(case):
    layer = gpu_layers.make(case)
    given = arguments(layer)
    for tensor in (layer.x, *layer.weights):
        tensor.requires_grad_()
    torch.library.opcheck(torch.ops.dovetail.tucker.default, given)


def test_the_core_passes_torchs_checks():
    layer = gpu_layers.make(CASES[1])
    x = torch.randn(2, 3, 6, 5, requires_grad=True)
    core = layer.weights[1].requires_grad_()
    given = (x, core, [2, 1], [0, 1], [1, 1], "ieee", "auto")
    torch.library.opcheck(torch.ops.dovetail.tucker_core.default, given)
    assert torch.allclose(tucker_core(x, core, (2, 1), (0, 1)), F.conv2d(x, core, None, (2, 1), (0, 1)))


@pytest.mark.parametrize(("splits", "runs"), [(2**20, True), (2**24, False)])
def test_sums_that_32_bits_cannot_number_are_not_made(monkeypatch, splits, runs):
    """Seven by seven pixels and four channels of each split. As if kernels took what lies on a CPU."""
    layer = gpu_layers.make(CASES[0])
    plan = gpu_layers.SMALL.tiles.replace("4x4x16x16:1:", f"4x4x16x16:{splits}:")
    monkeypatch.setattr(launching, "kernels_take", lambda x: True)
    monkeypatch.setattr(launch, "layer", lambda *given: torch.zeros(1))
    monkeypatch.setattr(launch, "core_alone", lambda *given: torch.zeros(1))
    given = (*arguments(layer)[:-1], plan)
    assert (op._run(*given).numel() == 1) is runs
    core = layer.weights[1]
    given = (torch.zeros(1, core.shape[1], 7, 7), core, (1, 1), (1, 1), (1, 1), "ieee", plan.split()[1])
    assert (op._run_core(*given).numel() == 1) is runs


@each_case
def test_gradients_in_double_precision(case):
    layer = gpu_layers.make(case)
    leaves = [
        None if tensor is None else tensor.double().requires_grad_()
        for tensor in (layer.x, *layer.weights, layer.bias, layer.residual)
    ]
    rest = arguments(layer)[6:]
    assert torch.autograd.gradcheck(lambda *tensors: torch.ops.dovetail.tucker(*tensors, *rest), leaves)


@pytest.mark.parametrize("trained", range(6))
def test_each_gradient_comes_alone(trained):
    """Whoever trains one factor does not need the others to train."""
    layer = gpu_layers.make(CASES[1])
    given = list(arguments(layer))
    given[trained] = given[trained].clone().requires_grad_()
    torch.ops.dovetail.tucker(*given).square().sum().backward()
    want = given[trained].clone().detach().requires_grad_()
    others = [*given[:trained], want, *given[trained + 1 : 6]]
    op.plain(*others, *given[6:9], given[9]).square().sum().backward()
    assert torch.allclose(given[trained].grad, want.grad, atol=1e-5)


def test_the_gradient_of_the_core_alone():
    x, core = (torch.randn(shape, dtype=torch.float64, requires_grad=True) for shape in ((2, 3, 5, 4), (2, 3, 3, 3)))
    rest = ([2, 1], [1, 0], [1, 1], "ieee", "auto")
    assert torch.autograd.gradcheck(lambda *given: torch.ops.dovetail.tucker_core(*given, *rest), (x, core))


def test_one_graph_under_torch_compile():
    layer = gpu_layers.make(CASES[1])
    given = arguments(layer)

    def work(x):
        return torch.ops.dovetail.tucker(x.relu(), *given[1:]) + 1

    compiled = torch.compile(work, fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled(layer.x), work(layer.x))


def test_the_fake_result_lies_as_the_real_one():
    layer = gpu_layers.make(CASES[1])
    fake = torch.ops.dovetail.tucker(*(a.to("meta") if isinstance(a, torch.Tensor) else a for a in arguments(layer)))
    real = torch.ops.dovetail.tucker(*arguments(layer))
    assert (fake.shape, fake.stride(), fake.dtype) == (real.shape, real.stride(), real.dtype)


def test_an_empty_batch():
    layer = gpu_layers.make(CASES[0])
    given = list(arguments(layer))
    given[0] = given[0][:0]
    assert torch.ops.dovetail.tucker(*given).shape == (0, 6, 7, 7)


def test_autocast_is_that_of_convolutions():
    layer = gpu_layers.make(CASES[1])
    with torch.autocast("cpu", torch.bfloat16):
        y = tucker_conv2d(
            layer.x, *layer.weights, layer.bias, (2, 1), (0, 1), residual=layer.residual, relu=True
        )  # fmt: skip
    assert y.dtype == torch.bfloat16
    assert gpu_layers.error(y, layer.truth()) < 0.05


def test_the_function_needs_no_gpu_for_types_without_kernels():
    layer = gpu_layers.make(CASES[0])
    y = tucker_conv2d(layer.x.double(), *(weight.double() for weight in layer.weights), padding=1)
    assert torch.allclose(y, layer.truth())


def changed(**fields) -> dict:
    layer = gpu_layers.make(CASES[0])
    first, core, last = layer.weights
    return {"x": layer.x, "input": first, "core": core, "output": last, "padding": 1, **fields}


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"x": torch.zeros(5, 7, 7)}, "images have the shape"),
        ({"x": torch.zeros(1, 4, 7, 7)}, "images of 4 channels do not fit an input factor of 5"),
        ({"input": torch.zeros(2, 5)}, r"a core of ranks \(3, 4\) does not fit factors of 2 and 4"),
        ({"output": torch.zeros(6, 3)}, r"ranks \(3, 4\)"),
        ({"input": torch.zeros(3)}, "factors are matrices"),
        ({"core": torch.zeros(4, 3, 3)}, "a core has the shape"),
        ({"core": torch.zeros(4, 3, 3, 3, dtype=torch.float16)}, "core is torch.float16.*make them alike"),
        ({"bias": torch.zeros(5)}, "a bias of shape"),
        ({"residual": torch.zeros(1, 6, 7, 8)}, "a residual of shape"),
        ({"precision": "fast"}, "ieee, tf32, tf32x3"),
        ({"stride": 0}, "no geometry"),
        ({"padding": 0, "x": torch.zeros(1, 5, 2, 7)}, "smaller than the core"),
    ],
    ids=str,
)
def test_what_does_not_fit_is_refused_in_words(fields, reason):
    with pytest.raises(InputError, match=reason):
        tucker_conv2d(**changed(**fields))


POINT, CORE = "1x16x16x16:1:4:3", "4x4x16x16:1:4:3"
RUBBISH = ["rubbish", "", "AUTO", CORE, f"{POINT} {CORE}", f"{POINT} {CORE} {POINT} folded", f"{POINT} 4x4 {POINT}"]


@pytest.mark.parametrize("tiles", RUBBISH)
def test_tiles_that_are_none_are_refused_where_no_kernel_runs_too(tiles):
    layer = gpu_layers.make(CASES[0])
    *given, _ = arguments(layer)
    for run in (lambda: tucker_conv2d(**changed(tiles=tiles)), lambda: torch.ops.dovetail.tucker(*given, tiles)):
        with pytest.raises(GpuError, match="or say auto, model, oracle or exhaustive"):
            run()


def test_tiles_of_a_core_are_those_of_one_product():
    layer = gpu_layers.make(CASES[0])
    z = torch.zeros(1, layer.weights[1].shape[1], 7, 7)
    tucker_core(z, layer.weights[1], tiles=CORE)
    for tiles in ("rubbish", f"{POINT} {CORE} {POINT}"):
        with pytest.raises(GpuError, match=r"are no tiles.*or say auto, model, oracle or exhaustive"):
            tucker_core(z, layer.weights[1], tiles=tiles)


def test_a_plan_is_read_within_one_graph_of_torch_compile():
    layer = gpu_layers.make(CASES[0])
    plan = f"{POINT} {CORE} {POINT}"

    def work(x):
        return tucker_conv2d(x, *layer.weights, padding=1, tiles=plan)

    assert torch.equal(torch.compile(work, fullgraph=True, backend="aot_eager")(layer.x), work(layer.x))


def test_the_op_refuses_as_the_function_does():
    layer = gpu_layers.make(CASES[0])
    given = list(arguments(layer))
    given[1] = given[1][:, 1:]
    with pytest.raises(InputError, match="input factor of 4"):
        torch.ops.dovetail.tucker(*given)
    with pytest.raises(InputError, match="do not fit a core"):
        tucker_core(layer.x, layer.weights[1])
