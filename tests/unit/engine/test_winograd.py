"""Winograd's filtering: the matrices, what they cost in accuracy, who gets it, and that `exact` leaves it out."""

from __future__ import annotations

import numpy as np
import pytest

from dovetail.engine import Session, native_status, winograd, winograd_rows
from dovetail.engine.kernels import Place, candidates
from dovetail.engine.layout import Planes, planar_view
from dovetail.formats import DenseSpec
from dovetail.formats.dense import PackedDense
from programs import Sketch, close, random_packed

TILES = (2, 4)


MATRICES = [*(winograd.matrices(tile) for tile in TILES), winograd_rows.matrices()]


@pytest.mark.parametrize("m", MATRICES, ids=["2", "4", "rows"])
def test_the_matrices_filter(m):
    random = np.random.default_rng(0)
    d, g = random.standard_normal(len(m.input)), random.standard_normal(m.weight.shape[1])
    np.testing.assert_allclose(m.output @ ((m.weight @ g) * (m.input @ d)), np.correlate(d, g), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("m", MATRICES, ids=["2", "4", "rows"])
def test_every_constant_of_the_transforms_is_exact_in_float32(m):
    for matrix in (m.input, m.output):
        np.testing.assert_array_equal(matrix, matrix.astype(np.float32))


def test_larger_tiles_err_more():
    weight = np.random.default_rng(1).standard_normal((32, 64, 3, 3)).astype(np.float32)
    assert 1 < winograd.relative_error(weight, 2) < 2 < winograd.relative_error(weight, 4) < 5


def test_rows_err_less_than_large_tiles():
    random = np.random.default_rng(1)
    weight, square = random.standard_normal((32, 3, 7, 7)), random.standard_normal((32, 64, 3, 3))
    assert 1 < winograd_rows.relative_error(weight) < winograd.relative_error(square, 4)


def test_a_layer_that_direct_convolution_computes_exactly_does_not_get_it():
    packed = PackedDense.from_dense(
        np.pad(np.ones((4, 1, 1, 1), np.float32), ((0, 0), (0, 0), (1, 1), (1, 1))), DenseSpec()
    )
    names = {c.name for c in candidates("conv2d", packed, Place(64, 64, size=(8, 8)))}
    assert names == {"conv2d_dense", "conv2d_lanes"}


@pytest.mark.parametrize(
    "place",
    [
        Place(64, 16, size=(4, 4), stride=(2, 2)),
        Place(64, 64, size=(8, 8), dilation=(2, 2)),
        Place(64, 64, 2, size=(8, 8)),
        Place(9, 3, size=(3, 1)),
    ],
    ids=["stride", "dilation", "groups of two", "small"],
)
def test_only_plain_layers_get_it(place):
    packed = PackedDense.from_dense(np.ones((4, 2, 3, 3), np.float32), DenseSpec())
    assert not {c.name for c in candidates("conv2d", packed, place)} & {"conv2d_winograd2", "conv2d_winograd4"}


@pytest.mark.parametrize(
    ("place", "columns", "fits"),
    [
        (Place(512, 64, size=(4, 16), stride=(2, 2)), 7, True),
        (Place(512, 128, size=(8, 17), stride=(1, 2)), 5, True),
        (Place(512, 64, size=(4, 16), stride=(2, 2)), 4, False),
        (Place(512, 64, size=(4, 16), stride=(2, 2)), 9, False),
        (Place(512, 64, size=(4, 16), stride=(2, 2), padding=(3, 3, 2, 3)), 8, True),
        (Place(512, 64, size=(4, 16), stride=(2, 2), padding=(3, 3, 3, 3)), 8, False),
        (Place(512, 512, size=(8, 64)), 7, False),
        (Place(512, 60, size=(4, 15), stride=(2, 2)), 7, False),
        (Place(512, 64, 2, size=(4, 16), stride=(2, 2)), 7, False),
        (Place(512, 64, size=(4, 16), stride=(2, 2), dilation=(1, 2)), 7, False),
    ],
    ids=["7", "5, of every row", "4", "9", "8", "8, padded by 3", "stride", "small", "groups", "dilation"],
)
def test_wide_kernels_two_columns_apart_get_rows(place, columns, fits):
    weight = np.random.default_rng(1).standard_normal((4, 2, 7, columns)).astype(np.float32)
    names = {c.name for c in candidates("conv2d", PackedDense.from_dense(weight, DenseSpec()), place)}
    assert ("conv2d_winograd_rows" in names) == fits


@pytest.mark.parametrize(("tile", "high"), [(2, 2), (4, 4), (4, 1)])
@pytest.mark.parametrize("lanes", [8, 16])
@pytest.mark.parametrize("size", [(4, 4), (7, 9), (14, 14), (17, 33), (32, 32)])
def test_every_pixel_is_stored_once_and_nothing_beyond_the_padding_is_read(tile, high, lanes, size):
    height, width = size
    y = planar_view((1, 1, height, width), Planes.of(height, width, 1, 1))
    groups = winograd.tile_groups(y, y.planes.pitch, -y.planes.pitch - 1, tile, lanes, high)
    stored = np.zeros((height, y.planes.pitch), int)
    for g in groups:
        row, column = divmod(int(g["y"]), y.planes.pitch)
        assert row + high <= height
        assert int(g["x"]) == (row - 1) * y.planes.pitch + column - 1
        assert column + int(g["pixels"]) - 2 <= width
        for r in range(g["first"], g["last"]):
            for lane in range(lanes):
                stored[row + r, column + lane if column + lane < width else -1] += int(g["mask"]) >> lane & 1
            zeros = int(g["gap"])
            if zeros:
                stored[row + r, column + int(g["end"]) : column + int(g["end"]) + zeros] += 1
    np.testing.assert_array_equal(stored, 1)
    assert sum(groups["rest"] > 0) == 1
    if width >= tile * lanes // 4:  # rows are filtered only where they are that long: all their outputs are the map's
        assert (groups["pixels"] == tile * lanes // 4 + 2).all()
        assert (groups["y"] % y.planes.pitch + tile * lanes // 4 <= width).all()


def test_nobody_pays_for_what_is_not_asked(monkeypatch):
    monkeypatch.setattr("dovetail.engine.kernels.exact_enough", lambda packed, tile: pytest.fail("measured"))
    packed = PackedDense.from_dense(np.ones((4, 2, 3, 3), np.float32), DenseSpec())
    assert candidates("conv2d", packed, Place(64, 64, size=(8, 8)), exact=True)


@pytest.mark.skipif(not native_status().available, reason="the native engine is not built")
def test_sessions_filter_unless_exact_is_asked(monkeypatch, tmp_path):
    monkeypatch.setenv("DOVETAIL_CACHE", str(tmp_path))
    sketch = Sketch(0)
    packed = random_packed("dense", (32, 32, 3, 3), sketch.random)
    y = sketch.add("conv2d", sketch.input("batch", 32, 16, 16), packed=packed, padding=(1, 1, 1, 1), biased=True)
    program = sketch.program(y)
    x = sketch.random.standard_normal((1, 32, 16, 16)).astype(np.float32)
    seen = []

    def times(self, node, found):
        seen.append([c.name for c in found])
        return {c.name: 1.0 - c.name.startswith("conv2d_winograd") for c in found}

    monkeypatch.setattr("dovetail.engine.schedule.Tuner._times", times)
    plain, fast = Session(program, exact=True), Session(program)
    assert close(fast(x), plain(x))
    assert "winograd" in str(fast.kernels().values())
    assert "winograd" not in str(plain.kernels().values())
    assert [any("winograd" in name for name in names) for names in seen] == [True, False]
