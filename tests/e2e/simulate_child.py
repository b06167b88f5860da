"""Runs `dovetail simulate`, to be killed. Arguments: writes that succeed, then the words of the command."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

from dovetail import files
from dovetail.cli import main

write, left = files.write, int(sys.argv[1])


def killed(path, data, **options):
    """A write that the process does not survive, before the new file takes the place of the old one."""
    global left  # noqa: PLW0603
    left -= 1
    if left < 0:
        Path(path).with_name(f".{Path(path).name}.half{files.PART}").write_bytes(data.encode()[: len(data) // 2])
        os.kill(os.getpid(), signal.SIGKILL)
    return write(path, data, **options)


if __name__ == "__main__":
    files.write = killed
    sys.exit(main(sys.argv[2:]))
