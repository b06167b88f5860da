"""What a Session keeps in memory: the weights in the layouts that the schedule chose, the arena, and a tenth."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from dovetail.engine import native_status
from dovetail.program.store import save
from programs import Sketch, random_packed

pytestmark = [
    pytest.mark.skipif(not native_status().available, reason="the native engine is not built"),
    pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the system does not tell what memory is in use"),
]
CHILD = """
import json, sys
import numpy as np
from dovetail.engine import Session

def told(name):
    (line,) = (line for line in open("/proc/self/status") if line.startswith(name + ":"))
    return 1024 * int(line.split()[1])

small, large = (lambda path=path: Session(path, threads=1) for path in sys.argv[1:])
image = np.ones((1, 8, 14, 14), np.float32)
small()(image)  # whatever the first session of a process brings with it
before, file, peak = told("RssAnon"), told("RssFile"), told("VmHWM")
session = large()
session(image)
print(json.dumps({
    "kept": told("RssAnon") - before, "peak": told("VmHWM") - before - told("RssFile"), **session.memory(),
}))
"""
SLACK = 2 << 20  # bytes: small arrays, and what the allocator cannot give back


def convolutions(path: Path, channels: int, count: int) -> Path:
    sketch = Sketch()
    x = sketch.input("batch", 8, 14, 14)
    for inputs in (8, *[channels] * (count - 1)):
        weight = random_packed("dense", (channels, inputs, 3, 3), sketch.random)
        x = sketch.add("conv2d", x, packed=weight, scaled=True, padding=(1, 1, 1, 1))
    return save(sketch.program(x), path)


def test_a_session_keeps_its_weights_and_its_arena(tmp_path, monkeypatch):
    small, large = convolutions(tmp_path / "small.dovetail", 8, 2), convolutions(tmp_path / "large.dovetail", 512, 4)
    monkeypatch.setenv("DOVETAIL_CACHE", str(tmp_path / "cache"))
    for _ in ("timed", "from the cache"):
        done = subprocess.run([sys.executable, "-c", CHILD, small, large], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        found = json.loads(done.stdout)
        needed = found["weights"] + found["arena"]
        layer = 4 * 512 * 512 * 9
        assert needed > 3 * layer
        assert found["kept"] <= 1.05 * needed + SLACK
        assert found["peak"] <= 1.1 * needed + 2 * layer
