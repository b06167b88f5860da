"""A race as a table on a terminal."""

from __future__ import annotations

from typing import Any

from dovetail.peers.results import Race, Row

UNEVEN = 1.5
"""Times its median that a target's 90th percentile may be before a race is worth repeating."""


def table(race: Race) -> Any:
    """A `rich` table: a line per target at its better thread count; ratios, noise and absent peers beneath."""
    from rich.table import Table
    from rich.text import Text

    told = [f"batch {race.batch}", *race.conditions, race.machine.get("cpu", ""), *["time only"] * race.time_only]
    title = ", ".join([race.bench, *told])
    shown = Table(
        title=Text(title),
        caption=Text(_caption(race)),
        caption_justify="left",
    )
    for name in ("target", "dtype"):
        shown.add_column(name)
    for name in ("threads", "median ms", "p10", "p90", "error", "accuracy", "time / ours"):
        shown.add_column(name, justify="right")
    for row in race.rows:
        if not _is_detail(row, race):
            shown.add_row(*_cells(row))
    return shown


def _is_detail(row: Row, race: Race) -> bool:
    return row.case != race.rows[0].case


def _cells(row: Row) -> tuple[str, ...]:
    times = (f"{ms:.3f}" for ms in (row.median_ms, row.p10_ms, row.p90_ms))
    quality = "" if row.accuracy is None else f"{row.accuracy:.2f} %"
    if row.accuracy is None and row.agreement is not None:
        quality = f"{row.agreement:.1f} % agree"
    ratio = "" if row.ratio is None else f"{row.ratio:.2f}x"
    return (row.target, row.dtype, str(row.threads), *times, f"{row.max_error:.1e}", quality, ratio)


def _caption(race: Race) -> str:
    lines = [f"{ratio.name} {ratio.value:.2f}x ({ratio.peer})" for ratio in race.ratios]
    lines += [f"noise: the same target twice, {ratio.median:.3f} (p10 {ratio.p10:.3f})" for ratio in race.noise]
    lines += [_uneven(row) for row in race.rows if not _is_detail(row, race) and _is_uneven(row, race)]
    return "\n".join(lines + [f"not run: {name}: {why}" for name, why in race.absent.items()])


def _is_uneven(row: Row, race: Race) -> bool:
    return "busy" not in race.conditions and row.p90_ms > UNEVEN * row.median_ms


def _uneven(row: Row) -> str:
    times = f"{row.p90_ms / row.median_ms:.1f}"
    return f"uneven: a tenth of {row.target}'s runs took {times} times the median or more; race again when it is quiet"
