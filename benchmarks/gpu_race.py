"""What the benchmarks of the GPU share: a race of targets as CUDA graphs, its arithmetic, its files.

Everybody runs as a CUDA graph, with inputs and weights where they are; blocks of replays stand side by side, and ratios
are formed from neighbours. Files are written after every case, so a run that is stopped leaves what it has measured.
"""

from __future__ import annotations

import argparse
import fnmatch
import gc
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from dovetail.errors import DovetailError, GpuError
from dovetail.gpu import cache, support
from dovetail.gpu.launching import too_old
from dovetail.gpu.timing import Graph, Pace, interleave, require_device
from dovetail.peers.machine import machine, versions
from dovetail.peers.ratios import paired, summarise
from dovetail.peers.results import Race, Ratio, Row

PRECISIONS = {
    "f16": ("float16", "ieee"),
    "bf16": ("bfloat16", "ieee"),
    "tf32": ("float32", "tf32"),
    "f32": ("float32", "ieee"),
}
TOLERANCE = {"f16": 0.1, "bf16": 0.4, "tf32": 0.1, "f32": 1e-3}
"""Of a network's output range; who is further off does not race. Random weights amplify roundings: on a CPU, ResNet-50
in half precision is off by 0.035. A core alone may be off by a tenth of this."""

DEVICE = "cuda"
AGAIN = "dovetail-again"
Work = Callable[[], Any]


class Recorded(Protocol):
    """What times a piece of work: a CUDA graph."""

    def replay(self) -> Any:
        """Run; the result."""

    def time(self, runs: int) -> np.ndarray:
        """Milliseconds of each run."""


Record = Callable[[Work, int], Recorded]


@dataclass(frozen=True)
class Target:
    """Somebody who runs a case.

    Attributes:
        role: "ours"; "dense", who runs the original network; "same", who runs what we run.
        make: builds it, at the last moment; what it gives is run.
    """

    name: str
    role: str
    make: Callable[[], Work]


@dataclass(frozen=True)
class Case:
    """One comparison.

    Attributes:
        truth: the right output by role, made when asked.
        tolerance: share of its range that an output may be off.
        repeats: in a graph: short work is repeated, so that a replay is longer than a clock's tick.
    """

    name: str
    targets: tuple[Target, ...]
    truth: Callable[[str], Tensor]
    tolerance: float
    repeats: int = 1


Cases = Callable[[argparse.Namespace, int], Iterator[Case]]
"""All that the options ask for at a batch size, made one by one; small work first."""


@dataclass
class Found:
    """What was measured of one batch size."""

    rows: list[Row] = field(default_factory=list)
    ratios: list[Ratio] = field(default_factory=list)
    noise: list[Ratio] = field(default_factory=list)
    absent: dict[str, str] = field(default_factory=dict)


def race(case: Case, dtype: str, pace: Pace, record: Record, found: Found, say: Callable[[str], None]) -> None:
    """Build, check, time and judge one case; a target that fails is named with its reason, and the others go on."""
    graphs: dict[str, Recorded] = {}
    errors: dict[str, float] = {}
    truths: dict[str, Tensor] = {}
    roles = {target.name: target.role for target in case.targets}
    for target in case.targets:
        try:
            with torch.inference_mode():
                graph = record(target.make(), case.repeats)
                if target.role not in truths:
                    truths[target.role] = case.truth(target.role)
                errors[target.name] = error = max_error(graph.replay(), truths[target.role])
            if not error < case.tolerance:
                raise DovetailError(f"its output is off by {error:.2g} of the range")
            graphs[target.name] = graph
        except Exception as error:
            if "illegal memory" in str(error):
                raise
            found.absent[f"{case.name} {target.name}"] = f"{type(error).__name__}: {first_line(error)}"
            say(f"  left out: {target.name}: {first_line(error)}")
    if not any(roles[name] == "ours" for name in graphs):
        return
    times = interleave({name: graph.time for name, graph in graphs.items()}, pace)
    found.rows += rows(case.name, dtype, times, errors)
    judged, noise = judge(case.name, times, roles)
    found.ratios += judged
    found.noise += noise
    for ratio in judged:
        say(f"  {ratio.case.rpartition('/')[2]:8} {ratio.value:6.3f}  {ratio.ours} against {ratio.peer}")


