"""Layers of a model that run on kernels instead of torch's ops."""

from __future__ import annotations

from types import TracebackType
from typing import Any, Self

from torch import nn

from dovetail.errors import GpuError
from dovetail.formats.block_circulant.layer import BlockCirculantLinear
from dovetail.formats.layer import FormatLayer
from dovetail.formats.permuted_diagonal.layer import PermutedDiagonalLinear
from dovetail.formats.tucker.layer import TuckerConv2d
from dovetail.gpu import launching
from dovetail.gpu.block_circulant.layer import BlockCirculantKernels
from dovetail.gpu.permuted_diagonal.layer import PermutedDiagonalKernels
from dovetail.gpu.tucker.choice import PRECISIONS
from dovetail.gpu.tucker.layer import TuckerKernels

KERNELS: dict[type[FormatLayer], Any] = {
    TuckerConv2d: TuckerKernels,
    PermutedDiagonalLinear: PermutedDiagonalKernels,
    BlockCirculantLinear: BlockCirculantKernels,
}
"""Format layer → the same layer on kernels. A format with kernels is a row here."""


class Kernels:
    """What `use_kernels` has changed; at the end of a `with` block, or by `restore`, all is as before.

    Attributes:
        taken: names of the layers that run on kernels.
        left: format layers that do not, and why.
    """

    def __init__(self, model: nn.Module, precision: str, tiles: str) -> None:
        self.taken: list[str] = []
        self.left: dict[str, str] = {}
        self._changed: list[tuple[FormatLayer, type[FormatLayer]]] = []
        layers = {name: layer for name, layer in model.named_modules() if isinstance(layer, FormatLayer)}
        for name, layer in layers.items():
            if (kind := KERNELS.get(type(layer))) is not None:
                _require_tiles(kind, name, layer, tiles)
        for name, layer in layers.items():
            if (reason := _why_left(layer)) is not None:
                self.left[name] = reason
                continue
            kind = KERNELS[type(layer)]
            self._changed.append((layer, type(layer)))
            _become(layer, kind)
            layer.__dict__.update(kernel_precision=precision, kernel_tiles=tiles)
            self.taken.append(name)

    def restore(self) -> None:
        """Back to torch's ops."""
        while self._changed:
            layer, kind = self._changed.pop()
            if isinstance(layer, TuckerKernels):
                layer.lay_back()
            _become(layer, kind)
            for name in ("kernel_precision", "kernel_tiles", "kernel_strides", "kernel_spectra"):
                layer.__dict__.pop(name, None)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.restore()


def use_kernels(model: nn.Module, *, precision: str = "ieee", tiles: str = "auto") -> Kernels:
    """Let the format layers of a model run on kernels wherever their tensors lie on a GPU.

    Parameters, gradients, `state_dict`, packing and export stay the same; where there is no GPU, so do the numbers. The
    model is changed in place, until the end of a `with` block where the answer is used for one.

    Args:
        model: any module; a single format layer too.
        precision: of products of float32: "ieee", "tf32x3" or "tf32".
        tiles: "auto", "model", "oracle" or "exhaustive", see `tucker_conv2d`; or a plan, where all layers are of one
            format.

    Raises:
        GpuError: a precision that does not exist, or tiles that are none of a layer; nothing is changed then.
    """
    if precision not in PRECISIONS:
        raise GpuError(f"precision {precision!r} is unknown; known are {', '.join(PRECISIONS)}")
    return Kernels(model, precision, tiles)


def _require_tiles(kind: Any, name: str, layer: FormatLayer, tiles: str) -> None:
    try:
        kind.require_tiles(layer, tiles)
    except GpuError as error:
        raise GpuError(f"layer {name!r}: {error}") from None


def _why_left(layer: FormatLayer) -> str | None:
    if type(layer) in KERNELS.values():
        return "it runs on kernels already"
    if type(layer) not in KERNELS:
        return f"{type(layer).__name__} has no kernels for GPUs"
    return next((why for own in layer.parameters() if (why := launching.too_old(own.device))), None)


def _become(layer: FormatLayer, kind: type[FormatLayer]) -> None:
    """The same object, of another class: hooks, names and references to it stay."""
    layer.__class__ = kind
    if isinstance(layer, TuckerKernels):
        layer.lay_out()
