"""What a recipe's run leaves behind: `recipes/results/<recipe>.json`, and beside it what it packed and trained."""

from __future__ import annotations

import hashlib
import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dovetail import files
from dovetail.errors import RecipeError

if TYPE_CHECKING:
    from dovetail.cli.schema import Aims
    from dovetail.program.program import Program

LARGEST = {".dovetail": 5_000_000, ".safetensors": 12_000_000}
"""Bytes up to which packed networks, and trained weights, are committed beside their result.

Weights may have more: what starts from them cannot be made anew without them, where a network is packed in minutes.
"""

FIELDS = (
    "recipe",
    "command",
    "dataset",
    "split",
    "seeds",
    "dense_accuracy",
    "accuracy",
    "params_ratio",
    "macs_ratio",
    "bits_ratio",
    "bits_ratio_int8",
    "epochs",
    "hours",
    "where",
    "program",
)


NUMBERS = ("dense_accuracy", "params_ratio", "macs_ratio", "bits_ratio", "bits_ratio_int8", "epochs", "hours")


class OtherFileError(RecipeError):
    """A file is not the one that its result names."""


@dataclass(frozen=True)
class Ratios:
    """Dense / compressed. `bits_ratio` is against the dense network in fp32, `bits_ratio_int8` in int8."""

    params_ratio: float
    macs_ratio: float
    bits_ratio: float
    bits_ratio_int8: float


def ratios(dense: Program, compressed: Program) -> Ratios:
    """By the counting rules, everything stored included."""
    from dovetail.program.counts import count

    before, after = count(dense), count(compressed)
    return Ratios(
        params_ratio=round(before.params / after.params, 3),
        macs_ratio=round(before.macs / after.macs, 3),
        bits_ratio=round(before.dense_bits(32) / after.bits, 3),
        bits_ratio_int8=round(before.dense_bits(8) / after.bits, 3),
    )


def result(
    *,
    recipe: str,
    command: str,
    dataset: str,
    seeds: Sequence[int],
    dense_accuracy: float,
    accuracy: Sequence[float],
    ratios: Ratios,
    epochs: int,
    hours: Sequence[float],
    where: str,
    program: Path,
    weights: Path | None = None,
) -> dict[str, Any]:
    """The committed JSON; accuracies in percent on the test set, `hours` the mean over seeds.

    It tells of `weights` only where they were kept.
    """
    return {
        "recipe": recipe,
        "command": command,
        "dataset": dataset,
        "split": "test",
        "seeds": list(seeds),
        "dense_accuracy": round(dense_accuracy, 3),
        "accuracy": [round(value, 3) for value in accuracy],
        **asdict(ratios),
        "epochs": epochs,
        "hours": round(statistics.fmean(hours), 3),
        "where": where,
        "program": _stamp(program),
    } | ({} if weights is None else {"weights": _stamp(weights)})


def sha256(path: Path) -> str:
    """Of the file's bytes."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def write(data: Mapping[str, Any], path: Path) -> None:
    """Write JSON, whole or not at all."""
    files.write(path, json.dumps(data, indent=1) + "\n")


def read(path: Path) -> dict[str, Any]:
    """A committed result; `RecipeError` where it is missing or not one."""
    try:
        data: dict[str, Any] = json.loads(path.read_text())
    except FileNotFoundError:
        raise RecipeError(f"there is no result {path}; `dovetail recipe run {path.stem}` makes it") from None
    except ValueError as error:
        raise RecipeError(f"{path} is not JSON ({error}); restore it or run the recipe again") from None
    lacking = [name for name in FIELDS if not isinstance(data, dict) or name not in data]
    if lacking:
        raise RecipeError(f"{path} lacks {', '.join(lacking)}; restore it or run the recipe again")
    if odd := _odd(data):
        raise RecipeError(f"{path}: {odd} is {data[odd]!r}; restore it or run the recipe again")
    return data


def judged(aims: Aims | None, data: Mapping[str, Any]) -> list[str]:
    """What a recipe aims at, what its result reached, and whether that is enough, one line each."""
    if aims is None:
        return []
    lost = round(data["dense_accuracy"] - statistics.fmean(data["accuracy"]), 3)
    told = [
        (aims.bits_ratio, data["bits_ratio"], "fewer bits than the dense network in float32"),
        (aims.macs_ratio, data["macs_ratio"], "fewer multiply-accumulates"),
    ]
    lines = [
        f"aim: {aim:g}x {what}; it has {ratio:g}x, {'met' if ratio >= aim else 'missed'}"
        for aim, ratio, what in told
        if aim is not None
    ]
    if aims.points_lost is not None:
        verdict = "met" if lost <= aims.points_lost else "missed"
        lines.append(f"aim: points lost, {aims.points_lost:g} at most; it loses {lost:g}, {verdict}")
    return lines


def _odd(data: Mapping[str, Any]) -> str:
    """The first field that does not hold what such a field holds, or nothing."""
    accuracy, stamps = data["accuracy"], [name for name in ("program", "weights") if name in data]
    fine = {name: _is_number(data[name]) for name in NUMBERS}
    fine["accuracy"] = isinstance(accuracy, list) and accuracy != [] and all(map(_is_number, accuracy))
    fine |= {name: isinstance(data[name], dict) and data[name].keys() >= {"file", "sha256"} for name in stamps}
    return next((name for name, is_fine in fine.items() if not is_fine), "")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def program_file(data: Mapping[str, Any], path: Path) -> Path:
    """The packed network beside a result, its hash checked."""
    return _beside(path, data["program"], "packs it")


def weights_file(data: Mapping[str, Any], path: Path) -> Path:
    """The trained weights beside a result, their hash checked."""
    if "weights" not in data:
        raise RecipeError(
            f"{path} has no trained weights; say `weights: int8` in the recipe, and `dovetail recipe run {path.stem}` "
            "keeps them"
        )
    return _beside(path, data["weights"], "keeps it")


def _stamp(file: Path) -> dict[str, str]:
    return {"file": file.name, "sha256": sha256(file)}


def _beside(path: Path, stamp: Mapping[str, str], does: str) -> Path:
    """The file that a result names; `does` is what running the recipe does to it."""
    file = path.with_name(stamp["file"])
    if not file.is_file():
        raise RecipeError(f"{path} names {file.name}, which is not beside it; `dovetail recipe run {path.stem}` {does}")
    if (found := sha256(file)) != stamp["sha256"]:
        raise OtherFileError(
            f"{file} has sha256 {found[:12]}…, but {path.name} says {stamp['sha256'][:12]}…: it is another file; "
            f"restore it, or `dovetail recipe run {path.stem}` {does}"
        )
    return file
