"""What timing found, kept on disk between runs: seconds of each kernel, by CPU and by the work that it did."""

from __future__ import annotations

import json
import logging
import platform
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from dovetail import files
from dovetail.engine.peaks import cache_sizes
from dovetail.errors import EngineError

CACHE_VERSION = 13
CPU = Path("/proc/cpuinfo")
TRAITS = (
    "vendor_id", "cpu family", "model", "stepping", "CPU implementer", "CPU variant", "CPU part", "CPU revision",
)  # fmt: skip
"""Lines of `CPU` that tell processors of one name apart: of x86, then of ARM, where there may be no name."""

_log = logging.getLogger(__name__)

Times = dict[str, Any]  # work → kernel → seconds; nothing of it has been checked


def cache_file() -> Path | None:
    """Where tuning results are kept between runs, if anywhere."""
    folder = files.cache_folder()
    return None if folder is None else folder / "tuning.json"


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
    if (path := cache_file()) is None:
        return
    try:
        files.make_folder(path.parent, error=EngineError)
        with files.locked(path.parent, name=f".{path.name}.lock", wait=True, error=EngineError):
            known = _load_all(quietly=True)
            known[cpu_model()] = {**known.get(cpu_model(), {}), **times}
            files.write(path, json.dumps({"version": CACHE_VERSION, "cpus": known}), error=EngineError)
    except EngineError as error:
        _log.info("the tuning cache %s cannot be written: %s", path, error)


@cache
def cpu_model() -> str:
    """The CPU's name and what tells apart those of one name, as far as the system says."""
    try:
        lines = [line.partition(":")[::2] for line in CPU.read_text().splitlines()]
    except OSError:
        lines = []
    said = [(name.strip(), value.strip()) for name, value in lines]
    names = [value for name, value in said if name == "model name"]
    traits = dict.fromkeys(f"{name} {value}" for name, value in said if name in TRAITS)  # of all kinds of cores
    caches = [f"{level} {size >> 10} KiB" for level, size in cache_sizes().items()]
    return ", ".join([*(names[:1] or [platform.processor() or platform.machine()]), *traits, *caches])


def _load_all(*, quietly: bool = False) -> dict[str, Times]:
    """CPU → what was found on it."""
    why, path = "", cache_file()
    if path is None:
        return {}
    try:
        data = json.loads(path.read_text())
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
        _log.warning("ignoring the tuning cache %s: %s", path, why)
    return {} if why or cpus is None else cpus
