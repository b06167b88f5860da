"""A Program ready to run on this CPU."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from dovetail.engine.compile import Compiled, compile_graph
from dovetail.engine.native import choose_isa, cores, make_pool, native_module, require_native, warn_without_native
from dovetail.engine.schedule import Schedule, resolve
from dovetail.engine.turns import Turns
from dovetail.errors import EngineError, InputError
from dovetail.program import reference
from dovetail.program.program import Program, format_shape

Shapes = tuple[tuple[int, ...], ...]
KEPT_SHAPES = 8
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class LayerTime:
    """Time of one node: median over the runs, seconds.

    Attributes:
        node: its name; "" for the copies at the border of the network.
        kernel: what ran it, e.g. `conv2d_dense_f32__avx512`; several are joined by " + ".
    """

    node: str
    kernel: str
    seconds: float


@dataclass(frozen=True)
class _Ready:
    compiled: Compiled
    schedule: Schedule


class Session:
    """Runs a Program on numpy arrays (or anything with `__dlpack__`), allocating nothing but the results.

    Args:
        program: a `Program`, or the path of a `.dovetail` file.
        threads: how many to use; by default all cores that this process may use.
        isa: "portable", "avx2", "avx512" or "avx512vnni"; by default `DOVETAIL_ISA` or the best of this CPU.
        schedule: which kernels to use; by default the fastest by timing.
        exact: only kernels that add up the products of the convolution itself, unless `schedule` names another.
            Otherwise Winograd's filtering, too, is tried on the 3x3 layers on whose own weights its rounding error is
            at most ten times that of direct convolution, both against float64.

    Calls from several threads are served one after another; for more, make several sessions. A forked child runs on the
    calling thread alone. The plans of the last few input shapes are kept, each with its own arena and weights.

    Raises:
        EngineError: the ISA, thread count or schedule is impossible here.
        ProgramError: the file is no valid Program.
    """

    def __init__(
        self,
        program: Program | str | Path,
        threads: int | None = None,
        isa: str | None = None,
        schedule: Schedule | None = None,
        exact: bool = False,
    ) -> None:
        self.program = _checked(program) if isinstance(program, Program) else _load(program)
        self.threads = _check_threads(threads)
        self._given, self._exact = schedule, exact
        self._compiled: dict[Shapes, _Ready] = {}
        self._latest: _Ready | None = None
        self._turns = Turns()
        if native_module() is None:
            if isa or schedule:
                require_native()
            warn_without_native()
            self.isa, self._pool = "reference", None
        else:
            self.isa = choose_isa(isa)
            self._pool = make_pool(self.threads)

    def __call__(self, *inputs: Any) -> Any:
        """The output of the network, a tuple where there are several; float32.

        Raises:
            InputError: an input has the wrong shape or type.
        """
        if self._pool is None:
            return reference.run(self.program, *(_as_array(x, name) for x, name in zip(inputs, self._names(inputs))))
        arrays = self._check(inputs)
        with self._turns.lock:
            compiled = self._compile(arrays).compiled
            outputs = _outputs(compiled)
            compiled.plan.run(self._pool, _addresses((*arrays, *outputs)))
        return outputs[0] if len(outputs) == 1 else outputs

    def bind(self, *inputs: np.ndarray) -> Bound:
        """A network that reads these arrays at every run, and writes to arrays that stay the same.

        A call checks its inputs and makes arrays for its results; of a network of a tenth of a millisecond that is a
        good part of the time, above all where caches are cold.

        Args:
            inputs: contiguous float32.

        Raises:
            InputError: an input has the wrong shape, or is not read where it lies.
        """
        arrays = self._check(inputs)
        for name, given, array in zip(self._names(inputs), inputs, arrays):
            if array is not given:
                told = (
                    f"{given.dtype}, strides {given.strides}" if isinstance(given, np.ndarray) else type(given).__name__
                )
                raise InputError(f"input {name!r} ({told}) cannot be bound; give a contiguous numpy array of float32")
        if self._pool is None:
            return Bound(self._turns, tuple(arrays), *_referred(self.program, arrays))
        with self._turns.lock:
            compiled = self._compile(arrays).compiled
            outputs = _outputs(compiled)
        run = partial(compiled.plan.run, self._pool, _addresses((*arrays, *outputs)))
        return Bound(self._turns, tuple(arrays), outputs, run, compiled)

    def compile(self, *shapes: tuple[int, ...]) -> None:
        """Choose kernels and plan memory for inputs of these shapes now, rather than at the first call."""
        self._names(shapes)
        if self._pool is not None:
            with self._turns.lock:
                self._compile_for(tuple(tuple(shape) for shape in shapes))

    @property
    def schedule(self) -> Schedule:
        """The kernel of every layer of the latest compiled shape."""
        return self._latest.schedule if self._latest else self._given or Schedule()

    def kernels(self) -> dict[str, str]:
        """Node → native kernels that run it, e.g. `conv2d_dense_f32__avx512`; of the latest compiled shape."""
        return _kernel_names(self._latest.compiled) if self._latest else {}

    def memory(self) -> dict[str, int]:
        """Bytes of the arena and of the weights in the layouts of the chosen kernels, over all compiled shapes."""
        parts = [ready.compiled for ready in list(self._compiled.values())]
        return {"arena": sum(c.arena.size for c in parts), "weights": sum(c.constant_bytes for c in parts)}

    def profile(self, *inputs: Any, runs: int = 20) -> list[LayerTime]:
        """Time of every node, each measured on its own between barriers; they add up to a little more than a run."""
        require_native()
        if runs < 1:
            raise EngineError(f"a profile of {runs} runs says nothing; give at least 1")
        arrays = self._check(inputs)
        with self._turns.lock:
            compiled = self._compile(arrays).compiled
            outputs = _outputs(compiled)
            slots = _addresses((*arrays, *outputs))
            times = np.array([compiled.plan.run_timed(self._pool, slots) for _ in range(runs)])
        names = _kernel_names(compiled)
        seconds: dict[str, float] = dict.fromkeys(names, 0.0)
        for step, nanoseconds in zip(compiled.steps, np.median(times, axis=0)):
            seconds[step.node] += float(nanoseconds) * 1e-9
        return [LayerTime(node, kernel, seconds[node]) for node, kernel in names.items()]

    def _names(self, inputs: tuple[Any, ...]) -> tuple[str, ...]:
        names = self.program.graph.inputs
        if len(inputs) != len(names):
            raise InputError(f"{len(inputs)} inputs given; this network takes {len(names)}: {', '.join(names)}")
        return names

    def _check(self, inputs: tuple[Any, ...]) -> list[np.ndarray]:
        return [_ready(_as_array(x, name), name) for x, name in zip(inputs, self._names(inputs))]

    def _compile(self, arrays: list[np.ndarray]) -> _Ready:
        return self._compile_for(tuple(array.shape for array in arrays))

    def _compile_for(self, shapes: Shapes) -> _Ready:
        ready = self._compiled.pop(shapes, None)
        if ready is None:
            ready = self._make_ready(self.program.graph.dims_of(dict(zip(self.program.graph.inputs, shapes))))
            while len(self._compiled) >= KEPT_SHAPES:
                del self._compiled[next(iter(self._compiled))]
        self._compiled[shapes] = self._latest = ready
        return ready

    def _make_ready(self, dims: dict[str, int]) -> _Ready:
        graph = self.program.graph
        try:
            choices = resolve(self.program, graph, dims, self._given, self.isa, self._pool, exact=self._exact)
            compiled = compile_graph(self.program, graph, dims, choices, isa=self.isa, threads=self.threads)
        except (MemoryError, OverflowError) as error:
            sizes = ", ".join(f"{name}={size}" for name, size in dims.items()) or "its sizes"
            raise EngineError(f"this network is too large for this machine at {sizes}: {error}") from None
        require_native().trim_memory()  # weights in the layouts of kernels that were tried and not taken
        return _Ready(compiled, Schedule({name: c.name for name, c in choices.items()}))

    def __repr__(self) -> str:
        graph = self.program.graph
        takes = ", ".join(format_shape(graph.tensors[name].shape) for name in graph.inputs)
        return f"Session({takes}, threads={self.threads}, isa={self.isa!r})"


@dataclass(frozen=True)
class Bound:
    """A network whose inputs and outputs lie in the same memory at every run; made by `Session.bind`.

    Attributes:
        inputs: what was bound: write the next input into these arrays.
        outputs: what the last run gave, float32; the next one overwrites it.
    """

    _turns: Turns
    inputs: tuple[np.ndarray, ...]
    outputs: tuple[np.ndarray, ...]
    _run: Callable[[], None]
    _kept: Compiled | None = None  # owns the memory that the plan computes in

    def run(self) -> None:
        """Run once on what the inputs hold now; as calls of the session, one after another."""
        with self._turns.lock:
            self._run()


def _referred(program: Program, arrays: list[np.ndarray]) -> tuple[tuple[np.ndarray, ...], Callable[[], None]]:
    """Outputs, and what fills them by the reference: where there is no native module."""

    def answers() -> tuple[np.ndarray, ...]:
        y = reference.run(program, *arrays)
        return y if isinstance(y, tuple) else (y,)

    outputs = tuple(np.array(y, np.float32) for y in answers())

    def run() -> None:
        for output, y in zip(outputs, answers()):
            output[...] = y

    return outputs, run


def _addresses(arrays: Iterable[np.ndarray]) -> list[int]:
    return [array.__array_interface__["data"][0] for array in arrays]


def _outputs(compiled: Compiled) -> tuple[np.ndarray, ...]:
    """Arrays for the results; `EngineError` where there is not so much memory."""
    try:
        return tuple(np.empty(shape, dtype=np.float32) for shape in compiled.output_shapes)
    except MemoryError as error:
        raise EngineError(f"no memory for the results: {error}") from None


def _kernel_names(compiled: Compiled) -> dict[str, str]:
    """As the native plan tells them, not as they were asked for; of a node without a step, which node it is within."""
    counts: dict[str, Counter[str]] = {}
    for step, kernel in zip(compiled.steps, compiled.plan.kernels(), strict=True):
        counts.setdefault(step.node, Counter())[kernel.removeprefix("dovetail_")] += 1
    names = {node: " + ".join(k if n == 1 else f"{n} {k}" for k, n in c.items()) for node, c in counts.items()}
    return names | {node: f"within {other}" for node, other in compiled.within.items()}


def _check_threads(threads: int | None) -> int:
    if threads is None:
        return cores()
    if isinstance(threads, bool) or not isinstance(threads, int | np.integer) or not 1 <= threads <= cores():
        raise EngineError(f"threads={threads!r} is not possible here; give 1 to {cores()}")
    return int(threads)


def _as_array(x: Any, name: str) -> np.ndarray:
    """A numpy view of an array of any kind, without a copy where its owner allows."""
    if isinstance(x, np.ndarray):
        return x
    try:
        return np.from_dlpack(x) if hasattr(x, "__dlpack__") else np.asarray(x)
    except (TypeError, ValueError, BufferError, RuntimeError) as error:
        raise InputError(f"input {name!r} of type {type(x).__name__} cannot be read as an array: {error}") from None


def _ready(x: np.ndarray, name: str) -> np.ndarray:
    if x.dtype.kind != "f":
        raise InputError(f"input {name!r} has type {x.dtype}; give floating point numbers, normalised as in training")
    if x.dtype != np.float32 or not x.flags.c_contiguous or not x.flags.aligned:
        _log.debug("input %r (%s, strides %s) is copied", name, x.dtype, x.strides)
        return np.array(x, dtype=np.float32, order="C")
    return x


def _checked(program: Program) -> Program:
    """A Program made in memory, held to the same rules as one from a file."""
    from dovetail.program.check import check

    check(program)
    return program


def _load(path: str | Path) -> Program:
    from dovetail.program.store import load

    return load(path)
