"""Who may race: the table of peers, and what one competitor is as plain data.

A peer is a module of this package with two functions. `export(source, folder, dtype)` runs once in the parent, uses
the peer's own exporter and answers with plain arguments; `load(threads, **arguments)` runs in a child process and
answers with a `Runner`. No pickle of a user's class ever crosses between the two: only files and JSON.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, Final, Protocol

import numpy as np

from dovetail.errors import PeerError, install_hint

if TYPE_CHECKING:
    from torch import Tensor, nn

Images = np.ndarray
Arguments = dict[str, Any]


class Runner(Protocol):
    """A loaded network inside a child process. Only `run` is timed."""

    def bind(self, x: Images) -> None:
        """Take the input, a contiguous array of the example's shape; all buffers are made here."""

    def run(self) -> None:
        """Run once on the bound input, to the end."""

    def outputs(self) -> tuple[np.ndarray, ...]:
        """What the last run gave; the arrays may be overwritten by the next one."""


@dataclass(frozen=True)
class Source:
    """What an exporter works from.

    Attributes:
        model: in evaluation mode.
        example: float32, `(batch, ...)`; every target is built for exactly this shape.
        calibration: float32 `(n, ...)` images for post-training quantization, n a multiple of the batch; or None.
        name: prefix of the exported files, one per network and form of it.
    """

    model: nn.Module
    example: Tensor
    calibration: Images | None = None
    name: str = "original"


@dataclass(frozen=True)
class Target:
    """One competitor as plain data.

    Attributes:
        name: in rows and ratios; unique in a race.
        dtype: of the arithmetic: "f32", "bf16", "int8".
        module: what holds its `load` function.
        arguments: for `load`, JSON data.
        reference: which network its outputs are compared with, "original", "compressed" or "beside".
        quiet: it times its own kernels while loading, so nothing else may load beside it.
    """

    name: str
    dtype: str
    module: str
    arguments: Mapping[str, Any] = field(default_factory=dict)
    reference: str = "original"
    quiet: bool = False


@dataclass(frozen=True)
class Peer:
    """A row of the table: a runtime with the type it computes in.

    Attributes:
        needs: the distributions that must be installed, the runtime itself first.
        orientation: shown beside the others but never a baseline (eager torch: beating it is worth nothing).
        same: also runs our own network for `vs_same`, in every form of it; not torch.compile, which takes longest to
            build and, at twice the time of the others on decomposed networks, would never be the best.
        asked: takes part where it is named alone: peers for networks of linear layers.
        extra: of Dovetail, that installs what it needs.
        options: further arguments for `load`, JSON data: two rows may be one runtime in two settings.
    """

    name: str
    dtype: str
    module: str
    needs: tuple[str, ...]
    orientation: bool = False
    same: bool = True
    asked: bool = False
    extra: str = "peers"
    options: Mapping[str, Any] = field(default_factory=dict)

    def target(self, source: Source, folder: Path, *, suffix: str = "") -> Target:
        """Export the source's network into `folder`; `PeerError` says why this peer cannot take part."""
        if missing := [name for name in self.needs if find_spec(name) is None]:
            raise PeerError(f"{self.name}: not installed: {', '.join(missing)}; {install_hint(self.extra)}")
        try:
            arguments = self._load_module().export(source, folder, self.dtype)
        except PeerError:
            raise
        except Exception as error:  # exporters raise anything; the race goes on without this peer
            raise PeerError(f"{self.name}: export failed: {first_line(error)}") from error
        return Target(self.name + suffix, self.dtype, self.module, {**arguments, **self.options}, source.name)

    def _load_module(self) -> ModuleType:
        return importlib.import_module(self.module)


_ONNX = ("onnxruntime", "onnx", "onnxscript")
_OPENVINO = ("openvino",)
_MNN = ("dovetail.peers.mnn_net", ("MNN", "onnx", "onnxscript"))

PEERS: Final[dict[str, Peer]] = {
    peer.name: peer
    for peer in (
        Peer("onnxruntime", "f32", "dovetail.peers.onnx_runtime", _ONNX),
        Peer("openvino-f32", "f32", "dovetail.peers.open_vino", _OPENVINO),
        Peer("openvino-bf16", "bf16", "dovetail.peers.open_vino", _OPENVINO),
        Peer("openvino-int8", "int8", "dovetail.peers.open_vino", (*_OPENVINO, "nncf")),
        Peer("onnxruntime-int4", "int4", "dovetail.peers.onnx_runtime", (*_ONNX, "onnx_ir"), same=False, asked=True),
        Peer("openvino-int4", "int4", "dovetail.peers.open_vino", (*_OPENVINO, "nncf"), same=False, asked=True),
        Peer("torch-compile", "f32", "dovetail.peers.torch_compile", ("torch",), same=False),
        Peer("torch-eager", "f32", "dovetail.peers.torch_eager", ("torch",), orientation=True, same=False),
    )
}
LAYERWISE: Final[dict[str, Peer]] = {
    peer.name: peer
    for peer in (
        *(PEERS[name] for name in ("onnxruntime", "openvino-f32", "openvino-int8")),
        Peer("ncnn", "f32", "dovetail.peers.ncnn_net", ("ncnn",), extra="winograd"),
        Peer("mnn", "f32", *_MNN, extra="winograd"),
        Peer("mnn-winograd2", "f32", *_MNN, extra="winograd", options={"winograd": 1}),
    )
}
"""Those that the shape suite times on single layers: the last three for their Winograd filtering.

MNN takes part twice: left alone, it uses tiles of up to 6x6 outputs, whose errors come near `F32_TOLERANCE` and on some
layers exceed it; in tiles of 2x2 it keeps the digits of float32 everywhere, and is slower.
"""

DEFAULT: Final[Sequence[str]] = tuple(name for name, peer in PEERS.items() if not (peer.orientation or peer.asked))
OF_MATRICES: Final[Sequence[str]] = (*DEFAULT, *(name for name, peer in PEERS.items() if peer.asked))
"""Of networks without convolutions, too, those that store the weights of linear layers in 4 bits."""


def peer_named(name: str) -> Peer:
    """The peer called `name`; `PeerError` lists the known ones."""
    if name not in PEERS:
        raise PeerError(f"unknown peer {name!r}; known are {', '.join(PEERS)}")
    return PEERS[name]


@contextmanager
def expecting(package: str, tried: str) -> Iterator[None]:
    """Where a runtime lacks what is asked of it: a `PeerError` with its version and the one that was tried."""
    try:
        yield
    except (AttributeError, ImportError, TypeError) as error:
        told = f"{package} {_version(package)} is not as expected ({first_line(error)}); tried was {tried}"
        raise PeerError(f"{told}: pip install {package}=={tried}") from error


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "of unknown version"


def first_line(error: BaseException, width: int = 200) -> str:
    """The kind and first line of an exception, for a one-line reason."""
    text = str(error).strip().partition("\n")[0]
    return f"{type(error).__name__}: {text}"[:width] if text else type(error).__name__
