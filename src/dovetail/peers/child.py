"""The child's side of a race: loads one target, then obeys a pipe. Run as `python -m dovetail.peers.child FD`.

Requests and answers are JSON objects, one per message; arrays travel through `.npy` and `.npz` files.
"""

from __future__ import annotations

import gc
import importlib
import json
import sys
import time
from multiprocessing.connection import Connection
from typing import TYPE_CHECKING, Any

import numpy as np

from dovetail.errors import DovetailError
from dovetail.peers.peer import Images, Runner, first_line

if TYPE_CHECKING:
    from dovetail.peers.conditions import Caches

Answer = dict[str, Any]
_CACHE_LINE = 64


class Server:
    """Holds the runner of one target; each public method is a request."""

    runner: Runner
    x: Images
    threads: int
    caches: Caches | None = None

    def load(self, module: str, arguments: dict[str, Any], threads: int, example: str) -> Answer:
        """Load the target, bind the timed input and run once."""
        self.threads = threads
        self.runner = importlib.import_module(module).load(threads, **arguments)
        self.x = aligned(np.load(example))
        self.runner.bind(self.x)
        self.runner.run()
        return {}

    def outputs(self, images: str, result: str) -> Answer:
        """Run all images of a file, batch by batch, write the outputs to another, and bind the timed input again."""
        batches = np.load(images).reshape(-1, *self.x.shape)
        collected = [self._outputs_of(batch) for batch in batches]
        np.savez(result, *(np.concatenate(parts) for parts in zip(*collected)))
        self.runner.bind(self.x)
        return {}

    def time(self, runs: int, warm: int, warm_seconds: float = 0.0, cold: bool = False) -> Answer:
        """Nanoseconds of each of `runs` runs, after at least `warm` and `warm_seconds` that do not count.

        `cold`: the caches are emptied before each, outside of the time.
        """
        if cold and self.caches is None:
            from dovetail.peers.conditions import Caches  # needs the engine, which other targets do without

            self.caches = Caches(self.threads)
        run, clock = self.runner.run, time.perf_counter_ns
        end = time.perf_counter() + warm_seconds
        while warm > 0 or time.perf_counter() < end:
            run()
            warm -= 1
        gc.disable()
        stamps = [clock()]
        took = []
        for _ in range(runs):
            if cold and self.caches is not None:
                self.caches.empty()
            stamps[0] = clock()
            run()
            took.append(clock() - stamps[0])
        gc.enable()
        settle()
        return {"ns": took}

    def _outputs_of(self, batch: Images) -> list[np.ndarray]:
        self.runner.bind(aligned(batch))
        self.runner.run()
        return [np.array(output) for output in self.runner.outputs()]


def aligned(x: Images) -> Images:
    """A contiguous float32 copy that starts on a cache line, as every runtime likes it."""
    room = np.empty(x.size * 4 + _CACHE_LINE, np.uint8)
    start = -room.ctypes.data % _CACHE_LINE
    copy = room[start : start + x.size * 4].view(np.float32).reshape(x.shape)
    copy[...] = x
    return copy


def settle(limit: float = 0.2) -> None:
    """Wait until the threads of this process no longer spin, so that the next target has the cores to itself."""
    end = time.perf_counter() + limit
    while time.perf_counter() < end:
        before = time.process_time()
        time.sleep(0.004)
        if time.process_time() - before < 0.001:
            return


def serve(pipe: Connection) -> None:
    """Answer requests until the parent hangs up. An exception is an answer, not an end."""
    server = Server()
    while True:
        try:
            request = json.loads(pipe.recv_bytes())
        except EOFError:
            return
        pipe.send_bytes(json.dumps(_answer(server, request)).encode())


def _answer(server: Server, request: dict[str, Any]) -> Answer:
    try:
        return getattr(server, request.pop("do"))(**request)
    except DovetailError as error:
        return {"error": str(error)}
    except Exception as error:  # a foreign runtime may raise anything; the parent reports it by name
        return {"error": first_line(error)}


if __name__ == "__main__":
    serve(Connection(int(sys.argv[1])))
