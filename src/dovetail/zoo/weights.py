"""Finding, checking, loading and saving weights: safetensors files and nothing else."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from dovetail import files
from dovetail.errors import DataError, RecipeError
from dovetail.zoo.normalisation import BY_DATA, IMAGENET, Normalisation
from dovetail.zoo.registry import NETWORKS, Weights, build, find, plain
from dovetail.zoo.root import ADVICE, data_root, missing

State = dict[str, Tensor]
CODES = 127
"""Int8 weights lie on both sides of zero alike."""

# The published SqueezeNet counts its modules from fire2; torchvision counts pools and activations too.
_FIRE = {2: 3, 3: 4, 4: 5, 5: 7, 6: 8, 7: 9, 8: 10, 9: 12}
_FIRE_PART = {"conv1x1_1": "squeeze", "conv1x1_2": "expand1x1", "conv3x3_2": "expand3x3"}


def load_weights(model: nn.Module, path: str | Path) -> None:
    """Fill `model` from a safetensors file; either all of it is loaded or nothing is changed.

    Int8 weights with a scale per output channel and code-book weights are dequantised. A file without
    `num_batches_tracked` is fine (inference never reads it); any other difference is refused.

    Raises:
        DataError: the file is missing, truncated, of another kind, holds NaN or Inf, or does not fit the model.
    """
    path = Path(path)
    state = _read(path)
    own = model.state_dict()
    _compare(own, state, path)
    model.load_state_dict({key: state.get(key, value) for key, value in own.items()})


def save_int8(model: nn.Module, path: str | Path) -> Path:
    """Write what `load_weights` reads, in a quarter of the bytes; whole or not at all.

    Weights of convolutions and linear layers become int8, nearest, with a scale per output channel; all else stays
    float32, and `num_batches_tracked` is left out.

    Raises:
        DataError: the folder is missing or not writable, or the disk is full.
    """
    layers = {name for name, layer in model.named_modules() if isinstance(layer, nn.Conv2d | nn.Linear)}
    state: State = {}
    for key, tensor in model.state_dict().items():
        stem, _, kind = key.rpartition(".")
        if kind == "weight" and stem in layers:
            state[key], state[f"{stem}.scale"] = _rounded(tensor)
        elif kind != "num_batches_tracked":
            state[key] = tensor.float()
    return files.write(path, save({key: tensor.contiguous() for key, tensor in state.items()}), error=DataError)


def weights_path(name: str, root: str | Path | None = None) -> Path:
    """The file of a network's weights under the data root.

    Args:
        name: a network (`"resnet20"`), a network and its data (`"resnet20_cifar10"`), or the file's own name or path.
        root: the folder; None is the one that DOVETAIL_DATA names.

    Raises:
        RecipeError: the zoo knows no such weights.
        DataError: the folder or the file is not there.
    """
    if Path(name).suffix == ".safetensors" and Path(name).is_file():
        return Path(name)
    path = data_root(root) / _file_named(name)
    if not path.is_file():
        raise missing(path, f"the file of the weights {name!r}")
    return path


def pretrained(name: str, data: str | None = None, root: str | Path | None = None) -> nn.Module:
    """A network with its published weights, in evaluation mode, built with the options that they need.

    Args:
        name: a network of the zoo that has weights.
        data: the data set they were trained on; None takes the only one there is.
        root: the folder; None is the one that DOVETAIL_DATA names.

    Raises:
        RecipeError: the network has no weights for this data set.
        DataError: the file is missing or does not fit.
    """
    weights = _weights_of(name, data)
    model = build(name, **weights.options)
    load_weights(model, weights_path(weights.file, root))
    return model.eval()


def normalisation(network: str, data: str) -> Normalisation:
    """What images go through before `network`: the constants of its published weights for `data`, else those of `data`.

    The published CIFAR ResNets want the ImageNet constants, the ResNet-18 those of CIFAR-10. Data sets without
    constants of their own (folders of images) and networks of a user fall back to the data's, then to ImageNet's.
    """
    published = [row.weights for known, row in NETWORKS.items() if plain(known) == plain(network)]
    own = {plain(on): weights.normalisation for row in published for on, weights in row.items()}
    general = {plain(known): constants for known, constants in BY_DATA.items()}
    return own.get(plain(data)) or general.get(plain(data), IMAGENET)


def _weights_of(name: str, data: str | None) -> Weights:
    row = find(name)
    if data is None and len(row.weights) == 1:
        return next(iter(row.weights.values()))
    if data is None or data not in row.weights:
        known = ", ".join(row.weights) or "none"
        raise RecipeError(f"network {row.name!r} has no published weights for {data!r}; it has them for: {known}")
    return row.weights[data]


def _file_named(name: str) -> str:
    for row in NETWORKS.values():
        for weights in row.weights.values():
            if plain(name) in (plain(row.name), plain(f"{row.name}_{weights.data}"), plain(Path(weights.file).stem)):
                return weights.file
            if name == weights.file:
                return weights.file
    known = (f"{row.name}_{data}" for row in NETWORKS.values() for data in row.weights)
    raise RecipeError(f"the zoo knows no weights {name!r}; it knows {', '.join(known)}, or give a .safetensors file")


def _read(path: Path) -> State:
    if not path.is_file():
        raise DataError(f"weights {str(path)!r} do not exist; give an existing file, or {ADVICE}")
    if path.suffix != ".safetensors":
        raise DataError(
            f"weights {str(path)!r} are no .safetensors file; nothing is ever unpickled: convert them first"
        )
    try:
        with safe_open(path, "pt") as file:
            stored = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - no mapping
    except (SafetensorError, OSError, ValueError) as error:
        raise DataError(
            f"weights {str(path)!r} are truncated or no safetensors file ({error}); get them anew"
        ) from None
    return _dequantised(stored, path)


def _dequantised(stored: Mapping[str, Tensor], path: Path) -> State:
    """Code books and scaled integers become float32 weights under torchvision's names; the rest passes."""
    state: State = {}
    for key, tensor in stored.items():
        stem, _, kind = key.rpartition(".")
        if kind == "code":
            state[_squeezenet(stem) + ".weight"] = _decode(stem, tensor, stored, path)
        elif kind == "bias" and f"{stem}.code" in stored:
            state[_squeezenet(stem) + ".bias"] = tensor
        elif kind == "weight" and tensor.dtype == torch.int8:
            state[key] = tensor.float() * _scale(stem, tensor, stored, path)
        elif kind not in ("codebook", "scale"):
            state[key] = tensor
    return state


