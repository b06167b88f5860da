"""From float Programs to whole numbers: what becomes codes, what stays, and how near the result is."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from program_nets import every_format
from torch import nn
from torch.nn import functional as F

from dovetail import zoo
from dovetail.errors import InputError, ProgramError
from dovetail.export.torch_module import to_torch
from dovetail.formats import KernelBasisSpec, PackedKernelBasis
from dovetail.formats.values import F32, INT8, TERNARY, Values
from dovetail.program.calibrate import RULES, SAMPLES, calibrate
from dovetail.program.check import check
from dovetail.program.counts import count
from dovetail.program.lower import lower
from dovetail.program.mend import correct_bias
from dovetail.program.program import Program
from dovetail.program.quantize import quantize, split_factors
from dovetail.program.reference import run
from programs import Sketch, random_packed, ternary_basis


def quantized(program: Program, x: np.ndarray, rule: str = "minmax", **options) -> Program:
    ranges = {name: found.range(rule) for name, found in calibrate(program, [x]).items()}
    return quantize(program, ranges, **options)


def error(program: Program, made: Program, x: np.ndarray) -> float:
    """Mean error relative to the spread of the outputs."""
    want = run(program, x)
    return float(np.abs(run(made, x) - want).mean() / want.std())


@pytest.fixture(scope="module")
def resnet() -> tuple[Program, np.ndarray]:
    torch.manual_seed(0)
    model = zoo.build("resnet8")
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, -1.5, 1.5)
            nn.init.normal_(module.bias, 0, 0.2)
            nn.init.uniform_(module.running_var, 0.5, 2)
    x = torch.randn(16, 3, 16, 16)
    return lower(model.eval(), x[:1]), x.numpy()


@pytest.mark.parametrize("rule", RULES)
def test_a_residual_network_computes_in_codes(resnet: tuple[Program, np.ndarray], rule: str) -> None:
    program, x = resnet
    made = quantized(program, x, rule)
    assert error(program, made, x) < 0.05
    ops = [node.op for node in made.graph.nodes]
    assert ops.count("quantize") == 1
    assert "dequantize" not in ops  # the classifier gives real numbers itself
    assert {packed.spec.values.name for packed in made.weights.values()} == {"int8"}
    assert all(node.epilogue.scale is None for node in made.graph.nodes)
    floats = {t.name for t in made.graph.tensors.values() if t.dtype == "float32"}
    assert floats == {*made.graph.inputs, *made.graph.outputs}
    assert count(made).bits < count(program).bits / 3


def test_torch_rounds_to_the_same_numbers(resnet: tuple[Program, np.ndarray]) -> None:
    program, x = resnet
    made = quantized(program, x)
    with torch.no_grad():
        got = to_torch(made)(torch.from_numpy(x)).numpy()
    want = run(made, x)
    assert np.abs(got - want).mean() <= 0.01 * want.std()


def test_torch_leaves_rounding_to_those_who_round_themselves(resnet: tuple[Program, np.ndarray]) -> None:
    program, x = resnet
    made = quantized(program, x)

    def ops(module: nn.Module) -> set[str]:
        return {str(node.target) for node in torch.export.export(module, (torch.from_numpy(x),)).graph.nodes}

    assert "aten.round.default" in ops(to_torch(made))
    assert "aten.round.default" not in ops(to_torch(made, rounded=False))
    with torch.no_grad():
        got = to_torch(made, rounded=False)(torch.from_numpy(x)).numpy()
    want = run(program, x)
    assert np.abs(got - want).mean() < 0.05 * want.std()


def test_layers_can_stay_in_floating_point(resnet: tuple[Program, np.ndarray]) -> None:
    program, x = resnet
    first = program.graph.nodes[0].name
    made = quantized(program, x, keep=[first])
    assert made.weights[first].spec.values.name == "f32"
    assert error(program, made, x) < 0.05
    with pytest.raises(ProgramError, match="cannot keep nosuch"):
        quantized(program, x, keep=["nosuch"])


def test_codes_and_real_numbers_meet_where_ops_need_either() -> None:
    class Mixed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 1)
            self.third, self.last = nn.Conv2d(8, 8, 3), nn.Linear(16, 5)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = F.relu(self.first(x))
            z = F.silu(self.second(y)) + y
            z = F.max_pool2d(F.relu6(self.third(z)), 2)
            z = torch.cat([z, z.sigmoid()], 1)
            return self.last(z.mean((2, 3))).softmax(1)

    model, x = Mixed().eval(), torch.randn(8, 3, 10, 10)
    program = lower(model, x[:1])
    made = quantized(program, x.numpy())
    assert error(program, made, x.numpy()) < 0.1
    assert {"quantize", "dequantize"} <= {node.op for node in made.graph.nodes}
    check(made)


def test_every_format_and_factors_as_layers_of_their_own() -> None:
    program = every_format()
    x = np.random.default_rng(1).normal(size=(4, 4, 6, 6))
    split = split_factors(program)
    for got, want in zip(run(split, x), run(program, x), strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5)
    assert {packed.spec.format for packed in split.weights.values()} == {"dense", "kernel_basis", "sparse"}
    made = quantized(split, x)
    assert {packed.spec.values.name for packed in made.weights.values()} == {"int8"}
    for got, want in zip(run(made, x), run(program, x), strict=True):
        assert np.abs(got - want).mean() <= 0.1 * want.std()
    kept = quantized(program, x)
    assert {p.spec.format for p in kept.weights.values() if p.spec.values.name == "f32"} == {"tucker", "svd"}


@pytest.mark.parametrize(
    ("channels", "density", "values", "form"),
    [
        (64, 0.05, F32, "kernel_basis"),
        (64, 0.30, F32, "dense"),  # more coefficients than pay
        (8, 0.02, F32, "sparse"),  # too few outputs for the meeting of every channel with every basis
        (8, 0.30, INT8, "kernel_basis"),  # asked for
        (512, 0.90, INT8, "dense"),  # sums beyond 32 bits
    ],
)
def test_kernel_bases_stay_where_they_pay(channels: int, density: float, values: Values, form: str) -> None:
    sketch = Sketch(4)
    bases = np.linalg.qr(sketch.random.normal(size=(9, 5)))[0].T.reshape(5, 3, 3)
    kept = sketch.random.random((channels, channels, 5)) < density
    packed = PackedKernelBasis.from_factors(
        bases,
        sketch.random.normal(size=kept.shape) * kept,
        KernelBasisSpec(bases=5, coefficients="sparse", values=values),
    )
    x = sketch.input("batch", channels, 4, 4)
    program = sketch.program(sketch.add("conv2d", x, packed=packed, padding=(1, 1, 1, 1), scaled=True, biased=True))
    images = sketch.random.normal(size=(2, channels, 4, 4)).astype(np.float32)
    made = quantized(program, images)
    (weight,) = made.weights.values()
    assert (weight.spec.format, weight.spec.values.name) == (form, "int8")
    assert error(program, made, images) < 0.05


@pytest.mark.parametrize("values", [F32, INT8], ids=lambda values: values.name)
def test_ternary_weights_are_carried_over_as_they_are(values: Values) -> None:
    """Their signs, but for outputs of which the norm turns the sign around; its factors go into their scales."""
    sketch = Sketch(4)
    x = sketch.input("batch", 6, 5, 5)
    y = sketch.add("conv2d", x, packed=ternary_basis("runs", (6, 6, 3, 3), values), scaled=True, biased=True)
    y = sketch.add("mean", y, axes=(2, 3), keepdims=False)
    weight = random_packed("sparse", (7, 6), sketch.random, values=TERNARY)
    program = sketch.program(sketch.add("linear", y, packed=weight, biased=True))
    images = sketch.random.normal(size=(16, 6, 5, 5)).astype(np.float32)
    made = quantized(program, images)
    assert error(program, made, images) < 0.05
    (conv, _, linear) = program.graph.nodes
    turned = np.sign(program.arrays[conv.epilogue.scale])
    bases, linear_before = program.weights[conv.weight], program.weights[linear.weight]
    assert made.weights[conv.weight].spec == replace(bases.spec, values=INT8)
    want = np.sign(bases.factors()[1]) * turned[:, None, None]
    assert np.array_equal(made.weights[conv.weight].codes()[1], want)
    assert made.weights[linear.weight].spec == linear_before.spec
    assert np.array_equal(made.weights[linear.weight].integers()[0], np.sign(linear_before.dense()))


def test_ternary_weights_whose_scales_16_bits_do_not_hold_take_another_form() -> None:
    sketch = Sketch(4)
    x = sketch.input("batch", 6, 5, 5)
    y = sketch.add("conv2d", x, packed=ternary_basis("runs", (6, 6, 3, 3)), scaled=True)
    program = sketch.program(y)
    (name,) = program.arrays
    program = replace(program, arrays={name: np.full(6, 1e6, np.float32)})
    images = sketch.random.normal(size=(4, 6, 5, 5)).astype(np.float32)
    made = quantized(program, images)
    (weight,) = made.weights.values()
    assert (weight.spec.format, weight.spec.values) == ("sparse", INT8)
    assert error(program, made, images) < 0.05


def test_a_dead_channel_keeps_its_bias(resnet: tuple[Program, np.ndarray]) -> None:
    program, x = resnet
    node = program.graph.nodes[1]
    arrays = dict(program.arrays)
    arrays[node.epilogue.scale] = arrays[node.epilogue.scale].copy()
    arrays[node.epilogue.scale][0] = 1e-30
    arrays[node.epilogue.bias] = np.abs(arrays[node.epilogue.bias])
    program = replace(program, arrays=arrays)
    made = quantized(program, x)
    assert made.weights[node.weight].spec.values.name == "int8"
    assert not made.weights[node.weight].integers()[0][0].any()
    assert error(program, made, x) < 0.05


def test_sums_that_could_overflow_stay_in_floating_point() -> None:
    model, x = nn.Sequential(nn.Linear(70000, 2)).eval(), torch.rand(2, 70000)
    with torch.no_grad():
        model[0].weight.fill_(1.0)
    made = quantized(lower(model, x[:1]), x.numpy())
    assert [packed.spec.values.name for packed in made.weights.values()] == ["f32"]


def test_biases_take_back_what_rounding_shifts(resnet: tuple[Program, np.ndarray]) -> None:
    program, x = resnet
    statistics = calibrate(program, [x])
    made = quantize(program, {name: found.range("minmax") for name, found in statistics.items()})
    mended = correct_bias(program, made, statistics)
    check(mended)
    shift = [np.abs((run(p, x) - run(program, x)).mean(axis=0)).mean() for p in (made, mended)]
    assert shift[1] < shift[0]


def test_ranges_clip_outliers_where_that_errs_less() -> None:
    program = lower(nn.Sequential(nn.ReLU(), nn.Conv2d(1, 1, 1)).eval(), torch.zeros(1, 1, 40, 40))
    x = np.random.default_rng(0).normal(size=(64, 1, 40, 40)).astype(np.float32)
    x[0, 0, 0, 0] = 9
    found = calibrate(program, [x])[program.graph.nodes[0].output]
    assert found.range("minmax") == (0.0, 9.0)
    assert 3 < found.range("percentile")[1] < 5
    assert 3 < found.range("mse")[1] < 9


def test_what_cannot_be_calibrated(resnet: tuple[Program, np.ndarray]) -> None:
    program, x = resnet
    with pytest.raises(InputError, match="needs images"):
        calibrate(program, [])
    with pytest.raises(InputError, match="NaN or Inf"):
        calibrate(program, [np.full_like(x, np.nan)])
    with pytest.raises(ProgramError, match="no range for the tensor"):
        quantize(program, {})
    made = quantized(program, x)
    with pytest.raises(ProgramError, match="already"):
        quantize(made, dict.fromkeys(made.graph.tensors, (0.0, 1.0)))


def test_names_that_are_there_already_are_left_to_whom_they_belong() -> None:
    """A network whose layers are called like what quantization would make beside them."""
    sketch = Sketch(0)
    dense = [random_packed("dense", (4, 4, 3, 3), sketch.random) for _ in range(2)]
    x = sketch.input("batch", 4, 6, 6)
    y = sketch.add("conv2d", x, packed=dense[0], padding=(1, 1, 1, 1), biased=True)
    plain = sketch.program(sketch.add("conv2d", y, packed=dense[1], padding=(1, 1, 1, 1), biased=True))
    images = sketch.random.standard_normal((8, 4, 6, 6)).astype(np.float32)
    (first, last) = (node.output for node in plain.graph.nodes)
    named = renamed(plain, {x: "x", first: "x.codes", last: "x.codes.real"})
    statistics = calibrate(named, [images])
    ranges = {name: found.range("minmax") for name, found in statistics.items()}
    made = correct_bias(named, quantize(named, ranges), statistics)
    assert {"x", "x.codes", "x.codes.real"} <= set(made.graph.tensors)
    assert error(plain, made, images) < 0.05


def renamed(program: Program, names: dict[str, str]) -> Program:
    """Its tensors under other names."""
    graph = program.graph
    nodes = tuple(replace(n, inputs=tuple(names[i] for i in n.inputs), output=names[n.output]) for n in graph.nodes)
    tensors = {names[name]: replace(tensor, name=names[name]) for name, tensor in graph.tensors.items()}
    inputs, outputs = (tuple(names[name] for name in group) for group in (graph.inputs, graph.outputs))
    return program.with_graph(replace(graph, inputs=inputs, outputs=outputs, nodes=nodes, tensors=tensors))


@pytest.mark.parametrize(("size", "count"), [(64, 40), (16, 250)])
def test_every_batch_weighs_alike_in_the_sample(size: int, count: int) -> None:
    program = lower(nn.Conv2d(1, 1, 1).eval(), torch.zeros(1, 1, size, size))
    batches = [np.full((8, 1, size, size), i, np.float32) for i in range(count)]
    found = calibrate(program, batches)[program.graph.inputs[0]]
    counts = np.bincount(np.concatenate(found.samples).astype(int), minlength=count)
    assert counts.min() == counts.max()
    assert len(np.concatenate(found.samples)) <= SAMPLES
    assert found.mean == pytest.approx(np.mean(range(count)))


def test_a_bias_that_no_sum_can_hold_is_refused(resnet: tuple[Program, np.ndarray]) -> None:
    program, x = resnet
    statistics = calibrate(program, [x])
    made = quantize(program, {name: found.range("minmax") for name, found in statistics.items()})
    for found in statistics.values():
        found.total = np.asarray(found.total) + 1e12
    with pytest.raises(ProgramError, match="beyond 32 bits"):
        correct_bias(program, made, statistics)
