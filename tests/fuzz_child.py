"""Tries cases of a fuzz test one by one, and says which one it is at. Arguments: kind of case, first, count, folder.

The folder holds the file of the case that is being tried; what it means that this process ends in the middle is for
its parent, `fuzz.py`, to say. To repeat a case: `python tests/fuzz_child.py files 1234 1 .`
"""

from __future__ import annotations

import os
import sys

if "DOVETAIL_SANITIZED" in os.environ:
    import sanitized  # noqa: F401 - puts the sanitized module in place

import faulthandler
import math
import resource
import warnings
from dataclasses import replace
from functools import cache
from pathlib import Path
from random import Random
from typing import Any

import numpy as np

import aimed_codes
import aimed_mutations
from dovetail.engine import Schedule, Session
from dovetail.engine.codes_fused import PARTS
from dovetail.engine.codes_kernels import AnyCandidate, candidates_of
from dovetail.engine.compile import makers_of, weight_nodes
from dovetail.engine.native import cores, native_status
from dovetail.engine.schedule import graph_of, place_of
from dovetail.errors import DovetailError
from dovetail.program.integer import is_quantized, touches_codes
from dovetail.program.ops import complete
from dovetail.program.program import Node, Program, split_dim
from dovetail.program.quantize import split_factors
from dovetail.program.reference import run
from dovetail.program.store import load, save
from error_kinds import kind_of
from mutations import Stored, change_array, change_bytes, change_header, change_sizes
from programs import poisoned
from random_programs import random_program, rounded

SECONDS = 900  # after which a case counts as hanging: a thousand times what one takes, for the machine may be busy
MEMORY = 4 << 30
MOST_WORK = 1 << 24  # of one node of a network that is run
STEPS = 4  # of codes
SMALL = 1 << 16  # numbers in the tensors of a network whose kernels are timed
AIMS = [(aimed_mutations, kind) for kind in aimed_mutations.AIMED] + [(aimed_codes, kind) for kind in aimed_codes.AIMED]


def file_case(number: int, folder: Path) -> str:
    """Loads and runs a mutated file; what came of it. The first cases are the aimed ones, each alone.

    Any exception that is not Dovetail's, or of a kind that `error_kinds.py` does not know, ends the process.
    """
    random = Random(number)
    file = mutated(random, number)
    path = folder / f"case-{number}.dovetail"
    file.write(path)
    try:
        outcome = use(random, path)
    except DovetailError as error:
        outcome = kind_of(str(error))
    path.unlink()
    return outcome


def mutated(random: Random, number: int) -> Stored:
    if number < len(AIMS):
        made, kind = AIMS[number]
        file = base(made).copy()
        made.AIMED[kind](file)
        return file
    if random.random() < 0.2:
        made, kind = random.choice(AIMS)
        file = base(made).copy()
        made.AIMED[kind](file)
    else:
        file = base(random.choice([aimed_mutations, aimed_codes, *range(40)])).copy()
    if random.random() < 0.4:
        change_sizes(random, file)
        return file
    for _ in range(random.choice((1, 1, 2, 3))):
        random.choice([change_header] * 6 + [change_array] * 3 + [change_bytes])(random, file)
    return file


@cache
def base(what: Any) -> Stored:
    """A file that is sound: with everything in it, or the random program of a seed, every other one in codes."""
    if isinstance(what, int):
        return Stored.of(random_program(what, codes=what % 2 == 1)[0])
    return Stored.of(what.everything() if what is aimed_mutations else what.everything_in_codes())


def use(random: Random, path: Path) -> str:
    """What loads must run as the reference does, and mean the same once it was saved and loaded again."""
    program = load(path)
    graph = program.graph
    names = {split_dim(d)[1] for name in graph.inputs for d in graph.tensors[name].shape} - {""}
    dims = {name: random.randint(1, 3) for name in sorted(names)}
    shapes = program.shapes(graph, dims)
    session = drawn_session(random, program, dims)
    sizes = [math.prod(shape) for shape in shapes.values()]
    if max([*sizes, *(work(node, program, shapes) for node in map(complete, graph.nodes))]) > MOST_WORK:
        session.compile(*(shapes[name] for name in graph.inputs))
        return "is too large to run"
    generator = np.random.default_rng(random.randrange(1 << 30))
    inputs = [generator.standard_normal(shapes[name]).astype(np.float32) for name in graph.inputs]
    values = run(program, *inputs, every=True)
    assert {name: values[name].shape for name in graph.tensors} == graph.bind(**dims)
    if random.random() < 0.1:
        again = run(load(save(program, path.with_suffix(".again"))), *inputs, every=True)
        assert all(np.array_equal(value, again[name], equal_nan=True) for name, value in values.items())
        path.with_suffix(".again").unlink()
    compare(session, inputs, values, tolerance=1e-6)
    return "runs"


