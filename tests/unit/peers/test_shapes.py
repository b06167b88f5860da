"""The layers of a network as data."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import dovetail
from dovetail.cli import main, sheets
from dovetail.errors import DataError
from dovetail.peers.shapes import module_of, read, write
from dovetail.program.counts import count
from dovetail.program.layers import LayerShape, layer_shapes
from dovetail.program.lower import lower
from dovetail.zoo import build

SHAPES = Path(dovetail.__file__).parents[2] / "benchmarks/shapes"
COMMITTED = sorted(SHAPES.glob("*.json"))
CONV = LayerShape("conv2d", (64, 56, 56), (128, 28, 28), (128, 64, 3, 3), (2, 2), (1, 1, 1, 1), layers=("a", "b"))
LINEAR = LayerShape("linear", (512,), (1000,), (1000, 512), layers=("fc",))


def test_a_network_gives_each_shape_once_with_the_layers_that_have_it():
    program = lower(build("resnet20").eval(), torch.zeros(1, 3, 32, 32))
    shapes = layer_shapes(program)
    assert [(str(shape), shape.count) for shape in shapes] == [
        ("3→16 3x3 32x32", 1),
        ("16→16 3x3 32x32", 6),
        ("16→32 3x3/2 16x16", 1),
        ("32→32 3x3 16x16", 5),
        ("32→64 3x3/2 8x8", 1),
        ("64→64 3x3 8x8", 5),
        ("64→10", 1),
    ]
    assert sum(shape.count * shape.macs for shape in shapes) == count(program).macs


def test_depthwise_and_grouped_layers_say_so():
    depthwise = LayerShape("conv2d", (96, 56, 56), (96, 56, 56), (96, 1, 3, 3), groups=96)
    assert str(depthwise) == "depthwise 96 3x3 56x56"
    assert str(LayerShape("conv2d", (8, 4, 4), (8, 4, 4), (8, 2, 1, 1), groups=4)) == "8→8 in 4 1x1 4x4"
    assert depthwise.macs == 96 * 9 * 56 * 56


def test_bytes_are_those_of_input_weights_and_output():
    assert LINEAR.bytes(4) == 4 * (512 + 1000 * 512 + 1000)
    assert CONV.bytes(1) == 64 * 56 * 56 + 128 * 64 * 9 + 128 * 28 * 28


@pytest.mark.parametrize("shape", [CONV, LINEAR], ids=str)
def test_the_torch_layer_has_the_shape(shape):
    layer = module_of(shape)
    assert layer.weight.shape == shape.weight
    with torch.no_grad():
        assert layer(torch.zeros(1, *shape.input)).shape == (1, *shape.output)


def test_padding_that_torch_does_not_have_is_refused():
    with pytest.raises(DataError, match="padded unevenly"):
        module_of(LayerShape("conv2d", (3, 8, 8), (4, 4, 4), (4, 3, 3, 3), (2, 2), (0, 1, 0, 1)))


def test_a_file_gives_the_shapes_back(tmp_path):
    write("net", "dovetail shapes collect net", [CONV, LINEAR], tmp_path / "net.json")
    assert read(tmp_path / "net.json") == [CONV, LINEAR]
    data = json.loads((tmp_path / "net.json").read_text())
    assert data["network"] == "net"
    assert [shape["count"] for shape in data["shapes"]] == [2, 1]
    assert "stride" not in data["shapes"][1]


@pytest.mark.parametrize("text", ["{", "{}", '{"shapes": [{"op": "linear", "size": 3}]}'])
def test_a_file_without_shapes_is_named(tmp_path, text):
    (tmp_path / "odd.json").write_text(text)
    with pytest.raises(DataError, match=r"odd\.json holds no shapes"):
        read(tmp_path / "odd.json")


@pytest.mark.parametrize("path", COMMITTED, ids=lambda path: path.stem)
def test_committed_shapes_are_layers(path):
    for shape in read(path):
        assert shape.count >= 1
        with torch.device("meta"):
            layer = module_of(shape)
        assert layer(torch.zeros(1, *shape.input, device="meta")).shape == (1, *shape.output)


def test_every_sheet_in_floating_point_has_its_shapes():
    real = {path.stem for path in sheets.listed() if sheets.read(path).values == "f32"}
    assert {path.stem for path in COMMITTED} == real


def test_shapes_of_a_sheet_are_those_of_every_network_that_its_variants_build(tmp_path, monkeypatch):
    monkeypatch.chdir(SHAPES.parents[1])
    assert main(["shapes", "collect", "tucker_core", "--out", str(tmp_path)]) == 0
    found = read(tmp_path / "tucker_core.json")
    assert found == read(SHAPES / "tucker_core.json")
    assert {shape.input for shape in found} == {case.input for case in sheets.cases("tucker_core")}


def test_linear_layers_over_several_rows_are_left_out():
    program = lower(nn.Linear(6, 4), torch.from_numpy(np.zeros((1, 5, 6), np.float32)))
    assert layer_shapes(program) == []


def test_layers_of_a_recurrent_network_are_those_of_one_step():
    program = lower(build("lstm_digits", hidden=8).eval(), torch.zeros(1, 1, 5, 32))
    assert [(str(shape), shape.count) for shape in layer_shapes(program)] == [("8→10", 1), ("8→8", 4)]
