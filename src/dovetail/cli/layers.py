"""A packed network layer by layer: what is stored, what is computed, and where the time goes."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from dovetail.report import numbers

if TYPE_CHECKING:
    from dovetail.formats.base import Packed
    from dovetail.program.counts import Row as Counted
    from dovetail.program.program import Program

log = logging.getLogger("dovetail.cli")

OTHERS = "(other ops)"


@dataclass(frozen=True)
class Row:
    """One weight layer, or all other ops together.

    Attributes:
        detail: ranks, density and the like.
        kernel: what the engine runs, "" where it is not at hand.
        seconds: per image, None where nothing was timed.
    """

    name: str
    format: str
    detail: str
    params: int
    bits: int
    macs: int
    kernel: str = ""
    seconds: float | None = None


def rows(program: Program, *, timed: bool, threads: int | None = None) -> list[Row]:
    """Every weight layer in order of execution, then the rest of the ops where they were timed."""
    from dovetail.program.counts import count

    times = _times(program, threads) if timed else {}
    nodes = [node for graph in program.run_by(program.graph) for node in graph.nodes]
    weights = {node.name: program.weights[node.weight] for node in nodes if node.weight is not None}
    found = [
        Row(row.name, row.format or row.op, _detail(row, weights.get(row.name)), row.params, row.bits, row.macs)
        for row in count(program).rows
    ]
    return _with_times(found, times) if times else found


def accounting(program: Program, file: Path) -> tuple[str, str]:
    """What a file's bytes are; and how many times fewer they are than those of its layers dense, told three ways."""
    from dovetail.program.counts import count

    counts, size = count(program), file.stat().st_size
    parts = {
        "numbers": (counts.bits - counts.position_bits) / 8,
        "positions": counts.position_bits / 8,
        "header": size - counts.bits / 8,
    }
    told = {"": counts.bits, " with the header": 8 * size, " without positions": counts.bits - counts.position_bits}
    if not counts.position_bits:
        del parts["positions"], told[" without positions"]
    ratios = (
        f"{numbers.times(counts.dense_bits(32) / bits)} and {numbers.times(counts.dense_bits(8) / bits)}{how}"
        for how, bits in told.items()
    )
    split = ", ".join(f"{numbers.size(amount)} {name}" for name, amount in parts.items())
    return (
        f"the file: {numbers.size(size)}, of which {split}",
        f"bits of its layers dense in float32 and in int8 / its bits: {', '.join(ratios)}",
    )


def _detail(row: Counted, weight: Packed | None) -> str:
    """The spec in a few words: ranks, bases; and the share of the dense weights that is stored, where it is sparse."""
    if weight is None:
        return ""
    told = {f.name: getattr(weight.spec, f.name) for f in fields(weight.spec) if f.name not in ("values", "density")}
    parts = [f"{name.replace('_', ' ')} {value}" for name, value in told.items() if value not in (None, False)]
    parts += [weight.spec.values.name] if weight.spec.values.name != "f32" else []
    sparse = 0 < row.nonzeros < 0.995 * row.params or row.format == "sparse"
    parts += [f"density {row.nonzeros / row.dense_params:.0%}"] if sparse and row.dense_params else []
    return ", ".join(parts)


def _times(program: Program, threads: int | None) -> Mapping[str, tuple[str, float]]:
    from dovetail.cli.networks import input_shape
    from dovetail.engine import Session, native_status

    if not native_status().available:
        log.warning("layers are not timed: %s", native_status().reason)
        return {}
    image = np.random.default_rng(0).standard_normal(input_shape(program), dtype=np.float32)
    return {t.node: (t.kernel, t.seconds) for t in Session(program, threads=threads).profile(image)}


def _with_times(found: list[Row], times: Mapping[str, tuple[str, float]]) -> list[Row]:
    named = {row.name for row in found}
    rest = sum(seconds for name, (_, seconds) in times.items() if name not in named)
    timed = [Row(**{**vars(row), **_time(times, row.name)}) for row in found]
    return [*timed, Row(OTHERS, "", "", 0, 0, 0, "", rest)]


def _time(times: Mapping[str, tuple[str, float]], name: str) -> dict[str, str | float | None]:
    kernel, seconds = times.get(name, ("", None))
    return {"kernel": kernel, "seconds": seconds}
