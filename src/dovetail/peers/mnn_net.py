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
from dovetail.peers.peer import Arguments, Images, Runner, Source

CONVERT = "import sys, _tools; _tools.mnnconvert(sys.argv)"
SECONDS = 300


def export(source: Source, folder: Path, dtype: str) -> Arguments:
    """Write `<name>.mnn`; the ONNX file beside it is onnxruntime's."""
    onnx = onnx_runtime.export(source, folder, dtype)["path"]
    path = Path(onnx).with_suffix(".mnn")
    words = ["-f", "ONNX", "--modelFile", onnx, "--MNNModel", str(path), "--bizCode", "MNN"]
    done = subprocess.run(
        [sys.executable, "-c", CONVERT, *words], capture_output=True, text=True, timeout=SECONDS, check=False
    )
    if done.returncode or not path.is_file():
        last = (done.stderr or done.stdout).strip().rpartition("\n")[2][:200]
        raise PeerError(f"mnn: its converter failed: {last}")
    return {"path": str(path), "shape": list(source.example.shape)}


def load(threads: int, path: str, shape: list[int]) -> Runner:
    """A session in real float32 on so many threads."""
    import MNN

    interpreter = MNN.Interpreter(path)
    session = interpreter.createSession({"backend": "CPU", "numThread": threads, "precision": "high"})
    return _Runner(MNN, interpreter, session, tuple(shape))


class _Runner:
    def __init__(self, mnn: Any, interpreter: Any, session: Any, shape: tuple[int, ...]) -> None:
        self.mnn, self.interpreter, self.session = mnn, interpreter, session
        self.source = interpreter.getSessionInput(session)
        interpreter.resizeTensor(self.source, shape)
        interpreter.resizeSession(session)
        self.result = interpreter.getSessionOutput(session)

    def bind(self, x: Images) -> None:
        self.x = x
        self.host = self._tensor(x)

    def run(self) -> None:
        self.source.copyFrom(self.host)
        self.interpreter.runSession(self.session)
        self.y = self._tensor(np.empty(self.result.getShape(), np.float32))
        self.result.copyToHostTensor(self.y)

    def outputs(self) -> tuple[np.ndarray, ...]:
        return (np.array(self.y.getNumpyData()).reshape(self.y.getShape()),)

    def _tensor(self, array: np.ndarray) -> Any:
        kind, layout = self.mnn.Halide_Type_Float, self.mnn.Tensor_DimensionType_Caffe
        return self.mnn.Tensor(array.shape, kind, array, layout)
