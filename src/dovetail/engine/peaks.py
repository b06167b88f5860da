"""What this machine can do at most: multiply-adds a second, and bytes a second from each level of its memory.

Measured by kernels of the same source and instruction set as the others (native/kernels/peak.inl). A layer can take no
less than `Peaks.bound`: its multiply-adds at the peak, or its input, weights and output, each moved once.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from dovetail.engine.arena import aligned_copy
from dovetail.engine.native import choose_isa, make_pool, require_native

ROWS, VECTORS, STEPS = 4, 3, 16  # as in peak.inl
ROUNDS = 256  # sums of as many rounds stay within 32 bits
SECONDS, REPEATS = 0.004, 20
LARGEST = 1 << 30
CACHES = Path("/sys/devices/system/cpu/cpu0/cache")
USUAL = {"L1": 32 << 10, "L2": 1 << 20, "L3": 32 << 20}
"""Bytes of the caches where the system does not tell."""


@dataclass(frozen=True)
class Peaks:
    """At most, with so many threads.

    Attributes:
        rates: "f32" and "int8" → multiply-adds a second.
        bandwidths: level of the memory, nearest first → bytes a second that are read.
        caches: level → bytes, of all threads together; the last level of `bandwidths` has no bound.
    """

    threads: int
    isa: str
    rates: Mapping[str, float]
    bandwidths: Mapping[str, float]
    caches: Mapping[str, int]

    def level(self, size: int) -> str:
        """The nearest level that holds so many bytes."""
        return next((name for name, holds in self.caches.items() if size <= holds), list(self.bandwidths)[-1])

    def bound(self, macs: int, size: int, dtype: str) -> float:
        """Seconds that so many multiply-adds over so many bytes take at least, all of it as near as it may be."""
        return max(macs / self.rates[dtype], size / self.bandwidths[self.level(size)])

    def to_json(self) -> dict[str, Any]:
        """Plain data, in thousand millions a second."""
        return {
            "isa": self.isa,
            "gmacs": {name: round(rate / 1e9, 2) for name, rate in self.rates.items()},
            "gigabytes": {name: round(rate / 1e9, 2) for name, rate in self.bandwidths.items()},
            "caches": dict(self.caches),
        }


def measure(threads: int, isa: str | None = None, *, seconds: float = SECONDS, repeats: int = REPEATS) -> Peaks:
    """Measure with that many threads; the best of `repeats` runs of about `seconds` counts.

    Raises:
        EngineError: there is no native engine, or the CPU lacks the ISA.
    """
    isa = choose_isa(isa)
    machine = _Machine(isa, threads, seconds, repeats)
    caches = {name: size * (1 if name == "L3" else threads) for name, size in cache_sizes().items()}
    sizes = {name: size // 2 for name, size in caches.items()}
    sizes["memory"] = min(4 * max(caches.values()), LARGEST)
    bandwidths = {name: machine.bandwidth(size) for name, size in sizes.items()}
    return Peaks(threads, isa, {"f32": machine.rate("f32"), "int8": machine.rate("int8")}, bandwidths, caches)


def cache_sizes(folder: Path = CACHES) -> dict[str, int]:
    """Bytes of the data caches of one core, by level; the usual ones where the system does not tell."""
    found = {}
    for index in sorted(folder.glob("index*")):
        try:
            level, kind, size = ((index / name).read_text().strip() for name in ("level", "type", "size"))
            if kind != "Instruction":
                found[f"L{level}"] = int(size[:-1]) << {"K": 10, "M": 20}[size[-1]]
        except (OSError, KeyError, ValueError):
            continue
    return dict(sorted(found.items())) if {"L1", "L2"} <= found.keys() else dict(USUAL)


class _Machine:
    """Runs the measuring kernels on a pool of its own."""

    def __init__(self, isa: str, threads: int, seconds: float, repeats: int) -> None:
        self.native, self.isa, self.threads = require_native(), isa, threads
        self.pool = make_pool(threads)
        self.lanes = self.native.lanes(isa)
        self.seconds, self.repeats = seconds, repeats

    def rate(self, dtype: str) -> float:
        """Multiply-adds a second."""
        random = np.random.default_rng(0)
        count = STEPS * (VECTORS * self.lanes + ROWS)
        words = random.integers(-(1 << 31), 1 << 31, count).astype(np.int32)
        x = aligned_copy(words if dtype == "int8" else random.standard_normal(count, dtype=np.float32))
        each = ROUNDS * STEPS * ROWS * VECTORS * self.lanes * (4 if dtype == "int8" else 1)

        def run(amount: int) -> float:
            y = np.empty(amount * self.threads * ROWS * VECTORS * self.lanes, np.int32)
            return self._seconds(f"peak_{dtype}", x, y, units=amount * self.threads, rounds=ROUNDS)

        return float(each * self.threads) * self._fastest(run)

    def bandwidth(self, size: int) -> float:
        """Bytes a second while the threads read so many bytes together, again and again."""
        part = max(size // 4 // self.threads // (8 * self.lanes), 1) * 8 * self.lanes
        x = aligned_copy(np.ones(part * self.threads, np.float32))
        y = np.empty(self.threads, np.float32)

        def run(amount: int) -> float:
            return self._seconds("stream_f32", x, y, units=self.threads, size=part, rounds=amount)

        return x.nbytes * self._fastest(run)

    def _fastest(self, run: Callable[[int], float]) -> float:
        """How many times a second something is done at most, from runs of an amount that takes long enough."""
        amount = 1
        while run(amount) < self.seconds:
            amount *= 2
        return amount / min(run(amount) for _ in range(self.repeats))

    def _seconds(self, kernel: str, x: np.ndarray, y: np.ndarray, **fields: int) -> float:
        """Of one run as the caller sees it: no thread can have begun before."""
        plan = self.native.Plan()
        pointers = {"x": x.ctypes.data, "y": y.ctypes.data}
        plan.add(self.isa, f"dovetail_{kernel}", {**fields, **pointers}, {}, False, False)
        start = time.perf_counter()
        plan.run(self.pool, [])
        return time.perf_counter() - start
