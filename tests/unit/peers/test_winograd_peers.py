"""ncnn and MNN: what is written for them, and how they are asked. The runtimes themselves need not be installed."""

from __future__ import annotations

import re
import sys
from importlib.metadata import PackageNotFoundError
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from dovetail.errors import PeerError
from dovetail.peers import mnn_net, ncnn_net
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
        (
            nn.Conv2d(6, 4, 1, bias=False),
            "Convolution layer 1 1 x y 0=4 1=1 11=1 2=1 12=1 3=1 13=1 4=0 14=0 15=0 16=0 5=0 6=24",
        ),
        (nn.Linear(6, 5, bias=False), "InnerProduct layer 1 1 x y 0=5 1=0 2=30"),
    ],
    ids=["conv", "depthwise", "linear", "conv without bias", "linear without bias"],
)
def test_a_layer_is_written_in_the_files_of_ncnn(layer, line, tmp_path):
    path = ncnn_net.export(source(layer), tmp_path, "f32")["path"]
    assert path == str(tmp_path / "original.ncnn.param")
    assert (tmp_path / "original.ncnn.param").read_text().splitlines() == ["7767517", "2 2", "Input input 0 1 x", line]
    stored = (tmp_path / "original.ncnn.bin").read_bytes()
    numbers = np.frombuffer(stored[4:], np.float32)
    assert stored[:4] == bytes(4)
    assert numbers[: layer.weight.numel()].tolist() == layer.weight.flatten().tolist()
    assert numbers[layer.weight.numel() :].tolist() == ([] if layer.bias is None else layer.bias.tolist())


def test_the_files_of_one_peer_do_not_take_the_place_of_anothers(tmp_path):
    """All export into one folder; `original.xml` and `original.bin` are OpenVINO's."""
    theirs = dict.fromkeys(("original.xml", "original.bin", "original.onnx", "original.mnn"), b"others")
    for name, content in theirs.items():
        (tmp_path / name).write_bytes(content)
    ncnn_net.export(source(nn.Conv2d(6, 6, 1)), tmp_path, "f32")
    assert {name: (tmp_path / name).read_bytes() for name in theirs} == theirs


TWO_IMAGES = source(nn.Conv2d(6, 6, 1), example=X.repeat(2, 1, 1, 1))


@pytest.mark.parametrize(
    "given",
    [source(nn.Conv2d(6, 6, 1), nn.ReLU()), source(nn.MaxPool2d(2)), TWO_IMAGES],
    ids=["two layers", "no weight", "two images"],
)
def test_ncnn_takes_single_layers_and_images_only(given, tmp_path):
    with pytest.raises(PeerError, match="single layers"):
        ncnn_net.export(given, tmp_path, "f32")


@pytest.mark.parametrize(
    ("layer", "given"),
    [
        (nn.Conv2d(6, 6, 3, padding="same"), "padding='same'"),
        (nn.Conv2d(6, 6, 3, padding=1, padding_mode="reflect"), "padding=(1, 1) of 'reflect'"),
    ],
    ids=["by name", "no zeros"],
)
def test_ncnn_refuses_padding_that_its_file_does_not_say(layer, given, tmp_path):
    with pytest.raises(PeerError, match=re.escape(given)):
        ncnn_net.export(source(layer), tmp_path, "f32")


class FakeNet:
    """Notes in which order it is used; doubles its input."""

    def __init__(self, code: int = 0, **more: bool) -> None:
        switches = {"use_fp16_storage": True, "use_bf16_packed": True, "use_winograd43_convolution": False} | more
        self.opt, self.said, self.code = SimpleNamespace(**switches), [], code

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


def install_ncnn(monkeypatch, net):
    pools = {"UnlockedPoolAllocator": lambda: "blobs", "PoolAllocator": lambda: "workspace"}
    monkeypatch.setitem(sys.modules, "ncnn", SimpleNamespace(Net=lambda: net, Mat=np.asarray, **pools))


def test_ncnn_computes_in_real_float32_with_winograd_and_the_threads_asked_for(monkeypatch):
    net = FakeNet(use_fp16_of_tomorrow=True)
    install_ncnn(monkeypatch, net)
    runner = ncnn_net.load(2, "folder/original.ncnn.param")
    (_, param, options), (_, model) = net.said
    assert (param, model) == ("folder/original.ncnn.param", "folder/original.ncnn.bin")
    assert options == {
        "num_threads": 2,
        "use_vulkan_compute": False,
        "use_fp16_storage": False,
        "use_fp16_of_tomorrow": False,
        "use_bf16_packed": False,
        "use_winograd43_convolution": True,
        "blob_allocator": "blobs",
        "workspace_allocator": "workspace",
    }
    x = np.arange(12, dtype=np.float32).reshape(1, 3, 2, 2)
    runner.bind(x)
    runner.run()
    (y,) = runner.outputs()
    np.testing.assert_array_equal(y, 2 * x)
    net.code = -100
    with pytest.raises(PeerError, match="code -100"):
        runner.run()


def test_an_ncnn_that_cannot_be_told_what_to_do_is_named_with_the_version_that_can(monkeypatch):
    net = FakeNet()
    del net.opt.use_bf16_packed
    install_ncnn(monkeypatch, net)
    monkeypatch.setattr("dovetail.peers.peer.version", lambda package: "0.1")
    with pytest.raises(PeerError, match=r"^ncnn 0\.1 is not as expected \(.*no option for bf16\).*pip install ncnn=="):
        ncnn_net.load(1, "original.param")


