"""ncnn on the CPU in f32, for single layers: it knows Winograd's filtering, as onnxruntime and OpenVINO on x86 do not.

A layer is written in ncnn's own files (a text of layers, and raw float32 weights): no converter is needed. Numbers of
half the size, which ncnn would take by itself, are switched off before loading. Memory comes from ncnn's own pools, as
in its own benchmarks, so that no run asks the system for any.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from dovetail.errors import PeerError
from dovetail.peers.peer import Arguments, Images, Runner, Source, expecting

if TYPE_CHECKING:
    from torch import nn

TRIED = "1.0.20261020"
MAGIC = 7767517
FLOAT32 = b"\0\0\0\0"  # the tag before weights that are stored as they are
SWITCHES = {"fp16": False, "bf16": False, "winograd": True}
"""All options with these words in their names; which there are differs from version to version."""


def export(source: Source, folder: Path, dtype: str) -> Arguments:
    """Write `<name>.ncnn.param` and `<name>.ncnn.bin` of the one layer of the source; `PeerError` for other networks.

    (`<name>.bin` in the same folder holds OpenVINO's weights.)
    """
    layer = _the_layer(source)
    path = folder / f"{source.name}.ncnn.param"
    path.write_text(f"{MAGIC}\n2 2\nInput input 0 1 x\n{_line(layer)}\n")
    parts = [np.asarray(part.detach(), np.float32) for part in (layer.weight, layer.bias) if part is not None]
    path.with_suffix(".bin").write_bytes(FLOAT32 + b"".join(part.tobytes() for part in parts))
    return {"path": str(path)}


def _the_layer(source: Source) -> nn.Conv2d | nn.Linear:
    from torch import nn

    layers = [module for module in source.model.modules() if not list(module.children())]
    layer = layers[0] if len(layers) == 1 else None
    if not isinstance(layer, nn.Conv2d | nn.Linear) or len(source.example) != 1:
        raise PeerError("ncnn: takes part with single layers and single images only")
    if isinstance(layer, nn.Conv2d) and (isinstance(layer.padding, str) or layer.padding_mode != "zeros"):
        given = f"padding={layer.padding!r} of {layer.padding_mode!r}"
        raise PeerError(f"ncnn: takes part with convolutions that are padded by numbers, with zeros; this has {given}")
    return layer


def _line(layer: Any) -> str:
    """The layer with its numbered parameters, from blob x to blob y."""
    from torch import nn

    size, bias = layer.weight.numel(), int(layer.bias is not None)
    if isinstance(layer, nn.Linear):
        return f"InnerProduct layer 1 1 x y 0={layer.out_features} 1={bias} 2={size}"
    (kernel_h, kernel_w), (stride_h, stride_w) = layer.kernel_size, layer.stride
    (dilation_h, dilation_w), (pad_h, pad_w) = layer.dilation, layer.padding
    kind, groups = ("Convolution", "") if layer.groups == 1 else ("ConvolutionDepthWise", f" 7={layer.groups}")
    return (
        f"{kind} layer 1 1 x y 0={layer.out_channels} 1={kernel_w} 11={kernel_h} 2={dilation_w} 12={dilation_h} "
        f"3={stride_w} 13={stride_h} 4={pad_w} 14={pad_h} 15={pad_w} 16={pad_h} 5={bias} 6={size}{groups}"
    )


def load(threads: int, path: str) -> Runner:
    """A net in real float32 on so many threads."""
    with expecting("ncnn", TRIED):
        import ncnn

        net, pools = ncnn.Net(), (ncnn.UnlockedPoolAllocator(), ncnn.PoolAllocator())
        net.opt.num_threads = threads
        net.opt.use_vulkan_compute = False
        net.opt.blob_allocator, net.opt.workspace_allocator = pools
        for word, state in SWITCHES.items():
            _switch(net.opt, word, state)
        if net.load_param(path) or net.load_model(str(Path(path).with_suffix(".bin"))):
            raise PeerError("ncnn: cannot load what was written for it")
    return _Runner(ncnn, net, pools)


def _switch(options: Any, word: str, state: bool) -> None:
    names = [name for name in dir(options) if word in name]
    if not names:
        raise AttributeError(f"there is no option for {word}")
    for name in names:
        setattr(options, name, state)


class _Runner:
    def __init__(self, ncnn: Any, net: Any, pools: tuple[Any, ...]) -> None:
        self.y: Any = None  # Python lets go of attributes in this order, and what came from the pools must go first
        self.net = net
        self.pools = pools
        self.ncnn = ncnn

    def bind(self, x: Images) -> None:
        self.x = x[0]  # the Mat sees this memory but does not hold it
        self.mat = self.ncnn.Mat(self.x)

    def run(self) -> None:
        extractor = self.net.create_extractor()
        extractor.input("x", self.mat)
        failed, self.y = extractor.extract("y")
        if failed:  # the Mat is then empty, and reading it would end the process
            raise PeerError(f"ncnn: the run failed with code {failed}")

    def outputs(self) -> tuple[np.ndarray, ...]:
        return (np.array(self.y)[None],)
