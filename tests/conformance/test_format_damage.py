"""Packed weights that are no such thing: none gets through `validate`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from dovetail.errors import ProgramError, SpecError
from dovetail.formats import (
    FORMATS,
    Packed,
)
from dovetail.formats.values import TERNARY
from programs import POSITIONS, ternary_basis
from samples import (
    ONE_ROW_EACH,
    SAMPLES,
    Case,
    each_held,
    packed,
)


def damages(weight: Packed) -> Iterator[tuple[str, Packed]]:
    """The lies about the whole, and every array of a good weight damaged in every way."""
    k, c, *kernel = weight.shape
    for shape in ((k + 8, c, *kernel), (k, c + 9, *kernel), (-k, c, *kernel), (k, 0, *kernel), (k, c, 3)):
        yield f"shape {shape}", type(weight)(weight.spec, shape, weight.arrays)
    changes: list[tuple[str, dict[str, Any]]] = [("an unknown array", {"strange": np.zeros(1, np.float32)})]
    for key, array in weight.arrays.items():
        # One sign more or less mostly fits into the bytes that are there.
        counted = weight.values_of(key.partition(".")[0]) != TERNARY
        damaged = damaged_array(key, array, counted=counted)
        changes += [(f"no {key}", {key: None}), *((f"{key}: {what}", new) for what, new in damaged)]
    yield from ternary_damages(weight)
    for what, change in changes:
        arrays = {key: array for key, array in {**weight.arrays, **change}.items() if array is not None}
        yield what, type(weight)(weight.spec, weight.shape, arrays)


def damaged_array(key: str, array: np.ndarray, *, counted: bool) -> Iterator[tuple[str, dict[str, np.ndarray]]]:
    yield "another float", {key: array.astype(np.float64 if array.dtype == np.float16 else np.float16)}
    yield "another axis", {key: array[None]}
    yield "truncated", {key: array[:-1]}
    yield "too long", {key: np.concatenate([array, array[:1]])}
    if array.dtype in (np.float32, np.float16):
        yield "NaN", {key: with_entry(array, np.nan)}
        yield "infinity", {key: with_entry(array, -np.inf)}
    if key.endswith(".scale"):
        yield "a scale of zero", {key: with_entry(array, 0)}
        yield "a negative scale", {key: -array}
    if array.dtype == np.int8:
        yield "a code without opposite", {key: with_entry(array, -128)}
    if array.dtype == np.uint16:
        yield "a NaN of bf16", {key: with_entry(array, 0x7FC0)}
    if key.endswith(".bitmap"):
        yield "beside gaps", {key.replace(".bitmap", ".gaps"): array}
        yield "with a strange mask of rows", {key.replace(".bitmap", ".rows"): np.full(3, 255, np.uint8)}
        if counted:
            yield "one bit flipped", {key: with_entry(array, array.flat[array.size // 2] ^ 1)}
    if key.endswith(".gaps"):
        yield "beside a bitmap", {key.replace(".gaps", ".bitmap"): array}
        yield "ends in a gap", {key: np.append(array, np.uint8(255))}
        yield "out of bounds", {key: np.append(np.uint8(255), array)}
        yield "a longer gap", {key: with_entry(array, (int(array.flat[array.size // 2]) + 1) % 256)}
    if key.endswith((".runs", ".groups")):
        yield "beside a bitmap", {key.rpartition(".")[0] + ".bitmap": array}
        yield "no places and no bits", {key: np.append(np.uint8(0), array[1:])}
    if key.endswith(".rows"):
        yield "one row more or less", {key: with_entry(array, array.flat[array.size // 2] ^ 1)}


def with_entry(array: np.ndarray, value: Any) -> np.ndarray:
    array = array.copy()
    array.flat[array.size // 2] = value
    return array


def passes(weight: Packed) -> bool:
    try:
        weight.validate()
    except ProgramError:
        return False
    return True


def ternary_damages(weight: Packed) -> Iterator[tuple[str, Packed]]:
    """A sign more than there are positions."""
    for key in ("weight", "coefficients"):
        if key in weight.arrays and weight.values_of(key) == TERNARY and weight.decode(key).size % 8:
            signs = weight.arrays[key].copy()
            signs[-1] |= 128
            yield "a sign too many", type(weight)(weight.spec, weight.shape, {**weight.arrays, key: signs})


BIG_SPARSE = [
    pytest.param("sparse", Case((9, 8, 3, 3)), 2, id="sparse-gaps"),
    pytest.param("sparse", Case((9, 8, 3, 3)), 1, id="sparse-bitmap"),
    pytest.param("kernel_basis", Case((9, 8, 3, 3)), 2, id="coefficients-bitmap"),
    pytest.param("kernel_basis", Case((9, 8, 3, 3)), 4, id="coefficients-ternary"),
    pytest.param("sparse", Case((9, 8, 3, 3)), 4, id="sparse-ternary"),
]


@each_held([*ONE_ROW_EACH, *BIG_SPARSE])
def test_validate_rejects_all_damage(name: str, case: Case, number: int, values: Any) -> None:
    weight = packed(name, case, number, values)
    weight.validate()
    assert [what for what, bad in damages(weight) if passes(bad)] == []


@pytest.mark.parametrize("kind", POSITIONS)
def test_validate_rejects_damage_to_every_set_of_rows(kind: str) -> None:
    weight = ternary_basis(kind, (6, 6, 3, 3))
    weight.validate()
    assert [what for what, bad in damages(weight) if passes(bad)] == []


def test_nan_weights_are_refused() -> None:
    for name, sample in SAMPLES.items():
        shape = (4, 3, 1, 1)
        with pytest.raises(SpecError, match="NaN"):
            FORMATS[name].packed.from_dense(np.full(shape, np.nan, np.float32), sample.full(shape))