def test_files_that_ncnn_does_not_take_are_an_error(monkeypatch):
    install_ncnn(monkeypatch, FakeNet(-1))
    with pytest.raises(PeerError, match="cannot load"):
        ncnn_net.load(1, "original.param")


@pytest.mark.parametrize(
    ("converter", "reason"),
    [
        ("import no_such_converter", "ModuleNotFoundError: No module named 'no_such_converter'"),
        (r"print('Op Not Support: Pad\n\nConverted Failed!\n')", "Op Not Support: Pad Converted Failed!"),
        ("import os; os._exit(9)", "exit status 9"),
        ("pass", "exit status 0"),
    ],
    ids=["absent", "refuses", "dies", "silent"],
)
def test_a_converter_that_writes_nothing_is_a_reason(converter, reason, tmp_path, monkeypatch):
    monkeypatch.setattr(mnn_net.onnx_runtime, "export", lambda *_: {"path": str(tmp_path / "original.onnx")})
    monkeypatch.setattr(mnn_net, "CONVERT", converter)
    with pytest.raises(PeerError, match=f"its converter failed: {re.escape(reason)}$"):
        mnn_net.export(source(nn.Conv2d(6, 6, 1)), tmp_path, "f32")


def test_a_layer_is_converted_once_for_both_settings_of_mnn(tmp_path, monkeypatch):
    words = []
    monkeypatch.setattr("dovetail.peers.peer.find_spec", lambda name: object())
    monkeypatch.setattr(mnn_net.onnx_runtime, "export", lambda *_: {"path": str(tmp_path / "original.onnx")})
    monkeypatch.setattr(mnn_net, "_convert", lambda onnx, path: (words.append(onnx), path.touch()))
    one, two = (LAYERWISE[name].target(source(nn.Conv2d(6, 6, 1)), tmp_path) for name in ("mnn", "mnn-winograd2"))
    assert words == [str(tmp_path / "original.onnx")]
    assert one.arguments == {"path": str(tmp_path / "original.mnn"), "shape": [1, 6, 9, 7]}
    assert two.arguments == {**one.arguments, "winograd": 1}


class FakeTensor:
    """Holds a copy of an array."""

    def __init__(self, shape, kind, array, layout) -> None:
        self.array = np.array(array).reshape(shape)

    def getShape(self):
        return self.array.shape

    def copyFrom(self, other):
        self.array = np.array(other.array)

    def copyToHostTensor(self, other):
        other.array = np.array(self.array)

    def getNumpyData(self):
        return self.array


class FakeInterpreter:
    """Notes how it is set up; doubles its input."""

    def __init__(self, code: int = 0) -> None:
        self.said, self.code, self.tensors = [], code, {}

    def setSessionHint(self, hint, value):
        self.said.append(("hint", hint, value))

    def createSession(self, config):
        self.said.append(("session", config))

    def resizeTensor(self, tensor, shape):
        self.tensors = {name: FakeTensor(shape, None, np.zeros(shape), None) for name in ("x", "y")}

    def resizeSession(self, session):
        pass

    def getSessionInput(self, session):
        return SimpleNamespace(copyFrom=self.fill)

    def fill(self, host):
        self.tensors["x"].copyFrom(host)

    def getSessionOutput(self, session):
        return self.tensors["y"]

    def runSession(self, session):
        self.tensors["y"].array = 2 * self.tensors["x"].array
        return self.code


def install_mnn(monkeypatch, interpreter):
    names = {"Halide_Type_Float": "float", "Tensor_DimensionType_Caffe": "NCHW", "Tensor": FakeTensor}
    monkeypatch.setitem(sys.modules, "MNN", SimpleNamespace(Interpreter=lambda path: interpreter, **names))


def test_mnn_computes_in_real_float32_with_winograd_and_the_threads_asked_for(monkeypatch):
    interpreter = FakeInterpreter()
    install_mnn(monkeypatch, interpreter)
    runner = mnn_net.load(2, "original.mnn", [1, 3, 2, 2])
    config = {"backend": "CPU", "numThread": 2, "precision": "high"}
    assert interpreter.said == [("hint", mnn_net.WINOGRAD_HINT, mnn_net.LARGEST), ("session", config)]
    x = np.arange(12, dtype=np.float32).reshape(1, 3, 2, 2)
    buffer = runner.y
    runner.bind(x)
    runner.run()
    np.testing.assert_array_equal(runner.outputs()[0], 2 * x)
    assert runner.y is buffer
    interpreter.code = 3
    with pytest.raises(PeerError, match="code 3"):
        runner.run()


def test_an_mnn_without_an_interpreter_is_named_with_the_version_that_has_one(monkeypatch):
    monkeypatch.setitem(sys.modules, "MNN", SimpleNamespace())
    monkeypatch.setattr("dovetail.peers.peer.version", absent)
    with pytest.raises(PeerError, match=r"^MNN of unknown version is not as expected .*Interpreter.*pip install MNN=="):
        mnn_net.load(1, "original.mnn", [1, 3, 2, 2])


def absent(package):
    raise PackageNotFoundError(package)


def test_what_is_not_installed_says_how_to_install_it(tmp_path, monkeypatch):
    monkeypatch.setattr("dovetail.peers.peer.find_spec", lambda name: None)
    with pytest.raises(PeerError, match=r"ncnn: not installed: ncnn; pip install '\.\[winograd\]' in a checkout"):
        LAYERWISE["ncnn"].target(source(nn.Conv2d(6, 6, 1)), tmp_path)
