"""Where data and weights lie: a folder that the user names, never a path of ours."""

from __future__ import annotations

import os
from pathlib import Path

from dovetail.errors import DataError

ADVICE = "give the folder that holds the data with --data (root=) or set DOVETAIL_DATA"


def data_root(root: str | Path | None) -> Path:
    """`root`, or the folder named by the environment variable DOVETAIL_DATA.

    Raises:
        DataError: neither is given, or the folder does not exist.
    """
    named = root if root is not None else os.environ.get("DOVETAIL_DATA")
    if not named:
        raise DataError(f"no data folder is known; {ADVICE}")
    folder = Path(named).expanduser()
    if not folder.is_dir():
        raise DataError(f"data folder {str(folder)!r} does not exist or is no folder; {ADVICE}")
    return folder


def missing(path: Path, what: str) -> DataError:
    """The error for a file or folder that should be there."""
    return DataError(f"{what} is missing: no {str(path)!r}; {ADVICE}")
