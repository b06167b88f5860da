"""What the torch layers of all formats share: geometry, bias, and three ways to appear in a graph.

A format layer trains in standard torch ops. While a model is lowered it appears as one opaque op that names the layer,
so that lowering never has to recognise three convolutions as one Tucker layer; while a model is exported to ONNX it
appears in the factored standard ops.
"""

from __future__ import annotations

import contextlib
import copy
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextvars import ContextVar
from typing import Any, Literal, NoReturn, Self, TypeVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dovetail.errors import DovetailError, InputError, SpecError
from dovetail.formats.base import FORMATS, Packed, Shape, Spec, format_named

Dense = TypeVar("Dense", nn.Conv2d, nn.Linear)
Appearance = Literal["train", "opaque", "factored"]
_appearance: ContextVar[Appearance] = ContextVar("appearance", default="train")
_compiled: Appearance = "train"
_library: Any = torch.library.Library("dovetail", "FRAGMENT")  # type: ignore[no-untyped-call]
_library.define("format_layer(Tensor x, str layer, int[] tail, int[] stride, int[] padding, int[] dilation) -> Tensor")


@contextlib.contextmanager
def appear(how: Appearance) -> Iterator[None]:
    """Within: format layers appear as `how` ("train", one "opaque" op, or their "factored" standard ops)."""
    token = _appearance.set(how)
    try:
        yield
    finally:
        _appearance.reset(token)


@contextlib.contextmanager
def compiled_as(how: Appearance) -> Iterator[None]:
    """Within: in what dynamo compiles, which reads globals, format layers appear as `how`."""
    global _compiled  # noqa: PLW0603
    before, _compiled = _compiled, how
    try:
        yield
    finally:
        _compiled = before


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
    def from_dense(cls, layer: Any, spec: Any) -> Self:
        """The best approximation of an `nn.Conv2d` or `nn.Linear`, its bias and geometry copied."""

    @classmethod
    def from_packed(cls, like: Any, packed: Any) -> Self:
        """A layer that holds `packed`; bias, geometry, device and type are those of `like`, a dense or format layer."""
        if packed.shape != weight_shape(like):
            raise SpecError(f"a packed weight of shape {packed.shape} does not fit a layer of {weight_shape(like)}")
        return cls(like, packed)

    @property
    def has_factored_form(self) -> bool:
        """Whether `factored` differs from what the layer trains with."""
        return False

    @property
    @abstractmethod
    def weight_shape(self) -> Shape:
        """Of the dense weight: `(K, C/groups, R, S)` or `(K, C)`."""

    @abstractmethod
    def weight(self) -> Tensor:
        """The dense weight that this layer stands for, differentiable in its parameters."""

    @abstractmethod
    def pack(self) -> Packed:
        """The weight as numpy, in the layer's format."""

    @abstractmethod
    def to_dense(self) -> nn.Module:
        """An ordinary layer of the same function."""

    @abstractmethod
    def _slice(self, out: Tensor, into: Tensor) -> None:
        """Keep these rows and columns (indices) of the weight, in place; the base class does the rest."""

    @abstractmethod
    def _resize(self, outputs: int, inputs: int) -> None:
        """Note the new channel counts."""

    def slice_channels(self, out_keep: Tensor | None = None, in_keep: Tensor | None = None) -> Self:
        """A new layer with only these output and input channels (indices or booleans; None keeps all).

        A depthwise convolution must keep the same channels on both sides; other groups cannot lose channels.
        """
        groups = getattr(self, "groups", 1)
        outputs, inputs = self.weight_shape[0], self.weight_shape[1] * groups
        out, into = _indices(out_keep, outputs, self), _indices(in_keep, inputs, self)
        layer = copy.deepcopy(self)
        if groups > 1:
            if len(out) == outputs and len(into) == inputs:
                return layer
            if not (groups == outputs == inputs and torch.equal(out, into)):
                raise SpecError(f"layer {self.name!r}: its {groups} groups cannot lose single channels; keep them all")
        layer._slice(out, into if groups == 1 else torch.zeros_like(into[:1]))
        if self.bias is not None:
            layer.bias = parameter(self.bias[out], self.bias)
        layer._resize(len(out), len(into))
        return layer


