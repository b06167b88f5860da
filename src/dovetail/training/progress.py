"""What a person sees of a run: a bar with the remaining time on a terminal, else one log line per epoch."""

from __future__ import annotations

import logging
import sys
import time
from types import TracebackType
from typing import Self

from dovetail.training.metrics import Record

log = logging.getLogger("dovetail.training")


class Lines:
    """One log line per epoch, with the time that remains."""

    def __init__(self, steps: int, done: int) -> None:
        self.steps, self.begun, self.done, self.started = steps, done, done, time.monotonic()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Nothing to close."""

    def step(self) -> None:
        """A batch is done."""
        self.done += 1

    def record(self, record: Record) -> None:
        """An epoch is done."""
        log.info("%s%s", record, self._remaining())

    def _remaining(self) -> str:
        fresh = self.done - self.begun
        if not fresh or self.done >= self.steps:
            return ""
        return f"  eta {clock((time.monotonic() - self.started) / fresh * (self.steps - self.done))}"


class Bar(Lines):
    """A rich progress bar on standard error; the epoch lines stay above it."""

    def __enter__(self) -> Self:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("eta"),
            TimeRemainingColumn(),
        )
        self.progress = Progress(*columns, console=Console(stderr=True), transient=True)
        self.task = self.progress.add_task("training", total=self.steps, completed=self.begun)
        self.progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.progress.stop()

    def step(self) -> None:
        """Advance the bar."""
        super().step()
        self.progress.update(self.task, completed=self.done)

    def record(self, record: Record) -> None:
        """Print the epoch's line above the bar."""
        self.progress.console.print(str(record), highlight=False)
        self.progress.update(self.task, description=record.phase)


def reporter(steps: int, done: int, bar: bool) -> Lines:
    """A bar if it is wanted and standard error is a terminal, else lines; `done` steps lie behind already."""
    return (Bar if bar and sys.stderr.isatty() else Lines)(steps, done)


def clock(seconds: float) -> str:
    """`75` as "1:15", `3700` as "1:01:40"."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
