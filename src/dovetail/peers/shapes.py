"""Distinct layers of networks as files, and each as a torch module: what the shape suite times one by one."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from dovetail import files
from dovetail.errors import DataError
from dovetail.program.layers import LayerShape

if TYPE_CHECKING:
    from torch import nn


def module_of(shape: LayerShape) -> nn.Module:
    """The layer in torch, with a bias, its weights drawn from torch's generator."""
    from torch import nn

    if shape.op == "linear":
        return nn.Linear(shape.weight[1], shape.weight[0]).eval()
    top, bottom, left, right = shape.padding
    if (top, left) != (bottom, right):
        raise DataError(f"{shape}: the shape suite has no layers that are padded unevenly, {shape.padding}")
    geometry = {"stride": shape.stride, "padding": (top, left), "dilation": shape.dilation, "groups": shape.groups}
    return nn.Conv2d(shape.input[0], shape.weight[0], shape.weight[2:], **geometry).eval()  # type: ignore[arg-type]


def write(network: str, command: str, shapes: Iterable[LayerShape], path: Path) -> None:
    """A network's shapes as JSON, one a line."""
    rows = ",\n  ".join(json.dumps(shape.to_json(), ensure_ascii=False) for shape in shapes)
    head = f'{{\n "network": {json.dumps(network)},\n "command": {json.dumps(command)},\n "shapes": ['
    files.write(path, f"{head}\n  {rows}\n ]\n}}\n", error=DataError)


def read(path: Path) -> list[LayerShape]:
    """Inverse of `write`; `DataError` where the file is none."""
    try:
        return [LayerShape.from_json(shape) for shape in json.loads(path.read_text())["shapes"]]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path} holds no shapes ({error!r}); `dovetail shapes collect` makes such files") from None
