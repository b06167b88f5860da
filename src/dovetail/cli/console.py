"""What a person sees in a terminal: tables and lines, in colour where there is a terminal, plain elsewhere."""

from __future__ import annotations

import contextlib
import logging
import shutil
import sys
from collections.abc import Iterable, Iterator, Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

PLAIN_WIDTH = 200


def console() -> Console:
    """Standard output; wide and without colour when it is a pipe or a file."""
    terminal = sys.stdout.isatty()
    return Console(highlight=False, soft_wrap=not terminal, width=None if terminal else PLAIN_WIDTH)


def say(text: str = "") -> None:
    """One line for the person at the terminal."""
    console().print(Text(text))


def table(
    title: str, columns: Sequence[str], rows: Iterable[Sequence[str]], *, left: int = 1, note: str | None = None
) -> None:
    """Print rows under a title; the first `left` columns are text, the others numbers."""
    caption = Text(note) if note else None
    shown = Table(title=Text(title) if title else None, box=None, pad_edge=False, caption=caption)
    shown.title_justify, shown.title_style, shown.show_header = "left", "bold", any(columns)
    shown.caption_justify = "left"
    for position, column in enumerate(columns):
        shown.add_column(Text(column), justify="left" if position < left else "right", no_wrap=position > 0)
    for row in rows:
        shown.add_row(*(Text(cell) for cell in row))
    console().print(shown)
    say()


def error_width() -> int:
    """Columns for a paragraph on standard error."""
    return min(shutil.get_terminal_size((100, 24)).columns, 110)


@contextlib.contextmanager
def logs_on_stderr(level: int) -> Iterator[None]:
    """Within: the library's log records go to standard error, one plain line each."""
    logger, handler = logging.getLogger("dovetail"), _Stderr()
    handler.setFormatter(logging.Formatter("%(message)s"))
    before = logger.level, logger.propagate
    logger.addHandler(handler)
    logger.setLevel(level)
    logger.propagate = False  # other libraries give the root logger handlers of their own
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(before[0])
        logger.propagate = before[1]


class _Stderr(logging.Handler):
    """Writes to whatever `sys.stderr` is when the record comes."""

    def emit(self, record: logging.LogRecord) -> None:
        print(self.format(record), file=sys.stderr)
