"""Layouts: zeros where taps read them, no aliasing, memory shared only by tensors that do not live together."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dovetail.engine.layout import ALIGN, Buffer, Planes, nest, plan_arena, planar_view, rows_view


@given(st.integers(1, 40), st.integers(1, 40), st.integers(0, 4), st.integers(0, 4))
def test_planes_hold_their_halo(height: int, width: int, rows: int, columns: int):
    planes = Planes.of(height, width, rows, columns)
    assert planes.holds(rows, columns)
    assert planes.body >= height * planes.pitch
    if planes.plane > 1:
        assert planes.plane % ALIGN == 0
        assert planes.plane // ALIGN % 2 == 1, "an even distance in cache lines would alias in the cache"


def test_hand_worked_planes():
    # 32 x 32 with one zero around: pitch 33, 33 * 32 = 1056 = 66 vectors; 34 zeros before, rounded to 48 = 3 vectors.
    assert Planes.of(32, 32, 1, 1) == Planes(height=32, width=32, pitch=33, lead=48, body=1056)
    # 8 x 8: pitch 9, 72 rounded to 80; 10 zeros before, rounded to 16; 96 is even in cache lines, so 16 more.
    assert Planes.of(8, 8, 1, 1) == Planes(height=8, width=8, pitch=9, lead=32, body=80)
    assert Planes.of(1, 1) == Planes(height=1, width=1, pitch=1, lead=0, body=1)


def test_views_of_planes_and_rows():
    view = planar_view((2, 3, 8, 8), Planes.of(8, 8, 1, 1))
    assert view.strides == (3 * 112 + 32, 112, 9, 1)
    part = view.sliced(1, 1, 3, 1)
    assert (part.offset, part.planes) == (view.offset + 112, view.planes)
    assert view.sliced(2, 1, 8, 2).shape == (2, 3, 4, 8)
    assert view.sliced(2, 1, 8, 2).planes is None
    rows = rows_view((2, 3, 4))
    assert rows.contiguous
    assert not rows.permuted((0, 2, 1)).contiguous
    assert rows.broadcast((5, 2, 3, 4)).strides == (0, 12, 4, 1)


@given(st.lists(st.integers(1, 4), min_size=1, max_size=5), st.permutations(range(5)))
def test_nest_visits_the_same_elements(shape: list[int], order: list[int]):
    base = np.arange(int(np.prod(shape))).reshape(shape)
    axes = [i for i in order if i < len(shape)]
    array = base.transpose(axes)
    strides = tuple(s // array.itemsize for s in array.strides)
    size, (steps,) = nest(array.shape, strides)
    assert len(size) == len(steps) == 6
    grid = np.indices(size).reshape(6, -1)
    assert np.array_equal(np.array(steps) @ grid, array.ravel())


@given(st.lists(st.tuples(st.integers(1, 50), st.integers(0, 8), st.integers(0, 8)), min_size=1, max_size=12))
def test_arena_never_shares_living_memory(lives: list[tuple[int, int, int]]):
    buffers = [Buffer(size, first=min(a, b), last=max(a, b)) for size, a, b in lives]
    total = plan_arena(buffers)
    for i, a in enumerate(buffers):
        assert a.offset + a.size <= total
        for b in buffers[:i]:
            together = a.first <= b.last and b.first <= a.last
            apart = a.offset + a.size <= b.offset or b.offset + b.size <= a.offset
            assert apart or not together


def test_arena_of_a_chain_needs_two_tensors():
    assert plan_arena([Buffer(16, first=i, last=i + 1) for i in range(6)]) == 32


@pytest.mark.parametrize("size", [16, 160])
def test_buffers_remember_their_life(size: int):
    buffer = Buffer(size)
    for stage in (3, 5, 4):
        buffer.touch(stage)
    assert (buffer.first, buffer.last) == (3, 5)