def rows(case: str, dtype: str, times: Mapping[str, list[np.ndarray]], errors: Mapping[str, float]) -> list[Row]:
    """One of each target."""
    made = []
    for name, blocks in times.items():
        told = summarise(blocks)
        numbers = (round(value, 6) for value in (told.median, told.p10, told.p90))
        made.append(Row(case, name, dtype, *numbers, told.runs, float(f"{errors[name]:.3g}"), threads=0))
    return made


def judge(
    case: str, times: Mapping[str, list[np.ndarray]], roles: Mapping[str, str]
) -> tuple[list[Ratio], list[Ratio]]:
    """Our fastest against the hardest peer of each role, and against itself."""
    ours = min((n for n in times if roles[n] == "ours" and n != AGAIN), key=lambda n: summarise(times[n]).median)
    judged = []
    for name, role in (("vs_best", "dense"), ("vs_same", "same")):
        rivals = [_ratio(f"{case}/{name}", ours, peer, times) for peer in times if roles[peer] == role]
        judged += sorted(rivals, key=lambda ratio: ratio.value)[:1]
    same = [_ratio(f"{case}/noise", "dovetail", AGAIN, times)] if {AGAIN, "dovetail"} <= set(times) else []
    return judged, same


def _ratio(case: str, ours: str, peer: str, times: Mapping[str, list[np.ndarray]]) -> Ratio:
    told = paired(times[peer], times[ours])
    return Ratio(case, ours, peer, *(round(value, 4) for value in (told.value, told.median, told.p10)))


def max_error(got: Tensor, want: Tensor) -> float:
    """The largest difference, relative to the range of what is wanted; infinite where it is not a number."""
    got, want = got.detach().float().cpu(), want.detach().float().cpu()
    if got.shape != want.shape or not bool(got.isfinite().all()):
        return float("inf")
    return float((got - want).abs().max()) / (float(want.abs().max()) or 1.0)


def ours(tiles: str) -> list[tuple[str, str]]:
    """Our targets and where their tiles come from: those asked for, twice (for the noise), and the model's."""
    return [("dovetail", tiles), (AGAIN, tiles), *([("dovetail-model", "model")] if tiles != "model" else [])]


def running(function: Callable[..., Any], *operands: Tensor) -> Work:
    """The function with its operands."""
    return lambda: function(*operands)


def compile_best(function: Callable[..., Any]) -> Callable[..., Any]:
    """Inductor at its best; graphs are recorded by us, as for everybody."""
    torch._dynamo.reset()
    made: Callable[..., Any] = torch.compile(function, mode="max-autotune-no-cudagraphs", fullgraph=True)
    return made


def suffix(batch: int, dtype: str) -> str:
    """Of a case's name; half precision at batch 1 is the plain one."""
    return ("" if dtype == "f16" else f"_{dtype}") + ("" if batch == 1 else f"_b{batch}")


def wanted(options: argparse.Namespace, name: str) -> bool:
    """Whether a pattern of `--only` fits."""
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in options.only)


def result(found: Found, options: argparse.Namespace, batch: int, command: str, gpu: Mapping[str, Any]) -> Race:
    """In the form of all results."""
    numbers = {
        **versions(("torch", "triton")),
        "cudnn": str(torch.backends.cudnn.version()),
        "cuda": str(torch.version.cuda),
    }
    return Race(
        bench=path_of(options, batch).stem,
        command=command,
        date=datetime.now(UTC).isoformat(timespec="seconds"),
        machine={**machine(), **gpu},
        versions=numbers,
        threads=(),
        batch=batch,
        rows=tuple(found.rows),
        ratios=tuple(found.ratios),
        noise=tuple(found.noise),
        absent=found.absent,
        time_only=True,
        conditions=("cuda-graph", f"tiles-{options.tiles}", *options.conditions),
    )


