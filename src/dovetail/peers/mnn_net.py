"""MNN on the CPU in f32: it knows Winograd's filtering, as onnxruntime and OpenVINO on x86 do not.

Networks go through ONNX and MNN's compiled converter, called directly in a process of its own: the script that MNN puts
before it installs a package and calls home.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np

from dovetail.errors import PeerError
from dovetail.peers import onnx_runtime
from dovetail.peers.peer import Arguments, Images, Runner, Source, expecting
from dovetail.peers.process import environment

TRIED = "3.6.1"
CONVERT = "import sys, _tools; _tools.mnnconvert(sys.argv)"
SECONDS = 300
WINOGRAD_HINT = 3  # its number in MNN; the Python package has no name for it
LARGEST = 3  # tiles of up to 6x6 outputs, MNN's default; 1 and 2 mean 2x2, 0 means none


def export(source: Source, folder: Path, dtype: str) -> Arguments:
    """Write `<name>.mnn` unless it is there; the ONNX file beside it is onnxruntime's."""
    path = folder / f"{source.name}.mnn"
    if not path.is_file():
        _convert(onnx_runtime.export(source, folder, dtype)["path"], path)
    return {"path": str(path), "shape": list(source.example.shape)}


def _convert(onnx: str, path: Path) -> None:
    words = ["-f", "ONNX", "--modelFile", onnx, "--MNNModel", str(path), "--bizCode", "MNN"]
    done = subprocess.run(
        [sys.executable, "-P", "-c", CONVERT, *words],
        capture_output=True,
        text=True,
        errors="replace",
        timeout=SECONDS,
        check=False,
        cwd=path.parent,
        env=environment(1),
    )
    if done.returncode or not path.is_file():
        raise PeerError(f"mnn: its converter failed: {_reason(done)}")


def _reason(done: subprocess.CompletedProcess[str]) -> str:
    """Python's last line or the converter's last two, of which the very last names no cause."""
    lines = [line.strip() for line in done.stdout.splitlines() if line.strip()]
    errors = done.stderr.strip().splitlines()
    told = errors[-1] if done.returncode and errors else " ".join(lines[-2:])
    return told[:200] or f"exit status {done.returncode}"


def load(threads: int, path: str, shape: list[int], winograd: int = LARGEST) -> Runner:
    """A session in real float32 on so many threads."""
    with expecting("MNN", TRIED):
        import MNN

        interpreter = MNN.Interpreter(path)
        interpreter.setSessionHint(WINOGRAD_HINT, winograd)
        session = interpreter.createSession({"backend": "CPU", "numThread": threads, "precision": "high"})
        return _Runner(MNN, interpreter, session, tuple(shape))


class _Runner:
    def __init__(self, mnn: Any, interpreter: Any, session: Any, shape: tuple[int, ...]) -> None:
        self.mnn, self.interpreter, self.session = mnn, interpreter, session
        self.source = interpreter.getSessionInput(session)
        interpreter.resizeTensor(self.source, shape)
        interpreter.resizeSession(session)
        self.result = interpreter.getSessionOutput(session)
        self.y = self._tensor(np.zeros(self.result.getShape(), np.float32))

    def bind(self, x: Images) -> None:
        self.x = self._tensor(x)  # a copy

    def run(self) -> None:
        self.source.copyFrom(self.x)
        if failed := self.interpreter.runSession(self.session):
            raise PeerError(f"mnn: the run failed with code {failed}")
        self.result.copyToHostTensor(self.y)

    def outputs(self) -> tuple[np.ndarray, ...]:
        return (np.array(self.y.getNumpyData()).reshape(self.y.getShape()),)

    def _tensor(self, array: np.ndarray) -> Any:
        kind, layout = self.mnn.Halide_Type_Float, self.mnn.Tensor_DimensionType_Caffe
        return self.mnn.Tensor(array.shape, kind, array, layout)
