"""The command line: one file per verb, each imported when it is typed."""

from __future__ import annotations

from dovetail.cli.app import main

__all__ = ["main"]
