"""The verb `race`: a Program against its original in every other runtime."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dovetail.engine.native import cores
from dovetail.errors import InputError
from dovetail.peers.compare import compare
from dovetail.peers.entry import Entry
from dovetail.peers.judge import Judge
from dovetail.peers.machine import command as command_line
from dovetail.peers.machine import machine, versions
from dovetail.peers.peer import DEFAULT, Images, peer_named
from dovetail.peers.results import Race
from dovetail.peers.schedule import Pace, Report

if TYPE_CHECKING:
    from torch import Tensor, nn

    from dovetail.program.program import Program


def race(
    program: Program | str | Path,
    original: nn.Module,
    *,
    peers: Sequence[str] = DEFAULT,
    data: Iterable[Any] | None = None,
    test: Iterable[Any] | None = None,
    example: Tensor | Images | None = None,
    compressed: nn.Module | None = None,
    beside: tuple[str, Program] | None = None,
    threads: Sequence[int] | None = None,
    batch: int = 1,
    blocks: int = 20,
    cold: bool = False,
    busy: bool = False,
    network: str = "network",
    variant: str = "compressed",
    bench: str | None = None,
    command: str | None = None,
    timeout: float = 300.0,
    report: Report | None = None,
) -> Race:
    """Time `program` on our engine against `original` in other runtimes, fairly.

    Args:
        program: ours, or the path of its `.dovetail` file; one input.
        original: the dense torch model that it stands for.
        peers: names of `PEERS`; those that are not installed or fail are named in the result with the reason.
        data: unaugmented training batches `(images, labels)`: int8 peers calibrate on the first 300 images. Without
            `test`, accuracies are taken on the next 2,000.
        test: labelled batches; the accuracies that decide who is a rival in `vs_best` are taken on up to 10,000.
        example: the timed input; from the data, else random.
        compressed: our network as a torch module, for `vs_same`.
        beside: name and Program of another network of ours, of the same input, for `vs_beside`.
        threads: thread counts to try; by default 1 and 2. The better one of each target counts.
        batch: images per run.
        blocks: blocks of about 20 runs per target and thread count.
        cold: the caches are emptied before every run, outside of the time: a network that runs now and then.
        busy: another process computes without a pause while everybody is timed.
        network: first part of the case names, such as "resnet56_cifar".
        variant: second part, such as "penni".
        bench: name of the result; by default network and variant.
        command: to repeat it; by default this process's command line.
        timeout: seconds after which a silent child is given up.
        report: called with one line per step.

    Raises:
        InputError: threads, batch or blocks that cannot be.
        PeerError: an unknown peer, or our own engine failed or computes something else.
    """
    require(threads or (), batch, blocks)
    entry = Entry.open(program, original, compressed, data=data, test=test, example=example, batch=batch, beside=beside)
    rivals = [peer_named(name) for name in peers]
    counts = tuple(dict.fromkeys(threads or (1, min(2, cores()))))
    report = report or (lambda _: None)
    with tempfile.TemporaryDirectory(prefix="dovetail-export-") as folder:
        targets, absent = entry.targets(rivals, Path(folder), report)
        pace, asked = Pace(blocks, cold=cold), entry.questions()
        outcome = compare(targets, asked, threads=counts, pace=pace, busy=busy, timeout=timeout, report=report)
    outcome.absent = {**absent, **outcome.absent}
    judge = Judge(outcome, f"{network}/{variant}", entry.dense_accuracy, entry.tested)
    packages = dict.fromkeys(("torch", *(name for peer in rivals for name in peer.needs)))
    return Race(
        bench=bench or f"{network}_{variant}",
        command=command or command_line(),
        date=datetime.now(UTC).isoformat(timespec="seconds"),
        machine=machine(),
        versions=versions(packages),
        threads=counts,
        batch=batch,
        conditions=tuple(name for name, holds in (("cold", cold), ("busy", busy)) if holds),
        rows=judge.rows(),
        ratios=judge.ratios(),
        noise=judge.noise(),
        absent=outcome.absent,
        time_only=entry.dense_accuracy is None,
    )


def require(threads: Sequence[int], batch: int, blocks: int) -> None:
    """`InputError` for numbers with which no race can be run here, before anything is exported."""
    for name, value in (("batch", batch), ("blocks", blocks)):
        if value < 1:
            raise InputError(f"a race with {name} {value} is none; give at least 1")
    if wrong := [count for count in threads if not 1 <= count <= cores()]:
        raise InputError(f"a race with {wrong[0]} threads is not possible here; give 1 to {cores()}")
