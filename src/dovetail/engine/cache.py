"""What timing found, kept on disk between runs: seconds of each kernel, by CPU and by the work that it did."""

from __future__ import annotations

import json
import logging
import os
import platform
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from dovetail import files
from dovetail.errors import EngineError

CACHE_VERSION = 12
CACHE_VARIABLE = "DOVETAIL_CACHE"
_log = logging.getLogger(__name__)

Times = dict[str, Any]  # work → kernel → seconds; nothing of it has been checked


def cache_file() -> Path:
    """Where tuning results are kept between runs."""
    folder = (
        os.environ.get(CACHE_VARIABLE) or Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "dovetail"
    )
    return Path(folder) / "tuning.json"


def load_times() -> Times:
    """What was found on this CPU. A file that is damaged, of another version or of other CPUs is noted, and as none."""
    known = _load_all()
    found = known.get(cpu_model(), {})
    if known and not found:
        _log.warning(
            "ignoring the tuning cache %s: it is of %s, and this is %s; its layers are timed here",
            cache_file(), ", ".join(sorted(known)), cpu_model(),
        )  # fmt: skip
    return dict(found)


def save_times(times: Mapping[str, Any]) -> None:
    """Add to what the file knows; a cache that cannot be written is no error."""
    path, known = cache_file(), _load_all(quietly=True)
    known[cpu_model()] = {**known.get(cpu_model(), {}), **times}
    try:
        files.make_folder(path.parent, error=EngineError)
        files.write(path, json.dumps({"version": CACHE_VERSION, "cpus": known}), error=EngineError)
    except EngineError as error:
        _log.info("the tuning cache %s cannot be written: %s", path, error)


@cache
def cpu_model() -> str:
    """The CPU's name, as far as the system tells."""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def _load_all(*, quietly: bool = False) -> dict[str, Times]:
    """CPU → what was found on it."""
    why = ""
    try:
        data = json.loads(cache_file().read_text())
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, RecursionError) as error:
        data, why = None, str(error)
    version = data.get("version") if isinstance(data, dict) else None
    if not why and version != CACHE_VERSION:
        why = f"it is of version {version}, not {CACHE_VERSION}; layers are timed anew"
    cpus = data.get("cpus") if isinstance(data, dict) else None
    if not why and not (isinstance(cpus, dict) and all(isinstance(times, dict) for times in cpus.values())):
        why = "it holds no times; layers are timed anew"
    if why and not quietly:
        _log.warning("ignoring the tuning cache %s: %s", cache_file(), why)
    return {} if why or cpus is None else cpus
