"""The registry of reference networks, and a user's own callables beside them."""

from __future__ import annotations

import functools
import importlib
import inspect
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import nn

from dovetail.errors import RecipeError
from dovetail.zoo.normalisation import Normalisation

Builder = Callable[..., nn.Module]


@dataclass(frozen=True)
class Weights:
    """Published or own weights of a network.

    Attributes:
        data: the data set they were trained on.
        file: the name of the safetensors file under the data root.
        normalisation: what their training images went through; the network is worth nothing without it.
        options: of the network that fits them.
    """

    data: str
    file: str
    normalisation: Normalisation
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Network:
    """One row of the registry."""

    name: str
    builder: Builder
    weights: Mapping[str, Weights]

    def options(self) -> dict[str, Any]:
        """The options that `build` accepts, with their defaults."""
        bound = self.builder.keywords if isinstance(self.builder, functools.partial) else {}
        return {p.name: p.default for p in inspect.signature(self.builder).parameters.values() if p.name not in bound}


NETWORKS: dict[str, Network] = {}


def network(name: str, *, weights: Sequence[Weights] = (), **preset: Any) -> Callable[[Builder], Builder]:
    """Enter a builder under `name` with the `preset` options fixed; may be stacked for a family of depths."""

    def register(builder: Builder) -> Builder:
        bound = functools.partial(builder, **preset)
        NETWORKS[name] = Network(name, bound, {w.data: w for w in weights})
        return builder

    return register


def find(name: str) -> Network:
    """The network called `name`; case, hyphens, underscores and dots do not matter (`ResNet-20` is `resnet20`).

    Raises:
        RecipeError: no network has this name; the message lists those there are.
    """
    for known, row in NETWORKS.items():
        if plain(known) == plain(name):
            return row
    raise RecipeError(
        f"unknown network {name!r}; the zoo has {', '.join(NETWORKS)}, and 'package.module:callable' names your own"
    )


def build(name: str, **options: Any) -> nn.Module:
    """A freshly initialised network: a zoo name or `package.module:callable`, called with `options`.

    Raises:
        RecipeError: the name or an option does not exist, or the callable does not return a module.
    """
    if ":" in name:
        return _call(name, _resolve(name), options)
    row = find(name)
    if unknown := sorted(set(options) - set(row.options())):
        raise RecipeError(f"network {row.name!r} has no option {', '.join(unknown)}; it has {', '.join(row.options())}")
    return row.builder(**options)


def plain(name: str) -> str:
    """A name without case, hyphens, underscores and dots."""
    return re.sub(r"[-_.]", "", name).lower()


def _resolve(name: str) -> Builder:
    module_name, _, attribute = name.partition(":")
    if not module_name or not attribute:
        raise RecipeError(f"network {name!r}: write package.module:callable")
    module = _import(module_name, name)
    try:
        found = functools.reduce(getattr, attribute.split("."), module)
    except AttributeError:
        raise RecipeError(f"network {name!r}: module {module_name!r} has no {attribute!r}") from None
    if not callable(found):
        raise RecipeError(f"network {name!r} is a {type(found).__name__}, not a callable that returns a torch module")
    return found


def _import(module_name: str, name: str) -> Any:
    """Import a user's module; the working folder joins the search path, last, so that it hides nothing installed."""
    if (here := str(Path.cwd())) not in sys.path:
        sys.path.append(here)
    try:
        return importlib.import_module(module_name)
    except Exception as error:  # whatever the user's module does when it is imported
        lacking = error.name if isinstance(error, ModuleNotFoundError) else None
        if lacking is None or not f"{module_name}.".startswith(f"{lacking}."):
            told = f"{type(error).__name__}: {error}"
            raise RecipeError(f"network {name!r}: importing {module_name!r} failed with {told}") from error
        raise RecipeError(
            f"network {name!r}: there is no module {lacking!r}; run from the folder that holds it or set PYTHONPATH"
        ) from None


def _call(name: str, builder: Builder, options: Mapping[str, Any]) -> nn.Module:
    try:
        inspect.signature(builder).bind(**options)
    except TypeError as error:
        raise RecipeError(f"network {name!r} cannot be called with these options: {error}") from None
    except ValueError:
        pass  # some callables written in C have no signature; calling them tells
    try:
        model = builder(**options)
    except Exception as error:  # whatever the user's code does
        raise RecipeError(f"network {name!r}: calling it failed with {type(error).__name__}: {error}") from error
    if not isinstance(model, nn.Module):
        raise RecipeError(f"network {name!r} returned a {type(model).__name__}, not a torch module")
    return model
