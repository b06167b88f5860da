"""The native module built for AddressSanitizer and UndefinedBehaviorSanitizer, and children that run with it.

As a pytest plugin (`-p sanitized`), or imported first by a child, it puts the module that `DOVETAIL_SANITIZED` names in
the place of the usual one.
"""

from __future__ import annotations

import fcntl
import importlib.util
import os
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / "build" / "sanitize"
VARIABLE = "DOVETAIL_SANITIZED"


def take_the_place() -> None:
    """Load the module that the environment names, before anybody loads the usual one."""
    name = "dovetail.engine._native"
    assert name not in sys.modules
    spec = importlib.util.spec_from_file_location(name, os.environ[VARIABLE])
    assert spec is not None
    assert spec.loader is not None
    sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(sys.modules[name])


@cache
def build() -> Path:
    """The module, built anew where sources have changed; a skip where tools are missing."""
    tools = {tool: shutil.which(tool, path=_path()) for tool in ("cmake", "ninja")}
    if missing := [tool for tool, found in tools.items() if found is None]:
        pytest.skip(f"the sanitized build needs {' and '.join(missing)}")
    FOLDER.mkdir(parents=True, exist_ok=True)
    options = ["-DCMAKE_BUILD_TYPE=None", "-DDOVETAIL_SANITIZE=ON", f"-DPython_EXECUTABLE={sys.executable}"]
    with (FOLDER / "lock").open("w") as lock:  # every worker of a test run wants it
        fcntl.flock(lock, fcntl.LOCK_EX)
        _tool("cmake", "-S", str(ROOT), "-B", str(FOLDER), "-G", "Ninja", *options)
        _tool("ninja", "-C", str(FOLDER))
    (module,) = FOLDER.glob("_native*.so")
    return module


def environment() -> dict[str, str]:
    """Variables of a child that runs the sanitized module: the first report ends it."""
    compiler = next(
        line.partition("=")[2]
        for line in (FOLDER / "CMakeCache.txt").read_text().splitlines()
        if line.startswith("CMAKE_CXX_COMPILER:")
    )
    runtime = _tool(compiler, "-print-file-name=libasan.so").strip()
    if not Path(runtime).is_absolute():
        pytest.skip(f"{compiler} has no libasan.so to load before Python")
    return {
        **os.environ,
        VARIABLE: str(build()),
        "LD_PRELOAD": runtime,
        "ASAN_OPTIONS": "detect_leaks=0:abort_on_error=1:allocator_may_return_null=1",
        "UBSAN_OPTIONS": "print_stacktrace=1:abort_on_error=1",
        "PYTHONPATH": os.pathsep.join([str(ROOT / "tests"), *filter(None, sys.path)]),
    }


def run(*arguments: str, timeout: float | None) -> subprocess.CompletedProcess[str]:
    """Python on these arguments, over the sanitized module."""
    build()
    command = [sys.executable, *arguments]
    return subprocess.run(
        command, cwd=ROOT, env=environment(), capture_output=True, text=True, timeout=timeout, check=False
    )


def _tool(tool: str, *arguments: str) -> str:
    found = shutil.which(tool, path=_path())
    assert found is not None, tool
    done = subprocess.run([found, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{tool} failed:\n{done.stdout[-4000:]}{done.stderr[-4000:]}"
    return done.stdout


def _path() -> str:
    """Where tools may be: beside this Python first."""
    return os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])


if VARIABLE in os.environ:
    take_the_place()
