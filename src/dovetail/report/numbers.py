"""Numbers as people read them."""

from __future__ import annotations

from typing import Any

DASH = "–"
UNITS = ((1e9, "G"), (1e6, "M"), (1e3, "k"))
SMALL = ((1.0, ""), (1e-3, "m"), (1e-6, "µ"), (1e-9, "n"))


def count(value: float | None) -> str:
    """`1234567` as `1.23 M`."""
    if value is None:
        return DASH
    for size, unit in UNITS:
        if abs(value) >= size:
            return f"{digits(value / size)} {unit}"
    return f"{value:.0f}" if value == int(value) else digits(value)


def size(value: float | None) -> str:
    """Bytes as `3.41 MB` (decimal)."""
    text = count(value)
    return text if value is None else f"{text}B" if text[-1].isalpha() else f"{text} B"


def milliseconds(value: float | None) -> str:
    """`0.4213` as `0.421 ms`, below a tenth of a millisecond in microseconds."""
    if value is None:
        return DASH
    return f"{digits(value)} ms" if value >= 0.1 else f"{digits(value * 1000)} µs"


def joules(value: float | None) -> str:
    """Energy, `0.00123` as `1.23 mJ`."""
    if value is None:
        return DASH
    for size, unit in SMALL:
        if abs(value) >= size:
            return f"{digits(value / size)} {unit}J"
    return f"{digits(value * 1e12)} pJ"


def percent(value: float | None) -> str:
    """`93.394` as `93.39 %`."""
    return DASH if value is None else f"{value:.2f} %"


def points(value: float | None) -> str:
    """A signed difference of percentages."""
    return DASH if value is None else f"{'+' if value >= 0 else '−'}{abs(value):.2f}"


def times(value: float | None) -> str:
    """A ratio, `2.13×`."""
    return DASH if value is None else f"{value:.2f}×" if value < 10 else f"{digits(value)}×"


def setting(value: Any) -> str:
    """A parameter of a machine: a number, a flag, or what has a name."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return str(value)
    return f"{value:,g}" if abs(value) < 1e6 else f"{value:.3g}"


def quotient(above: float | None, below: float | None) -> float | None:
    """`above / below` where both are known and there is something to divide by."""
    return None if above is None or not below else above / below


def digits(value: float) -> str:
    """Three significant digits, never an exponent."""
    for limit, places in ((100, 0), (10, 1), (1, 2)):
        if abs(value) >= limit:
            return f"{value:.{places}f}"
    return f"{value:.3f}" if value else "0"