def path_of(options: argparse.Namespace, batch: int) -> Path:
    """The file of a batch size."""
    out: Path = options.out
    return out if batch == 1 else out.with_stem(f"{out.stem}_b{batch}")


def described() -> dict[str, Any]:
    """The card, for the record."""
    properties = torch.cuda.get_device_properties(torch.cuda.current_device())
    memory = round(properties.total_memory / 2**30, 1)
    return {"gpu": properties.name, "gpu_sms": properties.multi_processor_count, "gpu_memory_gib": memory}


def parser(description: str | None, out: str, batches: Sequence[int], only: str) -> argparse.ArgumentParser:
    """What every benchmark may be told; `only` are examples of patterns."""
    parser = argparse.ArgumentParser(description=(description or "").partition("\n")[0])
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results") / out)
    parser.add_argument("--only", nargs="+", default=["*"], help=f"patterns such as {only}")
    parser.add_argument("--batches", nargs="+", type=int, default=list(batches))
    parser.add_argument("--dtype", choices=PRECISIONS, default="f16")
    parser.add_argument("--tiles", choices=("model", "oracle", "exhaustive"), default="oracle", help="of our kernels")
    parser.add_argument("--tried", type=int, default=8, help='plans of each layer that "oracle" times')
    parser.add_argument("--blocks", type=int, default=20)
    parser.add_argument("--runs", type=int, default=20)
    parser.add_argument("--no-compile", action="store_true", help="without torch.compile, which takes minutes")
    parser.add_argument("--minutes", type=float, default=float("inf"), help="begin no further case after so many")
    parser.set_defaults(conditions=())
    return parser


def checked(parser: argparse.ArgumentParser, arguments: Sequence[str]) -> argparse.Namespace:
    """The options, or an end with the reason."""
    options = parser.parse_args(arguments)
    if min(*options.batches, options.blocks, options.runs, options.tried) < 1:
        parser.error("batches, blocks, runs and tried must be at least 1")
    return options


def run(options: argparse.Namespace, command: str, record: Record, gpu: Mapping[str, Any], cases: Cases) -> None:
    """Race all cases and write the files."""
    started, pace = time.monotonic(), Pace(options.blocks, options.runs)
    for batch in options.batches:
        found = Found()
        for case in cases(options, batch):
            if time.monotonic() - started > 60 * options.minutes:
                found.absent[case.name] = f"not begun within {options.minutes:g} minutes"
                continue
            print(case.name, flush=True)
            race(case, options.dtype, pace, record, found, lambda line: print(line, flush=True))
            del case
            gc.collect()
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
            result(found, options, batch, command, gpu).save(path_of(options, batch))
        if found.rows:
            result(found, options, batch, command, gpu).save(path_of(options, batch))


def measure(options: argparse.Namespace, command: str, cases: Cases) -> int:
    """Race on the GPU; 1 where there is none."""
    try:
        device = require_device()
        support.require()
        if old := too_old(device):
            raise GpuError(f"{old}; ours would run in torch's ops there, and no race would tell")
    except DovetailError as error:
        print(f"{options.out.stem}: {error}", file=sys.stderr)
        return 1
    torch.backends.cudnn.benchmark = True
    allowed = options.dtype != "f32"
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = allowed
    print(f"tiles are kept in {cache.cache_file()}", flush=True)
    run(options, command, Graph, described(), cases)
    return 0


def first_line(error: BaseException) -> str:
    """Of its message, without an end."""
    return (str(error).strip().splitlines() or ["no message"])[0][:200]
