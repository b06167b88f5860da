"""A run killed at any moment, and begun again, ends with the very weights of a run that was left alone."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))
from resume_child import compress

CHILD = Path(__file__).with_name("resume_child.py")


def start(method: str, run: Path, kill: int) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, str(CHILD), method, str(run), str(kill)], stderr=subprocess.PIPE, text=True
    )


def require_same(method: str, run: Path) -> None:
    expected, left_alone = compress(method, None)
    model, resumed = compress(method, run)
    assert [type(module) for module in model.modules()] == [type(module) for module in expected.modules()]
    for (name, tensor), (_, other) in zip(model.state_dict().items(), expected.state_dict().items(), strict=True):
        assert torch.equal(tensor, other), f"{name} differs"
    outcome = [[(r.phase, r.epoch, r.loss, r.accuracy) for r in done.history.records] for done in (resumed, left_alone)]
    assert outcome[0] == outcome[1]


OTHERS = [
    pytest.param(method, steps, marks=pytest.mark.slow)
    for method, steps in (("two-phases", 3), ("magnitude", 7), ("penni", 18), ("int8", 12))
]


@pytest.mark.parametrize(("method", "steps"), [("two-phases", 8), *OTHERS])
def test_killed_in_mid_epoch(method, steps, tmp_path):
    child = start(method, tmp_path, steps)
    errors = child.communicate(timeout=100)[1]
    assert child.returncode == -signal.SIGKILL, errors
    require_same(method, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["two-phases", "magnitude", "penni", "int8", "thin"])
@pytest.mark.parametrize("delay", [0.0, 0.05, 0.1])
def test_killed_at_any_moment(method, delay, tmp_path):
    child = start(method, tmp_path, -1)
    deadline = time.monotonic() + 100
    while not list(tmp_path.glob("checkpoint-*")) and time.monotonic() < deadline:
        time.sleep(0.002)
    time.sleep(delay)
    child.kill()
    errors = child.communicate(timeout=100)[1]
    assert child.returncode == -signal.SIGKILL, errors
    require_same(method, tmp_path)
