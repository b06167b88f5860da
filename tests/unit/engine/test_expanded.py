"""Depthwise convolutions that take the place of the 1x1 before them, too: where they may, and how they are chosen."""

from __future__ import annotations

import numpy as np
import pytest

from dovetail.engine import Schedule, Session, native_status
from dovetail.engine.expanded import expansion_of
from dovetail.engine.quantize import quantize
from dovetail.errors import EngineError
from dovetail.program import reference
from dovetail.program.program import Program
from programs import Sketch, close, random_packed

pytestmark = pytest.mark.skipif(not native_status().available, reason="the native engine is not built")
EXPANDED = "conv2d_expanded_depthwise"


def pair(sketch: Sketch, x: str, *, residual: str | None = None, **before) -> tuple[str, str]:
    """A 1x1 convolution of `x` to 20 channels, and a depthwise one of that."""
    channels = sketch.tensors[x].shape[1]
    wide = random_packed("dense", (20, channels, *before.pop("kernel", (1, 1))), sketch.random)
    first = sketch.add("conv2d", x, packed=wide, **before)
    alone = random_packed("dense", (20, 1, 3, 3), sketch.random)
    return first, sketch.add("conv2d", first, packed=alone, padding=(1, 1, 1, 1), groups=20, residual=residual)


def expansion(program: Program, name: str) -> str | None:
    (node,) = (node for node in program.graph.nodes if node.name == name)
    maker = expansion_of(program, program.graph, node)
    return maker and maker.name


@pytest.fixture
def sketch() -> Sketch:
    return Sketch(1)


def test_the_maker_of_the_input_is_found(sketch):
    first, second = pair(sketch, sketch.input("batch", 6, 8, 8), biased=True)
    assert expansion(sketch.program(second), second) == first
    assert expansion(sketch.program(second), first) is None, "an input of the network is made by nobody"


@pytest.mark.parametrize(
    "before",
    [{"stride": (2, 2)}, {"padding": (0, 1, 0, 1)}, {"kernel": (1, 3), "padding": (0, 0, 1, 1)}, {"kernel": (2, 2)}],
    ids=str,
)
def test_other_convolutions_are_no_expansions(sketch, before):
    _, second = pair(sketch, sketch.input("batch", 6, 8, 8), **before)
    assert expansion(sketch.program(second), second) is None


def test_what_others_read_too_is_computed_by_itself(sketch):
    first, second = pair(sketch, sketch.input("batch", 6, 8, 8))
    assert expansion(sketch.program(first, second), second) is None
    third = sketch.add("add", second, first)
    assert expansion(sketch.program(third), second) is None


def test_residuals_on_either_side_forbid_it(sketch):
    x, r = sketch.input("batch", 6, 8, 8), sketch.input("batch", 20, 8, 8)
    _, second = pair(sketch, x, residual=r)
    assert expansion(sketch.program(second), second) is None
    wide = random_packed("dense", (20, 6, 1, 1), sketch.random)
    joined = sketch.add("conv2d", x, packed=wide, residual=r)
    alone = random_packed("dense", (20, 1, 3, 3), sketch.random)
    last = sketch.add("conv2d", joined, packed=alone, groups=20)
    assert expansion(sketch.program(last), last) is None


@pytest.fixture
def kept() -> tuple[Program, np.ndarray, str]:
    """1x1, 1x1 and depthwise in whole numbers, but for the last: codes are read by what makes its input."""
    sketch = Sketch(2)
    narrow = random_packed("dense", (6, 3, 1, 1), sketch.random)
    _, second = pair(sketch, sketch.add("conv2d", sketch.input("batch", 3, 20, 20), packed=narrow))
    images = sketch.random.standard_normal((2, 3, 20, 20)).astype(np.float32)
    return quantize(sketch.program(second), [images], rule="minmax", correct=False, keep=[second]), images, second


@pytest.mark.parametrize("isa", native_status().isas)
@pytest.mark.parametrize("kernel", [None, "conv2d_dense", "conv2d_depthwise"])
def test_what_reads_codes_is_no_expansion(kept, kernel, isa, tmp_path, monkeypatch):
    monkeypatch.setenv("DOVETAIL_CACHE", str(tmp_path))
    program, images, name = kept
    assert expansion(program, name) is None
    session = Session(program, isa=isa, schedule=None if kernel is None else Schedule({name: kernel}))
    assert close(session(images), reference.run(program, images))


def test_a_schedule_cannot_ask_for_it_behind_codes(kept):
    program, images, name = kept
    with pytest.raises(EngineError, match=f"{EXPANDED}.*cannot run"):
        Session(program, schedule=Schedule({name: EXPANDED}))(images)


def test_a_schedule_cannot_ask_for_it_elsewhere(sketch):
    first, second = pair(sketch, sketch.input("batch", 6, 8, 8))
    session = Session(sketch.program(first, second), schedule=Schedule({second: EXPANDED}))
    with pytest.raises(EngineError, match=f"{EXPANDED}.*cannot run"):
        session.compile((1, 6, 8, 8))


def test_it_is_timed_against_both_layers_and_shown(sketch, tmp_path, monkeypatch):
    monkeypatch.setenv("DOVETAIL_CACHE", str(tmp_path))

    def least(self, compiled, nodes, slots):
        return 1.0 if any("expanded" in step.kernel for step in compiled.steps) else 2.0

    monkeypatch.setattr("dovetail.engine.schedule.Tuner._least", least)
    first, second = pair(sketch, sketch.input("batch", 6, 20, 20))
    program, x = sketch.program(second), np.ones((1, 6, 20, 20), np.float32)
    session = Session(program, threads=1)
    assert close(session(x), reference.run(program, x))
    assert session.schedule.choices[second] == EXPANDED
    assert session.kernels()[first] == f"within {second}"
    shown = {time.node: time for time in session.profile(x, runs=2)}
    assert shown[first].seconds == 0 < shown[second].seconds
    again = Session(program, schedule=Schedule.from_json(session.schedule.to_json()))
    assert np.array_equal(again(x), session(x))


def test_the_layer_before_counts_where_they_are_apart(sketch, tmp_path, monkeypatch):
    monkeypatch.setenv("DOVETAIL_CACHE", str(tmp_path))
    timed = []

    def least(self, compiled, nodes, slots):
        timed.append({step.node for step in compiled.steps} & nodes)
        return float(len(timed))

    monkeypatch.setattr("dovetail.engine.schedule.Tuner._least", least)
    first, second = pair(sketch, sketch.input("batch", 6, 20, 20))
    session = Session(sketch.program(second), threads=1)
    session.compile((1, 6, 20, 20))
    assert session.schedule.choices[second] == "conv2d_dense"
    assert {first, second} in timed
    assert {second} in timed, "alone it has the work of both"
