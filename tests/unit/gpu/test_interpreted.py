"""The kernels in Triton's interpreter, against torch in double precision; a process of its own runs all cases."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import gpu_blocks
import gpu_layers
from dovetail.errors import install_hint
from dovetail.gpu import support
from gpu_layers import Case

TESTS = Path(gpu_layers.__file__).parent

pytestmark = pytest.mark.skipif(not support.INSTALLED, reason=f"Triton is not installed: {install_hint('gpu')}")


def run(what: str) -> dict[str, dict[str, Any]]:
    """What the child tells of each case."""
    command = [sys.executable, "-W", "error", str(TESTS / "gpu_interpreted_child.py"), what]
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(TESTS), os.environ.get("PYTHONPATH", "")])},
    )
    assert done.returncode == 0, done.stderr
    return {told["name"]: told for told in map(json.loads, done.stdout.splitlines())}


@pytest.fixture(scope="module")
def quick():
    return run("quick")


@pytest.fixture(scope="module")
def everything():
    return run("all")


def require_close(told: dict[str, Any], case: Case) -> None:
    assert told["error"] <= told["allowed"]
    assert told["dtype"] == f"torch.{case.dtype}"
    assert told["last"]


@pytest.mark.parametrize("case", gpu_layers.interpreted(quick=True), ids=str)
def test_one_of_each_kernel(quick, case):
    require_close(quick[case.name], case)


@pytest.mark.slow
@pytest.mark.parametrize("case", gpu_layers.interpreted(quick=False), ids=str)
def test_a_layer_is_as_exact_as_torch_in_the_same_type(everything, case):
    require_close(everything[case.name], case)


def require_block(told: dict[str, Any], case: gpu_blocks.Case) -> None:
    assert told["error"] <= told["allowed"]
    assert told["dtype"] == f"torch.{case.dtype}"
    assert told["again"]


@pytest.mark.parametrize("case", gpu_blocks.interpreted(quick=True), ids=str)
def test_one_of_each_kernel_of_blocks(quick, case):
    require_block(quick[str(case)], case)


@pytest.mark.slow
@pytest.mark.parametrize("case", gpu_blocks.interpreted(quick=False), ids=str)
def test_a_layer_in_blocks_is_as_exact_as_torch_in_the_same_type(everything, case):
    require_block(everything[str(case)], case)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["core", "core in splits"])
def test_the_core_alone(everything, name):
    assert everything[name]["error"] < 1e-6


@pytest.mark.slow
def test_a_nan_stays_one(everything):
    assert everything["nan"]["same"]


@pytest.mark.slow
def test_gradients_through_the_op(everything):
    assert everything["gradients"]["error"] < 1e-6


@pytest.mark.slow
def test_torch_compile_takes_the_op_into_its_graph(everything):
    told = everything["compiled"]
    assert told["same"]
    assert len(told["graphs"]) == 1
    assert [name for name in told["graphs"][0] if "dovetail" in name] == ["dovetail.tucker"]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["splits, all at the end, half", "fused, half"])
def test_the_same_bits_in_every_run(everything, name):
    assert everything[f"again: {name}"]["same"]


def test_what_the_cases_may_lose_is_little():
    """The bound comes from torch's own error; were that large, a wrong kernel would pass."""
    for case in gpu_layers.CASES:
        bound = gpu_layers.allowed(gpu_layers.make(case))
        assert bound < {"float32": 1e-6, "float16": 5e-3, "bfloat16": 4e-2}[case.dtype]
    for case in gpu_blocks.CASES:
        bound = gpu_blocks.allowed(gpu_blocks.make(case))
        assert bound < {"float32": 3e-6, "float16": 5e-3, "bfloat16": 4e-2}[case.dtype]
