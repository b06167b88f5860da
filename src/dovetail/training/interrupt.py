"""Ctrl-C between two steps instead of in the middle of one."""

from __future__ import annotations

import contextlib
import signal
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from types import FrameType


@dataclass
class Interrupt:
    """Whether Ctrl-C was pressed."""

    asked: bool = False

    def handle(self, number: int, frame: FrameType | None) -> None:
        """The first time: remember. The second time: `KeyboardInterrupt` at once."""
        if self.asked:
            raise KeyboardInterrupt
        self.asked = True
        sys.stderr.write("stopping after this step; press Ctrl-C again to stop without a checkpoint\n")


@contextlib.contextmanager
def interruptible() -> Iterator[Interrupt]:
    """Within: Ctrl-C is noted, not raised (where the main thread runs; elsewhere nothing changes)."""
    interrupt = Interrupt()
    if threading.current_thread() is not threading.main_thread():
        yield interrupt
        return
    previous = signal.signal(signal.SIGINT, interrupt.handle)
    try:
        yield interrupt
    finally:
        signal.signal(signal.SIGINT, previous)
