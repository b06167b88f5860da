"""A Program as a torch module again: its nodes as torch ops, its packed weights as format layers that can train."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dovetail.errors import InputError
from dovetail.export.lstms import FoundLstm, find_lstm, without_layers
from dovetail.formats.base import Packed
from dovetail.formats.layer import from_packed
from dovetail.formats.recurrent import Lstm, walk
from dovetail.program.integer import CODES
from dovetail.program.ops import channel_axis
from dovetail.program.program import SCAN, Activation, Epilogue, Graph, Node, Program, bind_shape
from dovetail.program.program import Shape as ProgramShape
from dovetail.program.program import Tensor as ProgramTensor

Pads = tuple[int, int, int, int]


def to_torch(program: Program, *, rounded: bool = True) -> ProgramModule:
    """A module of the same function as the program's main graph, in evaluation mode.

    Weights become the layers of their formats (`SparseConv2d`, `TuckerConv2d`, …), a shared weight one shared layer;
    scales, biases and norm parameters become parameters. Tensors that hold codes are rounded to what these stand for,
    in real numbers (so they can train); the result is that of whole numbers up to a rare step of one code. Without
    `rounded` they are real numbers like any other: for runtimes that choose codes of their own.
    """
    return ProgramModule(program, rounded=rounded).eval()


class ProgramModule(nn.Module):
    """Runs the main graph of a Program node by node.

    Attributes:
        layers: by weight and geometry; names have `/` for `.`.
        lstms: the scans that are one, likewise, with layers and biases of their own.
        arrays: scales, biases, norm parameters and constant operands, likewise.
        rounded: whether tensors that hold codes are rounded to what these stand for.
    """

    def __init__(self, program: Program, *, rounded: bool = True) -> None:
        super().__init__()
        self.graph, self.rounded = _plain(program.graph), rounded
        self.bodies = {name: _plain(body) for name, body in program.bodies(self.graph).items()}
        self.layers, self.lstms = nn.ModuleDict(), nn.ModuleDict()
        self.arrays = nn.ParameterDict({_key(name): torch.tensor(array) for name, array in program.arrays.items()})
        self._add_lstms(program)
        for graph in (self.graph, *self.bodies.values()):
            for node in graph.nodes:
                if node.weight is not None:
                    self._add_layer(node, program.weights[node.weight])

    def forward(self, *inputs: Tensor) -> Tensor | tuple[Tensor, ...]:
        """The outputs of the graph for its inputs."""
        if len(inputs) != len(self.graph.inputs):
            raise InputError(f"{len(inputs)} inputs given; this network takes {len(self.graph.inputs)}")
        values = dict(zip(self.graph.inputs, inputs))
        outputs = self._through(self.graph, values, self.graph.dims_of({n: tuple(x.shape) for n, x in values.items()}))
        return outputs[0] if len(outputs) == 1 else outputs

    def _through(self, graph: Graph, values: dict[str, Tensor], dims: Mapping[str, int]) -> tuple[Tensor, ...]:
        """The outputs of a graph, whose inputs are in `values`."""
        for node in graph.nodes:
            y = self._run(node, values, dims)
            values[node.output] = as_codes(y, graph.tensors[node.output]) if self.rounded else y
        return tuple(values[name] for name in graph.outputs)

    def _scan(self, node: Node, operands: Sequence[Tensor], dims: Mapping[str, int]) -> Tensor:
        body, count = self.bodies[node.attributes["body"]], node.attributes["sequences"]
        shapes = [bind_shape(body.tensors[name].shape, dims) for name in body.inputs[count:]]
        states = operands[count:] or [operands[0].new_zeros(shape) for shape in shapes]

        def step(steps: Sequence[Tensor], before: Sequence[Tensor]) -> tuple[Tensor, ...]:
            return self._through(body, dict(zip(body.inputs, (*steps, *before))), dims)

        return walk(step, operands[:count], states, last=node.attributes["last"])

    def _run(self, node: Node, values: Mapping[str, Tensor], dims: Mapping[str, int]) -> Tensor:
        operands = [self._value(name, values) for name in node.inputs]
        if node.op == SCAN:
            if _key(node.name) in self.lstms:
                return torch.as_tensor(self.lstms[_key(node.name)](operands[0], operands[1:]))
            return self._scan(node, operands, dims)
        if node.weight is not None:
            y = self._weighted(node, operands[0])
        else:
            attributes = dict(node.attributes)
            if "shape" in attributes:
                attributes["shape"] = bind_shape(attributes["shape"], dims)
            y = FUNCTIONS[node.op](*operands, **attributes)
        return self._finish(node, y, values)

    def _weighted(self, node: Node, x: Tensor) -> Tensor:
        pads = node.attributes.get("padding", (0, 0, 0, 0))
        if not _even(pads):
            x = _padded(x, pads, 0.0)
        return torch.as_tensor(self.layers[_layer_key(node)](x))

    def _finish(self, node: Node, y: Tensor, values: Mapping[str, Tensor]) -> Tensor:
        epilogue: Epilogue = node.epilogue
        along = [1] * y.ndim
        if epilogue.scale is not None or epilogue.bias is not None:
            along[channel_axis(node, y.ndim)] = -1
        if epilogue.scale is not None:
            y = y * self.arrays[_key(epilogue.scale)].view(along)
        if epilogue.bias is not None:
            y = y + self.arrays[_key(epilogue.bias)].view(along)
        if epilogue.residual is not None:
            y = y + values[epilogue.residual]
        return y if epilogue.activation is None else activate(y, epilogue.activation)

    def _value(self, name: str, values: Mapping[str, Tensor]) -> Tensor:
        return values[name] if name in values else self.arrays[_key(name)]

    def _add_lstms(self, program: Program) -> None:
        """Scans that are an LSTM become one, unless something of theirs is shared."""
        every = [node for graph in (self.graph, *self.bodies.values()) for node in graph.nodes]
        uses = Counter(
            name for node in every for name in (node.weight, node.epilogue.bias, node.attributes.get("body"))
        )
        done = []
        for node in self.graph.nodes:
            found = find_lstm(self.graph, node, self.bodies[node.attributes["body"]]) if node.op == SCAN else None
            if found is not None and all(uses[name] == 1 for name in found.owns()):
                self.lstms[_key(node.name)] = self._lstm(found, program)
                done.append(found)
        self.graph = without_layers(self.graph, done)
        for lstm in done:
            del self.bodies[lstm.scan.attributes["body"]]

    def _lstm(self, found: FoundLstm, program: Program) -> Lstm:
        hidden, inputs = program.weights[str(found.reads[0].weight)].shape
        lstm = Lstm(inputs, hidden, last=found.scan.attributes["last"])
        for node, name in zip(found.layers(), [f"{side}_{gate}" for side in "xh" for gate in Lstm.GATES]):
            packed, bias = program.weights[str(node.weight)], node.epilogue.bias
            like = _like(node, packed.shape)
            if bias is not None:
                like.register_parameter("bias", self.arrays.pop(_key(bias)))
            lstm.set_submodule(name, from_packed(like, packed))
        return lstm

    def _add_layer(self, node: Node, packed: Packed) -> None:
        key = _layer_key(node)
        if key in self.layers:
            return
        layer = from_packed(_like(node, packed.shape), packed)
        for other, shared in self.layers.items():
            if other.partition("@")[0] == _key(str(node.weight)):
                for name, parameter in shared.named_parameters():
                    setattr(layer, name, parameter)
        self.layers[key] = layer


def activate(x: Tensor, activation: Activation) -> Tensor:
    """The activation in torch."""
    return ACTIVATION_FUNCTIONS[activation.name](x, *activation.args)


def as_codes(x: Tensor, tensor: ProgramTensor) -> Tensor:
    """The numbers that the codes of `tensor` stand for, nearest to `x`; `x` itself where it holds real numbers."""
    if tensor.scale is None or tensor.zero is None:
        return x
    if torch.compiler.is_exporting():  # ops that every exporter knows
        codes = torch.clamp(torch.round(x * (1 / tensor.scale)) + tensor.zero, 0, CODES)
        return (codes - tensor.zero) * tensor.scale
    return torch.fake_quantize_per_tensor_affine(x, tensor.scale, tensor.zero, 0, CODES)


def _plain(graph: Graph) -> Graph:
    """The graph with attributes in plain dicts: torch's compiler, which exporters bring to scans, reads no others."""
    return replace(graph, nodes=tuple(replace(node, attributes=dict(node.attributes)) for node in graph.nodes))


