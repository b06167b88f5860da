"""The structure of a compressed model as plain data, so that its weights can be loaded into a freshly built original.

A state dict says nothing of formats, ranks or removed channels. `describe` writes them down (JSON), `rebuild` brings a
new model of the same code to that structure; then `load_state_dict` fits. Nothing is pickled.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor, nn

from dovetail.errors import SpecError
from dovetail.formats.base import format_named, spec_from_json
from dovetail.formats.layer import Dense, FormatConv2d, FormatLayer, FormatLinear, filled, from_packed, swap

VERSION: Final = 1
Entry = Mapping[str, Any]
_FAMILIES: Final[dict[str, tuple[type[nn.Module], ...]]] = {
    "conv2d": (nn.Conv2d, FormatConv2d),
    "linear": (nn.Linear, FormatLinear),
    "batch_norm": (nn.BatchNorm1d, nn.BatchNorm2d),
    "identity": (nn.Identity,),
}


def describe(model: nn.Module) -> dict[str, Any]:
    """Kind, channels, geometry, spec and mask of every convolution, linear layer, batch norm and identity, by name."""
    entries = ((name, _describe(module)) for name, module in model.named_modules())
    return {"version": VERSION, "modules": {name: entry for name, entry in entries if entry is not None}}


def rebuild(model: nn.Module, description: Mapping[str, Any]) -> nn.Module:
    """Bring `model`, freshly built by its own code, to the described structure, in place.

    Modules that differ are replaced by ones of the same device, type and mode whose numbers are zeros (batch norms: the
    identity) until `load_state_dict`. A description of another network is a `SpecError`; the model is then unchanged.
    """
    wanted = _modules_of(description)
    present = {name: entry for name, module in model.named_modules() if (entry := _describe(module)) is not None}
    _require_same_names(wanted, present)
    made = {
        name: _make(name, entry, model.get_submodule(name)) for name, entry in wanted.items() if entry != present[name]
    }
    for name, module in made.items():
        swap(model, name, module)
    return model


def _describe(module: nn.Module) -> dict[str, Any] | None:
    match module:
        case nn.Conv2d() | FormatConv2d():
            entry = _describe_conv(module)
        case nn.Linear() | FormatLinear():
            entry = {"kind": "linear", "in_features": module.in_features, "out_features": module.out_features}
        case nn.BatchNorm1d() | nn.BatchNorm2d():
            return {"kind": "batch_norm", "features": module.num_features}
        case nn.Identity():
            return {"kind": "identity"}
        case _:
            return None
    entry["bias"] = module.bias is not None
    if isinstance(module, FormatLayer):
        entry["spec"] = module.spec.to_json()
    if isinstance(mask := getattr(module, "mask", None), Tensor):
        entry["mask"] = list(mask.shape)
    return entry


def _describe_conv(module: nn.Conv2d | FormatConv2d) -> dict[str, Any]:
    padding = module.padding
    return {
        "kind": "conv2d",
        "in_channels": module.in_channels,
        "out_channels": module.out_channels,
        "kernel_size": list(module.kernel_size),
        "stride": list(module.stride),
        "padding": padding if isinstance(padding, str) else list(padding),
        "dilation": list(module.dilation),
        "groups": module.groups,
        "padding_mode": module.padding_mode,
    }


def _modules_of(description: Mapping[str, Any]) -> Mapping[str, Entry]:
    if not isinstance(description, Mapping) or not isinstance(description.get("modules"), Mapping):
        raise SpecError("a structure is a mapping with 'version' and 'modules', as describe() writes it")
    if description.get("version") != VERSION:
        raise SpecError(f"structure version {description.get('version')!r} is not {VERSION}; update Dovetail")
    modules: Mapping[str, Entry] = description["modules"]
    for name, entry in modules.items():
        if not isinstance(entry, Mapping) or entry.get("kind") not in _FAMILIES:
            raise SpecError(f"layer {name!r}: its description needs a kind of {', '.join(_FAMILIES)}, not {entry!r}")
    return modules


def _require_same_names(wanted: Mapping[str, Entry], present: Mapping[str, Entry]) -> None:
    strange, missing = [n for n in wanted if n not in present], [n for n in present if n not in wanted]
    if strange or missing:
        parts = [
            f"{what} {', '.join(names[:5])}" for what, names in (("has no", strange), ("also has", missing)) if names
        ]
        raise SpecError(f"the structure is of another network: this model {' and '.join(parts)}")
    for name, entry in wanted.items():
        if entry["kind"] != present[name]["kind"] and entry["kind"] != "identity":
            raise SpecError(
                f"layer {name!r} is described as {entry['kind']}, but the model has {present[name]['kind']}"
            )


def _make(name: str, entry: Entry, old: nn.Module) -> nn.Module:
    try:
        made = _MAKERS[entry["kind"]](entry, old)
    except SpecError as error:
        raise SpecError(f"layer {name!r}: {error}") from None
    except (KeyError, TypeError, ValueError, RuntimeError, MemoryError) as error:
        raise SpecError(f"layer {name!r}: no layer can be made from {dict(entry)}: {error!r}") from error
    if _describe(made) != dict(entry):
        raise SpecError(f"layer {name!r}: the description {dict(entry)} contradicts itself; it makes {_describe(made)}")
    return made.train(old.training)


def _make_conv(entry: Entry, old: nn.Module) -> nn.Module:
    options: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in entry.items()}
    for other in ("kind", "spec", "mask"):
        options.pop(other, None)
    return _in_format(entry, _zeros(nn.Conv2d(**options, device="meta"), old))


def _make_linear(entry: Entry, old: nn.Module) -> nn.Module:
    dense = nn.Linear(entry["in_features"], entry["out_features"], entry["bias"], device="meta")
    return _in_format(entry, _zeros(dense, old))


def _make_norm(entry: Entry, old: Any) -> nn.Module:
    norm = type(old)(entry["features"], old.eps, old.momentum, old.affine, old.track_running_stats)
    made: nn.Module = norm.to(old.weight) if old.affine else norm
    return made


def _make_identity(entry: Entry, old: nn.Module) -> nn.Module:
    return nn.Identity()


_MAKERS: Final = {
    "conv2d": _make_conv,
    "linear": _make_linear,
    "batch_norm": _make_norm,
    "identity": _make_identity,
}


def _zeros(dense: Dense, old: nn.Module) -> Dense:
    like = next(old.parameters())
    bias = None if dense.bias is None else torch.zeros(dense.bias.shape).to(like).requires_grad_()
    return filled(dense, torch.zeros(dense.weight.shape).to(like), bias)


def _in_format(entry: Entry, dense: nn.Module) -> nn.Module:
    if "spec" not in entry:
        return dense
    spec = spec_from_json(entry["spec"])
    zeros = np.zeros(tuple(dense.weight.shape), dtype=np.float32)  # type: ignore[arg-type]
    layer = from_packed(dense, format_named(spec.format).packed.from_dense(zeros, spec))
    if "mask" in entry:
        layer.prune(torch.ones(entry["mask"], dtype=torch.bool))  # type: ignore[operator]
    return layer
