"""Networks of the zoo, dense, compressed and in whole numbers, for minutes: memory and outputs stay what they were.

`DOVETAIL_SOAK` says how many seconds; `make soak` takes twenty minutes.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import dovetail as dt
from dovetail import zoo
from dovetail.engine import native_status
from dovetail.program.store import save

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not native_status().available, reason="the native engine is not built"),
    pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="the system does not tell what memory is in use"),
]
SECONDS = float(os.environ.get("DOVETAIL_SOAK", "60"))
GROWTH = 4 << 20  # bytes: allocators keep a little; a megabyte leaked in every hundred runs would be far more
CHILD = Path(__file__).with_name("soak_child.py")
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("soak")
    torch.manual_seed(0)
    made = []
    for name, size in (("resnet20", 32), ("mobilenetv2", 64), ("squeezenet10", 64)):
        images = torch.randn(4, 3, size, size)
        program = dt.lower(zoo.build(name).eval(), images)
        made.append(save(program, folder / f"{name}.dovetail"))
        if name == "resnet20":
            made.append(save(dt.quantize(program, [images.numpy()]), folder / f"{name}-int8.dovetail"))
    return [*made, ROOT / "recipes" / "results" / "penni-resnet56-cifar10.dovetail"]


def usual(memory: list[int]) -> int:
    """What stays in use while other sessions come and go: their peaks, which depend on who meets whom, lie above it."""
    return sorted(memory)[len(memory) // 10]


def test_memory_and_outputs_are_constant(files: list[Path]) -> None:
    command = [sys.executable, str(CHILD), str(SECONDS), *map(str, files)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=10 * SECONDS + 900, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    seen = json.loads(done.stdout)
    print(seen["runs"])
    assert seen["wrong"] == []
    assert set(seen["runs"]) == {"one thread", "two threads", "fresh"}
    third = len(seen["memory"]) // 3
    before, after = usual(seen["memory"][third : 2 * third]), usual(seen["memory"][2 * third :])
    print(f"{before >> 20} MB, then {after >> 20} MB")
    assert after - before <= GROWTH, f"{before >> 10} KB in use, then {after >> 10} KB, after {seen['runs']} runs"
