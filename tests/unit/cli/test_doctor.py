"""`dovetail doctor` says what is there, what is broken, and calls nobody."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

import dovetail
from dovetail.cli import main
from dovetail.engine import native_status
from dovetail.engine.native import cores


@pytest.fixture
def answer(monkeypatch, capsys):
    """What doctor prints, by the first column, with a given data folder; no optional package is imported."""

    def ask(*arguments: str) -> dict[str, str]:
        monkeypatch.setattr("dovetail.cli.doctor.OPTIONAL", {"no_such_package": ("none-such", "a test", "data")})
        assert main(["doctor", *arguments]) == 0
        rows = (line.split("  ", 1) for line in capsys.readouterr().out.splitlines() if "  " in line)
        return {name.strip(): text.strip() for name, text in rows}

    return ask


def test_it_describes_the_machine_and_the_installation(answer, monkeypatch, tmp_path):
    monkeypatch.setenv("DOVETAIL_CACHE", str(tmp_path))
    monkeypatch.setattr("dovetail.peers.torch_compile.shutil.which", lambda name: None)
    told = answer()
    assert told["dovetail"].startswith(f"{dovetail.__version__}, Python {platform.python_version()}, torch ")
    assert f"{cores()} usable cores" in told["processor"]
    assert told["engine can run"] == (", ".join(native_status().isas) or "the numpy reference only")
    assert told["tuning cache"] == f"{tmp_path / 'tuning.json'} (nothing tuned yet)"
    assert told["C++ compiler"].startswith("none")
    assert told["none-such"].startswith("not installed (pip install '.[data]' in a checkout)")


def test_it_finds_the_compiler_and_the_data(answer, monkeypatch, tmp_path):
    monkeypatch.setattr("dovetail.peers.torch_compile.shutil.which", lambda name: f"/bin/{name}")
    monkeypatch.setenv("CXX", "c++-of-my-own")
    (tmp_path / "mnist.npz").touch()
    told = answer("--data", str(tmp_path))
    assert told["C++ compiler"] == "c++-of-my-own"
    assert (told["folder"], told["MNIST"], told["CIFAR-10"]) == (str(tmp_path), "found", "not there")
    assert answer("--data", str(tmp_path / "none"))["folder"].endswith("does not exist")


FAKE = """
try:
    import openvino_telemetry
except ImportError:
    pass
"""


def test_looking_for_openvino_does_not_call_home_and_a_broken_package_is_named(tmp_path):
    for name, text in {"openvino": FAKE, "openvino_telemetry": "", "nncf": "1 / 0"}.items():
        (tmp_path / f"{name}.py").write_text(text)
    code = "import sys; from dovetail.cli.doctor import _package\n"
    code += "print(_package('nncf')); _package('openvino'); print(sys.modules['openvino_telemetry'])"
    source = str(Path(dovetail.__file__).parents[1])
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(tmp_path), source])}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    broken, telemetry = done.stdout.strip().splitlines()
    assert "broken: ZeroDivisionError: division by zero" in broken
    assert telemetry == "None"
