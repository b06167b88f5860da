"""What the torch layers of all formats share: geometry, bias, and three ways to appear in a graph.

A format layer trains in standard torch ops. While a model is lowered it appears as one opaque op that names the layer,
so that lowering never has to recognise three convolutions as one Tucker layer; while a model is exported to ONNX it
appears in the factored standard ops.
"""

from __future__ import annotations

import contextlib
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextvars import ContextVar
from typing import Any, Literal, Self

import numpy as np
import torch
from torch import Tensor, nn

from dovetail.formats.base import Packed, Spec

Appearance = Literal["train", "opaque", "factored"]
_appearance: ContextVar[Appearance] = ContextVar("appearance", default="train")
_library = torch.library.Library("dovetail", "FRAGMENT")
_library.define("format_layer(Tensor x, str layer, int[] tail, int[] stride, int[] padding, int[] dilation) -> Tensor")


@contextlib.contextmanager
def appear(how: Appearance) -> Iterator[None]:
    """Within: format layers appear as `how` ("train", one "opaque" op, or their "factored" standard ops)."""
    token = _appearance.set(how)
    try:
        yield
    finally:
        _appearance.reset(token)


class FormatLayer(nn.Module, ABC):
    """A convolution or linear layer whose weight is held in a format.

    Attributes:
        spec: the format's parameters.
        name: the layer's name in its model; `swap` sets it, lowering reads it.
        bias: `(K,)` or None.
    """

    spec: Spec
    name: str
    bias: nn.Parameter | None

    @classmethod
    @abstractmethod
    def from_dense(cls, layer: nn.Module, spec: Any) -> Self:
        """The best approximation of an `nn.Conv2d` or `nn.Linear`, its bias and geometry copied."""

    @abstractmethod
    def weight(self) -> Tensor:
        """The dense weight that this layer stands for, differentiable in its parameters."""

    @abstractmethod
    def pack(self) -> Packed:
        """The weight as numpy, in the layer's format."""

    @abstractmethod
    def to_dense(self) -> nn.Module:
        """An ordinary layer of the same function."""


class FormatConv2d(FormatLayer):
    """Base of the convolutions; subclasses give `weight`, `pack`, and `factored` where it differs.

    Args of `__init__` are those of `nn.Conv2d`; padding is zeros.
    """

    def __init__(self, like: nn.Conv2d, spec: Spec) -> None:
        super().__init__()
        _require_plain(like)
        self.spec = spec
        self.name = ""
        self.in_channels, self.out_channels, self.groups = like.in_channels, like.out_channels, like.groups
        self.kernel_size = _pair(like.kernel_size)
        self.stride, self.padding, self.dilation = _pair(like.stride), _padding(like), _pair(like.dilation)
        self.bias = None if like.bias is None else nn.Parameter(like.bias.detach().clone())

    def forward(self, x: Tensor) -> Tensor:
        """`(N, C, H, W)` to `(N, K, H', W')`."""
        match _appearance.get():
            case "opaque":
                tail = [self.out_channels, *self.kernel_size]
                y = torch.ops.dovetail.format_layer(x, self.name, tail, self.stride, self.padding, self.dilation)
                return y if self.bias is None else y + self.bias.view(-1, 1, 1)
            case "factored":
                return self.factored(x)
        return self.compute(x)

    def compute(self, x: Tensor) -> Tensor:
        """What training and eager use run: one convolution with the recomposed weight, unless a format knows better."""
        return self.convolve(x, self.weight(), self.bias)

    def factored(self, x: Tensor) -> Tensor:
        """The same function in standard ops that show the structure (what ONNX gets)."""
        return self.compute(x)

    def convolve(self, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        """A convolution of this layer's geometry with the given weight."""
        return nn.functional.conv2d(x, weight, bias, self.stride, self.padding, self.dilation, self.groups)

    def to_dense(self) -> nn.Conv2d:
        """An `nn.Conv2d` of the same function."""
        dense = nn.Conv2d(self.in_channels, self.out_channels, self.kernel_size, self.stride, self.padding, self.dilation, self.groups, self.bias is not None)
        return _filled(dense, self.weight(), self.bias)

    def extra_repr(self) -> str:
        """What `print(model)` shows."""
        return f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}, stride={self.stride}, {self.spec}"


