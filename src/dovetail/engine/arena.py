"""The memory of a plan's tensors and constants.

A build that watches memory (`DOVETAIL_SANITIZE` in CMakeLists.txt) sees accesses outside of what was allocated, but an
arena is one piece: there every tensor gets a place of its own, between zones that nobody may touch.
"""

from __future__ import annotations

import mmap
import weakref
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from dovetail.engine.layout import ALIGN, Buffer, plan_arena, round_up
from dovetail.engine.native import native_module
from dovetail.errors import EngineError

if TYPE_CHECKING:
    from numpy.typing import DTypeLike

HUGE_PAGE = 1 << 21
LEAST_ZONE = 1 << 12  # elements


@dataclass(frozen=True)
class Arena:
    """Zeroed memory, in large pages where the system gives them, and what is its own of it.

    Attributes:
        memory: all bytes.
        base: address of element 0.
        size: bytes of the tensors.
        ours: bytes of `memory` that kernels may touch, as pairs (start, stop).
    """

    memory: mmap.mmap
    base: int
    size: int
    ours: tuple[tuple[int, int], ...]

    @property
    def room(self) -> int:
        """Bytes from the base on."""
        return len(self.memory) - (self.base - _address(self.memory))


def place(buffers: Iterable[Buffer], other: Arena | None = None) -> Arena:
    """An arena in which every buffer has its place; `EngineError` where there is not so much memory.

    It takes the memory of the `other` one where that suffices: of a plan that does not run at the same time.
    """
    ordered = sorted(buffers, key=lambda buffer: buffer.first or 0)
    size = _apart(ordered) if watched() else plan_arena(ordered)
    end = max((b.offset + b.size + b.overrun for b in ordered), default=0)
    needed = 4 * round_up(end)
    if other is not None and other.room >= needed and not watched():
        memory, base = other.memory, other.base
    else:
        memory, base = _allocate(needed)
    start = base - _address(memory)
    if not watched():
        return Arena(memory, base, 4 * size, ((0, len(memory)),))
    ours = tuple((start + 4 * b.offset, start + 4 * (b.offset + b.size + b.overrun)) for b in ordered)
    for first, last in zip((0, *(stop for _, stop in ours)), (*(begin for begin, _ in ours), len(memory))):
        guard(memory, _address(memory) + first, last - first)
    return Arena(memory, base, 4 * size, ours)


def aligned_copy(array: np.ndarray) -> np.ndarray:
    """A C-ordered copy that begins at a cache line."""
    copy = aligned_zeros(array.size, array.dtype).reshape(array.shape)
    copy[...] = array
    return copy


def aligned_zeros(size: int, dtype: DTypeLike) -> np.ndarray:
    """An array that begins at a cache line."""
    count = size * np.dtype(dtype).itemsize
    raw = np.zeros(count + 64, dtype=np.uint8)
    start = -raw.ctypes.data % 64
    stop = start + count
    if watched():
        guard(raw, raw.ctypes.data, start)
        guard(raw, raw.ctypes.data + stop, raw.nbytes - stop)
    return raw[start:stop].view(dtype)


def watched() -> bool:
    """Whether the native module is built to watch memory."""
    return hasattr(native_module(), "guard")


def guard(owner: Any, address: int, size: int) -> None:
    """Let nobody touch these bytes as long as their owner lives."""
    native = native_module()
    assert native is not None
    native.guard(address, size)
    weakref.finalize(owner, native.unguard, address, size)


def _apart(buffers: Iterable[Buffer]) -> int:
    """As `plan_arena`, but no two share memory, and each lies so far from the next that one off by it is seen."""
    end, at = 0, LEAST_ZONE
    for buffer in buffers:
        buffer.offset = round_up(at)
        end = buffer.offset + buffer.size
        at = end + buffer.overrun + max(buffer.size, LEAST_ZONE)
    return end


def _allocate(size: int) -> tuple[mmap.mmap, int]:
    """Memory, and the address of its first usable byte."""
    try:
        memory = mmap.mmap(-1, size + HUGE_PAGE)
    except (OSError, ValueError, OverflowError) as error:
        raise EngineError(
            f"cannot get {size >> 20} MB for the tensors of this network: {error}; give smaller images or batches"
        ) from None
    if hasattr(mmap, "MADV_HUGEPAGE") and size >= HUGE_PAGE:
        memory.madvise(mmap.MADV_HUGEPAGE)
    return memory, round_up(_address(memory), HUGE_PAGE if size >= HUGE_PAGE else 4 * ALIGN)


def _address(memory: mmap.mmap) -> int:
    return int(np.frombuffer(memory, dtype=np.uint8).ctypes.data)
