"""The torch ops of layers in blocks without a GPU: what they stand for, shapes, gradients, refusals, plans."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest
import torch

import gpu_blocks
import gpu_layers
from dovetail.errors import GpuError, InputError
from dovetail.gpu import block_circulant_linear, cache, launching, permuted_diagonal_linear, tuning
from dovetail.gpu.block_circulant import launch as block_circulant_launch
from dovetail.gpu.block_circulant import plain as circulant
from dovetail.gpu.block_circulant.choice import CirculantProblem
from dovetail.gpu.blocks import settings
from dovetail.gpu.blocks.plan import Plan, Strip
from dovetail.gpu.cards import GPUS
from dovetail.gpu.permuted_diagonal import launch as permuted_diagonal_launch
from dovetail.gpu.permuted_diagonal import plain as diagonal
from dovetail.gpu.permuted_diagonal.choice import DiagonalProblem
from dovetail.gpu.tucker.choice import Tiles
from gpu_blocks import CIRCULANT, DIAGONAL, Case

CASES = [
    Case("natural", DIAGONAL, 3, 10, 14, batch=2, bias=True),
    Case("natural, wide", DIAGONAL, 4, 30, 7, batch=3),
    Case("stored", DIAGONAL, 5, 11, 13, batch=2, natural=False, bias=True),
    Case("odd", CIRCULANT, 3, 10, 14, batch=2, bias=True),
    Case("even", CIRCULANT, 4, 9, 6, batch=3),
]
each_case = pytest.mark.parametrize("case", CASES, ids=str)


@each_case
def test_without_a_gpu_it_is_the_dense_product(case):
    layer = gpu_blocks.make(case)
    assert gpu_layers.error(layer.run(), layer.truth()) < 1e-6
    assert torch.equal(layer.run(), gpu_blocks.op_of(case)(*layer.arguments))


@each_case
def test_the_op_passes_torchs_checks(case):
    layer = gpu_blocks.make(case)
    for tensor in (layer.x, layer.values):
        tensor.requires_grad_()
    torch.library.opcheck(gpu_blocks.op_of(case), layer.arguments)


@each_case
def test_gradients_in_double_precision(case):
    layer = gpu_blocks.make(case)
    leaves = [
        tensor.double().requires_grad_() if tensor is not None and tensor.is_floating_point() else tensor
        for tensor in layer.arguments[:4]
    ]
    rest = layer.arguments[4:]
    assert torch.autograd.gradcheck(lambda *tensors: gpu_blocks.op_of(case)(*tensors, *rest), leaves)


@each_case
def test_gradients_are_those_of_autograd_through_the_dense_weight(case):
    layer = gpu_blocks.make(case)
    operands = [layer.x, layer.values, *([layer.bias] if case.bias else [])]
    found = []
    for plain in (False, True):
        for leaf in operands:
            leaf.requires_grad_().grad = None
        dense = circulant.dense(layer.values, case.size) if case.kind == CIRCULANT else None
        if dense is None:
            dense = diagonal.dense(layer.values, layer.shifts, case.size)
        weight = dense[: case.outputs, : case.inputs]
        y = torch.nn.functional.linear(layer.x, weight, layer.bias) if plain else layer.run()
        y = y if plain else gpu_blocks.op_of(case)(*layer.arguments)
        y.square().sum().backward()
        found.append([leaf.grad.clone() for leaf in operands])
    for got, want in zip(*found, strict=True):
        assert gpu_layers.error(got, want.double()) < 1e-5


@each_case
@pytest.mark.parametrize("trained", [0, 1])
def test_each_gradient_comes_alone(case, trained):
    layer = gpu_blocks.make(case)
    given = list(layer.arguments)
    given[trained] = given[trained].clone().requires_grad_()
    gpu_blocks.op_of(case)(*given).square().sum().backward()
    assert given[trained].grad.shape == given[trained].shape
    assert given[1 - trained].grad is None


@pytest.mark.parametrize("k", [1, 2, 3, 8])
def test_gradients_by_spectra_are_those_of_differences(k):
    """Of blocks that do not fit, and of one that is larger than the layer."""
    random = torch.Generator().manual_seed(k)
    for outputs, inputs in ((k + 1, 2 * k + 1), (max(1, k - 1), k)):
        rows, columns = -(-outputs // k), -(-inputs // k)
        x, values = (
            torch.randn(shape, generator=random, dtype=torch.float64).requires_grad_()
            for shape in ((2, inputs), (rows, columns * k))
        )

        def op(x, values, outputs=outputs):
            return torch.ops.dovetail.block_circulant(x, values, None, None, k, outputs, "ieee", "auto")

        assert torch.autograd.gradcheck(op, (x, values))


@pytest.mark.parametrize(
    ("k", "outputs", "inputs"),
    [(1, 5, 7), (2, 5, 7), (3, 10, 14), (8, 27, 20), (64, 100, 130), (256, 300, 700), (1024, 1100, 900)],
)
def test_gradients_by_spectra_are_those_of_the_expanded_weight(k, outputs, inputs):
    """In float64, and what stands nowhere in the weight has none. The transforms may lose a few of 16 digits."""
    random = torch.Generator().manual_seed(k)
    rows, columns = -(-outputs // k), -(-inputs // k)
    shapes = ((3, inputs), (rows, columns * k), (3, outputs))
    x, values, grad = (torch.randn(shape, generator=random, dtype=torch.float64) for shape in shapes)
    leaves = x.requires_grad_(), values.requires_grad_()
    y = torch.nn.functional.linear(x, circulant.dense(values, k)[:outputs, :inputs])
    want = torch.autograd.grad(y, leaves, grad)
    got = torch.autograd.grad(
        torch.ops.dovetail.block_circulant(x, values, None, None, k, outputs, "ieee", "auto"), leaves, grad
    )
    for found, exact in zip(got, want, strict=True):
        assert found.dtype == torch.float64
        assert (found - exact).abs().max() <= 1e-13 * exact.abs().max()


def standing(case, shifts) -> torch.Tensor:
    """(rows, columns, size): which numbers stand somewhere in the weight, entry by entry as the formats define it."""
    p, rows, columns = case.size, -(-case.outputs // case.size), -(-case.inputs // case.size)
    found = torch.zeros(rows, columns, p, dtype=torch.bool)
    for i, j in itertools.product(range(case.outputs), range(case.inputs)):
        block, r, c = (i // p, j // p), i % p, j % p
        if case.kind == CIRCULANT:
            found[(*block, (r - c) % p)] = True
        else:
            shift = (block[0] * columns + block[1]) % p if shifts is None else int(shifts[block])
            found[(*block, r)] |= (r + shift) % p == c
    return found


@each_case
def test_what_stands_nowhere_in_the_weight_is_never_trained(case):
    layer = gpu_blocks.make(case)
    values = layer.values.clone().requires_grad_()
    gpu_blocks.op_of(case)(layer.x, values, *layer.arguments[2:]).square().sum().backward()
    there = standing(case, layer.shifts)
    rounding = 1e-6 * values.grad.abs().max() if case.kind == CIRCULANT else 0  # of transforms
    assert (values.grad.view(there.shape)[~there].abs() <= rounding).all()
    assert values.grad.view(there.shape)[there].count_nonzero() > 0.9 * there.sum()


@each_case
def test_one_graph_under_torch_compile(case):
    layer = gpu_blocks.make(case)

    def work(x):
        return gpu_blocks.op_of(case)(x.relu(), *layer.arguments[1:]) + 1

    x = layer.x.requires_grad_()
    compiled = torch.compile(work, fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled(x), work(x))
    compiled(x).sum().backward()
    assert x.grad is not None


@each_case
def test_the_fake_result_lies_as_the_real_one(case):
    given = gpu_blocks.make(case).arguments
    fake = gpu_blocks.op_of(case)(*(a.to("meta") if isinstance(a, torch.Tensor) else a for a in given))
    real = gpu_blocks.op_of(case)(*given)
    assert (fake.shape, fake.stride(), fake.dtype) == (real.shape, real.stride(), real.dtype)


@each_case
def test_an_empty_batch(case):
    given = list(gpu_blocks.make(case).arguments)
    given[0] = given[0][:0]
    assert gpu_blocks.op_of(case)(*given).shape == (0, case.outputs)


@each_case
def test_autocast_is_that_of_linear_layers(case):
    layer = gpu_blocks.make(case)
    with torch.autocast("cpu", torch.bfloat16):
        y = layer.run()
    assert y.dtype == torch.bfloat16
    assert gpu_layers.error(y, layer.truth()) < 0.05


@pytest.mark.parametrize("case", CASES[3:], ids=str)
def test_transforms_are_the_dense_product(case):
    layer = gpu_blocks.make(case)
    spectra = circulant.spectra_of(layer.values, case.size)
    for given in (None, spectra):
        got = circulant.transformed(layer.x, layer.values, layer.bias, case.size, case.outputs, given)
        assert gpu_layers.error(got, layer.truth()) < 1e-6
    assert torch.equal(layer.run(), layer.run(spectra=spectra))


def changed(case: Case, **fields) -> dict:
    layer = gpu_blocks.make(case)
    given = {"x": layer.x, "values": layer.values, "size": case.size, "outputs": case.outputs, "bias": layer.bias}
    return {**given, **({"shifts": layer.shifts} if case.kind == DIAGONAL else {}), **fields}


@pytest.mark.parametrize("case", [CASES[0], CASES[3]], ids=str)
@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"x": torch.zeros(2, 17)}, r"values of shape \(4, 15\); blocks of size 3 from 17 to 10 .* have \(4, 18\)"),
        ({"x": torch.zeros(2, 0)}, r"inputs have the shape \(N, C\)"),
        ({"size": 0}, "both must be 1 or more"),
        ({"outputs": 13}, r"\(5, 15\)"),
        ({"bias": torch.zeros(9)}, r"a bias of shape \(9,\) for 10 channels"),
        ({"values": torch.zeros(4, 15, dtype=torch.float16)}, "values is torch.float16.*make them alike"),
        ({"precision": "fast"}, "ieee, tf32, tf32x3"),
    ],
    ids=str,
)
def test_what_does_not_fit_is_refused_in_words(case, fields, reason):
    function = permuted_diagonal_linear if case.kind == DIAGONAL else block_circulant_linear
    with pytest.raises(InputError, match=reason):
        function(**changed(case, **fields))


@pytest.mark.parametrize(
    ("case", "fields", "reason"),
    [
        (CASES[2], {"shifts": torch.zeros(3, 2, dtype=torch.int64)}, r"shifts of shape \(3, 2\) for \(3, 3\) blocks"),
        (CASES[2], {"shifts": torch.zeros(3, 3)}, "shifts are whole numbers, not torch.float32"),
        (CASES[3], {"spectra": torch.zeros(2, 5, 3, dtype=torch.complex64)}, r"these values have \(2, 5, 4\)"),
        (CASES[3], {"spectra": torch.zeros(2, 5, 4)}, "make them by spectra_of"),
    ],
    ids=str,
)
def test_what_one_format_has_alone_is_checked_too(case, fields, reason):
    function = permuted_diagonal_linear if case.kind == DIAGONAL else block_circulant_linear
    with pytest.raises(InputError, match=reason):
        function(**changed(case, **fields))


PROBLEMS = [
    DiagonalProblem(1, 4096, 9216, 10),
    DiagonalProblem(16, 4096, 4096, 8),
    DiagonalProblem(1, 2048, 2048, 8, natural=False),
    DiagonalProblem(256, 2048, 2048, 8, natural=False, dtype="float32"),
    DiagonalProblem(1, 8192, 8192, 5000),
    DiagonalProblem(1, 3, 5, 2),
    CirculantProblem(1, 4096, 4096, 64),
    CirculantProblem(64, 4096, 4096, 128),
    CirculantProblem(1, 3, 5, 2),
]


@pytest.mark.parametrize("problem", PROBLEMS, ids=lambda problem: problem.work)
@pytest.mark.parametrize("gpu", GPUS.values(), ids=GPUS)
def test_plans_are_many_or_the_only_one_and_can_be_written_down(problem, gpu):
    plans = problem.plans(gpu)
    assert 1 <= len(plans) <= tuning.TRIED
    assert len(set(plans)) == len(plans)
    for plan in plans:
        assert Plan.parse(str(plan), problem.ways) == plan


BEST = ("direct", "grouped", "direct", "dense", "grouped", "direct", "direct", "fft", "direct")


@pytest.mark.parametrize(("problem", "way"), list(zip(PROBLEMS, BEST, strict=True)), ids=str)
def test_which_way_is_expected_to_be_best(problem, way):
    assert problem.plans(GPUS["H100"])[0].way == way
    assert settings.plan_of(problem, torch.device("cpu"), "auto", lambda: pytest.fail("timed")).way == way


def test_one_input_of_a_large_layer_fills_the_card():
    gpu, problem = GPUS["H100"], PROBLEMS[0]
    strip = problem.plans(gpu)[0].tiles
    assert -(-problem.rows // strip.rows) * strip.splits >= 2 * gpu.sms


def test_slower_memory_and_stored_shifts_are_expected_to_take_longer():
    from dovetail.gpu.permuted_diagonal.choice import strip_cycles

    gpu, problem = GPUS["H100"], PROBLEMS[2]
    slow = replace(gpu, l2_bytes=gpu.l2_bytes // 16)
    strip = Strip(1, 1, 64)
    assert strip_cycles(problem, strip, slow) > strip_cycles(problem, strip, gpu)
    assert strip_cycles(replace(problem, natural=True), strip, slow) < strip_cycles(problem, strip, slow)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("best", "'direct TILES', 'grouped TILES', 'dense', or say auto, model, oracle or exhaustive"),
        ("dense 1x1x1:1:1", "no plan of this layer"),
        ("direct", "no plan of this layer"),
        ("direct 1x1", "is no strip; write it as"),
        ("direct 3x1x1:1:1", "must be powers of two"),
        ("direct 1x1x1:0:1", "at least one split"),
        ("grouped 1x1x1:1:1", "pixels, outputs and inputs must be 16 or more"),
    ],
)
def test_plans_that_are_none(text, reason):
    with pytest.raises(GpuError, match=reason):
        Plan.parse(text, PROBLEMS[0].ways)


@pytest.mark.parametrize("case", [gpu_blocks.PLAIN, gpu_blocks.TURNED], ids=str)
@pytest.mark.parametrize("tiles", ["rubbish", "", "direct", "direct rubbish"])
def test_plans_that_are_none_are_refused_where_no_kernel_runs_too(case, tiles):
    with pytest.raises(GpuError, match=r"is no plan of this layer|is no strip|are no tiles"):
        gpu_blocks.make(replace(case, tiles=tiles)).run()


@pytest.mark.parametrize(("splits", "runs"), [(2**20, True), (2**28, False)])
@pytest.mark.parametrize("case", [gpu_blocks.PLAIN, gpu_blocks.TURNED], ids=str)
def test_sums_that_32_bits_cannot_number_are_not_made(monkeypatch, case, splits, runs):
    """Twelve of each split. As if kernels took what lies on a CPU."""
    made = []
    monkeypatch.setattr(launching, "kernels_take", lambda x: True)
    for format_ in (permuted_diagonal_launch, block_circulant_launch):
        monkeypatch.setattr(format_, "layer", lambda x, *given: made.append(x) or x.new_empty(1, case.outputs))
    plan = case.tiles.replace(":1:", f":{splits}:", 1)
    gpu_blocks.op_of(case)(*gpu_blocks.make(case).arguments[:-1], plan)
    assert bool(made) is runs


def test_a_stored_index_has_no_classes():
    with pytest.raises(GpuError, match="no plan of this layer"):
        Plan.parse("grouped 1x16x16x16:1:4:3", PROBLEMS[2].ways)


@pytest.fixture
def a_card(tmp_path, monkeypatch):
    """As if device 0 were an H100 on which everything can be timed."""
    monkeypatch.setenv("DOVETAIL_CACHE", str(tmp_path))
    monkeypatch.setattr(tuning, "card", lambda device: GPUS["H100"])
    monkeypatch.setattr(tuning, "can_time", lambda device: True)
    monkeypatch.setattr(tuning, "_version", lambda: "3.6.0")
    monkeypatch.setattr(torch.random, "fork_rng", lambda devices: torch.no_grad())
    tuning.forget()
    yield torch.device("cuda", 0)
    tuning.forget()


@pytest.mark.parametrize("kept", ["rubbish", "direct 3x1x1:1:1", "grouped 1x1"])
def test_a_bad_entry_is_noted_and_chosen_anew(a_card, caplog, kept):
    cache.save(tuning.name_of(GPUS["H100"]), PROBLEMS[0].work, kept)
    found = [settings.plan_of(PROBLEMS[0], a_card, "auto", lambda: pytest.fail("timed")) for _ in range(2)]
    assert found == [PROBLEMS[0].plans(GPUS["H100"])[0]] * 2
    assert caplog.text.count("ignoring what the cache of tiles says") == 1


@pytest.mark.parametrize("problem", [PROBLEMS[0], PROBLEMS[6]], ids=lambda problem: problem.work)
def test_the_fastest_by_timing_is_kept(a_card, monkeypatch, problem):
    tried = []

    def last(plans, work):
        tried.append((plans, work))
        return plans[-1]

    monkeypatch.setattr(settings, "least", last)
    found = settings.plan_of(problem, a_card, "oracle", lambda: "work")
    assert tried == [(tuple(problem.plans(GPUS["H100"])), "work")]
    tuning.forget()  # as in a new process
    for tiles in ("oracle", "auto"):
        assert settings.plan_of(problem, a_card, tiles, lambda: pytest.fail("timed again")) == found
    assert settings.plan_of(problem, a_card, "model", lambda: None) == problem.plans(GPUS["H100"])[0] != found


def test_the_oracle_times_the_most_promising_and_exhaustive_all(a_card, monkeypatch):
    tried = []
    monkeypatch.setattr(settings, "least", lambda plans, work: tried.append(plans) or plans[0])
    monkeypatch.setattr(tuning, "TRIED", 4)
    plans = tuple(PROBLEMS[0].plans(GPUS["H100"]))
    for tiles in ("oracle", "exhaustive"):
        settings.plan_of(PROBLEMS[0], a_card, tiles, lambda: "work")
    assert tried == [plans[:4], plans]
    assert len(plans) > 4


def test_work_tells_apart_what_differs():
    one = PROBLEMS[0]
    fields = {"batch": 2, "outputs": 5, "inputs": 7, "size": 3, "dtype": "float32", "precision": "tf32"}
    many = [one, replace(one, natural=False), *(replace(one, **{name: value}) for name, value in fields.items())]
    turned = PROBLEMS[6]
    many += [turned, *(replace(turned, **{name: value}) for name, value in fields.items())]
    assert len({problem.work for problem in many}) == len(many) == 15


def test_a_strip_and_tiles_say_how_they_are_launched():
    from dovetail.gpu.launching import options

    assert options(Strip(1, 1, 64, 2, 8)) == {"num_warps": 8, "num_stages": 1, "enable_fp_fusion": True}
    assert options(Tiles(1, 16, 16, 16, 1, 2, 4)) == {"num_warps": 2, "num_stages": 4, "enable_fp_fusion": True}
