"""Shape rules against the functions on random shapes: the rule says what comes out, or the function fails too."""

from __future__ import annotations

from contextlib import nullcontext

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from dovetail.errors import ProgramError
from dovetail.program.ops import OPS

small = st.integers(1, 4)
pads = st.tuples(*[st.integers(0, 2)] * 4)
NONE = (0, 0, 0, 0)
pair = st.tuples(small, small)
size = st.integers(3, 12)


def agree(op: str, *shapes: tuple[int, ...], **attributes) -> None:
    try:
        said = OPS[op].shape(*shapes, **attributes)
    except ProgramError:
        assume(False)
    result = OPS[op].reference(*(np.ones(shape) for shape in shapes), **attributes)
    assert result.shape == said
    assert np.isfinite(result).all()
    named = OPS[op].shape(*(("batch", *s[1:]) if s[0] == 2 else s for s in shapes), **attributes)
    assert named == ("batch", *said[1:])


@given(size, size, st.integers(1, 3), pair, pair, pair, pads)
def test_conv2d(h, w, groups, kernel, stride, dilation, padding):
    geometry = {"stride": stride, "padding": padding, "dilation": dilation, "groups": groups}
    agree("conv2d", (2, 2 * groups, h, w), (3 * groups, 2, *kernel), **geometry)


@given(size, size, pair, pair, st.one_of(st.tuples(pair, st.just(NONE)), st.tuples(st.just((1, 1)), pads)))
def test_max_pool2d(h, w, kernel, stride, spread):
    dilation, padding = spread
    agree("max_pool2d", (2, 3, h, w), kernel=kernel, stride=stride, dilation=dilation, padding=padding)


@given(size, st.integers(1, 4), small, st.integers(1, 14), st.integers(0, 12), st.integers(0, 12))
def test_windows_in_the_padding_are_found_wherever_they_lie(n, kernel, stride, dilation, before, after):
    out = (n + before + after - dilation * (kernel - 1) - 1) // stride + 1
    assume(out > 0)
    taps = range(0, dilation * kernel, dilation)
    meets = all(any(0 <= o * stride - before + tap < n for tap in taps) for o in range(out))
    attributes = {"kernel": (kernel, 1), "stride": (stride, 1), "padding": (before, after, 0, 0)}
    expected = nullcontext() if meets else pytest.raises(ProgramError, match="wholly in the padding")
    with expected:
        OPS["max_pool2d"].shape((2, 3, n, 1), dilation=(dilation, 1), **attributes)


@given(size, size, pair, pair, pads, st.booleans())
def test_avg_pool2d(h, w, kernel, stride, padding, include):
    agree("avg_pool2d", (2, 3, h, w), kernel=kernel, stride=stride, padding=padding, include_pad=include)


@given(size, size, pair)
def test_adaptive_pools(h, w, output):
    agree("adaptive_avg_pool2d", (2, 3, h, w), output=output)
    agree("adaptive_max_pool2d", (2, 3, h, w), output=output)


@given(size, st.integers(0, 8), st.integers(1, 9), st.integers(1, 4))
def test_slice(n, start, stop, step):
    agree("slice", (2, n, 3), axis=1, start=start, stop=stop, step=step)


@given(st.lists(size, min_size=1, max_size=4))
def test_concat(sizes):
    agree("concat", *((2, n, 3) for n in sizes), axis=1)


@given(st.permutations(range(1, 4)))
def test_permute(order):
    agree("permute", (2, 3, 4, 5), order=(0, *order))
