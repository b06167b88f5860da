"""`dovetail inspect`: the layers of a packed network."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from dovetail.cli import layers, networks
from dovetail.cli.console import say, table
from dovetail.report import numbers

if TYPE_CHECKING:
    from dovetail.program.program import Program


def inspect(
    program: Annotated[Path, Parameter(help="A .dovetail file.")],
    /,
    *,
    time: Annotated[bool, Parameter(help="Time every layer on the engine.")] = True,
    threads: Annotated[int, Parameter(help="Threads of the engine while timing.")] = 1,
) -> None:
    """Print format, ranks or density, parameters, size, MACs, kernel and share of time of every layer."""
    from dovetail.program.counts import count, paper_counts

    loaded = networks.load(str(program))
    rows = layers.rows(loaded, timed=time, threads=threads)
    total = sum(row.seconds or 0.0 for row in rows)
    time = total > 0
    named = ["layer", "format", "", *(["kernel"] if time else [])]
    columns = [*named, "params", "bits", "size", "MACs", *(["time", "share"] if time else [])]
    table(str(program), columns, [_cells(row, total, timed=time) for row in rows], left=len(named))
    counts = count(loaded)
    work = f"{numbers.count(counts.macs)} MACs"
    work += f" and {numbers.count(counts.additions)} additions" if counts.additions else ""
    figures = f"{numbers.count(counts.params)} parameters, {work}, {numbers.size(counts.bits / 8)}"
    say(f"all in all: {figures}" + (f", {numbers.milliseconds(total * 1e3)} per image" if time else ""))
    for line in layers.accounting(loaded, program):
        say(line)
    if any(row.format == "kernel_basis" for row in counts.rows) and not loaded.bodies(loaded.graph):
        paper = paper_counts(loaded)
        say(f"as PENNI's counter has it: {numbers.count(paper.params)} parameters, {numbers.count(paper.flops)} FLOPs")
    _provenance(loaded)


def _cells(row: layers.Row, total: float, *, timed: bool) -> Sequence[str]:
    sizes = (
        numbers.count(row.params),
        numbers.count(row.bits),
        numbers.size(row.bits / 8),
        numbers.count(row.macs),
    )
    stored = sizes if row.format else ("",) * len(sizes)
    if not timed:
        return (row.name, row.format, row.detail, *stored)
    share = "" if row.seconds is None else f"{row.seconds / total:.1%}"
    spent = "" if row.seconds is None else numbers.milliseconds(row.seconds * 1e3)
    return (row.name, row.format, row.detail, row.kernel, *stored, spent, share)


def _provenance(program: Program) -> None:
    known = {key: program.metadata.get(key) for key in ("recipe", "start", "method", "data")}
    if told := [f"{key} {value}" for key, value in known.items() if value]:
        say(f"from: {', '.join(told)}")
    for reason, names in networks.left_dense(program).items():
        say(f"left dense, {reason}: {', '.join(names)}")
    for reason, names in networks.left_real(program).items():
        say(f"left in floating point, {reason}: {', '.join(names)}")
