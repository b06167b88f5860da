"""What may be made harder for every target of a race alike: empty caches, and a busy neighbour."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from dovetail.engine.peaks import cache_sizes


class Caches:
    """The data caches of the cores that a target uses.

    Args:
        threads: of the target; the system spreads as many over the cores while the caches are emptied.
    """

    def __init__(self, threads: int) -> None:
        sizes = cache_sizes()
        shared = sizes.pop("L3", 0)
        each = (2 * (shared // threads + sum(sizes.values()))) // 8
        self._pool = ThreadPoolExecutor(threads)
        self._memory = [np.ones(each) for _ in range(threads)]

    @property
    def bytes(self) -> int:
        """How many are read to empty them: twice what they hold."""
        return sum(part.nbytes for part in self._memory)

    def empty(self) -> None:
        """Fill them with something else."""
        list(self._pool.map(np.sum, self._memory))


@contextlib.contextmanager
def busy_neighbour() -> Iterator[int]:
    """Another process that computes without a pause meanwhile, of the same priority; its number."""
    process = subprocess.Popen([sys.executable, "-S", "-c", "while True: pass"], start_new_session=True)
    try:
        yield process.pid
    finally:
        process.kill()
        process.wait()
