"""Layers that walk along time: an LSTM whose every matrix is a layer of its own, and what such layers have in common.

While lowering, a recurrent layer is one op that names it, as format layers are (`formats.layer.appear`): what it does
at one time step becomes a graph of the Program by itself, and the length of the sequence stays unknown. In ONNX it is a
`Scan`.
"""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

import torch
from torch import Tensor, nn

from dovetail.errors import DovetailError, InputError, SpecError
from dovetail.formats.layer import FormatLayer, appearance, compiled_as

_library: Any = torch.library.Library("dovetail", "FRAGMENT")  # type: ignore[no-untyped-call]
_library.define("recurrent_layer(Tensor[] sequences, Tensor[] states, str layer, int width, bool last) -> Tensor")


OneStep = Callable[[Sequence[Tensor], Sequence[Tensor]], tuple[Tensor, ...]]


class Recurrent(nn.Module, ABC):
    """A layer with states of `(N, width)` each, the first of which is what it puts out.

    Attributes:
        widths: of the states.
        features: C of the inputs, if only one will do.
        last: put out the state after the last step alone, `(N, width)`; else one for every step, `(N, T, width)`.
        name: the layer's name in its model, which lowering reads.
    """

    def __init__(self, widths: Sequence[int], *, features: int | None = None, last: bool = False) -> None:
        super().__init__()
        self.widths, self.features, self.last, self.name = tuple(widths), features, last, ""

    @abstractmethod
    def sequences(self, x: Tensor) -> tuple[Tensor, ...]:
        """What can be computed for all time steps at once: tensors `(N, T, ...)`, of which a step reads one time."""

    @abstractmethod
    def step(self, steps: Sequence[Tensor], states: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """The new states, from one time step of each sequence, `(N, ...)`, and the states before it."""

    def forward(self, x: Tensor, states: Sequence[Tensor] = ()) -> Tensor:
        """`(N, T, C)` to `(N, T, width)`, or `(N, width)` with `last`; the states begin as given, or at zero.

        Raises:
            InputError: the input is no sequence, or the states are not those of the layer.
        """
        self._require(x, states)
        if appearance() != "opaque":
            return walk(self.step, self.sequences(x), self._initial(x, states), last=self.last)
        y: Tensor = torch.ops.dovetail.recurrent_layer(
            self.sequences(x), list(states), self.name, self.widths[0], self.last
        )
        return y

    def _initial(self, x: Tensor, states: Sequence[Tensor]) -> tuple[Tensor, ...]:
        return tuple(states) or tuple(x.new_zeros(x.shape[0], width) for width in self.widths)

    def _require(self, x: Tensor, states: Sequence[Tensor]) -> None:
        wrong = x.dim() != 3 or (isinstance(x.shape[1], int) and x.shape[1] < 1)
        if wrong or (self.features is not None and x.shape[2] != self.features):
            wants = f"sequences (N, T, {self.features or 'C'}) of at least one step"
            raise InputError(f"layer {self.name!r} takes {wants}, not {tuple(x.shape)}")
        wanted = [(x.shape[0], width) for width in self.widths]
        if states and [tuple(state.shape) for state in states] != wanted:
            given = ", ".join(str(tuple(state.shape)) for state in states)
            raise InputError(f"layer {self.name!r} begins with states of {wanted}, not {given}")


class Lstm(Recurrent):
    """A long short-term memory (Hochreiter and Schmidhuber 1997, with forget gates) of eight `nn.Linear`.

    Of the gates i (input), f (forget), g (candidate) and o (output), `x_*` read the input and have the bias, `h_*` the
    state before: every format and method applies to each of them by its name.

        i, f, o = sigmoid(x_*(x_t) + h_*(h)),  g = tanh(x_g(x_t) + h_g(h)),  c' = f c + i g,  h' = o tanh(c')

    It is the function of `torch.nn.LSTM` with one layer, `batch_first=True`, and both its biases added up. It begins as
    that one does, but with a bias of 1 at the forget gate, so that it learns over many steps (Jozefowicz et al. 2015).

    Args:
        inputs: C of `(N, T, C)`.
        hidden: width of h and c.
        last: as `Recurrent` has it.
    """

    GATES = ("i", "f", "g", "o")  # in torch's order
    x_i: nn.Module
    x_f: nn.Module
    x_g: nn.Module
    x_o: nn.Module
    h_i: nn.Module
    h_f: nn.Module
    h_g: nn.Module
    h_o: nn.Module

    def __init__(self, inputs: int, hidden: int, *, last: bool = False) -> None:
        for words, count in (("inputs", inputs), ("hidden", hidden)):
            if isinstance(count, bool) or not isinstance(count, int) or count < 1:
                raise SpecError(f"an Lstm's {words} must be a whole number of at least 1, not {count!r}")
        super().__init__((hidden, hidden), features=inputs, last=last)
        bound = hidden**-0.5
        for side, width in (("x", inputs), ("h", hidden)):
            for gate in self.GATES:
                layer = nn.Linear(width, hidden, bias=side == "x")
                for parameter in layer.parameters():
                    nn.init.uniform_(parameter, -bound, bound)
                setattr(self, f"{side}_{gate}", layer)
        nn.init.ones_(self.x_f.get_parameter("bias"))

    @classmethod
    def from_torch(cls, lstm: nn.LSTM, *, last: bool = False) -> Lstm:
        """The same function as a `torch.nn.LSTM` of one layer; its inputs are taken with the batch first.

        Raises:
            SpecError: it has several layers, two directions or a projection.
        """
        if lstm.num_layers != 1 or lstm.bidirectional or lstm.proj_size:
            raise SpecError("an Lstm is one layer in one direction without projection; convert such layers one by one")
        own = {name.removesuffix("_l0"): parameter.detach() for name, parameter in lstm.named_parameters()}
        made = cls(lstm.input_size, lstm.hidden_size, last=last).to(own["weight_ih"])
        bias = own["bias_ih"] + own["bias_hh"] if lstm.bias else torch.zeros_like(own["weight_ih"][:, 0])
        for gate, x, h, b in zip(cls.GATES, *(w.chunk(4) for w in (own["weight_ih"], own["weight_hh"], bias))):
            made.get_submodule(f"x_{gate}").load_state_dict({"weight": x, "bias": b})
            made.get_submodule(f"h_{gate}").load_state_dict({"weight": h})
        return made

    def fused(self) -> FusedLstm:
        """The same function with the matrices of all gates in one, as other runtimes have kernels for it.

        Raises:
            SpecError: a matrix is of another format than dense.
        """
        gates = [[self.get_submodule(f"{side}_{gate}") for gate in self.GATES] for side in ("x", "h")]
        if not all(isinstance(layer, nn.Linear) for side in gates for layer in side):
            raise SpecError(f"layer {self.name!r} has no form as one matrix: not all of its eight are dense")
        (reads, remembers), first = gates, gates[0][0].get_parameter("weight")
        made = FusedLstm(nn.LSTM(first.shape[1], self.widths[0], batch_first=True).to(first), last=self.last)
        parts = {
            "weight_ih_l0": [layer.get_parameter("weight") for layer in reads],
            "weight_hh_l0": [layer.get_parameter("weight") for layer in remembers],
            "bias_ih_l0": [layer.get_parameter("bias") for layer in reads],
        }
        whole = {name: torch.cat([part.detach() for part in each]) for name, each in parts.items()}
        made.lstm.load_state_dict(whole | {"bias_hh_l0": torch.zeros_like(whole["bias_ih_l0"])})
        return made.train(self.training)

    def sequences(self, x: Tensor) -> tuple[Tensor, ...]:
        """What the input adds to each gate, `(N, T, hidden)` each."""
        return self.x_i(x), self.x_f(x), self.x_g(x), self.x_o(x)

    def step(self, steps: Sequence[Tensor], states: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """New h and c."""
        (x_i, x_f, x_g, x_o), (h, c) = steps, states
        i, f = torch.sigmoid(x_i + self.h_i(h)), torch.sigmoid(x_f + self.h_f(h))
        g, o = torch.tanh(x_g + self.h_g(h)), torch.sigmoid(x_o + self.h_o(h))
        c = f * c + i * g
        return o * torch.tanh(c), c

    def extra_repr(self) -> str:
        """What `print(model)` shows."""
        return f"last={self.last}"


class FusedLstm(nn.Module):
    """A `torch.nn.LSTM` that is called as an `Lstm` is."""

    def __init__(self, lstm: nn.LSTM, *, last: bool) -> None:
        super().__init__()
        self.lstm, self.last = lstm, last

    def forward(self, x: Tensor, states: Sequence[Tensor] = ()) -> Tensor:
        """See `Recurrent.forward`."""
        y, (h, _) = self.lstm(x, tuple(state.unsqueeze(0) for state in states) or None)
        out: Tensor = h[0] if self.last else y
        return out


def with_fused(model: nn.Module, *, recompose: bool = False) -> nn.Module:
    """`model` itself, or a copy of it in which every `Lstm` of dense matrices is fused.

    With `recompose` every other `Lstm`, too: its matrices in formats are made dense.
    """
    if not any(isinstance(module, Lstm) for module in model.modules()):
        return model
    model = copy.deepcopy(model)
    for name, module in list(model.named_modules()):
        if not isinstance(module, Lstm):
            continue
        if recompose:
            _make_dense(module)
        if all(isinstance(part, nn.Linear) for part in module.children()):
            if not name:
                return module.fused()
            model.set_submodule(name, module.fused())
    return model


def _make_dense(layer: nn.Module) -> None:
    for name, part in list(layer.named_children()):
        if isinstance(part, FormatLayer):
            setattr(layer, name, part.to_dense())


def has_factored_form(model: nn.Module) -> bool:
    """Whether `appear("factored")` changes what the model is made of: a layer's ops, or a loop that is not unrolled."""
    layers = (module for module in model.modules() if isinstance(module, FormatLayer | Recurrent))
    return any(isinstance(layer, Recurrent) or layer.has_factored_form for layer in layers)


def walk(step: OneStep, sequences: Sequence[Tensor], states: Sequence[Tensor], *, last: bool) -> Tensor:
    """The first state after every step, `(N, T, ...)`, or after the last alone.

    Args:
        step: gives new states from one time step of each sequence and the states before it.
        sequences: `(N, T, ...)` each.
        states: before the first step.
        last: whether only the state after the last step is wanted.
    """
    if appearance() == "factored" and not _is_traced():
        return _scanned(step, sequences, states, last=last)
    made = []
    for steps in zip(*(x.unbind(1) for x in sequences), strict=True):
        states = step(steps, states)
        made.append(states[0])
    return states[0] if last else torch.stack(made, dim=1)


def _is_traced() -> bool:
    """Whether `torch.jit.trace` is at work, which knows no scan."""
    return bool(torch.jit.is_tracing())  # type: ignore[attr-defined, no-untyped-call]


def _scanned(step: OneStep, sequences: Sequence[Tensor], states: Sequence[Tensor], *, last: bool) -> Tensor:
    """As torch's own scan, which exporters do not unroll. Torch has it under this private name only.

    What torch has compiled before is forgotten: a scan of a fixed length would be taken for one of any length again.
    It wants states before the first step that lie in memory as those after it do.
    """
    from torch._higher_order_ops.scan import scan

    torch.compiler.reset()

    def combine(carried: tuple[Tensor, ...], steps: tuple[Tensor, ...]) -> tuple[tuple[Tensor, ...], Tensor]:
        after = step(steps, carried)
        return after, after[0].clone()

    begin = tuple(state.clone(memory_format=torch.contiguous_format) for state in states)
    with compiled_as("factored"):
        after, made = scan(combine, begin, tuple(x.transpose(0, 1) for x in sequences))
    y: Tensor = after[0] if last else made.transpose(0, 1)
    return y


class Step(nn.Module):
    """One time step of a recurrent layer as a module of its own: `(*steps, *states)` to the new states."""

    def __init__(self, layer: Recurrent, sequences: int) -> None:
        super().__init__()
        self.layer, self.count = layer, sequences

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """See `Recurrent.step`."""
        return self.layer.step(inputs[: self.count], inputs[self.count :])


def _opaque_meta(sequences: list[Tensor], states: list[Tensor], layer: str, width: int, last: bool) -> Tensor:
    first = sequences[0]
    return first.new_empty((first.shape[0], width) if last else (*first.shape[:2], width))


def _opaque_eager(sequences: list[Tensor], states: list[Tensor], layer: str, width: int, last: bool) -> NoReturn:
    raise DovetailError(
        f"layer {layer!r} appears as an opaque op, which has a shape but no numbers; "
        f'run the model outside of appear("opaque"), or lower the exported graph'
    )


_library.impl("recurrent_layer", _opaque_meta, "Meta")
for _device in ("CPU", "CUDA"):
    _library.impl("recurrent_layer", _opaque_eager, _device)
