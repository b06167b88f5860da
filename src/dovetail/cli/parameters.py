"""A method's parameters in a recipe: known by name, and of the types that the method declares."""

from __future__ import annotations

import inspect
import json
import types
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final, Literal, Union, get_args, get_origin, get_type_hints

from pydantic import TypeAdapter, ValidationError

from dovetail.cli.schema import suggest
from dovetail.errors import RecipeError

if TYPE_CHECKING:
    from dovetail.methods.base import Method

NOT_HERE: Final = ("plan",)
"""A recipe gives the plan as `method.plan`."""

WORDS: Final[Mapping[Any, str]] = {
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    str: "a name",
    type(None): "null",
    Any: "anything",
}


def checked(kind: type[Method], given: Mapping[str, Any]) -> dict[str, Any]:
    """`given` as the constructor of `kind` takes it; `RecipeError` names the dotted key and what is allowed."""
    known = declared(kind)
    for name in given:
        if name not in known:
            advice = suggest(name, known, prefix=("method", "parameters"))
            raise RecipeError(f"unknown key 'method.parameters.{name}'; {advice}")
    return {name: _read(f"method.parameters.{name}", known[name], value) for name, value in given.items()}


def declared(kind: type[Method]) -> dict[str, Any]:
    """Name → type of what the constructor takes; where it passes keywords on, of what its bases take too."""
    found: dict[str, Any] = {}
    for each in kind.__mro__:
        if "__init__" not in vars(each):
            continue
        hints = get_type_hints(each if "__dataclass_fields__" in vars(each) else each.__init__)
        taken = list(inspect.signature(each.__init__).parameters.values())[1:]
        own = {p.name: hints[p.name] for p in taken if p.kind is not p.VAR_KEYWORD and p.name not in NOT_HERE}
        found = own | found
        if not any(p.kind is p.VAR_KEYWORD for p in taken):
            break
    return found


def _read(key: str, wanted: Any, value: Any) -> Any:
    """As JSON in pydantic's strict mode: lists become tuples, but neither text nor booleans become numbers."""
    try:
        return TypeAdapter(wanted).validate_json(json.dumps(value, default=str), strict=True)
    except (ValidationError, TypeError):  # a key that JSON cannot say is no name either
        raise RecipeError(f"{key}: give {words(wanted)}, not {value!r}") from None


def words(wanted: Any) -> str:
    """A type for people: `int | None` is "a whole number or null"."""
    origin, parts = get_origin(wanted), get_args(wanted)
    if origin in (Union, types.UnionType):
        return _either([words(part) for part in parts if part is not int or float not in parts])
    if origin is Literal:
        return _either([repr(part) for part in parts])
    if origin is tuple:
        return f"[{', '.join(words(part) for part in parts)}]"
    if origin is not None and issubclass(origin, Mapping):
        return f"a mapping of names to {words(parts[1])}"
    return WORDS.get(wanted, str(wanted))


def _either(told: list[str]) -> str:
    return " or ".join(part for part in (", ".join(told[:-1]), told[-1]) if part)
