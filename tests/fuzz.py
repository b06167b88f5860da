"""Runs the cases of `fuzz_child.py` in children, so that a crash is seen and the guilty file is kept."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path

import sanitized

ROOT = Path(__file__).resolve().parents[1]
KEPT = ROOT / "build" / "fuzz"


def outcomes(kind: str, first: int, count: int, *, over_sanitizers: bool = False) -> Counter[str]:
    """What came of `count` cases; an `AssertionError` names the case that crashed, hung, or met the wrong error."""
    with tempfile.TemporaryDirectory() as folder:
        arguments = [str(ROOT / "tests" / "fuzz_child.py"), kind, str(first), str(count), folder]
        if over_sanitizers:
            done = sanitized.run(*arguments, timeout=None)
        else:
            environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT / "tests"), *filter(None, sys.path)])}
            command = [sys.executable, *arguments]
            done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
        said = done.stdout.splitlines()
        if done.returncode != 0:
            raise AssertionError(_blame(kind, said[-1] if said else "before the first case", done, Path(folder)))
    return Counter(line.removeprefix("end ") for line in said if line.startswith("end "))


def _blame(kind: str, last: str, done: subprocess.CompletedProcess[str], folder: Path) -> str:
    kept = []
    for file in folder.glob("case-*"):
        KEPT.mkdir(parents=True, exist_ok=True)
        kept.append(shutil.copy(file, KEPT))
    number = last.removeprefix("begin ")
    return (
        f"{kind}: case {number} ended with {done.returncode}; "
        f"its file is {', '.join(map(str, kept)) or 'not written'}; "
        f"repeat it with python tests/fuzz_child.py {kind} {number} 1 .\n{done.stderr[-6000:]}"
    )
