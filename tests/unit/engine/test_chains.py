"""Convolutions over codes in a row, a block of rows at a time: which, and the same bits however they are cut."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from dovetail.engine import Schedule, Session, fused, native_status
from dovetail.engine.codes_fused import chain_of
from dovetail.engine.native import cores
from dovetail.engine.quantize import quantize
from dovetail.errors import EngineError
from dovetail.program import reference
from dovetail.program.program import Activation, Program
from programs import Sketch, native_calls, poisoned, random_packed

pytestmark = pytest.mark.skipif(not native_status().available, reason="the native engine is not built")
CHAIN = "conv2d_chain"
THREADS = (1, 2) if cores() > 1 else (1,)
LITTLE = 1 << 7  # room for no more than the fewest rows
RELU = Activation("relu")


def bottleneck(
    size: tuple[int, int] = (19, 15),
    kernel: int = 3,
    parts: str = "before core after",
    *,
    real: bool = False,
    **attributes: Any,
) -> tuple[Program, np.ndarray, list[str]]:
    """1x1, core and 1x1 with what a block of a network has around them, in whole numbers; and the chain's nodes.

    The core's input has a zero of its own, so that what lies around it is not 0.
    """
    sketch = Sketch(31)
    attributes = {"padding": (kernel // 2,) * 4} | attributes
    groups = attributes.get("groups", 1)
    x = sketch.input("batch", 18, *size)

    def add(source: str, k: int, c: int, side: int = 1, **more: Any) -> str:
        packed = random_packed("dense", (k, c, side, side), sketch.random)
        return sketch.add("conv2d", source, packed=packed, biased=True, **more)

    around = {name: n for name, n in attributes.items() if name != "groups"}
    first = add(x, 18, 18, activation=RELU)
    beside = add(first, 22, 18, kernel, **around)  # of the shape of the chain's output
    nodes = []
    if "before" in parts:
        nodes.append(add(first, 12, 18))
    channels = 12 if "before" in parts else 18
    last = "after" not in parts
    ends: dict[str, Any] = {"activation": RELU} | ({} if real else {"residual": beside})
    nodes.append(
        add(
            nodes[-1] if nodes else first,
            22 if last else 16,
            channels // groups,
            kernel,
            **attributes,
            **(ends if last else {}),
        )
    )
    if not last:
        nodes.append(add(nodes[-1], 22, 16, **ends))
    y = nodes[-1] if real else add(nodes[-1], 5, 22)
    images = sketch.random.standard_normal((3, 18, *size)).astype(np.float32)
    return quantize(sketch.program(y, beside), [images], rule="minmax", correct=False), images, nodes


def assert_same_bits(program: Program, images: np.ndarray, node: str, kernel: str, isa: str) -> None:
    """Whatever the room and the number of threads, from dirty memory."""
    want = reference.run(program, images)
    for room in (LITTLE, fused.ROOM):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(fused, "ROOM", room)
            for threads in THREADS:
                session = Session(program, threads=threads, isa=isa, schedule=Schedule({node: kernel}))
                for got, right in zip(poisoned(session, images), want, strict=True):
                    assert np.array_equal(got, right), f"{np.count_nonzero(got != right)} of {right.size} differ"
                assert native_calls(session, node)[f"conv2d_chain_int8__{isa}"] == 1


@pytest.mark.parametrize("isa", native_status().isas)
@pytest.mark.parametrize("parts", ["before core after", "before core", "core after"])
@pytest.mark.parametrize("core", ["dense", "lanes"])
def test_any_part_may_be_missing(isa: str, parts: str, core: str):
    program, images, nodes = bottleneck((9, 12), parts=parts)
    names = {"before": "lanes", "core": core, "after": "dense"}
    kernel = f"{CHAIN}({','.join(names[part] for part in parts.split())})"
    assert len(nodes) == len(parts.split())
    assert_same_bits(program, images, nodes[-1], kernel, isa)


GEOMETRIES = (
    {"stride": (2, 2)},
    {"stride": (2, 2), "padding": (0, 1, 0, 1)},
    {"stride": (1, 2)},
    {"kernel": 5, "stride": (2, 1), "padding": (4, 3, 2, 0)},
    {"padding": (2, 2, 2, 2), "dilation": (2, 2)},
    {"kernel": 1, "stride": (2, 2)},
    {"size": (2, 40)},
    {"size": (40, 2)},
    {"size": (1, 9)},
    {"real": True},
    {"groups": 4, "kernels": "dense,grouped,dense"},
    {"groups": 2, "kernels": "lanes,grouped,lanes", "size": (7, 9), "stride": (2, 2)},
)


@pytest.mark.parametrize("isa", native_status().isas)
@pytest.mark.parametrize("geometry", GEOMETRIES, ids=str)
def test_any_geometry(isa: str, geometry: dict[str, Any]):
    geometry = dict(geometry)
    parts = geometry.pop("kernels", None)
    program, images, nodes = bottleneck(**geometry)
    assert_same_bits(program, images, nodes[-1], CHAIN if parts is None else f"{CHAIN}({parts})", isa)


@pytest.mark.parametrize("fold", [False, True])
def test_the_factors_of_a_tucker_layer_are_a_chain(fold: bool):
    sketch = Sketch(32)
    x = sketch.input("batch", 16, 14, 14)
    packed = random_packed("tucker", (24, 16, 3, 3), sketch.random, rank_in=16 if fold else 8, rank_out=8, fold=fold)
    y = sketch.add("conv2d", x, packed=packed, biased=True, padding=(1, 1, 1, 1), activation=RELU)
    images = sketch.random.standard_normal((2, 16, 14, 14)).astype(np.float32)
    program = quantize(sketch.program(y), [images], rule="minmax", correct=False)
    last = [node for node in program.graph.nodes if node.op == "conv2d"][-1]
    links = chain_of(program, program.graph, last)
    assert links is not None
    assert len(links.nodes) == (2 if fold else 3)
    session = Session(program, schedule=Schedule({last.name: CHAIN}))
    assert np.array_equal(session(images), reference.run(program, images))
    kernels = session.kernels()
    assert kernels[last.name].startswith("conv2d_chain_int8")
    assert all(kernels[node.name] == f"within {last.name}" for node in links.nodes[:-1])


def test_timing_chooses_among_the_chain_and_its_parts(monkeypatch: pytest.MonkeyPatch, tmp_path):
    monkeypatch.setenv("DOVETAIL_CACHE", str(tmp_path))
    program, images, nodes = bottleneck((9, 12))
    chosen = Session(program)
    chosen.compile(images.shape)
    assert np.array_equal(chosen(images)[0], reference.run(program, images)[0])
    for favourite in ("conv2d_chain", "conv2d_"):
        with monkeypatch.context() as patch:
            patch.setenv("DOVETAIL_CACHE", str(tmp_path / favourite))
            patch.setattr(
                "dovetail.engine.schedule.Tuner._times",
                lambda self, node, found, like=favourite: {c.name: float(not c.name.startswith(like)) for c in found},
            )
            session = Session(program)
            session.compile(images.shape)
        name = session.schedule.choices[nodes[-1]]
        assert name.startswith("conv2d_chain") == (favourite == "conv2d_chain")
        again = Session(program, schedule=Schedule.from_json(session.schedule.to_json()))
        assert np.array_equal(again(images)[0], session(images)[0])


def links_of(program: Program, name: str) -> list[str] | None:
    found = chain_of(program, program.graph, next(node for node in program.graph.nodes if node.name == name))
    return None if found is None else [node.name for node in found.nodes]


def test_what_is_a_chain():
    program, _, nodes = bottleneck()
    assert links_of(program, nodes[2]) == nodes
    assert links_of(program, nodes[1]) is None  # it goes on
    assert links_of(program, nodes[0]) is None
    program, _, nodes = bottleneck(parts="before core")
    assert links_of(program, nodes[1]) == nodes
    program, _, nodes = bottleneck(padding=(3, 1, 1, 1))
    assert links_of(program, nodes[2]) is None  # a row of the output reads none of the input


def test_what_others_read_is_made():
    program, _, nodes = bottleneck()
    graph = program.graph
    for made in nodes[:2]:
        watched = replace(graph, outputs=(*graph.outputs, made))
        assert links_of(replace(program, graphs={"main": watched}), nodes[2]) == (
            None if made == nodes[1] else nodes[1:]
        )


def test_a_convolution_is_in_one_chain_alone():
    sketch = Sketch(33)
    source, names = sketch.input("batch", 8, 12, 12), []
    for side in (1, 3, 1, 3, 1, 3):
        packed = random_packed("dense", (8, 8, side, side), sketch.random)
        source = sketch.add("conv2d", source, packed=packed, biased=True, padding=(side // 2,) * 4)
        names.append(source)
    images = sketch.random.standard_normal((2, 8, 12, 12)).astype(np.float32)
    program = quantize(sketch.program(source), [images], rule="minmax", correct=False)
    found = [links_of(program, name) for name in names]
    assert found == [None, None, names[0:3], None, names[3:5], None]
    schedule = Schedule({names[2]: CHAIN, names[4]: CHAIN})
    assert np.array_equal(Session(program, schedule=schedule)(images), reference.run(program, images))


@pytest.mark.parametrize(
    ("geometry", "kernel", "what"),
    [
        ({"padding": (3, 1, 1, 1)}, CHAIN, "cannot run"),
        ({"size": (1, 1)}, CHAIN, "cannot run"),
        ({}, f"{CHAIN}(dense,dense)", "names 2 parts; conv2d_chain has 3"),
        ({}, f"{CHAIN}(dense,chain,dense)", "cannot run"),
        ({"groups": 4}, CHAIN, "kernel 'conv2d_dense' cannot run"),
    ],
)
def test_what_it_refuses(geometry: dict[str, Any], kernel: str, what: str):
    program, images, nodes = bottleneck(**geometry)
    with pytest.raises(EngineError, match="conv2d") as error:
        Session(program, schedule=Schedule({nodes[-1]: kernel}))(images)
    assert what in str(error.value)
