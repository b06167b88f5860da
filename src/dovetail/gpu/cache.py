"""The tiles that timing found, kept on disk between runs: by card, by Triton's version and by the work they do."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

from dovetail import files
from dovetail.errors import GpuError

CACHE_VERSION = 1
_log = logging.getLogger(__name__)


def cache_file() -> Path | None:
    """Beside the engine's tuning cache, if there is one."""
    folder = files.cache_folder()
    return None if folder is None else folder / "gpu-tuning.json"


def load(card: str) -> dict[str, str]:
    """Work → tiles, as text, of this card. A file that is damaged or of another version is noted, and as none."""
    return dict(_all().get(card, {}))


def save(card: str, work: str, tiles: str) -> None:
    """Add to what the file knows; a cache that cannot be written is no error."""
    if (path := cache_file()) is None:
        return
    try:
        files.make_folder(path.parent, error=GpuError)
        with files.locked(path.parent, name=f".{path.name}.lock", wait=True, error=GpuError):
            known = _all(quietly=True)
            known.setdefault(card, {})[work] = tiles
            files.write(path, json.dumps({"version": CACHE_VERSION, "cards": known}), error=GpuError)
    except GpuError as error:
        _log.info("the cache of tiles %s cannot be written: %s", path, error)


def _all(*, quietly: bool = False) -> dict[str, dict[str, str]]:
    """Card → work → tiles."""
    why, path = "", cache_file()
    data: Any = None
    if path is None:
        return {}
    try:
        data = json.loads(path.read_text())
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, RecursionError) as error:
        why = str(error)
    if not why and not (isinstance(data, dict) and data.get("version") == CACHE_VERSION):
        why = f"it is not of version {CACHE_VERSION}"
    cards = data.get("cards") if isinstance(data, dict) and not why else None
    if not why and not _is_table(cards):
        why = "it holds no tiles"
    if why and not quietly:
        _log.warning("ignoring the cache of tiles %s: %s; layers are timed anew", path, why)
    return {} if why else cards  # type: ignore[return-value]


def _is_table(cards: Any) -> bool:
    return isinstance(cards, dict) and all(
        isinstance(known, dict) and all(isinstance(tiles, str) for tiles in known.values()) for known in cards.values()
    )