class FormatConv2d(FormatLayer):
    """Base of the convolutions; subclasses give `weight`, `pack`, and `factored` where it differs.

    `like`, an `nn.Conv2d` or another format convolution, lends geometry and bias; padding is zeros.
    """

    padding_mode: Literal["zeros"] = "zeros"
    in_channels: int
    out_channels: int
    groups: int
    kernel_size: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[int, int]
    dilation: tuple[int, int]

    def __init__(self, like: nn.Conv2d | FormatConv2d, spec: Spec) -> None:
        super().__init__()
        _require_plain(like)
        self.spec = spec
        self.name = ""
        self.in_channels, self.out_channels, self.groups = like.in_channels, like.out_channels, like.groups
        self.kernel_size = _pair(like.kernel_size)
        self.stride, self.padding, self.dilation = _pair(like.stride), _padding(like), _pair(like.dilation)
        self.bias = None if like.bias is None else parameter(like.bias, like.bias)

    @property
    def weight_shape(self) -> Shape:
        """`(K, C/groups, R, S)`."""
        return (self.out_channels, self.in_channels // self.groups, *self.kernel_size)

    def forward(self, x: Tensor) -> Tensor:
        """`(N, C, H, W)` to `(N, K, H', W')`."""
        match appearance():
            case "opaque":
                tail = [self.out_channels, *self.kernel_size]
                y: Tensor = torch.ops.dovetail.format_layer(
                    x, self.name, tail, self.stride, self.padding, self.dilation
                )
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
        return F.conv2d(x, weight, bias, self.stride, self.padding, self.dilation, self.groups)

    def to_dense(self) -> nn.Conv2d:
        """An `nn.Conv2d` of the same function."""
        geometry = (self.kernel_size, self.stride, self.padding, self.dilation, self.groups)
        dense = nn.Conv2d(self.in_channels, self.out_channels, *geometry, bias=self.bias is not None, device="meta")
        return filled(dense, self.weight(), self.bias)

    def _resize(self, outputs: int, inputs: int) -> None:
        self.out_channels, self.in_channels = outputs, inputs
        self.groups = outputs if self.groups > 1 else 1

    def extra_repr(self) -> str:
        """What `print(model)` shows."""
        channels = f"{self.in_channels}, {self.out_channels}"
        return f"{channels}, kernel_size={self.kernel_size}, stride={self.stride}, {self.spec}"


class FormatLinear(FormatLayer):
    """Base of the linear layers; subclasses give `weight`, `pack`, and `factored` where it differs."""

    in_features: int
    out_features: int

    def __init__(self, like: nn.Linear | FormatLinear, spec: Spec) -> None:
        super().__init__()
        self.spec = spec
        self.name = ""
        self.in_features, self.out_features = like.in_features, like.out_features
        self.bias = None if like.bias is None else parameter(like.bias, like.bias)

    @property
    def weight_shape(self) -> Shape:
        """`(K, C)`."""
        return (self.out_features, self.in_features)

    def forward(self, x: Tensor) -> Tensor:
        """`(..., C)` to `(..., K)`."""
        match appearance():
            case "opaque":
                y: Tensor = torch.ops.dovetail.format_layer(x, self.name, [self.out_features], [], [], [])
                return y if self.bias is None else y + self.bias
            case "factored":
                return self.factored(x)
        return self.compute(x)

    def compute(self, x: Tensor) -> Tensor:
        """What training and eager use run: one product with the recomposed weight, unless a format knows better."""
        return F.linear(x, self.weight(), self.bias)

    def factored(self, x: Tensor) -> Tensor:
        """The same function in standard ops that show the structure (what ONNX gets)."""
        return self.compute(x)

    def to_dense(self) -> nn.Linear:
        """An `nn.Linear` of the same function."""
        dense = nn.Linear(self.in_features, self.out_features, self.bias is not None, device="meta")
        return filled(dense, self.weight(), self.bias)

    def _resize(self, outputs: int, inputs: int) -> None:
        self.out_features, self.in_features = outputs, inputs

    def extra_repr(self) -> str:
        """What `print(model)` shows."""
        return f"{self.in_features}, {self.out_features}, {self.spec}"


def from_dense(layer: nn.Module, spec: Spec, name: str = "") -> nn.Module:
    """The `nn.Conv2d` or `nn.Linear` in the format of `spec`; `name` is the layer's, for messages."""
    spec.check(weight_shape(layer), name)
    made: nn.Module = format_named(spec.format).layer.from_dense(layer, spec)
    return made


def from_packed(like: nn.Module, packed: Packed) -> nn.Module:
    """A layer that holds `packed`, with the bias and geometry of `like`, a dense or format layer."""
    made: nn.Module = format_named(packed.spec.format).layer.from_packed(like, packed)
    return made


def pack(layer: nn.Module) -> Packed:
    """The weight of a format layer in its format, of an `nn.Conv2d` or `nn.Linear` as it is."""
    if isinstance(layer, FormatLayer):
        return layer.pack()
    weight_shape(layer)
    dense = FORMATS["dense"]
    return dense.packed.from_dense(numpy(layer.weight), dense.spec())  # type: ignore[arg-type]


def weight_shape(layer: nn.Module) -> Shape:
    """Shape of the dense weight of an `nn.Conv2d`, an `nn.Linear` or a format layer."""
    if isinstance(layer, FormatLayer):
        return layer.weight_shape
    if isinstance(layer, nn.Conv2d | nn.Linear):
        return tuple(layer.weight.shape)
    raise SpecError(f"formats hold nn.Conv2d and nn.Linear, not {type(layer).__name__}")


def straight(values: Tensor, rounded: Tensor) -> Tensor:
    """The numbers of `rounded`, with the gradient of `values`: as if nothing had been rounded."""
    return values + (rounded - values).detach()


def swap(model: nn.Module, name: str, layer: nn.Module) -> None:
    """Replace the submodule called `name` in place; a format layer learns its name."""
    if not name:
        raise SpecError("a model that is a single layer cannot be changed in place; put it into an nn.Sequential")
    if name not in dict(model.named_modules(remove_duplicate=False)):
        raise SpecError(f"the model has no layer {name!r} to replace")
    parent, _, child = name.rpartition(".")
    setattr(model.get_submodule(parent), child, layer)
    if isinstance(layer, FormatLayer):
        layer.name = name


def numpy(tensor: Tensor) -> np.ndarray:
    """A float32 copy on the host."""
    return tensor.detach().to("cpu", torch.float32).numpy().copy()


def parameter(values: Tensor | np.ndarray, like: Tensor) -> nn.Parameter:
    """A copy of `values` as a parameter of the device, type and trainability of `like`."""
    data = torch.tensor(values) if isinstance(values, np.ndarray) else values.detach()  # arrays may be read-only
    return nn.Parameter(data.to(like.device, like.dtype, copy=True).contiguous(), requires_grad=like.requires_grad)


def first_parameter(layer: nn.Module) -> Tensor:
    """A parameter of the layer, for its device, type and trainability."""
    return next(layer.parameters())


def require_ungrouped(layer: nn.Module, spec: Spec) -> None:
    """`SpecError` for a grouped convolution, which `spec` cannot hold."""
    if getattr(layer, "groups", 1) != 1:
        raise SpecError(f"format {spec.format!r} holds no grouped convolutions (groups={layer.groups}); keep it dense")


def filled(dense: Dense, weight: Tensor, bias: Tensor | None) -> Dense:
    """`dense`, made on the meta device so that no random numbers are drawn, with these numbers."""
    dense.weight = parameter(weight, weight.detach())
    dense.weight.requires_grad_()
    if bias is not None:
        dense.bias = parameter(bias, bias)
    return dense


def appearance() -> Appearance:
    """How layers appear now. Dynamo cannot read context variables; what it compiles trains, but in `compiled_as`."""
    return _compiled if torch.compiler.is_dynamo_compiling() else _appearance.get()


def _opaque_meta(
    x: Tensor,
    layer: str,
    tail: list[int],
    stride: list[int],
    padding: list[int],
    dilation: list[int],
) -> Tensor:
    if len(tail) == 1:
        return x.new_empty((*x.shape[:-1], tail[0]))
    if x.dim() != 4:
        raise InputError(f"layer {layer!r} takes images of shape (N, C, H, W), not {tuple(x.shape)}")
    spatial = [
        (x.shape[2 + i] + 2 * padding[i] - dilation[i] * (tail[1 + i] - 1) - 1) // stride[i] + 1 for i in range(2)
    ]
    return x.new_empty((x.shape[0], tail[0], *spatial))


def _opaque_eager(x: Tensor, layer: str, *_: list[int]) -> NoReturn:
    raise DovetailError(
        f"layer {layer!r} appears as an opaque op, which has a shape but no numbers; "
        f'run the model outside of appear("opaque"), or lower the exported graph'
    )


_library.impl("format_layer", _opaque_meta, "Meta")
for _device in ("CPU", "CUDA"):
    _library.impl("format_layer", _opaque_eager, _device)


def _indices(keep: Tensor | None, count: int, layer: FormatLayer) -> Tensor:
    device = first_parameter(layer).device
    if keep is None:
        return torch.arange(count, device=device)
    keep = torch.as_tensor(keep, device=device)
    if keep.dtype == torch.bool:
        if keep.shape != (count,):
            raise SpecError(f"layer {layer.name!r}: a mask of shape {tuple(keep.shape)} for {count} channels")
        keep = keep.nonzero().flatten()
    if not len(keep) or int(keep.min()) < 0 or int(keep.max()) >= count:
        raise SpecError(f"layer {layer.name!r}: channels to keep must be some of its {count}, not {keep.tolist()}")
    return keep


def _pair(value: Any) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else (int(value[0]), int(value[1]))


def _padding(like: nn.Conv2d | FormatConv2d) -> tuple[int, int]:
    if like.padding == "valid":
        return (0, 0)
    if like.padding == "same":
        (h, w), (r, s) = _pair(like.dilation), _pair(like.kernel_size)
        return (h * (r - 1) // 2, w * (s - 1) // 2)
    return _pair(like.padding)


def _require_plain(like: nn.Conv2d | FormatConv2d) -> None:
    if like.padding_mode != "zeros":
        raise SpecError(f"formats hold zero-padded convolutions, not padding_mode={like.padding_mode!r}; keep it dense")
    even = any(d * (k - 1) % 2 for d, k in zip(_pair(like.dilation), _pair(like.kernel_size)))
    if like.padding == "same" and even:
        raise SpecError("padding='same' with an even kernel pads unevenly; keep this layer dense or pad before it")
