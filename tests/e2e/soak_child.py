"""Runs networks on several threads for a while; prints what it saw as JSON. Arguments: seconds, `.dovetail` files.

Two threads have sessions of their own of every network, and one session in common; a third loads files anew, opens
sessions of them and drops them again. Every result must be the first one's, bit for bit.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from dovetail.engine import Schedule, Session
from dovetail.engine.native import cores
from dovetail.program.program import Program
from dovetail.program.store import load

BATCHES = (1, 3)


@dataclass
class Network:
    """A file, images of each batch, and what a first session made of them, by which schedule."""

    path: Path
    images: dict[int, np.ndarray] = field(default_factory=dict)
    wanted: dict[int, list[np.ndarray]] = field(default_factory=dict)
    schedules: dict[int, Schedule] = field(default_factory=dict)

    def __post_init__(self) -> None:
        program, random = load(self.path), np.random.default_rng(0)
        for batch in BATCHES:
            session = Session(program, threads=1)
            (name,) = program.graph.inputs
            shape = program.graph.bind(batch=batch)[name]
            self.images[batch] = random.standard_normal(shape, dtype=np.float32)
            self.wanted[batch] = outputs(session, self.images[batch])
            self.schedules[batch] = session.schedule

    def sessions(self, program: Program, threads: int) -> dict[int, Session]:
        return {batch: Session(program, threads=threads, schedule=self.schedules[batch]) for batch in BATCHES}


def outputs(session: Session, image: np.ndarray) -> list[np.ndarray]:
    made = session(image)
    return list(made) if isinstance(made, tuple) else [made]


@dataclass
class Soak:
    networks: list[Network]
    end: float
    runs: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)

    def going(self) -> bool:
        return time.monotonic() < self.end and not self.wrong

    def check(self, who: str, network: Network, sessions: dict[int, Session]) -> None:
        for batch, session in sessions.items():
            made = outputs(session, network.images[batch])
            if not all(np.array_equal(a, b) for a, b in zip(made, network.wanted[batch], strict=True)):
                self.wrong.append(f"{who}: {network.path.name}, batch {batch}, after {self.runs[who]} runs")
            self.runs[who] += 1

    def run_own(self, who: str, threads: int, common: list[dict[int, Session]]) -> None:
        own = [network.sessions(load(network.path), threads) for network in self.networks]
        while self.going():
            for network, mine, ours in zip(self.networks, own, common):
                self.check(who, network, mine)
                self.check(who, network, ours)

    def run_fresh(self) -> None:
        while self.going():
            for network in self.networks:
                self.check("fresh", network, network.sessions(load(network.path), min(2, cores())))

    def failing(self, who: str, work: object, *arguments: object) -> None:
        try:
            work(*arguments)  # type: ignore[operator]
        except BaseException as error:
            self.wrong.append(f"{who}: {error!r}")


def resident() -> int:
    """Bytes."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def samples(soak: Soak, workers: list[threading.Thread]) -> Iterator[int]:
    for worker in workers:
        worker.start()
    while any(worker.is_alive() for worker in workers):
        time.sleep(0.1)
        yield resident()


def main(seconds: float, files: list[str]) -> None:
    soak = Soak([Network(Path(file)) for file in files], 0)
    common = [network.sessions(load(network.path), min(2, cores())) for network in soak.networks]
    jobs = [
        ("one thread", soak.run_own, "one thread", 1, common),
        ("two threads", soak.run_own, "two threads", min(2, cores()), common),
        ("fresh", soak.run_fresh),
    ]
    soak.end = time.monotonic() + seconds
    memory = list(samples(soak, [threading.Thread(target=soak.failing, args=job) for job in jobs]))
    print(json.dumps({"runs": soak.runs, "wrong": soak.wrong, "memory": memory}))


if __name__ == "__main__":
    main(float(sys.argv[1]), sys.argv[2:])
