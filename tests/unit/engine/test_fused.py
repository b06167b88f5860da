"""Tucker layers a block of rows at a time: which rows a block makes, and the same results however they are cut."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from dovetail.engine import Schedule, Session, fused, native_status
from dovetail.engine.builder import Builder
from dovetail.engine.conv import Epilogue, Geometry
from dovetail.engine.fused import Block, Chain, Placed, Stage, fits
from dovetail.engine.native import cores, require_native
from dovetail.errors import EngineError
from dovetail.program import reference
from dovetail.program.program import Activation, Program
from programs import Sketch, close, native_calls, poisoned, random_packed

pytestmark = pytest.mark.skipif(not native_status().available, reason="the native engine is not built")
FUSED = "conv2d_fused_tucker"
THREADS = (1, 2) if cores() > 1 else (1,)
LITTLE = 1 << 9  # room for no more than the fewest rows


def layer(
    size: tuple[int, int] = (33, 21), ranks: tuple[int, int] = (9, 17), kernel: int = 3, **attributes: Any
) -> tuple[Program, np.ndarray]:
    """A layer with its whole epilogue, whose residual and output are parts of one tensor."""
    sketch = Sketch(21)
    attributes = {"padding": (kernel // 2,) * 4} | attributes
    x = sketch.input("batch", 19, *size)
    packed = random_packed(
        "tucker", (23, 19, kernel, kernel), sketch.random, rank_in=ranks[0], rank_out=ranks[1], fold=True
    )
    residual = sketch.add(
        "conv2d", x, packed=random_packed("dense", (23, 19, kernel, kernel), sketch.random), **attributes
    )
    y = sketch.add(
        "conv2d",
        x,
        packed=packed,
        scaled=True,
        biased=True,
        residual=residual,
        activation=Activation("relu"),
        **attributes,
    )
    image = sketch.random.standard_normal((3, 19, *size)).astype(np.float32)
    return sketch.program(sketch.add("concat", residual, y, axis=1)), image


def schedule(kernel: str) -> Schedule:
    return Schedule({"conv2d0": "conv2d_dense", "conv2d1": kernel})


def results(program: Program, x: np.ndarray, isa: str, kernel: str) -> list[np.ndarray]:
    """By every number of threads, with little room and with much, from dirty memory."""
    found = []
    for room in (LITTLE, fused.ROOM):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(fused, "ROOM", room)
            for threads in THREADS:
                session = Session(program, threads=threads, isa=isa, schedule=schedule(kernel))
                found.append(poisoned(session, x))
                assert native_calls(session, "conv2d1")[f"conv2d_tucker_f32__{isa}"] == 1
    return found


@pytest.mark.parametrize("isa", native_status().isas)
@pytest.mark.parametrize("ranks", [(9, 17), (19, 7), (7, 23)], ids=["three", "two, core first", "two, core last"])
@pytest.mark.parametrize("core", ["dense", "lanes", "winograd2", "winograd4"])
def test_rows_may_be_cut_in_any_way(isa: str, ranks: tuple[int, int], core: str):
    program, x = layer((13, 15), ranks)  # a map so small that `lanes` runs
    into, out = ranks[0] == 19, ranks[1] == 23
    parts = [*([] if into else ["dense"]), core, *([] if out else ["lanes"])]
    found = results(program, x, isa, f"{FUSED}({','.join(parts)})")
    assert close(found[0], reference.run(program, x))
    assert all(np.array_equal(found[0], other) for other in found[1:])


GEOMETRIES = (
    {"stride": (2, 2)},
    {"stride": (2, 2), "padding": (0, 1, 0, 1)},
    {"stride": (1, 2)},
    {"stride": (4, 1), "padding": (0, 0, 0, 0)},
    {"kernel": 5, "stride": (2, 1), "padding": (4, 3, 2, 0)},
    {"padding": (2, 2, 2, 2), "dilation": (2, 2)},
    {"kernel": 1, "stride": (2, 2)},
    {"size": (2, 40), "ranks": (1, 1)},
    {"size": (40, 2)},
    {"size": (1, 9)},
)


@pytest.mark.parametrize("isa", native_status().isas)
@pytest.mark.parametrize("geometry", GEOMETRIES, ids=str)
def test_any_geometry(isa: str, geometry: dict[str, Any]):
    program, x = layer(**geometry)
    found = results(program, x, isa, FUSED)
    assert close(found[0], reference.run(program, x))
    assert all(np.array_equal(found[0], other) for other in found[1:])


@pytest.mark.parametrize("activation", ["gelu", "hardswish"])
def test_activations_of_two_passes(activation: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(fused, "ROOM", LITTLE)
    sketch = Sketch(22)
    packed = random_packed("tucker", (13, 11, 3, 3), sketch.random, rank_in=5, rank_out=6)
    x = sketch.input("batch", 11, 17, 12)
    y = sketch.add("conv2d", x, packed=packed, padding=(1, 1, 1, 1), biased=True, activation=Activation(activation))
    program, image = sketch.program(y), sketch.random.standard_normal((2, 11, 17, 12)).astype(np.float32)
    session = Session(program, schedule=Schedule({"conv2d0": FUSED}))
    assert close(poisoned(session, image), reference.run(program, image))


def blocks(threads: int, grain: int, room: int, monkeypatch: pytest.MonkeyPatch) -> list[list[Placed]]:
    """Those of 12 rows under a 3x3 core of stride 1, padded by 1."""
    monkeypatch.setattr(fused, "ROOM", room)
    b, at = Builder(8, threads), Geometry(padding=(1, 1, 1, 1))
    x, y = (b.planar((1, channels, 12, 10)) for channels in (3, 5))
    stage = Stage(4, lambda *_: None, grain)
    chain = Chain(Stage(4, stage.emit), stage, Stage(5, stage.emit), (3, 3))
    return fused._Fused(b, x, chain, y, at, Epilogue()).strips


def test_a_block_makes_the_rows_that_the_one_before_has_not(monkeypatch: pytest.MonkeyPatch):
    # Rows 0-3 read -1 to 4, rows 4-7 read 3 to 8, rows 8-11 read 7 to 12. Of 3 to 8 the rows 3 and 4 are there.
    (strip,) = blocks(threads=1, grain=4, room=0, monkeypatch=monkeypatch)
    assert strip == [
        Placed(Block(4, height=5, kept=0, kept_from=0, above=1, below=0, top=True, bottom=False), 0, 0),
        Placed(Block(4, height=6, kept=2, kept_from=3, above=0, below=0, top=False, bottom=False), 4, 3),
        Placed(Block(4, height=5, kept=2, kept_from=4, above=0, below=1, top=False, bottom=True), 8, 7),
    ]


def test_strips_share_nothing(monkeypatch: pytest.MonkeyPatch):
    strips = blocks(threads=2, grain=4, room=0, monkeypatch=monkeypatch)
    assert [[(p.first, p.low, p.block.kept) for p in strip] for strip in strips] == [
        [(0, 0, 0)],
        [(4, 3, 0)],
        [(8, 7, 0)],
    ]


def test_a_block_is_as_large_as_there_is_room(monkeypatch: pytest.MonkeyPatch):
    assert [len(strip) for strip in blocks(1, 4, 1 << 16, monkeypatch)] == [1]
    # Of 6 rows 8 are read: planes of 112 elements, four of them, and four of 80. Of 8 rows: 144 and 112.
    ((first, second),) = blocks(1, 2, 4 * (112 + 80), monkeypatch)
    assert (first.block.rows, second.block.rows) == (6, 6)


def test_padding_is_less_than_the_kernel():
    assert fits((3, 3), (2, 2, 9, 9), (1, 1))
    assert not fits((3, 3), (3, 0, 0, 0), (1, 1))
    assert fits((3, 3), (4, 0, 0, 0), (2, 1))


@pytest.mark.parametrize(
    ("layer_of", "kernel", "what"),
    [
        ({"padding": (20, 1, 70, 1)}, FUSED, "cannot run"),
        ({"ranks": (19, 23)}, FUSED, "cannot run"),
        ({"size": (1, 1)}, FUSED, "cannot run"),
        ({}, f"{FUSED}(dense,dense)", "names 2 parts; conv2d_fused_tucker has 3"),
        ({"stride": (2, 2)}, f"{FUSED}(dense,winograd4,dense)", "cannot run"),
    ],
)
def test_what_it_refuses(layer_of: dict[str, Any], kernel: str, what: str):
    program, x = layer(**layer_of)
    with pytest.raises(EngineError, match="conv2d1") as error:
        Session(program, schedule=schedule(kernel))(x)
    assert what in str(error.value)


def test_arguments_of_a_kernel():
    native = require_native()
    offsets = native.offsets("dovetail_conv2d_tucker_f32")
    made = native.arguments("dovetail_conv2d_tucker_f32", {"images": 3, "x": 1 << 40})
    words = np.frombuffer(made, np.int64)
    assert (words[offsets["images"] // 8], words[offsets["x"] // 8]) == (3, 1 << 40)
    assert np.count_nonzero(words) == 2
    with pytest.raises(ValueError, match="that it does not have"):
        native.arguments("dovetail_conv2d_tucker_f32", {"channels": 3})
    with pytest.raises(ValueError, match="unknown kernel"):
        native.offsets("dovetail_conv2d_none_f32")
