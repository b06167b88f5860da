"""The parent's side of a race: one child process per target and thread count, with an environment of its own."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import subprocess
import sys
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from dovetail.errors import PeerError
from dovetail.peers.peer import Target

_POOLS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS")


class Child:
    """A running child process. Every fault of it (error, crash, hang) is a `PeerError` that names the target.

    Args:
        target: what it loads.
        threads: for every thread pool in it.
        folder: for its log.
        timeout: seconds that any answer may take.
    """

    def __init__(self, target: Target, threads: int, folder: Path, timeout: float = 300.0) -> None:
        self.target = target
        self.threads = threads
        self.timeout = timeout
        self.log = folder / f"{target.name}-t{threads}.log"
        self.pipe, theirs = multiprocessing.Pipe()
        with self.log.open("wb") as log, theirs:
            self.process = subprocess.Popen(
                [sys.executable, "-P", "-m", "dovetail.peers.child", str(theirs.fileno())],
                pass_fds=(theirs.fileno(),),
                env=environment(threads),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,  # Ctrl-C reaches the parent alone, which ends its children in order
            )

    @property
    def name(self) -> str:
        """For messages."""
        return f"{self.target.name} ({self.threads} thread{'s' * (self.threads > 1)})"

    def ask(self, do: str, **arguments: Any) -> dict[str, Any]:
        """One request and its answer."""
        self.send(do, **arguments)
        return self.receive()

    def send(self, do: str, **arguments: Any) -> None:
        """A request alone, so that several children may work at once."""
        try:
            self.pipe.send_bytes(json.dumps({"do": do, **arguments}).encode())
        except OSError:
            raise PeerError(self._obituary()) from None

    def receive(self) -> dict[str, Any]:
        """The answer to the last request."""
        try:
            if not self.pipe.poll(self.timeout):
                raise PeerError(f"{self.name}: no answer for {self.timeout:g} s, given up")
            answer = json.loads(self.pipe.recv_bytes())
        except (EOFError, OSError):
            raise PeerError(self._obituary()) from None
        if "error" in answer:
            raise PeerError(f"{self.name}: {answer['error']}")
        return answer

    def close(self) -> None:
        """End the process: it leaves when the pipe closes, and is killed where it does not."""
        self.pipe.close()
        try:
            self.process.wait(1.0)
        except subprocess.TimeoutExpired:
            self.kill()

    def kill(self) -> None:
        """End the process at once, and those that it has started."""
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)  # of a session of its own
            self.process.wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _obituary(self) -> str:
        code = self.process.wait(5.0) if self.process.poll() is None else self.process.returncode
        last = self.log.read_text(errors="replace").strip().rpartition("\n")[2][:200]
        return f"{self.name}: crashed with exit status {code}{': ' + last if last else ''}"


def environment(threads: int) -> dict[str, str]:
    """The parent's environment, with `threads` for every pool and the parent's import path."""
    pools = dict.fromkeys(_POOLS, str(threads))
    return {**os.environ, **pools, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
