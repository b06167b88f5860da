"""Files that are there whole or not at all."""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Final

from dovetail.errors import DovetailError

fcntl: ModuleType | None
try:
    import fcntl
except ImportError:  # not on Windows
    fcntl = None

log = logging.getLogger("dovetail.files")
CACHE_VARIABLE: Final = "DOVETAIL_CACHE"
PART: Final = ".part"
"""How the temporary files of `write` end; they begin with a dot and the name of the file that they are to become."""


def write(path: str | os.PathLike[str], data: bytes | str, *, error: type[DovetailError] = DovetailError) -> Path:
    """Write a file by way of a temporary one in the same folder; an old file stays until the new one is safe on disk.

    Args:
        path: of the file; its folder must exist.
        data: its contents; text becomes UTF-8.
        error: what to raise.

    Raises:
        DovetailError: (or `error`) the folder is missing or not writable, or the disk is full; nothing is left behind.
    """
    target = Path(path)
    if target.is_dir():
        raise error(f"cannot write {target}: it is a folder; give a file name")
    temporary = None
    try:
        descriptor, temporary = tempfile.mkstemp(prefix=f".{target.name}.", suffix=PART, dir=target.parent)
        with os.fdopen(descriptor, "wb") as file:
            file.write(data.encode() if isinstance(data, str) else data)
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).chmod(_mode(target))
        Path(temporary).replace(target)
        _sync_folder(target.parent)
    except OSError as cause:
        raise error(f"cannot write {target}: {_advice(cause, target.parent)}") from cause
    finally:
        if temporary is not None:
            Path(temporary).unlink(missing_ok=True)
    return target


def cache_folder() -> Path | None:
    """Where what was timed is kept between runs; None for a user who has no folder of their own and named none."""
    if given := os.environ.get(CACHE_VARIABLE):
        return Path(given)
    try:
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "dovetail"
    except RuntimeError:
        return None


def make_folder(path: str | os.PathLike[str], *, error: type[DovetailError] = DovetailError) -> Path:
    """Make a folder and those above it, unless it is there already; `error` where that fails."""
    folder = Path(path)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as cause:
        raise error(f"cannot make the folder {folder}: {_advice(cause, folder.parent)}") from cause
    return folder


@contextlib.contextmanager
def locked(
    folder: Path, *, name: str = ".lock", wait: bool = False, error: type[DovetailError] = DovetailError
) -> Iterator[None]:
    """Within, no other process is in the same block for this folder; `error` at once where one is.

    A file in the folder called `name` is what is locked. With `wait` the block begins when the other one has ended.
    The lock ends with the block or the process, whichever ends first; children that are forked within do not keep it.
    Systems (or file systems) without locks have none.
    """
    if fcntl is None:
        yield
        return
    try:
        file = (folder / name).open("w")
    except OSError as cause:
        raise error(f"cannot work in {folder}: {_advice(cause, folder)}") from cause
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            raise error(f"another process works in {folder}; wait for it, stop it, or choose another folder") from None
        except OSError as cause:
            log.info("%s cannot be locked (%s); see to it that one process works there at a time", folder, cause)
            yield
            return
        try:
            yield
        finally:
            fcntl.flock(file, fcntl.LOCK_UN)


def sweep(folder: Path) -> None:
    """Remove what killed calls of `write` left in a folder that nobody else writes to."""
    for left in folder.glob(f".*{PART}"):
        left.unlink(missing_ok=True)


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


def _advice(error: OSError, folder: Path) -> str:
    match error.errno:
        case errno.ENOENT:
            return f"the folder {folder} does not exist; make it first"
        case errno.EACCES | errno.EPERM | errno.EROFS:
            return f"the folder {folder} is not writable; choose another or change its permissions"
        case errno.ENOSPC | errno.EDQUOT:
            return "the disk is full; free some space or choose another folder"
        case errno.ENOTDIR | errno.EEXIST:
            return "a file of that name, or above it, is in the way; choose another folder"
    return str(error)
