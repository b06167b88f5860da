"""Dovetail fits a neural network to the machine that runs it: structured compression with measured speed-ups.

Every public name is listed here and loads on first use; `import dovetail` itself costs nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dovetail import formats, methods
    from dovetail.accelerators import Simulation, simulate
    from dovetail.api import Compression, compress, quantize, race
    from dovetail.engine import Session
    from dovetail.errors import DovetailError
    from dovetail.export.onnx import export_onnx
    from dovetail.fitting import Fit, fit
    from dovetail.formats.base import Spec
    from dovetail.methods.base import Kept, Method, Plan
    from dovetail.methods.shrink import shrink
    from dovetail.program.lower import lower
    from dovetail.program.program import Program
    from dovetail.program.reference import run as reference
    from dovetail.program.store import load
    from dovetail.search import Budget
    from dovetail.training.loop import Settings

__version__ = "0.1.0.dev0"

_WHERE = {
    "Budget": "dovetail.search:Budget",
    "Compression": "dovetail.api:Compression",
    "DovetailError": "dovetail.errors:DovetailError",
    "Fit": "dovetail.fitting:Fit",
    "Kept": "dovetail.methods.base:Kept",
    "Method": "dovetail.methods.base:Method",
    "Plan": "dovetail.methods.base:Plan",
    "Program": "dovetail.program.program:Program",
    "Session": "dovetail.engine:Session",
    "Settings": "dovetail.training.loop:Settings",
    "Simulation": "dovetail.accelerators:Simulation",
    "Spec": "dovetail.formats.base:Spec",
    "compress": "dovetail.api:compress",
    "export_onnx": "dovetail.export.onnx:export_onnx",
    "fit": "dovetail.fitting:fit",
    "formats": "dovetail.formats",
    "load": "dovetail.program.store:load",
    "lower": "dovetail.program.lower:lower",
    "methods": "dovetail.methods",
    "quantize": "dovetail.api:quantize",
    "race": "dovetail.api:race",
    "reference": "dovetail.program.reference:run",
    "shrink": "dovetail.methods.shrink:shrink",
    "simulate": "dovetail.accelerators:simulate",
}

__all__ = [
    "Budget",
    "Compression",
    "DovetailError",
    "Fit",
    "Kept",
    "Method",
    "Plan",
    "Program",
    "Session",
    "Settings",
    "Simulation",
    "Spec",
    "compress",
    "export_onnx",
    "fit",
    "formats",
    "load",
    "lower",
    "methods",
    "quantize",
    "race",
    "reference",
    "shrink",
    "simulate",
]


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module 'dovetail' has no attribute {name!r}; it has {', '.join(__all__)}")
    module, _, attribute = _WHERE[name].partition(":")
    loaded = importlib.import_module(module)
    value = getattr(loaded, attribute) if attribute else loaded
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
