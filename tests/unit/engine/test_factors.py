"""Layers of several factors: a kernel for each, tuned, named, saved and forced."""

from __future__ import annotations

import numpy as np
import pytest

from dovetail.engine import Schedule, Session, native_status
from dovetail.engine.kernels import CANDIDATES, composed, names_of_parts
from dovetail.engine.quantize import quantize
from dovetail.engine.schedule import Tuner
from dovetail.errors import EngineError
from dovetail.program import reference
from dovetail.program.program import Activation, Program
from programs import Sketch, close, native_calls, random_packed

pytestmark = pytest.mark.skipif(not native_status().available, reason="the native engine is not built")
NAMED = {c.name: c for c in CANDIDATES}


def tucker(stride: int = 1) -> tuple[Program, np.ndarray]:
    sketch = Sketch(11)
    x = sketch.input("batch", 19, 12, 10)
    packed = random_packed("tucker", (23, 19, 3, 3), sketch.random, rank_in=9, rank_out=17)
    y = sketch.add(
        "conv2d", x, packed=packed, padding=(1, 1, 1, 1), stride=(stride, stride), scaled=True, biased=True,
        activation=Activation("relu"),
    )  # fmt: skip
    z = sketch.add("conv2d", y, packed=random_packed("svd", (8, 23, 1, 1), sketch.random, rank=5), biased=True)
    return sketch.program(z), sketch.random.standard_normal((2, 19, 12, 10)).astype(np.float32)


def folded(rank_in: int, rank_out: int, stride: int = 1) -> tuple[Program, np.ndarray]:
    """A layer of ranks that may be those of its channels (19, 23), with the whole epilogue."""
    sketch = Sketch(12)
    x = sketch.input("batch", 19, 12, 10)
    packed = random_packed("tucker", (23, 19, 3, 3), sketch.random, rank_in=rank_in, rank_out=rank_out, fold=True)
    residual = sketch.add(
        "conv2d", x, packed=random_packed("dense", (23, 19, 1, 1), sketch.random), stride=(stride, stride)
    )
    y = sketch.add(
        "conv2d", x, packed=packed, padding=(1, 1, 1, 1), stride=(stride, stride), scaled=True, biased=True,
        residual=residual, activation=Activation("relu"),
    )  # fmt: skip
    return sketch.program(y), sketch.random.standard_normal((2, 19, 12, 10)).astype(np.float32)


def by_name(program: Program, first: str, second: str) -> Schedule:
    names = [node.name for node in program.graph.nodes]
    return Schedule(dict(zip(names, (first, second))))


def test_names_of_parts():
    parts = [NAMED["conv2d_lanes"], NAMED["conv2d_winograd2"], NAMED["conv2d_dense"]]
    made = composed(NAMED["conv2d_tucker"], parts)
    assert made.name == "conv2d_tucker(lanes,winograd2,dense)"
    assert not made.exact
    assert names_of_parts(made.name) == ("conv2d_tucker", [part.name for part in parts])
    assert names_of_parts("conv2d_tucker") == ("conv2d_tucker", [])
    assert composed(NAMED["conv2d_tucker"], [NAMED["conv2d_dense"]] * 3) is NAMED["conv2d_tucker"]


@pytest.mark.parametrize("isa", native_status().isas)
@pytest.mark.parametrize("stride", [1, 2])
def test_a_kernel_for_each_factor(isa: str, stride: int):
    program, x = tucker(stride)
    core = "winograd2" if stride == 1 else "lanes"
    schedule = by_name(program, f"conv2d_tucker(lanes,{core},lanes)", "conv2d_svd(dense,lanes)")
    session = Session(program, isa=isa, schedule=schedule)
    assert close(session(x), reference.run(program, x))
    first, second = (native_calls(session, node.name) for node in program.graph.nodes)
    assert first[f"conv2d_lanes_f32__{isa}"] == (2 if stride == 1 else 3)
    assert first[f"conv2d_winograd_f32__{isa}"] == (1 if stride == 1 else 0)
    assert first[f"conv2d_dense_f32__{isa}"] == 0
    assert (second[f"conv2d_dense_f32__{isa}"], second[f"conv2d_lanes_f32__{isa}"]) == (1, 1)


@pytest.mark.parametrize("isa", native_status().isas)
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize(("rank_in", "rank_out", "left"), [(19, 7, 2), (7, 23, 2), (19, 23, 1)])
@pytest.mark.parametrize("kernel", ["dense", "lanes"])
def test_factors_in_the_core_take_no_kernel(isa, stride, rank_in, rank_out, left, kernel):
    program, x = folded(rank_in, rank_out, stride)
    names = {node.name: "conv2d_dense" for node in program.graph.nodes}
    last = program.graph.nodes[-1].name
    schedule = Schedule(names | {last: f"conv2d_tucker({','.join([kernel] * left)})"})
    session = Session(program, isa=isa, schedule=schedule)
    assert close(session(x), reference.run(program, x))
    assert native_calls(session, last)[f"conv2d_{kernel}_f32__{isa}"] == left
    wrong = Schedule(names | {last: "conv2d_tucker(lanes,lanes,lanes)"})
    with pytest.raises(EngineError, match=f"names 3 parts; conv2d_tucker has {left}"):
        Session(program, isa=isa, schedule=wrong)(x)


@pytest.mark.parametrize(("rank_in", "rank_out", "left"), [(19, 7, 2), (7, 23, 2), (19, 23, 1)])
def test_factors_in_the_core_take_no_codes(rank_in, rank_out, left):
    program, x = folded(rank_in, rank_out)
    made = quantize(program, [x])
    assert sum(node.op == "conv2d" for node in made.graph.nodes) == left + 1
    assert np.array_equal(Session(made)(x), reference.run(made, x))


def test_factors_are_tuned_one_by_one(monkeypatch, tmp_path):
    monkeypatch.setenv("DOVETAIL_CACHE", str(tmp_path))

    def factors_first(self, node, found):
        order = ("conv2d_tucker", "conv2d_svd", "conv2d_lanes")
        return {c.name: float(next((i for i, n in enumerate(order) if c.name.startswith(n)), 9)) for c in found}

    monkeypatch.setattr(Tuner, "_times", factors_first)
    program, x = tucker()
    session = Session(program)
    session(x)
    chosen = session.schedule.choices
    assert set(chosen.values()) == {"conv2d_tucker(lanes,lanes,lanes)", "conv2d_svd(lanes,lanes)"}
    session.schedule.save(tmp_path / "schedule.json")
    again = Session(program, schedule=Schedule.load(tmp_path / "schedule.json"))
    assert np.array_equal(again(x), session(x))
    assert again.schedule.choices == chosen


@pytest.mark.parametrize(
    ("name", "what"),
    [
        ("conv2d_tucker(lanes,dense)", "names 2 parts; conv2d_tucker has 3"),
        ("conv2d_dense(lanes)", "names 1 parts; conv2d_dense has 0"),
        ("conv2d_tucker(lanes,fast,dense)", "conv2d_fast"),
        ("conv2d_tucker(winograd2,dense,dense)", "cannot run"),
    ],
)
def test_factors_that_cannot_be(name: str, what: str):
    program, x = tucker()
    with pytest.raises(EngineError, match="node") as error:
        Session(program, schedule=by_name(program, name, "conv2d_svd"))(x)
    assert what in str(error.value)