def _scale(stem: str, weight: Tensor, stored: Mapping[str, Tensor], path: Path) -> Tensor:
    scale = stored.get(f"{stem}.scale")
    if scale is None or scale.shape != weight.shape[:1]:
        raise DataError(f"weights {str(path)!r}: {stem}.weight is int8 and needs one {stem}.scale per output channel")
    return _beside(scale, weight)


def _rounded(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Codes, and the scale of every output channel: 1 where all its weights are zero."""
    scale = weight.float().flatten(1).abs().amax(dim=1) / CODES
    scale = scale.where(scale > 0, torch.ones_like(scale))
    return (weight.float() / _beside(scale, weight)).round().to(torch.int8), scale


def _beside(scale: Tensor, weight: Tensor) -> Tensor:
    """The scales in a shape that multiplies the weight's output channels."""
    return scale.view(-1, *[1] * (weight.dim() - 1))


def _decode(stem: str, code: Tensor, stored: Mapping[str, Tensor], path: Path) -> Tensor:
    book = stored.get(f"{stem}.codebook")
    if book is None or book.dim() != 1 or code.dtype != torch.uint8 or int(code.max()) >= len(book):
        raise DataError(f"weights {str(path)!r}: {stem}.code needs a {stem}.codebook that covers its indices")
    weight = book[code.long()]
    return weight.flip(1) if stem == "conv1" else weight  # published for BGR, ours takes RGB like every network here


def _squeezenet(stem: str) -> str:
    if found := re.fullmatch(r"fire([2-9])\.(conv1x1_1|conv1x1_2|conv3x3_2)", stem):
        return f"features.{_FIRE[int(found[1])]}.{_FIRE_PART[found[2]]}"
    return {"conv1": "features.0", "conv_final": "classifier.1"}.get(stem, stem)


def _compare(own: Mapping[str, Tensor], state: State, path: Path) -> None:
    lacking = [key for key in own if key not in state and not key.endswith("num_batches_tracked")]
    strange = [key for key in state if key not in own]
    shaped = [
        f"{key} {tuple(value.shape)} where the model has {tuple(own[key].shape)}"
        for key, value in state.items()
        if key in own and value.shape != own[key].shape
    ]
    broken = [key for key, value in state.items() if value.is_floating_point() and not value.isfinite().all()]
    if broken:
        raise DataError(f"weights {str(path)!r} hold NaN or Inf: {_some(broken)}; train them again, or get them anew")
    faults = {"missing": lacking, "unexpected": strange, "of another shape": shaped}
    told = "; ".join(f"{fault}: {_some(keys)}" for fault, keys in faults.items() if keys)
    if told:
        raise DataError(f"weights {str(path)!r} do not fit the model: {told}; check the network's name and options")


def _some(keys: Sequence[Any], count: int = 6) -> str:
    return ", ".join(keys[:count]) + (f" and {len(keys) - count} more" if len(keys) > count else "")
