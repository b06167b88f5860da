"""Whole networks on machines: every layer once, in the form that is fastest there; what is wrong is told first."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest

import dovetail
from dovetail.accelerators import (
    MACHINES,
    Machine,
    Trace,
    Workload,
    as_convolutions,
    chained,
    machine_named,
    record,
    total,
)
from dovetail.accelerators.parameters import whole
from dovetail.accelerators.simulation import Layer, Simulation, figures, recorded, run, simulate
from dovetail.errors import InputError, MachineError
from dovetail.formats.base import Packed
from dovetail.program.program import Activation, Program
from programs import Sketch, random_packed

RELU = Activation("relu")


def network(**options: Any) -> Program:
    """A sparse convolution, one of shared bases, a Tucker one, and a linear layer of low rank."""
    sketch = Sketch(0)
    y = sketch.input("batch", 4, 8, 8)
    for packed in (
        random_packed("sparse", (6, 4, 3, 3), sketch.random, density=0.4),
        random_packed("kernel_basis", (8, 6, 3, 3), sketch.random, bases=2, coefficients="sparse"),
        random_packed("tucker", (6, 8, 3, 3), sketch.random, rank_in=2, rank_out=3),
    ):
        y = sketch.add("conv2d", y, packed=packed, padding=(1, 1, 1, 1), activation=RELU, **options)
    y = sketch.add("mean", y, axes=(2, 3), keepdims=False)
    return sketch.program(sketch.add("linear", y, packed=random_packed("svd", (5, 6), sketch.random, rank=2)))


def images(count: int = 1) -> np.ndarray:
    return np.random.default_rng(1).standard_normal((count, 4, 8, 8)).astype(np.float32)


@dataclass(frozen=True, kw_only=True)
class Counting(Machine):
    """A multiply-accumulate a cycle; remembers what it was given."""

    lanes: int = whole("multipliers", default=1)
    basis: bool = False
    kept: int = 0

    @property
    def kept_values(self) -> int:
        return self.kept

    @property
    def units(self) -> int:
        return self.lanes

    def takes(self, weight: Packed) -> bool:
        return super().takes(weight) or (self.basis and weight.spec.format == "kernel_basis")

    def require(self, layer: Workload) -> None:
        self.require_undilated(layer)

    def simulate(self, layer: Workload) -> Trace:
        SEEN.append(layer)
        return self.trace(layer, {"compute": layer.effective_macs}, {"dram": 0}, [], layer.effective_macs)


SEEN: list[Workload] = []
COUNTING = Counting(name="counting", clock_hz=1e9, node_nm=45, dram_bytes_per_cycle=1)


@pytest.fixture(autouse=True)
def nothing_seen():
    SEEN.clear()


@pytest.mark.parametrize("name", sorted(MACHINES))
def test_a_network_runs_on_every_machine(name):
    program, x = network(), images()
    done = dovetail.simulate(program, on=name, inputs=x)
    assert isinstance(done, Simulation)
    assert [layer.name for layer in done.layers] == ["conv2d0", "conv2d1", "conv2d2", "linear4"]
    assert done.total.cycles == sum(layer.trace.cycles for layer in done.layers)
    assert done.total.joules == pytest.approx(sum(layer.trace.joules for layer in done.layers))
    assert {layer.trace.machine for layer in done.layers} == {name}
    told = json.loads(json.dumps(done.to_json()))
    assert [Layer.from_json(layer) for layer in told["layers"]] == list(done.layers)
    assert told["total"] == figures(done.total)
    assert told["machine"]["name"] == name


def test_a_plain_layer_costs_what_the_machine_says_of_its_workload():
    program, x = network(), images()
    machine = machine_named("sparten")
    first = dovetail.simulate(program, on=machine, inputs=x).layers[0]
    assert (first.form, first.format) == ("as packed", "sparse")
    assert first.trace == machine.simulate(record(program, x)[0])


def test_several_machines_are_found_by_name_and_see_the_same_network():
    small = replace(machine_named("scnn"), name="small", rows=2, columns=2)
    done = simulate(network(), on=["sparten", small], inputs=images())
    assert list(done) == ["sparten", "small"]
    assert done["small"].machine is small
    assert [layer.name for layer in done["small"].layers] == [layer.name for layer in done["sparten"].layers]


@pytest.mark.parametrize("name", ["sparten", "scnn", "eyeriss-1024", "systolic"])
@pytest.mark.parametrize("index", [1, 2, 3])
def test_a_decomposed_layer_runs_in_the_form_of_fewest_cycles(name, index):
    program, x, machine = network(), images(), machine_named(name)
    layer = simulate(program, on=name, inputs=x).layers[index]
    workload = record(program, x)[index]
    orders = ("conv_first", "coef_first") if layer.format == "kernel_basis" else ("conv_first",)
    chains = [chained(as_convolutions(workload, order), machine.kept_values, 1) for order in orders]
    found = [total(machine.simulate(part) for part in chain).cycles for chain in chains]
    found.append(machine.simulate(workload.recomposed()).cycles)
    assert layer.trace.cycles == min(found)
    assert sorted([layer.trace.cycles, *layer.others.values()]) == sorted(found)
    assert layer.form not in layer.others


def test_the_forms_are_named():
    forms = [{layer.form, *layer.others} for layer in simulate(network(), on="systolic", inputs=images()).layers]
    assert forms == [
        {"as packed"},
        {"2 convolutions, bases first", "2 convolutions, coefficients first", "multiplied out"},
        {"3 convolutions", "multiplied out"},
        {"2 convolutions", "multiplied out"},
    ]


def test_a_machine_that_takes_a_format_gets_it_as_packed():
    layer = simulate(network(), on=replace(COUNTING, basis=True), inputs=images()).layers[1]
    assert (layer.form, layer.others) == ("as packed", {})
    assert [one.weight.spec.format for one in SEEN if one.name == layer.name] == ["kernel_basis"]


def test_what_one_part_gives_to_the_next_stays_on_the_chip_where_it_fits():
    layer = recorded(network(), images())[2]  # (8, 8, 8) values to (2, 8, 8), (3, 8, 8) and (6, 8, 8)
    for kept, on_chip in ((0, [False, False]), (64 * 9, [False, True]), (64 * 10, [True, True])):
        SEEN.clear()
        run(replace(COUNTING, kept=kept), layer)
        parts = [part for part in SEEN if "/" in part.name]
        assert [part.input_on_chip for part in parts] == [False, *on_chip]
        assert [part.output_on_chip for part in parts] == [*on_chip, False]


def where_maps_are(kept: int, program: Program, x: np.ndarray, batch: int = 1) -> dict[str, tuple[bool, bool]]:
    """Layer or part → whether its input and its output are on the chip."""
    SEEN.clear()
    machine = replace(COUNTING, kept=kept, keep_maps=True)
    simulate(program, on=machine, inputs=x, batch=batch)
    return {layer.name: (layer.input_on_chip, layer.output_on_chip) for layer in SEEN}


def test_maps_stay_on_the_chip_between_layers_where_the_machine_keeps_them():
    sketch = Sketch(4)
    x = sketch.input("batch", 4, 8, 8)
    channels, y, names = 4, x, []
    for outputs in (8, 2, 6):
        packed = random_packed("dense", (outputs, channels, 3, 3), sketch.random)
        y, channels = sketch.add("conv2d", y, packed=packed, padding=(1, 1, 1, 1), activation=RELU), outputs
        names.append(y)
    twice = sketch.add("conv2d", y, packed=random_packed("dense", (6, 6, 1, 1), sketch.random), residual=y)
    y = sketch.add("mean", twice, axes=(2, 3), keepdims=False)
    program = sketch.program(sketch.add("linear", y, packed=random_packed("dense", (5, 6), sketch.random)))
    # The layers read and give (4 + 8) 64, (8 + 2) 64, (2 + 6) 64 and 12 64 values; the third's output is read twice.
    first, second, third = names
    off, out, both, into = (False, False), (False, True), (True, True), (True, False)
    every = {first: out, second: both, third: into, twice: off, "linear5": off}
    assert where_maps_are(64 * 12, program, images(2)) == every
    assert where_maps_are(64 * 10, program, images(2)) == every | {first: off, second: out, third: into}
    assert where_maps_are(64 * 9, program, images(2)) == dict.fromkeys(every, off)
    assert where_maps_are(64 * 12, program, images(2), batch=2) == dict.fromkeys(every, off)
    SEEN.clear()
    simulate(program, on=replace(COUNTING, kept=1 << 20), inputs=images())
    assert not any(layer.input_on_chip or layer.output_on_chip for layer in SEEN)


def test_kept_maps_reach_the_first_part_and_leave_the_last():
    sketch = Sketch(5)
    x = sketch.input("batch", 4, 8, 8)
    before = sketch.add("conv2d", x, packed=random_packed("dense", (4, 4, 1, 1), sketch.random))
    packed = random_packed("tucker", (6, 4, 3, 3), sketch.random, rank_in=2, rank_out=2)
    y = sketch.add("conv2d", before, packed=packed, padding=(1, 1, 1, 1))
    y = sketch.add("conv2d", y, packed=random_packed("dense", (3, 6, 1, 1), sketch.random))
    places = where_maps_are(1 << 20, sketch.program(y), images())
    parts = [places[f"conv2d1/{i}"] for i in range(3)]
    assert parts == [(True, True)] * 3
    assert places["conv2d0"] == (False, True)
    assert places["conv2d2"] == (True, False)
    assert places["conv2d1"] == (True, True)  # multiplied out


def test_machines_that_keep_maps_move_fewer_bytes():
    program, x = network(), images()
    for name in ("escalate", "eyeriss-1024", "scnn", "sparten", "systolic"):
        machine = machine_named(name)
        plain, keeping = (simulate(program, on=one, inputs=x) for one in (machine, replace(machine, keep_maps=True)))
        assert keeping.total.bytes_by["dram"] < plain.total.bytes_by["dram"], name
        assert keeping.total.cycles <= plain.total.cycles, name


def test_images_go_one_by_one_or_together():
    x = images(3)
    each = [simulate(network(), on="sparten", inputs=x[i : i + 1]).total for i in range(3)]
    alone = simulate(network(), on="sparten", inputs=x)
    together = simulate(network(), on="sparten", inputs=x, batch=3)
    assert alone.total.cycles == sum(trace.cycles for trace in each)
    assert (alone.images, alone.batch, together.images, together.batch) == (3, 1, 3, 3)
    assert together.total.macs == alone.total.macs
    assert together.total.bytes_by["dram"] < alone.total.bytes_by["dram"]  # weights are fetched once
    assert simulate(network(), on="sparten", inputs=x, batch=2).total.macs == alone.total.macs


def test_a_network_of_several_inputs_takes_a_tuple():
    sketch = Sketch(0)
    x, other = sketch.input("batch", 4, 5, 5), sketch.input("batch", 4, 5, 5)
    y = sketch.add("add", x, other)
    program = sketch.program(sketch.add("conv2d", y, packed=random_packed("dense", (3, 4, 1, 1), sketch.random)))
    ones = np.ones((2, 4, 5, 5), np.float32)
    done = simulate(program, on=COUNTING, inputs=(ones, -ones))
    assert (done.images, done.total.macs) == (2, 0)
    with pytest.raises(InputError, match="1 inputs given; this network takes 2"):
        simulate(program, on=COUNTING, inputs=ones)


def test_a_file_is_as_good_as_its_program(tmp_path):
    network().save(tmp_path / "net.dovetail")
    done = simulate(tmp_path / "net.dovetail", on="sparten", inputs=images())
    assert done.total == simulate(network(), on="sparten", inputs=images()).total


def test_the_layers_are_reported_as_they_are_done():
    told: list[str] = []
    simulate(network(), on=["sparten", "systolic"], inputs=images(), report=told.append)
    assert told[:2] == ["sparten: conv2d0 (1 of 4)", "systolic: conv2d0 (1 of 4)"]
    assert len(told) == 8


@pytest.mark.parametrize(
    ("options", "error", "complaint"),
    [
        ({}, InputError, "needs images, whose zeros decide"),
        ({"inputs": np.zeros((1, 3, 8, 8), np.float32)}, InputError, r"has shape \(1, 3, 8, 8\); this network takes"),
        ({"inputs": np.zeros((0, 4, 8, 8), np.float32)}, InputError, "is empty; give at least one image"),
        ({"inputs": np.zeros((1, 4, 8, 8), np.uint8)}, InputError, "has type uint8; give floating point numbers"),
        ({"inputs": np.full((1, 4, 8, 8), np.nan, np.float32)}, InputError, "holds NaN or infinity"),
        ({"inputs": images(), "batch": 0}, InputError, "batch is 0; it must be a whole number of at least 1"),
        ({"inputs": images(), "on": "scn"}, MachineError, "unknown machine 'scn'; known are .*scnn"),
        ({"inputs": images(), "on": []}, MachineError, "no machine is named"),
        ({"inputs": images(), "on": [3]}, MachineError, "3 is no machine; give a name"),
        ({"inputs": images(), "on": ["scnn", "scnn"]}, MachineError, "two machines are called 'scnn'"),
    ],
)
def test_what_is_wrong_is_told(options, error, complaint):
    with pytest.raises(error, match=complaint):
        simulate(network(), **{"on": "sparten", **options})


def test_images_beyond_what_codes_reach_are_told():
    program = dovetail.quantize(network(), [images(8)])
    beyond = images()
    beyond.reshape(-1)[: 4 * beyond.size // 10] = 1e30
    simulate(program, on=COUNTING, inputs=beyond)
    beyond.reshape(-1)[: 6 * beyond.size // 10] = -1e30
    with pytest.raises(InputError, match=r"most numbers of input '\w+' are beyond its codes, which reach from -\d"):
        simulate(program, on=COUNTING, inputs=beyond)


def test_a_layer_that_a_machine_cannot_run_is_told_before_any_work():
    program = network(dilation=(2, 2))
    with pytest.raises(MachineError, match=r"layer 'conv2d0' has a dilation of .*; machine 'counting' is modelled"):
        simulate(program, on=COUNTING, inputs=images())
    assert SEEN == []
    for name in ("scnn", "eyeriss"):
        with pytest.raises(MachineError, match=f"machine '{name}' is modelled without dilation"):
            simulate(program, on=["sparten", name], inputs=images())


def test_weights_that_are_not_numbers_are_told():
    program = network()
    program.arrays["bad"] = np.full(6, np.nan, np.float32)
    first, *others = program.graph.nodes
    broken = replace(first, epilogue=replace(first.epilogue, bias="bad"))
    with pytest.raises(InputError, match="layer 'conv2d1' reads NaN or infinity"):
        simulate(program.with_graph(replace(program.graph, nodes=(broken, *others))), on=COUNTING, inputs=images())


def test_a_network_without_weights_is_told():
    sketch = Sketch(0)
    program = sketch.program(sketch.add("mean", sketch.input("batch", 4, 8, 8), axes=(2, 3), keepdims=False))
    with pytest.raises(MachineError, match="no convolution and no linear layer"):
        simulate(program, on=COUNTING, inputs=images())


@pytest.mark.parametrize("data", [{}, {"name": "x"}, 3])
def test_what_is_no_layer_is_told(data):
    with pytest.raises(MachineError, match="this is no layer of a simulation"):
        Layer.from_json(data)


def test_machines_run_the_weights_that_they_are_made_for_and_all_others():
    sketch = Sketch(0)
    y = sketch.input("batch", 8, 6, 6)
    for packed in (
        random_packed("permuted_diagonal", (12, 8, 3, 3), sketch.random, size=4),
        random_packed("block_circulant", (8, 12, 3, 3), sketch.random, size=4),
        random_packed("kernel_basis", (8, 8, 3, 3), sketch.random, bases=2),
    ):
        y = sketch.add("conv2d", y, packed=packed, padding=(1, 1, 1, 1), activation=RELU)
    y = sketch.add("mean", y, axes=(2, 3), keepdims=False)
    for packed in (
        random_packed("permuted_diagonal", (10, 8), sketch.random, size=2, index="random", seed=1),
        random_packed("block_circulant", (7, 10), sketch.random, size=2),
    ):
        y = sketch.add("linear", y, packed=packed)
    program, x = sketch.program(y), np.random.default_rng(0).standard_normal((2, 8, 6, 6)).astype(np.float32)
    done = simulate(program, on=["permdnn", "eie", "circnn"], inputs=x)
    for name, found in done.items():
        assert [layer.format for layer in found.layers] == [
            "permuted_diagonal",
            "block_circulant",
            "kernel_basis",
            "permuted_diagonal",
            "block_circulant",
        ]
        assert found.total.cycles > 0, name
    # A quarter of the weights, and of the products with inputs that are not zero, is left of diagonals of size 4.
    layer = recorded(program, x)[0].workloads[0]
    assert done["permdnn"].layers[0].trace.macs == sum(w.effective_macs for w in recorded(program, x)[0].workloads)
    assert layer.weight_mask.mean() == 0.25
    circulant, dense = done["circnn"].layers[1].trace, done["circnn"].layers[0].trace
    assert circulant.macs < dense.macs
