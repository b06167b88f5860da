"""ncnn and MNN: what is written for them, and how they are asked. The runtimes themselves need not be installed."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from dovetail.errors import PeerError
from dovetail.peers import ncnn_net
from dovetail.peers.peer import LAYERWISE, Source

X = torch.zeros(1, 6, 9, 7)


def source(*layers: nn.Module, example: torch.Tensor = X) -> Source:
    return Source(nn.Sequential(*layers).eval(), example)


@pytest.mark.parametrize(
    ("layer", "line"),
    [
        (
            nn.Conv2d(6, 4, (3, 5), (2, 1), (1, 2), (1, 2)),
            "Convolution layer 1 1 x y 0=4 1=5 11=3 2=2 12=1 3=1 13=2 4=2 14=1 15=2 16=1 5=1 6=360",
        ),
        (
            nn.Conv2d(6, 6, 3, padding=1, groups=6),
            "ConvolutionDepthWise layer 1 1 x y 0=6 1=3 11=3 2=1 12=1 3=1 13=1 4=1 14=1 15=1 16=1 5=1 6=54 7=6",
        ),
        (nn.Linear(6, 5), "InnerProduct layer 1 1 x y 0=5 1=1 2=30"),
    ],
    ids=["conv", "depthwise", "linear"],
)
def test_a_layer_is_written_in_the_files_of_ncnn(layer, line, tmp_path):
    path = ncnn_net.export(source(layer), tmp_path, "f32")["path"]
    assert (tmp_path / "original.param").read_text().splitlines() == ["7767517", "2 2", "Input input 0 1 x", line]
    assert path == str(tmp_path / "original.param")
    stored = (tmp_path / "original.bin").read_bytes()
    numbers = np.frombuffer(stored[4:], np.float32)
    assert stored[:4] == bytes(4)
    assert numbers[: layer.weight.numel()].tolist() == layer.weight.flatten().tolist()
    assert numbers[layer.weight.numel() :].tolist() == layer.bias.tolist()


TWO_IMAGES = source(nn.Conv2d(6, 6, 1), example=X.repeat(2, 1, 1, 1))


@pytest.mark.parametrize(
    "given",
    [source(nn.Conv2d(6, 6, 1), nn.ReLU()), source(nn.MaxPool2d(2)), TWO_IMAGES],
    ids=["two layers", "no weight", "two images"],
)
def test_ncnn_takes_single_layers_and_images_only(given, tmp_path):
    with pytest.raises(PeerError, match="single layers"):
        ncnn_net.export(given, tmp_path, "f32")


class FakeNet:
    """Notes in which order it is used; doubles its input."""

    def __init__(self, code: int = 0) -> None:
        self.opt, self.said, self.code = SimpleNamespace(), [], code

    def load_param(self, path):
        self.said.append(("param", path, dict(vars(self.opt))))
        return self.code

    def load_model(self, path):
        self.said.append(("model", path))
        return 0

    def create_extractor(self):
        return SimpleNamespace(input=lambda name, mat: setattr(self, "mat", mat), extract=self.extract)

    def extract(self, name):
        return (self.code, 2 * self.mat)


def test_ncnn_computes_in_real_float32_with_the_threads_asked_for(monkeypatch):
    net = FakeNet()
    monkeypatch.setitem(sys.modules, "ncnn", SimpleNamespace(Net=lambda: net, Mat=np.asarray))
    runner = ncnn_net.load(2, "folder/original.param")
    (_, param, options), (_, model) = net.said
    assert (param, model) == ("folder/original.param", "folder/original.bin")
    assert options["num_threads"] == 2
    assert not any(options[name] for name in ncnn_net.HALVES)
    x = np.arange(12, dtype=np.float32).reshape(1, 3, 2, 2)
    runner.bind(x)
    runner.run()
    (y,) = runner.outputs()
    np.testing.assert_array_equal(y, 2 * x)
    net.code = -100
    with pytest.raises(PeerError, match="code -100"):
        runner.run()


def test_files_that_ncnn_does_not_take_are_an_error(monkeypatch):
    monkeypatch.setitem(sys.modules, "ncnn", SimpleNamespace(Net=lambda: FakeNet(-1)))
    with pytest.raises(PeerError, match="cannot load"):
        ncnn_net.load(1, "original.param")


def test_a_converter_that_is_not_there_is_a_reason(tmp_path, monkeypatch):
    from dovetail.peers import mnn_net

    monkeypatch.setattr(mnn_net.onnx_runtime, "export", lambda *_: {"path": str(tmp_path / "original.onnx")})
    monkeypatch.setattr(mnn_net, "CONVERT", "import no_such_converter")
    with pytest.raises(PeerError, match="its converter failed: ModuleNotFoundError"):
        mnn_net.export(source(nn.Conv2d(6, 6, 1)), tmp_path, "f32")


def test_what_is_not_installed_says_how_to_install_it(tmp_path, monkeypatch):
    monkeypatch.setattr("dovetail.peers.peer.find_spec", lambda name: None)
    with pytest.raises(PeerError, match=r"ncnn: not installed: ncnn; pip install 'dovetail\[winograd\]'"):
        LAYERWISE["ncnn"].target(source(nn.Conv2d(6, 6, 1)), tmp_path)
