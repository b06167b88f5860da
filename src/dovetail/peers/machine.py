"""What a number was measured on: the machine, the versions and the command. Nothing that names a host or a path."""

from __future__ import annotations

import os
import platform
import re
import shlex
import sys
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from dovetail.engine.native import cores, native_status

_ISA = (
    "sse4_2", "avx", "f16c", "fma", "avx2", "avx_vnni", "avx512f", "avx512bw", "avx512vl", "avx512_vnni",
    "avx512_bf16", "avx512_fp16", "amx_tile", "amx_int8", "amx_bf16", "asimd", "asimddp", "i8mm", "bf16", "sve",
)  # fmt: skip


def machine() -> dict[str, Any]:
    """CPU model, usable cores, instruction sets (all, and those that our engine takes), memory and kernel version."""
    info = _cpuinfo()
    flags = set(info.get("flags", info.get("Features", "")).split())
    return {
        "cpu": info.get("model name", platform.processor() or platform.machine()),
        "cores": cores(),
        "isa": [name for name in _ISA if name in flags],
        "engine_isa": native_status().isa,
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "kernel": f"{platform.system()} {_numbers(platform.release())}",
    }


def versions(packages: Iterable[str]) -> dict[str, str]:
    """Installed versions of Python, Dovetail and `packages`; those not installed are left out."""
    found = {"python": platform.python_version()}
    for package in ("dovetail", "numpy", *packages):
        if (number := _version(package)) is not None:
            found[package] = number
    return found


def command() -> str:
    """This process's command line, its absolute paths reduced to file names."""
    program = Path(sys.argv[0])
    start = ["python", "-m", program.parent.name] if program.name == "__main__.py" else [program.name]
    return shlex.join(start + [portable(word) if Path(word).is_absolute() else word for word in sys.argv[1:]])


def portable(path: str | Path) -> str:
    """A path as it may be recorded: relative to the working folder; of an absolute one elsewhere the name alone."""
    given, here = Path(path), Path.cwd()
    if not given.is_absolute():
        return given.as_posix()
    return given.relative_to(here).as_posix() if given.is_relative_to(here) else given.name


def _cpuinfo() -> dict[str, str]:
    path = Path("/proc/cpuinfo")
    lines = path.read_text().partition("\n\n")[0].splitlines() if path.exists() else []
    return {name.strip(): value.strip() for name, _, value in (line.partition(":") for line in lines)}


def _numbers(release: str) -> str:
    found = re.match(r"[\d.]+", release)
    return found.group().rstrip(".") if found else "unknown"


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return getattr(sys.modules.get(package), "__version__", None)  # run from its sources, without installing
