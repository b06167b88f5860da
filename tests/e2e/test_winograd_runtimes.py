"""ncnn and MNN themselves, each in a process of its own, on layers whose answer is known. Skipped where they are not.

Nothing here asserts which is faster.
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from dovetail.peers.agreement import F32_TOLERANCE, max_error
from dovetail.peers.peer import LAYERWISE, Source
from dovetail.peers.process import Child

pytestmark = pytest.mark.slow
RUNTIMES = ("ncnn", "mnn", "mnn-winograd2")
LAYERS = {
    "3x3": (nn.Conv2d(16, 16, 3, padding=1), (16, 12, 12)),
    "odd sizes": (nn.Conv2d(6, 5, 3, padding=1), (6, 9, 7)),
    "stride 2": (nn.Conv2d(8, 12, 3, 2, 1), (8, 11, 13)),
    "1x1": (nn.Conv2d(8, 12, 1, 2), (8, 7, 5)),
    "depthwise": (nn.Conv2d(8, 8, 3, padding=1, groups=8), (8, 9, 7)),
    "two depthwise filters a channel": (nn.Conv2d(8, 16, 3, padding=1, groups=8), (8, 9, 7)),
    "groups": (nn.Conv2d(8, 12, 3, padding=1, groups=2), (8, 9, 7)),
    "nothing square": (nn.Conv2d(6, 4, (3, 5), (2, 1), (1, 2), (1, 2)), (6, 11, 13)),
    "even": (nn.Conv2d(8, 8, 2), (8, 7, 7)),
    "one pixel": (nn.Conv2d(8, 8, 3, padding=1), (8, 1, 1)),
    "no bias": (nn.Conv2d(8, 8, 3, bias=False), (8, 7, 7)),
    "linear": (nn.Linear(30, 7), (30,)),
}


class Runtime:
    """A peer in its process, which is given one layer after the other; exported layers are kept by name."""

    def __init__(self, name: str, folder: Path) -> None:
        self.peer, self.folder = LAYERWISE[name], folder
        if missing := [package for package in self.peer.needs if find_spec(package) is None]:
            pytest.skip(f"not installed: {', '.join(missing)}")
        self.child: Child | None = None

    def load(self, name: str, layer: nn.Module, images: np.ndarray, threads: int) -> None:
        source = Source(nn.Sequential(layer).eval(), torch.from_numpy(images[:1]), name=name.replace(" ", "-"))
        target = self.peer.target(source, self.folder)
        self.child = self.child or Child(target, 1, self.folder)  # one thread for numpy's own pool
        np.save(self.folder / "example.npy", images[:1])
        arguments = {"module": target.module, "arguments": dict(target.arguments), "threads": threads}
        self.child.ask("load", **arguments, example=str(self.folder / "example.npy"))

    def outputs(self, name: str, layer: nn.Module, images: np.ndarray, threads: int = 1) -> np.ndarray:
        """What it computes, image by image."""
        self.load(name, layer, images, threads)
        np.save(self.folder / "images.npy", images)
        names = {"images": str(self.folder / "images.npy"), "result": str(self.folder / "result.npz")}
        self.child.ask("outputs", **names)
        with np.load(names["result"]) as arrays:
            return arrays["arr_0"]

    def close(self) -> int | None:
        """The exit status of its process."""
        if self.child is None:
            return None
        self.child.close()
        return self.child.process.returncode


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("layers")


@pytest.fixture(scope="module", params=RUNTIMES)
def runtime(request, folder):
    runtime = Runtime(request.param, folder)
    yield runtime
    runtime.close()


def seeded(layer: nn.Module) -> nn.Module:
    """The layer with weights that do not depend on which tests ran before."""
    torch.manual_seed(0)
    layer.reset_parameters()
    return layer


def truth(layer: nn.Module, images: np.ndarray) -> np.ndarray:
    """In double precision."""
    with torch.inference_mode():
        found = layer.double()(torch.from_numpy(images).double()).numpy()
        layer.float()
        return found


@pytest.mark.parametrize("name", LAYERS)
def test_layers_are_computed_as_torch_does(runtime, name):
    layer, shape = seeded(LAYERS[name][0]), LAYERS[name][1]
    images = np.random.default_rng(0).standard_normal((2, *shape), dtype=np.float32)
    want = truth(layer, images)
    for threads in (1, 2):
        error = max_error([runtime.outputs(name, layer, images, threads)], [want])
        assert error < (F32_TOLERANCE if runtime.peer.name == "mnn" else 1e-5)


def whole_numbers(layer: nn.Conv2d) -> tuple[nn.Conv2d, np.ndarray]:
    """Weights and an image of whole numbers, so large that the sums of a layer just stay below 2^24.

    float32 then adds them up without any error, in whatever order; numbers of half the size cannot hold them, and
    Winograd's filtering needs their fractions too.
    """
    draw = np.random.default_rng(0)
    with torch.no_grad():
        layer.weight.copy_(torch.from_numpy(draw.integers(-1000, 1001, layer.weight.shape).astype(np.float32)))
        layer.bias.zero_()
    return layer, draw.integers(-255, 256, (1, layer.in_channels, 32, 32)).astype(np.float32)


@pytest.mark.parametrize("name", ["whole 3x3 of stride 2", "whole 1x1"])
def test_numbers_are_real_float32(runtime, name):
    layer, image = whole_numbers(nn.Conv2d(64, 64, 3, 2, 1) if "stride" in name else nn.Conv2d(64, 64, 1))
    want = truth(layer, image)
    assert 2**20 < np.abs(want).max() < 2**24
    np.testing.assert_array_equal(runtime.outputs(name, layer, image), want)


def test_3x3_layers_are_filtered_as_winograd_found(runtime):
    layer, image = whole_numbers(nn.Conv2d(64, 64, 3, padding=1))
    want = truth(layer, image)
    assert np.abs(want).max() < 2**24
    wrong = np.abs(runtime.outputs("whole 3x3", layer, image) - want).max()
    assert 0 < wrong < F32_TOLERANCE * np.ptp(want)


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="counts threads in /proc")
def test_it_computes_on_as_many_threads_as_asked_for(runtime, folder):
    layer, images = nn.Conv2d(64, 64, 3, padding=1), np.zeros((1, 64, 32, 32), np.float32)
    counts = []
    for threads in (1, 2, 4):
        fresh = Runtime(runtime.peer.name, folder)
        fresh.load("zeros", layer, images, threads)
        counts.append(len(list(Path(f"/proc/{fresh.child.process.pid}/task").iterdir())))
        assert fresh.close() == 0  # nothing that it holds trips over the rest of it on the way out
    assert [count - counts[0] for count in counts] == [0, 1, 3]
