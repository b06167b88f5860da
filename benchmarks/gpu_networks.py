"""The networks of `gpu_tucker.py`: random weights, norms folded away, and Tucker layers on the kernels.

Nothing here needs a GPU.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dovetail import zoo
from dovetail.errors import RecipeError
from dovetail.export.torch_module import FUNCTIONS, _like
from dovetail.formats import TuckerSpec, spec_from_json
from dovetail.formats.layer import FormatLayer, from_packed, numpy, parameter, swap
from dovetail.formats.tucker.layer import TuckerConv2d
from dovetail.formats.tucker.packed import PackedTucker, hosvd
from dovetail.formats.values import F32
from dovetail.gpu import tucker_conv2d
from dovetail.gpu.tucker.memory import crsn
from dovetail.methods.base import Plan
from dovetail.program.lower import lower
from dovetail.program.program import BATCH, Node, Program, bind_shape

SHEETS = Path(__file__).parent / "networks"
NETWORKS = {
    "resnet18": ("resnet18_224", "tucker_tdc"),
    "resnet50": ("resnet50_224", "tucker_tdc"),
    "vgg16": ("vgg16_224", "tucker_tdc_convs"),
    "densenet121": ("densenet121_224", "tucker_tdc"),
}
"""Name in the results → sheet, and the variant that says the ranks."""

SETTLING = 8


@dataclass(frozen=True)
class Network:
    """A network before and after, as Programs."""

    name: str
    size: tuple[int, ...]
    dense: Program
    tucker: Program

    def image(self, batch: int) -> Tensor:
        """Seeded random numbers."""
        return torch.randn((batch, *self.size), generator=torch.Generator().manual_seed(0))


def build(name: str, **options: Any) -> Network:
    """The network `name` with seeded random weights, dense and with the ranks that TDC ships for it."""
    sheet, variant = read_sheet(*NETWORKS[name])
    size = tuple(sheet["input"])
    torch.manual_seed(0)
    model = zoo.build(sheet["network"]["name"], **{**sheet["network"].get("options", {}), **options})
    images = torch.randn((SETTLING, *size), generator=torch.Generator().manual_seed(1))
    return Network(name, size, *pair(model, variant["layers"], images))


def read_sheet(sheet: str, variant: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """A sheet, and one of its variants."""
    import yaml

    data = yaml.safe_load((SHEETS / f"{sheet}.yaml").read_text())
    if variant not in data["variants"]:
        raise RecipeError(f"sheet {sheet} has no variant {variant!r}; it has {', '.join(data['variants'])}")
    return data, data["variants"][variant]


def pair(model: nn.Module, layers: Mapping[str, Any], images: Tensor) -> tuple[Program, Program]:
    """The Programs of a model and of the same with these layers in formats; norms take the statistics of the images."""
    changed = copy.deepcopy(model)
    plan = Plan({name: spec_from_json(spec) for name, spec in layers.items()}).resolve(changed)
    for name, spec in plan.items():
        if isinstance(spec, TuckerSpec):
            swap(changed, name, low_rank(changed.get_submodule(name), spec))
    dense, tucker = (lower(settled(each, images), images[:1]) for each in (model, changed))
    return dense, tucker


def low_rank(layer: nn.Module, spec: TuckerSpec) -> nn.Module:
    """The layer by its leading singular vectors, not refined: for times this is as good, and much sooner done."""
    weight = numpy(layer.weight).astype(np.float64)
    spec.check(weight.shape)
    output, inputs = hosvd(weight, spec.rank_out, spec.rank_in)
    core = np.einsum("kcrs,kb,ca->bars", weight, output, inputs, optimize=True)
    return from_packed(layer, PackedTucker.from_factors(output, core, inputs.T, spec))


def settled(model: nn.Module, images: Tensor) -> nn.Module:
    """Numbers then neither vanish nor explode on their way."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 1.0
    with torch.no_grad():
        model.train()(images)
    return model.eval()


class Weighted(nn.Module):
    """A layer and all that follows it; with `kernels`, a Tucker layer is one op, without, three convolutions."""

    def __init__(self, layer: nn.Module, relu: bool, kernels: bool, precision: str, tiles: str) -> None:
        super().__init__()
        self.layer, self.relu = layer, relu
        self.kernels = kernels and isinstance(layer, TuckerConv2d)
        self.precision, self.tiles = precision, tiles
        if isinstance(layer, TuckerConv2d) and self.kernels:
            layer.core.data = crsn(layer.core.data)

    def forward(self, x: Tensor, residual: Tensor | None = None) -> Tensor:
        """The layer, the residual added, then ReLU."""
        layer: Any = self.layer
        if self.kernels:
            return tucker_conv2d(
                x, layer.input, layer.core, layer.output, layer.bias, layer.stride, layer.padding, layer.dilation,
                residual=residual, relu=self.relu, precision=self.precision, tiles=self.tiles,
            )  # fmt: skip
        y: Tensor = layer(x)
        y = y if residual is None else y + residual
        return F.relu(y) if self.relu else y