def work(node: Node, program: Program, shapes: dict[str, tuple[int, ...]]) -> int:
    """Multiply-adds, roughly; a few for each number that is read, written or padded with.

    Adaptive windows count for more: the reference visits them one by one.
    """
    given = node.attributes
    each = program.weights[node.weight].shape[1:] if node.weight else given.get("kernel", given.get("output", (1,)))
    *_, height, width = (1, 1, *shapes[node.inputs[0]])
    top, bottom, left, right = given.get("padding", (0, 0, 0, 0))
    padded = math.prod(shapes[node.inputs[0]]) // (height * width) * (height + top + bottom) * (width + left + right)
    return math.prod(shapes[node.output]) * math.prod(each) + 4 * padded


def drawn_session(random: Random, program: Program, dims: dict[str, int]) -> Session:
    """By kernels drawn for each layer, on any ISA; now and then by those that are timed to be the fastest."""
    choices = {node.name: drawn_kernel(random, program, node, dims) for node in weight_nodes(program.graph)}
    small = sum(map(math.prod, program.graph.bind(**dims).values())) < SMALL
    return Session(
        program,
        threads=random.randint(1, cores()),
        isa=random.choice(native_status().isas),
        schedule=None if small and random.random() < 0.05 else Schedule(choices),
        exact=random.random() < 0.5,
    )


def drawn_kernel(random: Random, program: Program, node: Node, dims: dict[str, int]) -> str:
    """The name of one that can run the node; with one for each convolution of a chain, sometimes for each factor."""
    graph, possible = program.graph, kernels_of(program, node, dims)
    chain = [*makers_of(program, graph, node), node] if touches_codes(node, graph) else []
    links = [[c.name for c in kernels_of(program, link, dims) if c.name in PARTS] for link in chain]
    found = random.choice([c for c in possible if not c.expands or all(links)])
    if chain and found.expands:
        parts = [random.choice(names) for names in links]
    elif not getattr(found, "factors", 0) or random.random() < 0.5:
        return found.name
    else:
        split = split_factors(replace(program, graphs={"main": graph_of(graph, node)}))
        parts = [drawn_kernel(random, split, part, dims) for part in weight_nodes(split.graph)]
    return f"{found.name}({','.join(part.partition('_')[2] for part in parts)})"


def kernels_of(program: Program, node: Node, dims: dict[str, int]) -> list[AnyCandidate]:
    graph = program.graph
    return candidates_of(node, graph, program.weights[node.weight or ""], place_of(program, graph, dims, node))


def compare(session: Session, inputs: list[np.ndarray], values: dict[str, np.ndarray], tolerance: float = 0) -> None:
    """The engine, over garbage, with the reference: bit for bit, or to 1e-4 of each output's range.

    Or to a `tolerance` of the largest number in the network, for those whose large numbers cancel out. A scale of
    1e30 before a bounded activation makes a sign of any rounding: constants count among the numbers. Where codes are
    made of sums of real numbers, some may be another one: there outputs may differ by a few steps of the coarsest.
    """
    graph, inexact = session.program.graph, rounded(session.program)
    steps = [float(t.scale or 0) for t in graph.tensors.values() if t.name in inexact and is_quantized(t)]
    step = max(steps, default=0.0)
    numbers = (*values.values(), *session.program.arrays.values())
    largest = max(float(np.abs(array).max(initial=0)) for array in numbers)
    got = poisoned(session, *inputs)
    for name, array in zip(graph.outputs, got if isinstance(got, tuple) else (got,), strict=True):
        want, how = values[name], f"{name} by {session.schedule.choices} on {session.isa}"
        assert array.shape == want.shape, how
        if name not in inexact:
            assert np.array_equal(array, want, equal_nan=True), f"{how}: {np.count_nonzero(array != want)} differ"
        elif largest < 1e6:
            allowed = max(tolerance * largest, 1e-4 * np.abs(want).max(), STEPS * step)
            assert (off := np.abs(array - want).max()) <= allowed, f"{how}: off by {off} of {np.abs(want).max()}"


def program_case(number: int, folder: Path) -> str:
    """Runs a random program, every other one in codes."""
    random = Random(f"how {number}")
    codes = number % 2 == 1
    program, inputs = random_program(number, codes=codes)
    values = run(program, *inputs, every=True)
    rounding = 4 * float(np.finfo(np.float32).eps)  # of sums, which a softmax or a difference may make much of
    compare(drawn_session(random, program, {"batch": len(inputs[0])}), inputs, values, rounding)
    return "in real numbers" if not codes else "in both" if rounded(program) else "in codes"


def main(kind: str, first: int, count: int, folder: Path) -> None:
    faulthandler.enable()
    if "DOVETAIL_SANITIZED" not in os.environ:  # the shadow of all memory is larger than any limit
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    case = {"files": file_case, "programs": program_case}[kind]
    np.seterr(all="ignore")
    warnings.simplefilter("error")
    for number in range(first, first + count):
        faulthandler.dump_traceback_later(SECONDS, exit=True)
        print(f"begin {number}", flush=True)
        print(f"end {case(number, folder)}", flush=True)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), Path(sys.argv[4]))
