"""Whether kernels can run here, found out without loading Triton."""

from __future__ import annotations

import importlib.util
import os
from typing import Final

from dovetail.errors import GpuError, install_hint

INTERPRET: Final = "TRITON_INTERPRET"


def _installed() -> bool:
    try:
        return importlib.util.find_spec("triton") is not None
    except ImportError:
        return False


INSTALLED: Final = _installed()
"""Whether there is a Triton."""

INTERPRETED: Final = INSTALLED and os.environ.get(INTERPRET, "0") not in ("", "0")
"""Whether kernels run in Triton's interpreter, on the CPU: the variable must be set before anything is imported."""


def require() -> None:
    """`GpuError` that says what to install, unless there is a Triton."""
    if not INSTALLED:
        raise GpuError(f"the GPU's kernels need Triton 3.6 or newer (Linux): {install_hint('gpu')}")