class FormatLinear(FormatLayer):
    """Base of the linear layers; subclasses give `weight`, `pack`, and `factored` where it differs."""

    def __init__(self, like: nn.Linear, spec: Spec) -> None:
        super().__init__()
        self.spec = spec
        self.name = ""
        self.in_features, self.out_features = like.in_features, like.out_features
        self.bias = None if like.bias is None else nn.Parameter(like.bias.detach().clone())

    def forward(self, x: Tensor) -> Tensor:
        """`(..., C)` to `(..., K)`."""
        match _appearance.get():
            case "opaque":
                y = torch.ops.dovetail.format_layer(x, self.name, [self.out_features], [], [], [])
                return y if self.bias is None else y + self.bias
            case "factored":
                return self.factored(x)
        return self.compute(x)

    def compute(self, x: Tensor) -> Tensor:
        """What training and eager use run: one product with the recomposed weight, unless a format knows better."""
        return nn.functional.linear(x, self.weight(), self.bias)

    def factored(self, x: Tensor) -> Tensor:
        """The same function in standard ops that show the structure (what ONNX gets)."""
        return self.compute(x)

    def to_dense(self) -> nn.Linear:
        """An `nn.Linear` of the same function."""
        return _filled(nn.Linear(self.in_features, self.out_features, self.bias is not None), self.weight(), self.bias)

    def extra_repr(self) -> str:
        """What `print(model)` shows."""
        return f"{self.in_features}, {self.out_features}, {self.spec}"


def swap(model: nn.Module, name: str, layer: nn.Module) -> None:
    """Replace the submodule called `name` in place; a format layer learns its name."""
    parent, _, child = name.rpartition(".")
    setattr(model.get_submodule(parent), child, layer)
    if isinstance(layer, FormatLayer):
        layer.name = name


def numpy(tensor: Tensor) -> np.ndarray:
    """A float32 copy on the host."""
    return tensor.detach().to("cpu", torch.float32).numpy().copy()


def _opaque_meta(x: Tensor, layer: str, tail: list[int], stride: list[int], padding: list[int], dilation: list[int]) -> Tensor:  # noqa: ARG001
    if len(tail) == 1:
        return x.new_empty((*x.shape[:-1], tail[0]))
    spatial = [
        (x.shape[2 + i] + 2 * padding[i] - dilation[i] * (tail[1 + i] - 1) - 1) // stride[i] + 1 for i in range(2)
    ]
    return x.new_empty((x.shape[0], tail[0], *spatial))


_library.impl("format_layer", _opaque_meta, "Meta")


def _pair(value: Any) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else (int(value[0]), int(value[1]))


def _padding(like: nn.Conv2d) -> tuple[int, int]:
    if like.padding == "valid":
        return (0, 0)
    if like.padding == "same":
        return tuple(d * (k - 1) // 2 for d, k in zip(_pair(like.dilation), _pair(like.kernel_size)))  # type: ignore[return-value]
    return _pair(like.padding)


def _require_plain(like: nn.Conv2d) -> None:
    from dovetail.errors import SpecError

    if like.padding_mode != "zeros":
        raise SpecError(f"formats hold convolutions with zero padding, not padding_mode={like.padding_mode!r}; keep this layer dense")
    even = any(d * (k - 1) % 2 for d, k in zip(_pair(like.dilation), _pair(like.kernel_size)))
    if like.padding == "same" and even:
        raise SpecError("padding='same' with an even kernel pads unevenly; keep this layer dense or pad before it")


def _filled(dense: Any, weight: Tensor, bias: Tensor | None) -> Any:
    with torch.no_grad():
        dense.weight.copy_(weight)
        if bias is not None:
            dense.bias.copy_(bias)
    return dense.to(weight.device)
