"""Turns of callers, which a forked child does not inherit."""

from __future__ import annotations

import os
import threading
import weakref


class Turns:
    """One caller at a time; in a forked child nobody holds the turn of a thread that is not there.

    Attributes:
        lock: to hold during a turn.
    """

    def __init__(self) -> None:
        self.lock = threading.Lock()
        _ALL.add(self)


_ALL: weakref.WeakSet[Turns] = weakref.WeakSet()


def _begin_anew() -> None:
    for turns in list(_ALL):
        turns.lock = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_begin_anew)
