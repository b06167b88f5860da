"""Files that are there whole or not at all."""

from __future__ import annotations

import errno
import os
import tempfile
from pathlib import Path

from dovetail.errors import DovetailError


def write(path: str | os.PathLike[str], data: bytes) -> Path:
    """Write a file by way of a temporary one in the same folder; an old file stays until the new one is safe.

    Raises:
        DovetailError: the folder is missing or not writable, or the disk is full; nothing is left behind.
    """
    target = Path(path)
    if target.is_dir():
        raise DovetailError(f"cannot write {target}: it is a folder; give a file name")
    temporary = None
    try:
        descriptor, temporary = tempfile.mkstemp(prefix=f".{target.name}.", suffix=".part", dir=target.parent)
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).chmod(_mode(target))
        Path(temporary).replace(target)
        _sync_folder(target.parent)
    except OSError as error:
        raise DovetailError(f"cannot write {target}: {_advice(error, target)}") from error
    finally:
        if temporary is not None:
            Path(temporary).unlink(missing_ok=True)
    return target


def _mode(target: Path) -> int:
    """The old file's permissions, or what the process gives to new files (`mkstemp` gives them to nobody else)."""
    if target.exists():
        return target.stat().st_mode & 0o777
    mask = os.umask(0)
    os.umask(mask)
    return 0o666 & ~mask


def _sync_folder(folder: Path) -> None:
    """Make the renaming itself safe, where the system can."""
    if os.name != "posix":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _advice(error: OSError, target: Path) -> str:
    match error.errno:
        case errno.ENOENT:
            return f"the folder {target.parent} does not exist; make it first"
        case errno.EACCES | errno.EPERM | errno.EROFS:
            return f"the folder {target.parent} is not writable; choose another or change its permissions"
        case errno.ENOSPC | errno.EDQUOT:
            return "the disk is full; free some space or choose another folder"
        case errno.ENOTDIR:
            return f"{target.parent} is not a folder"
    return str(error)
