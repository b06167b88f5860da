"""What tells one run from another: a folder is only resumed by the run that began it."""

from __future__ import annotations

import json
import logging
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from dovetail.errors import TrainingError

log = logging.getLogger("dovetail.training")
ADVICE = {"weights": "a network that starts from random weights needs torch.manual_seed before it is built"}


def fingerprint(model: nn.Module, parts: Mapping[str, Any]) -> dict[str, Any]:
    """JSON-able `parts`, and of the model as it is handed in: shapes of the state, and a checksum of its values."""
    shapes = {name: list(tensor.shape) for name, tensor in model.state_dict().items()}
    plain: dict[str, Any] = json.loads(json.dumps({**parts, "model": shapes, "weights": checksum(model)}))
    return plain


def require_same(ours: Mapping[str, Any], stored: Mapping[str, Any], folder: Path | None) -> None:
    """`TrainingError` unless the fingerprint of a run agrees with the one stored in its folder.

    Only what is stored is compared: folders written by earlier versions lack some parts.
    """
    differing = [part for part, value in stored.items() if ours.get(part) != value]
    if differing:
        advice = [ADVICE[part] for part in differing if part in ADVICE and "model" not in differing]
        raise TrainingError(
            f"{folder} holds another run (its {' and '.join(differing)} differ); "
            + "; ".join(["choose another run folder, or delete this one to start anew", *advice])
        )
    if lacking := [part for part in ours if part not in stored]:
        log.info("run %s does not say its %s; not compared", folder, " and ".join(lacking))


def checksum(model: nn.Module) -> str:
    """CRC-32 of the names and values of all parameters and buffers, in hexadecimal."""
    crc = 0
    for name, tensor in model.state_dict().items():
        values = tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy()
        crc = zlib.crc32(values, zlib.crc32(name.encode(), crc))
    return f"{crc:08x}"