class Plain(nn.Module):
    """An op without a weight."""

    def __init__(self, op: str, attributes: Mapping[str, Any], relu: bool) -> None:
        super().__init__()
        self.function, self.attributes, self.relu = FUNCTIONS[op], dict(attributes), relu

    def forward(self, *operands: Tensor) -> Tensor:
        """The op, then ReLU."""
        y = self.function(*operands, **self.attributes)
        return F.relu(y) if self.relu else y


class Affine(nn.Module):
    """The norm of a map that no layer before it could take in, then ReLU."""

    def __init__(self, scale: np.ndarray, shift: np.ndarray, relu: bool) -> None:
        super().__init__()
        self.scale, self.shift = (parameter(part[:, None, None], torch.empty(0)) for part in (scale, shift))
        self.relu = relu

    def forward(self, x: Tensor) -> Tensor:
        """`(N, C, H, W)`, as the input."""
        y = torch.addcmul(self.shift, x, self.scale)
        return F.relu(y) if self.relu else y


class Folded(nn.Module):
    """A Program in torch for inference at one batch size: norms are folded into weights, plain layers are torch's own.

    Networks with and without `kernels` differ in nothing but the Tucker layers.
    """

    def __init__(
        self, program: Program, batch: int, *, kernels: bool = False, precision: str = "ieee", tiles: str = "auto"
    ) -> None:
        super().__init__()
        graph = program.graph
        self.input, self.output = graph.inputs[0], graph.outputs[0]
        self.steps = nn.ModuleList()
        self.wires: list[tuple[tuple[str, ...], str]] = []
        for node in graph.nodes:
            residual = node.epilogue.residual
            relu = _is_relu(node)
            if node.weight is not None:
                step: nn.Module = Weighted(_folded(node, program), relu, kernels, precision, tiles)
            elif node.op == "affine":
                step = Affine(*_norm(node, program), relu)
            else:
                step = Plain(node.op, _bound(node, batch), relu)
            self.steps.append(step)
            self.wires.append(((*node.inputs, *([residual] if residual else ())), node.output))
        self.eval().requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        """The network's output."""
        values = {self.input: x}
        for step, (inputs, output) in zip(self.steps, self.wires):
            values[output] = step(*(values[name] for name in inputs))
        return values[self.output]


def _folded(node: Node, program: Program) -> nn.Module:
    """The layer of a node, its scale in the weight and its bias a bias; plain formats as torch's layers."""
    arrays, epilogue = program.arrays, node.epilogue
    scale = None if epilogue.scale is None else arrays[epilogue.scale]
    packed = program.weights[str(node.weight)].cast(F32, scale)
    layer = from_packed(_like(node, packed.shape), packed)
    if isinstance(layer, FormatLayer) and not isinstance(layer, TuckerConv2d):
        layer = layer.to_dense()
    if epilogue.bias is not None:
        layer.bias = parameter(arrays[epilogue.bias], next(layer.parameters()))
    return layer


def _norm(node: Node, program: Program) -> tuple[np.ndarray, np.ndarray]:
    """Scale and shift of each channel; `RecipeError` where these networks have no such norm."""
    epilogue = node.epilogue
    if epilogue.scale is None or epilogue.bias is None or node.attributes["axis"] != 1:
        raise RecipeError(f"node {node.name!r} is no norm of a map: a scale and a shift along axis 1")
    return program.arrays[epilogue.scale], program.arrays[epilogue.bias]


def _is_relu(node: Node) -> bool:
    """Whether ReLU is the end of a node; `RecipeError` where the end is something that these networks do not have."""
    epilogue, plain = node.epilogue, node.weight is None
    activation = epilogue.activation
    residual = plain and epilogue.residual is not None
    scaled = plain and node.op != "affine" and not (epilogue.scale is epilogue.bias is None)
    if residual or scaled or (activation is not None and activation.name != "relu"):
        raise RecipeError(f"node {node.name!r} ends in {epilogue}; this benchmark knows residuals and ReLU")
    return activation is not None


def _bound(node: Node, batch: int) -> dict[str, Any]:
    """The attributes, sizes as numbers."""
    attributes = dict(node.attributes)
    if "shape" in attributes:
        attributes["shape"] = bind_shape(attributes["shape"], {BATCH: batch})
    return attributes