def _key(name: str) -> str:
    """Module and parameter names cannot hold dots."""
    return name.replace(".", "/")


def _layer_key(node: Node) -> str:
    """One layer per weight and geometry; most weights have one geometry."""
    geometry = node.attributes
    if not geometry:
        return _key(str(node.weight))
    numbers = [*geometry["stride"], *geometry["padding"], *geometry["dilation"], geometry["groups"]]
    return f"{_key(str(node.weight))}@{'-'.join(map(str, numbers))}"


def _like(node: Node, shape: tuple[int, ...]) -> nn.Module:
    """A plain layer of the node's geometry; uneven padding is done before it."""
    if len(shape) == 2:
        return nn.Linear(shape[1], shape[0], bias=False)
    geometry = node.attributes
    pads, groups = geometry["padding"], geometry["groups"]
    padding = (pads[0], pads[2]) if _even(pads) else (0, 0)
    stride, dilation, kernel = geometry["stride"], geometry["dilation"], (shape[2], shape[3])
    return nn.Conv2d(shape[1] * groups, shape[0], kernel, stride, padding, dilation, groups, bias=False)


def _even(pads: Pads) -> bool:
    return pads[0] == pads[1] and pads[2] == pads[3]


def _padded(x: Tensor, pads: Pads, value: float) -> Tensor:
    top, bottom, left, right = pads
    return F.pad(x, (left, right, top, bottom), value=value) if any(pads) else x


