"""Triton's language played by torch on the CPU, program by program, where Triton is not installed, too.

A kernel is called as it is written. What it would read or write outside a tensor, and what it writes twice or never, is
an error; Triton's interpreter sees neither. How numbers are rounded within a product it does not tell.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor

from dovetail.gpu import support

TYPES = ("float32", "float16", "int32")
IGNORED = {"num_warps", "num_stages", "enable_fp_fusion"}


@dataclass(frozen=True)
class _Element:
    element_ty: torch.dtype


@dataclass(frozen=True)
class Pointer:
    """Into the flat numbers of a tensor; `written` counts for each how often."""

    numbers: Tensor
    written: Tensor
    at: Any = 0

    @property
    def dtype(self) -> _Element:
        return _Element(self.numbers.dtype)

    def __add__(self, offset: Any) -> Pointer:
        return Pointer(self.numbers, self.written, self.at + offset)

    def places(self, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Where to, within the mask, both of one shape; an AssertionError beyond the tensor."""
        at, mask = torch.broadcast_tensors(self.at, mask)
        inside = at[mask]
        assert inside.numel() == 0 or (inside.min() >= 0 and inside.max() < self.numbers.numel()), "beyond the tensor"
        return torch.where(mask, at, 0), mask


class Language:
    """What stands for `tl`."""

    constexpr = int

    def __init__(self) -> None:
        self.program = (0, 0, 0)
        for name in TYPES:
            setattr(self, name, getattr(torch, name))

    def program_id(self, axis: int) -> int:
        return self.program[axis]

    def arange(self, start: int, end: int) -> Tensor:
        assert end & (end - 1) == 0, "Triton wants a power of two"
        return torch.arange(start, end)

    def zeros(self, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        return torch.zeros(shape, dtype=dtype)

    def static_range(self, start: int, end: int) -> range:
        return range(start, end)

    def load(self, pointer: Pointer, mask: Tensor, other: float) -> Tensor:
        at, mask = pointer.places(mask)
        return torch.where(mask, pointer.numbers[at], torch.tensor(other, dtype=pointer.numbers.dtype))

    def store(self, pointer: Pointer, value: Tensor, mask: Tensor) -> None:
        at, mask = pointer.places(mask)
        assert value.shape == at.shape
        assert value.dtype == pointer.numbers.dtype
        pointer.numbers[at[mask]] = value[mask]
        pointer.written.index_add_(0, at[mask], torch.ones_like(at[mask]))

    def sum(self, value: Tensor, axis: int) -> Tensor:
        return value.sum(axis)

    def dot(self, a: Tensor, b: Tensor, sums: Tensor, input_precision: str) -> Tensor:
        assert a.dtype == b.dtype
        assert min(*a.shape, *b.shape) >= 16, "matrix units take 16 at least"
        assert input_precision == "ieee"
        return sums + a.float() @ b.float()


class Played:
    """A kernel that can be launched: `kernel[grid](...)`."""

    def __init__(self, kernel: Any, language: Language) -> None:
        self.function: Callable[..., None] = getattr(kernel, "fn", kernel)
        self.language = language
        self.launches = 0

    def __getitem__(self, grid: tuple[int, ...]) -> Callable[..., None]:
        def launch(*given: Any, **options: Any) -> None:
            self.launches += 1
            arguments = [self._pointer(each) if isinstance(each, Tensor) else each for each in given]
            constants = {name: value for name, value in options.items() if name not in IGNORED}
            for place in itertools.product(*(range(size) for size in grid)):
                self.language.program = (*place, 0, 0)[:3]
                self.function(*arguments, **constants)
            counts = [each.written for each in arguments if isinstance(each, Pointer) and each.written.any()]
            assert counts, "nothing was written"
            assert all(bool((written == 1).all()) for written in counts), "some were written twice, or never"

        return launch

    def _pointer(self, tensor: Tensor) -> Pointer:
        assert tensor.is_contiguous()
        numbers = tensor.detach().view(-1)
        return Pointer(numbers, torch.zeros(numbers.numel(), dtype=torch.int64))


def play(patch: pytest.MonkeyPatch, **kernels: tuple[ModuleType, str]) -> dict[str, Played]:
    """From now on these kernels, each (module, name), are played, and ops take tensors of the CPU."""
    language = Language()
    played = {}
    for key, (module, name) in kernels.items():
        patch.setattr(module, "tl", language)
        played[key] = Played(getattr(module, name), language)
        patch.setattr(module, name, played[key])
    patch.setattr(support, "INSTALLED", True)
    patch.setattr(support, "INTERPRETED", True)
    return played
