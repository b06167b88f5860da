"""A torch network that computes as if in int8: rounded weights and operands, gradients straight through.

What is rounded is seen at the functions that are called, not at the modules: a layer of any format comes down to
convolutions and linear maps, of the weights that will be packed and of the operands that will be codes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode
from torch.utils.weak import WeakTensorKeyDictionary

from dovetail.program.calibrate import Rule, Statistics
from dovetail.program.integer import CODES
from dovetail.program.quantize import Range, grid

LARGEST: Final = 127
PRODUCTS: Final = frozenset({F.conv2d, F.linear})
MEANS: Final = frozenset({F.adaptive_avg_pool2d, F.avg_pool2d, torch.mean, Tensor.mean})
IMAGES: Final = 4  # dimensions
SMALLEST: Final = 1e-30  # keeps rows of zeros from dividing by zero


def round_weight(weight: Tensor) -> Tensor:
    """The nearest of 255 numbers, the same apart, from minus to plus the largest of each row (index of axis 0).

    The gradient passes as if nothing had been rounded.
    """
    return weight + (on_grid(weight) - weight).detach()


@torch.no_grad()
def on_grid(weight: Tensor) -> Tensor:
    """The numbers that `round_weight` gives."""
    most = weight.detach().abs().flatten(1).amax(1)
    scale = (most / LARGEST).clamp_min(SMALLEST).view(-1, *(1,) * (weight.dim() - 1))
    return torch.round(weight / scale).clamp(-LARGEST, LARGEST) * scale


@torch.no_grad()
def bring_to_grid(layer: nn.Module) -> None:
    """The weight of a dense layer becomes what it is rounded to."""
    weight = layer.get_parameter("weight")
    weight.copy_(on_grid(weight))


def round_operand(x: Tensor, reach: Range) -> Tensor:
    """What the nearest codes of 0 to 255 stand for, where they reach from the one to the other end of `reach`.

    The gradient passes where codes reach, and is zero where they do not.
    """
    scale, zero = grid(*reach)
    return torch.fake_quantize_per_tensor_affine(x, scale, zero, 0, CODES)


def reach_of(x: Tensor, rule: Rule, random: np.random.Generator) -> Range:
    """How far codes should reach for the numbers of one batch, by a rule of `program.calibrate`."""
    found = Statistics()
    if not bool(x.isfinite().all()):
        return 0.0, 0.0  # the loss will tell
    found.note(x.detach().to("cpu", torch.float32).numpy(), random)
    return found.range(rule)


class Rounding(TorchFunctionMode):
    """While active, convolutions and linear maps read rounded weights and operands, and means rounded operands.

    An operand is a *site*, counted in the order in which a forward pass reads them. Once read, its rounded form stands
    in for it wherever it is read again: a residual adds what the packed network adds.

    Attributes:
        reaches: of the codes of every site; operands of sites beyond stay as they are.
        watch: called with the number and the numbers of every site, before rounding; None watches nothing.
        paused: above 0 while a layer runs that stays in floating point.
        spared: above 0 while a layer runs whose weight is of whole numbers as it is, and so is not rounded.
    """

    def __init__(self) -> None:
        super().__init__()
        self.reaches: list[Range] = []
        self.watch: Callable[[int, Tensor], None] | None = None
        self.paused = self.spared = 0
        self._site = 0
        self._rounded: Any = WeakTensorKeyDictionary()

    def begin(self) -> None:
        """A forward pass begins."""
        self._site = self.paused = self.spared = 0
        self._rounded.clear()
        self.__enter__()

    def finish(self) -> None:
        """It is over."""
        self.__exit__(None, None, None)
        self._rounded.clear()

    def pause(self, by: int) -> None:
        """A layer that stays in floating point begins (1) or is over (-1)."""
        self.paused += by

    def spare(self, by: int) -> None:
        """The same of a layer whose weight is not to be rounded."""
        self.spared += by

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Call `func` on what it should read."""
        given, named = list(args), dict(kwargs or {})
        if func in PRODUCTS and not self.paused:
            x, weight = (given.pop(0) if given else named.pop(name) for name in ("input", "weight"))
            return func(self._read(x), weight if self.spared else round_weight(weight), *given, **named)
        if _is_mean(func, given, named) and not self.paused:
            return func(self._read(given[0]), *given[1:], **named)
        changed = given[:1] if _in_place(func, named) else []
        for value in changed:
            if isinstance(value, Tensor):
                self._rounded.pop(value, None)
        if self._rounded and func.__name__ != "__get__":
            given = [*changed, *map(self._stand_in, given[len(changed) :])]
            named = {name: self._stand_in(value) for name, value in named.items()}
        return func(*given, **named)

    def _read(self, x: Tensor) -> Tensor:
        if x not in self._rounded:
            self._rounded[x] = self._at_site(x)
        rounded: Tensor = self._rounded[x]
        return rounded

    def _at_site(self, x: Tensor) -> Tensor:
        site, self._site = self._site, self._site + 1
        if self.watch is not None:
            self.watch(site, x)
        return round_operand(x.float(), self.reaches[site]) if site < len(self.reaches) else x

    def _stand_in(self, value: Any) -> Any:
        """A tensor, or tensors in a list, as whoever reads them now should see them."""
        if isinstance(value, Tensor):
            return self._rounded.get(value, value)
        if isinstance(value, list | tuple) and any(isinstance(part, Tensor) for part in value):
            parts = [self._stand_in(part) for part in value]
            return tuple(parts) if isinstance(value, tuple) else parts
        return value


def _is_mean(func: Any, given: list[Any], named: Mapping[str, Any]) -> bool:
    """Whether this is a mean over the pixels of images."""
    if func not in MEANS or not given or given[0].dim() != IMAGES:
        return False
    if func not in (torch.mean, Tensor.mean):
        return True
    over = given[1] if len(given) > 1 else named.get("dim")
    return isinstance(over, list | tuple) and sorted(axis % IMAGES for axis in over) == [2, 3]


def _in_place(func: Any, named: Mapping[str, Any]) -> bool:
    name = func.__name__
    return bool(named.get("inplace")) or (name.endswith("_") and not name.endswith("__")) or name.startswith("__i")
