"""Fingerprints: what must be the same for a simulated layer to be taken again instead of simulated."""

from __future__ import annotations

import hashlib
import json
from functools import cache
from pathlib import Path
from typing import Any

from dovetail.accelerators.machine import Machine
from dovetail.accelerators.workload import Workload


def fingerprint(machine: Machine, *digests: str) -> str:
    """Of layers on a machine: what they are, every parameter, and the code of the models."""
    return _digest(code(), _text(machine.to_json()), *digests)


def of_workload(workload: Workload) -> str:
    """Of a weight as it is packed, the input that it met, and how it is applied."""
    numbers = ("stride", "padding", "dilation", "groups", "zero", "input_on_chip", "output_on_chip")
    shapes: list[Any] = [getattr(workload, name) for name in numbers]
    parts: list[str | bytes] = [_text(workload.weight.spec.to_json()), repr(workload.weight.shape), repr(shapes)]
    arrays = {**workload.weight.arrays, "input": workload.input}
    if workload.output_mask is not None:
        arrays["output"] = workload.output_mask
    for name, array in arrays.items():
        parts += [f"{name} {array.dtype} {array.shape}", array.tobytes()]
    return _digest(*parts)


@cache
def code() -> str:
    """Of the sources of this room: results of other models are not taken for those of these."""
    folder = Path(__file__).parent
    return _digest(*(path.read_bytes() for path in sorted(folder.glob("*.py"))))


def _digest(*parts: str | bytes) -> str:
    found = hashlib.sha256()
    for part in parts:
        data = part.encode() if isinstance(part, str) else part
        found.update(len(data).to_bytes(8, "little") + data)
    return found.hexdigest()


def _text(data: Any) -> str:
    return json.dumps(data, sort_keys=True)
