"""What a teacher said of an image, remembered: several students then ask it once."""

from __future__ import annotations

import hashlib
import logging
import sqlite3
import time
import weakref
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from dovetail import files
from dovetail.errors import DovetailError

log = logging.getLogger("dovetail.methods")
LARGEST = 4 * 2**30  # bytes of the file; then nothing is added any more
PATIENCE = 60.0  # seconds that another process may hold the file
TABLE = "CREATE TABLE IF NOT EXISTS answers (image BLOB PRIMARY KEY, logits BLOB) WITHOUT ROWID"


class Answers:
    """Logits by image, in one file that several trainings may share; opened when it is first needed.

    An answer is found by what was asked: the numbers and the shape of the image, and whose answers they are: `teacher`
    (weights, precision) and what it says of one made-up image, which tells other code of the same weights apart. So
    neither the order of the images nor their augmentation matters, nor which run asks. Of a file that cannot be used
    there is one warning; the teacher is then asked every time.
    """

    def __init__(self, path: str | Path, teacher: str) -> None:
        self.path, self.teacher = Path(path), teacher
        self._table: sqlite3.Connection | None = None
        self._whose: dict[tuple[int, ...], bytes] = {}
        self._broken = self._full = False

    def ask(self, images: Tensor, teach: Callable[[Tensor], Tensor]) -> Tensor:
        """`(N, classes)` float32: remembered where every image is known, else what `teach` says of all of them."""
        table = self._open()
        if table is None:
            return teach(images)
        keys = self._keys(images, teach)
        known = self._known(table, keys)
        if known is not None:
            return torch.from_numpy(known).to(images.device)
        logits = teach(images)
        self._add(table, keys, logits.detach().to("cpu", torch.float32).numpy())
        return logits

    def _open(self) -> sqlite3.Connection | None:
        if self._table is None and not self._broken:
            try:
                files.make_folder(self.path.parent)
                self._table = _connected(self.path)
                weakref.finalize(self, self._table.close)
            except (sqlite3.Error, DovetailError) as error:
                self._give_up(error)
        return None if self._broken else self._table

    def _keys(self, images: Tensor, teach: Callable[[Tensor], Tensor]) -> list[bytes]:
        shape = tuple(images.shape[1:])
        if shape not in self._whose:
            probe = np.random.default_rng(0).standard_normal((1, *shape), dtype=np.float32)
            said = teach(torch.from_numpy(probe).to(images)).detach().to("cpu", torch.float32).numpy()
            rounded = np.round(said / max(float(np.abs(said).max()), 1e-30), 3) + 0.0  # as it is on any machine
            told = f"{self.teacher} {shape} {images.dtype}".encode() + rounded.astype(np.float32).tobytes()
            self._whose[shape] = hashlib.blake2b(told, digest_size=32).digest()
        numbers = images.detach().to("cpu").contiguous().numpy()
        return [hashlib.blake2b(image, digest_size=16, key=self._whose[shape]).digest() for image in numbers]

    def _known(self, table: sqlite3.Connection, keys: list[bytes]) -> np.ndarray | None:
        """The rows of all images, or None where one is missing or damaged."""
        query = f"SELECT image, logits FROM answers WHERE image IN ({','.join('?' * len(keys))})"
        try:
            found = dict(table.execute(query, keys))
            rows = [np.frombuffer(found[key], np.float32) for key in keys]
            return np.stack(rows)
        except (KeyError, ValueError):
            return None
        except sqlite3.Error as error:
            self._give_up(error)
            return None

    def _add(self, table: sqlite3.Connection, keys: list[bytes], logits: np.ndarray) -> None:
        if self._full or self._broken:
            return
        rows = [(key, row.tobytes()) for key, row in zip(keys, logits)]
        try:
            table.execute("BEGIN IMMEDIATE")
            try:
                table.executemany("INSERT OR REPLACE INTO answers VALUES (?, ?)", rows)
                table.execute("COMMIT")
            except sqlite3.Error:
                table.execute("ROLLBACK")
                raise
            self._full = self.path.stat().st_size > LARGEST
        except (sqlite3.Error, OSError) as error:
            self._give_up(error)

    def _give_up(self, error: Exception) -> None:
        log.warning("the teacher's answers are not kept in %s: %s; it is asked every time", self.path, error)
        self._broken = True


def _connected(path: Path) -> sqlite3.Connection:
    """The open file. Changing its mode fails at once where another process is just doing so: it is tried again."""
    until = time.monotonic() + PATIENCE
    while True:
        table = sqlite3.connect(path, timeout=PATIENCE, isolation_level=None)
        try:
            table.execute("PRAGMA journal_mode = WAL")
            table.execute("PRAGMA synchronous = OFF")  # a lost answer is asked for again
            table.execute(TABLE)
            return table
        except sqlite3.OperationalError as error:
            table.close()
            if "locked" not in str(error) or time.monotonic() > until:
                raise
            time.sleep(0.05)
        except sqlite3.Error:
            table.close()
            raise
