"""Times of work on a GPU: recorded once as a CUDA graph, replayed in blocks that stand side by side."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

import numpy as np
import torch

from dovetail.errors import GpuError

Timed = Callable[[int], np.ndarray]
"""Runs so many times; milliseconds of each."""

REPEATS = 10
Plan = TypeVar("Plan")
_log = logging.getLogger(__name__)


def require_device() -> torch.device:
    """The current CUDA device; `GpuError` where there is none."""
    if not torch.cuda.is_available():
        raise GpuError("this needs a CUDA GPU, and torch sees none here; run it on a machine that has one")
    return torch.device("cuda", torch.cuda.current_device())


@dataclass(frozen=True)
class Pace:
    """How long to measure.

    Attributes:
        blocks: per target; ratios are medians over as many pairs.
        runs: of a block.
        warm: runs before each block that do not count.
    """

    blocks: int = 20
    runs: int = 20
    warm: int = 3


class Graph:
    """`work`, `repeats` times in a row, as a CUDA graph; its results stay where they are, and so does what it reads."""

    def __init__(self, work: Callable[[], Any], repeats: int = 1, warm: int = 3) -> None:
        self.repeats = repeats
        self.work = work  # a replay reads its operands where they were: they must live as long as the graph
        self.graph = torch.cuda.CUDAGraph()
        work()  # compiles, and times what is timed once, on the stream of the caller
        side = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(warm):
                self.result = work()
        torch.cuda.current_stream().wait_stream(side)
        torch.cuda.synchronize()
        with torch.cuda.graph(self.graph):
            for _ in range(repeats):
                self.result = work()

    def replay(self) -> Any:
        """Run; the result of the last repetition."""
        self.graph.replay()
        return self.result

    def time(self, runs: int) -> np.ndarray:
        """Milliseconds of one repetition, for each of so many replays, by events on the device."""
        marks = [(_event(), _event()) for _ in range(runs)]
        for start, end in marks:
            start.record()
            self.graph.replay()
            end.record()
        torch.cuda.synchronize()
        return np.array([start.elapsed_time(end) for start, end in marks]) / self.repeats


def interleave(targets: Mapping[str, Timed], pace: Pace) -> dict[str, list[np.ndarray]]:
    """Blocks of all targets in turn; the direction alternates, so that a drift of the clock cancels in pairs."""
    times: dict[str, list[np.ndarray]] = {name: [] for name in targets}
    for number in range(pace.blocks):
        names = list(targets) if number % 2 == 0 else list(targets)[::-1]
        for name in names:
            if pace.warm:
                targets[name](pace.warm)
            times[name].append(targets[name](pace.runs))
    return times


@contextlib.contextmanager
def full_float32() -> Iterator[None]:
    """Within: torch's products of float32 are in full."""
    before = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = before


def least(plans: Sequence[Plan], work: Callable[[Plan], Any]) -> Plan:
    """The plan whose work takes the least time; those that the card or the compiler refuses are left out.

    Raises:
        GpuError: none runs.
    """
    times: dict[Plan, float] = {}
    for plan in plans:
        taken = _time(partial(work, plan))
        if taken is not None:
            times[plan] = taken
    if not times:
        raise GpuError(f"none of {len(plans)} plans runs here; say tiles='model', or give tiles")
    return min(times, key=lambda plan: times[plan])


def _time(work: Callable[[], Any]) -> float | None:
    """The median of some replays, or None where the launch fails for want of shared memory or registers."""
    try:
        return float(np.median(Graph(work, REPEATS).time(10)))
    except Exception as error:  # Triton's own exceptions differ between versions
        if isinstance(error, torch.cuda.OutOfMemoryError) or "illegal" in str(error).lower():
            raise
        _log.info("a plan is left out: %s: %s", type(error).__name__, error)
        return None


def _event() -> Any:
    return torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
