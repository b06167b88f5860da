"""Machines of one size, so that a ratio between two tells of their design: 1024 multipliers of 8 bits, and so on.

Where a machine as published is of another size, node or width, a variant of the common size stands for it. All values
are decided here, before any comparison, and never tuned to one.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Any, Final

from dovetail.accelerators.cambricon_x import CAMBRICON_X
from dovetail.accelerators.cnvlutin import CNVLUTIN
from dovetail.accelerators.machine import Machine, machine_named, register
from dovetail.accelerators.systolic import SMALL
from dovetail.errors import MachineError

UNITS: Final = 1024
SLACK: Final = 1 / 8  # of the multipliers: an array of 1152 passes; ratios of cycles times multipliers are told beside
CLOCK: Final = 800e6
NODE: Final = 45.0
BANDWIDTH: Final = 16.0
BITS: Final = 8
MAP_KB: Final = 256
WEIGHT_KB: Final = 256

SHARED: Final = ("clock_hz", "node_nm", "dram_bytes_per_cycle", "dram", "costs", "bits", "keep_maps")
"""Parameters that machines of the common size do not differ in."""

_FIELDS: Final = "clock_hz node_nm dram_bytes_per_cycle bits"
_COMMON: Final[dict[str, Any]] = {"clock_hz": CLOCK, "node_nm": NODE, "dram_bytes_per_cycle": BANDWIDTH, "bits": BITS}

SYSTOLIC: Final = register(
    replace(
        SMALL,
        name="systolic-1024",
        weight_kb=WEIGHT_KB,
        input_kb=MAP_KB // 2,
        output_kb=MAP_KB // 2,
        double_buffered=True,
    ).sourced(
        (f"{_FIELDS} rows columns weight_kb input_kb output_kb", "chosen", "the common size"),
        ("dram costs keep_maps dataflow accumulator_bits packing gating", "chosen", ""),
        ("double_buffered", "chosen", "a strong baseline"),
    )
)
CAMBRICON: Final = register(
    replace(
        CAMBRICON_X,
        name="cambricon-x-1024",
        elements=64,
        weight_kb=WEIGHT_KB // 64,
        input_kb=MAP_KB // 2,
        output_kb=MAP_KB // 2,
        **_COMMON,
    ).sourced(
        (f"{_FIELDS} elements weight_kb input_kb output_kb", "chosen", "the common size"),
        ("lanes", "paper", "MICRO 2016"),
        ("window", "recalled", "MICRO 2016"),
        ("step_bits", "chosen", "4 to 8 are recalled"),
        ("accumulator_bits dram costs keep_maps", "chosen", ""),
    )
)
_SKIPPING: Final = replace(CNVLUTIN, name="cnvlutin-1024", filters=64, weight_kb=WEIGHT_KB, input_kb=MAP_KB, **_COMMON)
_SOURCES: Final = (
    (f"{_FIELDS} filters weight_kb input_kb", "chosen", "the common size"),
    ("lanes brick offset_bits", "recalled", "ISCA 2016"),
    ("accumulator_bits dram costs keep_maps", "chosen", ""),
)
CNVLUTIN_1024: Final = register(_SKIPPING.sourced(*_SOURCES, ("skipping", "recalled", "ISCA 2016")))
DADIANNAO: Final = register(
    replace(_SKIPPING, name="dadiannao-1024", skipping=False).sourced(
        *_SOURCES, ("skipping", "recalled", "the dense peer")
    )
)

STANDS_FOR: Final[Mapping[str, str]] = MappingProxyType(
    {
        "eyeriss": "eyeriss-1024",
        "eyeriss-free": "eyeriss-1024",
        "systolic": SYSTOLIC.name,
        "cambricon-x": CAMBRICON.name,
        "cnvlutin": CNVLUTIN_1024.name,
        "dadiannao": DADIANNAO.name,
    }
)
"""A machine of another size → its variant of the common size."""


def of_common_size(machine: Machine) -> Machine:
    """The machine, or the variant of it, that has the common size.

    Raises:
        MachineError: it is of another size and has no variant.
    """
    found = machine_named(STANDS_FOR[machine.name]) if machine.name in STANDS_FOR else machine
    if differing := differences(found):
        raise MachineError(
            f"{machine.what} has {', '.join(differing)}, and no variant of the common size; leave it out, or compare "
            f"machines as they are"
        )
    return found


def differences(machine: Machine) -> list[str]:
    """In what a machine is not of the common size, in words; its memories apart."""
    found = []
    if abs(machine.units / UNITS - 1) > SLACK:
        found.append(f"{machine.units:,} multipliers instead of {UNITS:,}")
    for value, common, words in (
        (machine.clock_hz / 1e6, CLOCK / 1e6, "MHz"),
        (machine.node_nm, NODE, "nm"),
        (machine.dram_bytes_per_cycle, BANDWIDTH, "bytes of off-chip memory a cycle"),
    ):
        if not math.isclose(value, common):
            found.append(f"{value:,g} instead of {common:g} {words}")
    return found
