"""The native module, if it was built, and what this CPU can run of it."""

from __future__ import annotations

import logging
import math
import os
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

from dovetail.errors import EngineError

ISA_VARIABLE = "DOVETAIL_ISA"
CONTROL_GROUPS = Path("/sys/fs/cgroup")


@dataclass(frozen=True)
class NativeStatus:
    """Whether the native engine can run here, for `doctor` and for messages."""

    available: bool
    isas: tuple[str, ...]
    isa: str | None
    reason: str


def native_module() -> ModuleType | None:
    """`dovetail.engine._native`, or None where it was not built or cannot be loaded."""
    return _import()[0]


@cache
def _import() -> tuple[ModuleType | None, str]:
    """The module, or what stopped it from loading."""
    try:
        from dovetail.engine import _native  # type: ignore[attr-defined]
    except ImportError as error:
        return None, str(error)
    return _native, ""


def require_native() -> ModuleType:
    """The native module; `EngineError` where it was not built."""
    module = native_module()
    if module is None:
        raise EngineError("the native engine is not built here; reinstall Dovetail where a C++17 compiler is at hand")
    return module


def choose_isa(isa: str | None = None) -> str:
    """The named ISA, else the one of `DOVETAIL_ISA`, else the best that this CPU runs.

    Raises:
        EngineError: the named ISA is unknown, was not built, or this CPU lacks it.
    """
    have = tuple(require_native().isas())
    wanted = isa or os.environ.get(ISA_VARIABLE) or have[-1]
    if wanted not in have:
        raise EngineError(f"ISA {wanted!r} cannot run here; this build and CPU run {', '.join(have)}")
    return wanted


def native_status() -> NativeStatus:
    """What the engine would use here."""
    module = native_module()
    if module is None:
        return NativeStatus(False, (), None, f"no native module ({_import()[1]}); programs run in numpy, slowly")
    have = tuple(module.isas())
    wanted = os.environ.get(ISA_VARIABLE) or have[-1]
    if wanted not in have:
        return NativeStatus(False, have, None, f"{ISA_VARIABLE}={wanted}, but this CPU runs {', '.join(have)}")
    return NativeStatus(True, have, wanted, "native kernels")


def make_pool(threads: int) -> Any:
    """So many threads, of which the caller is one; `EngineError` where the system does not give them."""
    try:
        return require_native().Pool(threads)
    except (RuntimeError, MemoryError) as error:
        raise EngineError(f"{threads} threads cannot be started here ({error}); give fewer") from None


def cores() -> int:
    """The cores that this process may use: those it is bound to, and no more than its control group has time for."""
    bound = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, int(min(bound, _quota(CONTROL_GROUPS))))


def _quota(groups: Path) -> float:
    """Cores' worth of time in each period; infinite without a limit."""
    try:
        if (both := groups / "cpu.max").exists():
            time, period = both.read_text().split()
        else:
            time, period = ((groups / "cpu" / f"cpu.cfs_{name}_us").read_text() for name in ("quota", "period"))
        return int(time) / int(period) if int(time) > 0 else math.inf
    except (OSError, ValueError, ZeroDivisionError):  # of "max", too
        return math.inf


@cache
def warn_without_native() -> None:
    """Say once, loudly, that numpy does the work."""
    logging.getLogger("dovetail").warning(
        "dovetail: the native engine is not built; running the numpy reference, which is slow and only for checking"
    )
