"""Reads the dictionaries of uint8 arrays that CIFAR-10's Python version holds, without unpickling them.

The opcodes are interpreted here as plain data: a global is only its name, a call is only its arguments, so nothing is
ever imported or run. Whatever such a file does not need is refused.
"""

from __future__ import annotations

import math
import pickletools
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from dovetail.errors import DataError

_VALUES = {
    "NONE", "NEWTRUE", "NEWFALSE", "INT", "BININT", "BININT1", "BININT2", "LONG1", "STRING", "BINSTRING",
    "SHORT_BINSTRING", "BINBYTES", "SHORT_BINBYTES", "UNICODE", "BINUNICODE", "SHORT_BINUNICODE",
}  # fmt: skip
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_EMPTY = {"EMPTY_LIST": list, "EMPTY_DICT": dict, "EMPTY_TUPLE": tuple}
_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
_IGNORED = {"PROTO", "FRAME", "STOP"}
_ARRAYS = {f"numpy.{core}.multiarray _reconstruct" for core in ("core", "_core")}


@dataclass
class _Call:
    """`REDUCE` and `BUILD`, kept as data."""

    function: str
    arguments: Any
    state: Any = None


@dataclass(frozen=True)
class _Name:
    """A global, kept as its name."""

    name: str


class _Mark:
    pass


@dataclass
class _Machine:
    stack: list[Any] = field(default_factory=list)
    memo: dict[int, Any] = field(default_factory=dict)

    def step(self, name: str, argument: Any) -> None:
        """One opcode that moves data; others are `ValueError`."""
        stack = self.stack
        if name in _VALUES:
            stack.append(_CONSTANTS.get(name, argument))
        elif name in _EMPTY:
            stack.append(_EMPTY[name]())
        elif name in _TUPLES:
            stack[-_TUPLES[name] :] = [tuple(stack[-_TUPLES[name] :])]
        elif name in ("PUT", "BINPUT", "LONG_BINPUT"):
            self.memo[argument] = stack[-1]
        elif name in ("GET", "BINGET", "LONG_BINGET"):
            stack.append(self.memo[argument])
        elif name not in _IGNORED:
            self._combine(name, argument)

    def _combine(self, name: str, argument: Any) -> None:
        stack = self.stack
        match name:
            case "MARK":
                stack.append(_Mark())
            case "MEMOIZE":
                self.memo[len(self.memo)] = stack[-1]
            case "TUPLE":
                stack.append(tuple(self._since_mark()))
            case "APPEND" | "APPENDS":
                items = self._since_mark() if name == "APPENDS" else [stack.pop()]
                stack[-1].extend(items)
            case "SETITEM" | "SETITEMS":
                items = self._since_mark() if name == "SETITEMS" else [stack.pop(-2), stack.pop()]
                stack[-1].update(zip(map(_text, items[::2]), items[1::2], strict=True))
            case "GLOBAL":
                stack.append(_Name(argument))
            case "STACK_GLOBAL":
                stack[-2:] = [_Name(f"{stack[-2]} {stack[-1]}")]
            case "REDUCE":
                stack[-2:] = [_called(stack[-2].name, stack[-1])]
            case "BUILD":
                state = stack.pop()
                stack[-1].state = state
            case _:
                raise ValueError(f"opcode {name} is not plain data")

    def _since_mark(self) -> list[Any]:
        at = max(index for index, item in enumerate(self.stack) if isinstance(item, _Mark))
        items = self.stack[at + 1 :]
        del self.stack[at:]
        return items


def read_inert(path: Path) -> dict[str, Any]:
    """The dictionary of a pickle file whose values are numbers, strings, lists of them, or uint8 arrays.

    Raises:
        DataError: the file is truncated, or holds anything else.
    """
    machine = _Machine()
    try:
        for opcode, argument, _ in pickletools.genops(path.read_bytes()):
            machine.step(opcode.name, argument)
        (content,) = machine.stack
        return {key: _array(value) if isinstance(value, _Call) else value for key, value in content.items()}
    except (ValueError, IndexError, KeyError, AttributeError, TypeError, OSError, RecursionError) as error:
        raise DataError(f"{str(path)!r} is truncated or no dictionary of plain arrays: {error}; get it anew") from None


def _array(call: _Call) -> np.ndarray:
    """A numpy array as `(version, shape, dtype, Fortran order, bytes)`; only uint8."""
    _, shape, dtype, fortran, data = call.state
    if call.function not in _ARRAYS or dtype.function != "numpy dtype" or _text(dtype.arguments[0]) != "u1":
        raise ValueError("an object that is no uint8 array")
    raw = _raw(data)
    if len(raw) != math.prod(shape):
        raise ValueError(f"an array of shape {shape} with {len(raw)} bytes")
    return np.frombuffer(raw, np.uint8).reshape(shape, order="F" if fortran else "C")


def _called(function: str, arguments: Any) -> Any:
    """A call as data; the one by which protocol 2 writes bytes, `encode(text, "latin1")`, as those bytes."""
    if function == "_codecs encode" and arguments[1:] == ("latin1",):
        return arguments[0].encode("latin-1")
    return _Call(function, arguments)


def _raw(data: Any) -> bytes:
    """Bytes, or the string that Python 2 made of them."""
    return data if isinstance(data, bytes) else data.encode("latin-1")


def _text(key: Any) -> str:
    return key.decode("latin-1") if isinstance(key, bytes) else str(key)
