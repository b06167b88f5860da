"""The `.dovetail` file: safetensors, whose metadata holds one JSON text with the rest of the Program. Without torch.

Nothing is ever unpickled, and nothing is returned before all of it has been checked.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any, Final, NoReturn

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save as to_safetensors

from dovetail import files
from dovetail.errors import ProgramError
from dovetail.program.check import check
from dovetail.program.header import from_json, stored_arrays, to_json
from dovetail.program.program import Program

VERSION: Final = (1, 0)
BACK: Final = 2  # minor versions back that are still read
_KEY: Final = "dovetail"
_TYPES: Final = {
    "F64": "<f8", "F32": "<f4", "F16": "<f2", "I64": "<i8", "I32": "<i4", "I16": "<i2", "I8": "<i1",
    "U64": "<u8", "U32": "<u4", "U16": "<u2", "U8": "<u1", "BOOL": "|b1",
}  # fmt: skip

PathLike = str | os.PathLike[str]


def save(program: Program, path: PathLike) -> Path:
    """Write a program, after checking it; atomically, so that no half-written file is ever seen.

    Raises:
        ProgramError: the program contradicts itself, or its metadata is not plain data.
        DovetailError: the file cannot be written.
    """
    check(program)
    arrays = {key: np.ascontiguousarray(array) for key, array in stored_arrays(program).items()}
    return files.write(path, to_safetensors(arrays, metadata={_KEY: _text(program)}))


def load(path: PathLike) -> Program:
    """Read and check a program. Its arrays are read-only views of the mapped file.

    Raises:
        ProgramError: the file is missing, truncated, no `.dovetail` file, of another version, or contradicts itself.
    """
    file = Path(path)
    if not file.is_file():
        raise ProgramError(f"there is no file {file}; `dovetail pack` writes one")
    try:
        header = _header(file)
        program = from_json(header, _arrays(file))
        check(program)
    except ProgramError as error:
        raise ProgramError(f"{file}: {error}") from None
    except OSError as error:
        raise ProgramError(f"{file} cannot be read: {error}") from None
    return program


def _text(program: Program) -> str:
    data = {"version": list(VERSION), **to_json(program)}
    try:
        return json.dumps(data, allow_nan=False, ensure_ascii=False, separators=(",", ":"))
    except (TypeError, ValueError, RecursionError) as error:
        raise ProgramError(
            f"the program's metadata is not plain data ({error}); use numbers, texts, lists and dicts"
        ) from None


def _header(file: Path) -> dict[str, Any]:
    """The JSON data of the file, its version checked and removed."""
    try:
        with safe_open(file, framework="numpy") as opened:
            metadata = opened.metadata() or {}
    except (SafetensorError, ValueError) as error:
        raise ProgramError(
            f"this is no .dovetail file, or it is truncated or damaged ({error}); pack it again"
        ) from None
    if _KEY not in metadata:
        raise ProgramError("this is a safetensors file, but no .dovetail file; `dovetail pack` makes one from a model")
    try:
        data = json.loads(metadata[_KEY], parse_constant=_no_constant, object_pairs_hook=_once)
    except (ValueError, RecursionError) as error:
        raise ProgramError(f"its header is no JSON text ({error}); the file is damaged, pack it again") from None
    if not isinstance(data, dict):
        raise ProgramError("its header is no mapping; the file is damaged, pack it again")
    _check_version(data.pop("version", None))
    return data


def _check_version(version: Any) -> None:
    if not isinstance(version, list) or [type(n) for n in version] != [int, int]:
        raise ProgramError(f"its header has no version, but {version!r}; the file is damaged, pack it again")
    found = ".".join(map(str, version))
    if tuple(version) > VERSION:
        raise ProgramError(
            f"it has file version {found}, this Dovetail reads up to {VERSION[0]}.{VERSION[1]}; update Dovetail"
        )
    if version[0] != VERSION[0] or version[1] < VERSION[1] - BACK:
        raise ProgramError(f"it has file version {found}, which is too old to be read; pack it again")


def _arrays(file: Path) -> dict[str, np.ndarray]:
    """Views of the mapped file. `safe_open` has checked that the tensors tile it."""
    data = np.memmap(file, np.uint8, "r")
    start = 8 + int.from_bytes(data[:8].tobytes(), "little")
    table = json.loads(data[8:start].tobytes())
    return {key: _view(key, entry, data[start:]) for key, entry in table.items() if key != "__metadata__"}


def _view(key: str, entry: dict[str, Any], data: np.ndarray) -> np.ndarray:
    if entry["dtype"] not in _TYPES:
        raise ProgramError(f"array {key!r} has type {entry['dtype']}, which no format stores")
    begin, end = entry["data_offsets"]
    piece = np.asarray(data[begin:end])
    aligned = piece if piece.ctypes.data % 8 == 0 else piece.copy()
    return aligned.view(_TYPES[entry["dtype"]]).reshape(entry["shape"])


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON number")


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    data = dict(pairs)
    if len(data) < len(pairs):
        raise ValueError("a name is there twice in one mapping")
    return data
