"""Triton where it is installed, and something harmless where it is not.

Kernel files take `jit` and `tl` from here and from nowhere else, so that they can be imported without Triton. The
others ask `support.py`, which does not load it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


class _Missing:
    """Stands in for `triton.language` in the signatures of kernels."""

    def __getattr__(self, name: str) -> Any:
        return self


jit: Callable[..., Any]
tl: Any
try:
    import triton
    import triton.language
except ImportError:
    jit, tl = (lambda function: function), _Missing()
else:
    jit, tl = triton.jit, triton.language
