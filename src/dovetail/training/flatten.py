"""Nested state (dicts, lists, tuples, numbers, strings, tensors) as named tensors plus JSON, and back: no pickle."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dovetail.errors import TrainingError

Tensors = dict[str, Tensor]


def flatten(state: Any) -> tuple[Tensors, Any]:
    """Tensors by path ("model/conv1.weight"), and JSON-able data that says where they belong.

    Tensors are copied to the host, contiguous. In the data a tensor is `{"$tensor": path}`, a numpy array
    `{"$array": path}`, a tuple `{"$tuple": [...]}`, and a dict with keys other than plain strings `{"$items": [...]}`.

    Raises:
        TrainingError: a value of another kind; names its path.
    """
    tensors: Tensors = {}
    return tensors, _encode(state, "", tensors)


def unflatten(tensors: Mapping[str, Tensor], data: Any) -> Any:
    """Inverse of `flatten`; `KeyError` where the data names a tensor that is missing."""
    if isinstance(data, list):
        return [unflatten(tensors, item) for item in data]
    if not isinstance(data, dict):
        return data
    if len(data) == 1 and (tag := next(iter(data))) in _DECODERS:
        return _DECODERS[tag](tensors, data[tag])
    return {key: unflatten(tensors, value) for key, value in data.items()}


def _encode(value: Any, path: str, tensors: Tensors) -> Any:
    match value:
        case None | bool() | str():
            return value
        case int() | float():
            return value.item() if isinstance(value, np.generic) else value
        case Tensor():
            return {"$tensor": _put(value, path, tensors)}
        case np.ndarray():
            return {"$array": _put(torch.from_numpy(value.copy()), path, tensors)}
        case list():
            return _encode_all(value, path, tensors)
        case tuple():
            return {"$tuple": _encode_all(value, path, tensors)}
        case Mapping():
            return _encode_mapping(value, path, tensors)
    raise TrainingError(
        f"state at {path or '/'!r} is a {type(value).__name__}; a checkpoint holds tensors, numpy arrays, numbers, "
        "strings, None, and dicts, lists and tuples of them"
    )


def _encode_all(values: list[Any] | tuple[Any, ...], path: str, tensors: Tensors) -> list[Any]:
    return [_encode(value, f"{path}/{index}", tensors) for index, value in enumerate(values)]


def _encode_mapping(value: Mapping[Any, Any], path: str, tensors: Tensors) -> Any:
    if all(isinstance(key, str) and not key.startswith("$") for key in value):
        return {key: _encode(item, f"{path}/{key}" if path else key, tensors) for key, item in value.items()}
    keys = _encode_all(list(value), f"{path}/keys", tensors)
    items = _encode_all(list(value.values()), path, tensors)
    return {"$items": [list(pair) for pair in zip(keys, items)]}


def _put(tensor: Tensor, path: str, tensors: Tensors) -> str:
    """A name of its own for the tensor: two paths can read alike when keys hold slashes."""
    name = path or "tensor"
    while name in tensors:
        name += "'"
    tensors[name] = tensor.detach().to("cpu", copy=True).contiguous()
    return name


_DECODERS: dict[str, Callable[[Mapping[str, Tensor], Any], Any]] = {
    "$tensor": lambda tensors, name: tensors[name],
    "$array": lambda tensors, name: tensors[name].numpy(),
    "$tuple": lambda tensors, items: tuple(unflatten(tensors, item) for item in items),
    "$items": lambda tensors, pairs: {unflatten(tensors, k): unflatten(tensors, v) for k, v in pairs},
}