def _same(x: Tensor, **_: Any) -> Tensor:
    return x


def _max_pool2d(x: Tensor, *, kernel: Any, stride: Any, padding: Pads, dilation: Any) -> Tensor:
    return F.max_pool2d(_padded(x, padding, -torch.inf), kernel, stride, 0, dilation)


def _avg_pool2d(x: Tensor, *, kernel: Any, stride: Any, padding: Pads, include_pad: bool) -> Tensor:
    mean = F.avg_pool2d(_padded(x, padding, 0.0), kernel, stride)
    inside = _padded(torch.ones_like(x[:1, :1]), padding, float(include_pad))
    return mean / F.avg_pool2d(inside, kernel, stride)


def _adaptive_avg_pool2d(x: Tensor, *, output: Any) -> Tensor:
    return F.adaptive_avg_pool2d(x, output)


def _adaptive_max_pool2d(x: Tensor, *, output: Any) -> Tensor:
    return F.adaptive_max_pool2d(x, output)


def _slice(x: Tensor, *, axis: int, start: int, stop: int, step: int) -> Tensor:
    return x[(slice(None),) * axis + (slice(start, stop, step),)]


def _reshape(x: Tensor, *, shape: ProgramShape) -> Tensor:
    return x.reshape(shape)  # type: ignore[arg-type]


def _pad(x: Tensor, *, pads: Any, value: float) -> Tensor:
    return F.pad(x, [n for pair in reversed(pads) for n in pair], value=value)


def _layer_norm(
    x: Tensor, weight: Tensor | None = None, bias: Tensor | None = None, *, axes: int, eps: float
) -> Tensor:
    return F.layer_norm(x, x.shape[-axes:], weight, bias, eps)


FUNCTIONS: Final[dict[str, Callable[..., Tensor]]] = {
    "affine": _same,
    "activation": _same,
    "quantize": _same,
    "dequantize": _same,
    "add": torch.add,
    "mul": torch.mul,
    "max_pool2d": _max_pool2d,
    "avg_pool2d": _avg_pool2d,
    "adaptive_avg_pool2d": _adaptive_avg_pool2d,
    "adaptive_max_pool2d": _adaptive_max_pool2d,
    "mean": lambda x, axes, keepdims: x.mean(axes, keepdim=keepdims),
    "concat": lambda *parts, axis: torch.cat(parts, axis),
    "slice": _slice,
    "reshape": _reshape,
    "permute": lambda x, order: x.permute(order),
    "pad": _pad,
    "matmul": torch.matmul,
    "softmax": lambda x, axis: x.softmax(axis),
    "layer_norm": _layer_norm,
    "upsample_nearest": lambda x, scale: x.repeat_interleave(scale[0], 2).repeat_interleave(scale[1], 3),
}

ACTIVATION_FUNCTIONS: Final[dict[str, Callable[..., Tensor]]] = {
    "relu": F.relu,
    "clamp": torch.clamp,
    "leaky_relu": F.leaky_relu,
    "sigmoid": torch.sigmoid,
    "tanh": torch.tanh,
    "hardswish": F.hardswish,
    "silu": F.silu,
    "gelu": F.gelu,
    "gelu_tanh": lambda x: F.gelu(x, approximate="tanh"),
}
