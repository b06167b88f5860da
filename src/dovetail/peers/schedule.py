"""Who runs when: blocks of timed runs, one target at a time, round after round."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from dovetail.errors import PeerError
from dovetail.peers.process import Child

Key = tuple[str, int]
Block = np.ndarray
Report = Callable[[str], None]


@dataclass(frozen=True)
class Pace:
    """How long to measure.

    Attributes:
        blocks: per target; the ratios are medians over as many pairs.
        runs: timed in a block, fewer where a block would take longer than `seconds` (never fewer than 3).
        warm: runs before each block that do not count: they bring weights and code back into the caches.
        warm_seconds: how long they last at least: a core that has slept takes milliseconds to come back to its speed.
        gap: seconds of idleness between blocks.
        seconds: the longest block.
        cold: the caches are emptied before every run.
    """

    blocks: int = 20
    runs: int = 20
    warm: int = 3
    warm_seconds: float = 0.01
    gap: float = 0.005
    seconds: float = 0.25
    cold: bool = False

    def runs_of(self, seconds_per_run: float) -> int:
        """Timed runs in a block of a target of this speed."""
        return int(np.clip(self.seconds / max(seconds_per_run, 1e-9), min(3, self.runs), self.runs))


def key(child: Child) -> Key:
    """Target name and threads."""
    return child.target.name, child.threads


def drive(children: Sequence[Child], pace: Pace, drop: Callable[[Child, PeerError], None]) -> dict[Key, list[Block]]:
    """Time all children in turn; milliseconds of every run, by child and block.

    The direction alternates from round to round, so that a drift of the machine's speed cancels in the pairs. A child
    that fails is handed to `drop` and leaves the race with all its blocks.
    """
    runs: dict[Key, int] = {}
    times: dict[Key, list[Block]] = {}
    racing = list(children)
    for round_number in range(-1, pace.blocks):  # round -1 warms up and sets the number of runs
        for child in racing if round_number % 2 == 0 else racing[::-1]:
            try:
                block = _block(child, runs.get(key(child), 3), pace)
            except PeerError as error:
                racing = [other for other in racing if other is not child]
                times.pop(key(child), None)
                drop(child, error)
                continue
            if round_number < 0:
                runs[key(child)] = pace.runs_of(float(np.median(block)) / 1e3)
            else:
                times.setdefault(key(child), []).append(block)
    return times


def _block(child: Child, runs: int, pace: Pace) -> Block:
    time.sleep(pace.gap)
    took = child.ask("time", runs=runs, warm=pace.warm, warm_seconds=pace.warm_seconds, cold=pace.cold)["ns"]
    return np.array(took) / 1e6
