"""Energy of on-chip memories, from a table that CACTI 7 gave, and how to read between its rows.

Low-standby-power cells at 300 K, one read-write port, one bank, organised for least energy. Between rows energies are
log-log linear in the capacity, each row first brought to the asked width by `0.3 + 0.7 width/row width`; between nodes
they are linear in nanometres; below 22 nm they are multiplied by sqrt(node/22). Memories above 512 KB are banks of
512 KB and a wire. Below 2 KB energies fall as capacity^0.48, the law of the memories of ISSCC 2014.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final, Literal

from dovetail.errors import MachineError

Action = Literal["read", "write"]
SOURCE: Final = "CACTI 7, low standby power, one bank (run for this table)"
NODES: Final = (22, 32, 45, 65)
LEAST_NODE: Final = 7
LEAST_BYTES: Final = 64
MOST_BITS: Final = 512
BANK: Final = 512 * 1024
BANK_AREA: Final = (0.506, 0.910, 1.80, 3.75)  # mm2, a number per node of `NODES`
SMALL: Final = 0.48  # exponent of the energy in the capacity, below the table [derived]
WIRE_PICOJOULES: Final = 0.1  # per bit and mm at 45 nm [chosen]


@dataclass(frozen=True)
class Row:
    """One memory: picojoules of an access, a number per node of `NODES`."""

    bytes: int
    bits: int
    read: tuple[float, ...]
    write: tuple[float, ...]


def _row(kilobytes: int, bits: int, read: str, write: str) -> Row:
    numbers = (tuple(map(float, text.split())) for text in (read, write))
    return Row(kilobytes * 1024, bits, *numbers)


TABLE: Final = (
    _row(2, 32, "0.53 1.21 2.23 2.96", "0.57 1.40 2.64 5.85"),
    _row(8, 64, "1.59 3.44 6.14 11.1", "1.77 4.27 7.88 14.7"),
    _row(32, 64, "3.79 8.26 17.0 30.1", "3.10 7.46 15.4 28.7"),
    _row(64, 64, "5.67 12.9 25.9 47.0", "4.43 10.8 19.6 37.3"),
    _row(128, 128, "11.8 26.4 50.3 91.2", "10.5 24.8 47.0 88.3"),
    _row(256, 128, "17.8 42.5 76.1 141", "15.3 34.4 63.7 122"),
    _row(512, 256, "41.8 94.3 168 312", "39.1 88.3 161 307"),
)


def access(capacity: int, bits: int, node: float, action: Action = "read") -> float:
    """Picojoules to read or write `bits` bits of a memory of `capacity` bytes.

    Raises:
        MachineError: beyond what the table can tell.
    """
    if not capacity >= LEAST_BYTES:
        raise MachineError(f"an SRAM of {capacity} bytes is no memory of the table; below {LEAST_BYTES} use registers")
    if not LEAST_NODE <= node <= NODES[-1]:
        raise MachineError(f"no SRAM is known at {node} nm; from {LEAST_NODE} to {NODES[-1]} nm the table tells")
    if not 1 <= bits <= MOST_BITS:
        raise MachineError(f"an SRAM access is 1 to {MOST_BITS} bits wide, not {bits}; count several accesses")
    if node <= NODES[0]:
        return _energy(capacity, bits, 0, action) * math.sqrt(node / NODES[0])
    right = next(i for i, known in enumerate(NODES) if known >= node)
    part = (node - NODES[right - 1]) / (NODES[right] - NODES[right - 1])
    left, there = (_energy(capacity, bits, column, action) for column in (right - 1, right))
    return (1 - part) * left + part * there


def _energy(capacity: int, bits: int, column: int, action: Action) -> float:
    if capacity > BANK:
        banks = math.ceil(capacity / BANK)
        side = math.sqrt(banks * BANK_AREA[column])  # mm: the way to an average bank and back [chosen]
        wire = WIRE_PICOJOULES * NODES[column] / 45  # shrinks with the node [chosen]
        return _energy(BANK, bits, column, action) + bits * side * wire
    numbers = [getattr(row, action)[column] * (0.3 + 0.7 * bits / row.bits) for row in TABLE]
    least = TABLE[0].bytes
    if capacity < least:
        return float(numbers[0] * (capacity / least) ** SMALL)
    return _between(capacity, numbers)


def _between(capacity: int, numbers: list[float]) -> float:
    """Log-log linear between the rows, exact at each."""
    for row, number in zip(TABLE, numbers):
        if row.bytes == capacity:
            return number
    right = next(i for i, row in enumerate(TABLE) if i and row.bytes > capacity)
    low, high = TABLE[right - 1], TABLE[right]
    part = math.log(capacity / low.bytes) / math.log(high.bytes / low.bytes)
    return float(numbers[right - 1] * (numbers[right] / numbers[right - 1]) ** part)
