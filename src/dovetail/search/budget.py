"""What a network may cost, and how much accuracy that may take."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from types import MappingProxyType
from typing import Final, Self

from dovetail.errors import BudgetError

UNITS: Final[Mapping[str, Mapping[str, float]]] = MappingProxyType({
    "latency": {"s": 1.0, "ms": 1e-3, "us": 1e-6},
    "bytes": {"": 1.0, "B": 1.0, "kB": 1e3, "MB": 1e6, "KiB": 2.0**10, "MiB": 2.0**20},
    "macs": {"": 1.0, "k": 1e3, "M": 1e6, "G": 1e9},
    "cycles": {"": 1.0, "k": 1e3, "M": 1e6, "G": 1e9},
    "energy": {"J": 1.0, "mJ": 1e-3, "uJ": 1e-6, "nJ": 1e-9},
})  # fmt: skip
_NUMBER = re.compile(r"\s*([0-9]*\.?[0-9]+(?:[eE][-+]?[0-9]+)?)\s*([a-zA-Z]*)\s*")


@dataclass(frozen=True)
class Limit:
    """An upper bound: `value` in the cost's unit (seconds, bytes, MACs, cycles, joules), or a share of a reference."""

    value: float
    relative: bool = False

    def absolute(self, reference: float) -> float:
        """In the cost's unit, where `reference` is what it is a share of."""
        return self.value * reference if self.relative else self.value


@dataclass(frozen=True)
class Budget:
    """Limits on what a network costs: a text with its unit ("4.5ms", "2MB") or a share ("0.5x"), or a number.

    Attributes:
        latency: of one run; a number is in seconds. A share is of the fastest dense network in any runtime.
        bytes: of all numbers in the file, its header aside; a share is of the dense float32 network's.
        macs: multiply-accumulates per image, each format in its cheaper exact order; a share is of the dense network's.
        cycles, energy: on a model of a machine; a share is of the dense network's there. Energy in joules.
        accuracy_drop: points that the trained network may lose against the dense one. A limit on anything but
            bytes needs it: without it the fastest network would be one that knows nothing.

    Raises:
        BudgetError: nothing is limited, a limit cannot be read or is not positive, or the accuracy is left open.
    """

    latency: str | float | None = None
    bytes: str | float | None = None
    macs: str | float | None = None
    cycles: str | float | None = None
    energy: str | float | None = None
    accuracy_drop: float | None = None

    def __post_init__(self) -> None:
        limits = self.limits()
        if not limits:
            raise BudgetError(f"a budget limits something: give {', '.join(UNITS)}, such as latency=0.5x")
        drop = self.accuracy_drop
        if drop is None and (hasty := [name for name in limits if name != "bytes"]):
            raise BudgetError(
                f"a limit on {hasty[0]} needs a bound on accuracy, else the fastest network is one that knows nothing: "
                "give accuracy_drop, in points"
            )
        if drop is not None and not 0 <= drop <= 100:
            raise BudgetError(f"accuracy_drop {drop} is in points of accuracy, from 0 to 100")

    def limits(self) -> dict[str, Limit]:
        """Cost → limit, for those that have one; bytes last, for candidates must gain in the first."""
        names = sorted((f.name for f in fields(self) if f.name in UNITS), key=lambda name: name == "bytes")
        given = {name: getattr(self, name) for name in names}
        return {name: read_limit(name, value) for name, value in given.items() if value is not None}

    def bounds(self, references: Mapping[str, float]) -> dict[str, float]:
        """Cost → what it may be, where `references` are what shares are of; of a race those measured in the same race.

        Raises:
            BudgetError: a cost is limited that has no reference: nobody knows it here.
        """
        limits = self.limits()
        if unknown := [name for name in limits if name not in references]:
            raise BudgetError(
                f"this search knows {' and '.join(references)} and nothing of {', '.join(unknown)}; limit what it knows"
            )
        return {name: limit.absolute(references[name]) for name, limit in limits.items()}

    @classmethod
    def parse(cls, text: str, accuracy_drop: float | None = None) -> Self:
        """From `latency=0.5x,bytes=2MB`."""
        given: dict[str, str] = {}
        for part in text.split(","):
            name, equals, value = (word.strip() for word in part.partition("="))
            if name not in UNITS or not equals:
                raise BudgetError(f"a budget is written latency=0.5x or bytes=2MB, not {part.strip()!r}; {_known()}")
            if name in given:
                raise BudgetError(f"the budget names {name} twice")
            given[name] = value
        return cls(**given, accuracy_drop=accuracy_drop)


def read_limit(name: str, value: str | float) -> Limit:
    """A limit on the cost called `name`, from a number or a text."""
    number, unit = float("nan"), ""
    if isinstance(value, str):
        if (found := _NUMBER.fullmatch(value)) is not None:
            number, unit = float(found[1]), found[2]
    elif not isinstance(value, bool):
        number = float(value)
    units = {**UNITS[name], "x": 1.0} if isinstance(value, str) else {"": 1.0}
    if not math.isfinite(number) or unit not in units:
        raise BudgetError(f"{name} of {value!r} cannot be read; units are {', '.join(filter(None, units)) or 'none'}")
    if not number > 0:
        raise BudgetError(f"{name} of {value!r} must be above 0")
    return Limit(number * units[unit], relative=unit == "x")


def told(name: str, value: float, references: Mapping[str, float] = MappingProxyType({})) -> str:
    """A cost in words that a budget could have, such as "4.1 us (0.51x)": the share where its reference is known."""
    units = {unit: size for unit, size in UNITS.get(name, {"": 1.0}).items() if not unit.endswith("iB")}
    fitting = [(size, unit) for unit, size in units.items() if abs(value) >= size]
    size, unit = max(fitting) if fitting else min((size, unit) for unit, size in units.items())
    share = f" ({_digits(value / references[name])}x)" if references.get(name) else ""
    return f"{_digits(value / size)} {unit}".rstrip() + share


def _digits(value: float) -> str:
    """Three of them, and never an exponent where there need be none."""
    return f"{float(f'{value:.3g}'):g}"


def _known() -> str:
    return f"known are {', '.join(UNITS)}"
