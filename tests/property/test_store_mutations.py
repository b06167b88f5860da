"""A `.dovetail` file after a change or two: it loads, and runs as the reference does, or says why not."""

from __future__ import annotations

import contextlib
import copy
import json
import tempfile
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.numpy import save_file
from torch import nn

from dovetail.engine import Schedule, Session, native_status
from dovetail.engine.kernels import candidates, place
from dovetail.errors import ProgramError
from dovetail.formats import SparseSpec, TuckerSpec
from dovetail.formats.layer import from_dense, swap
from dovetail.program.lower import lower
from dovetail.program.program import Program
from dovetail.program.reference import run
from dovetail.program.store import load, save
from programs import close, poisoned

VALUES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-3, 9),
    st.sampled_from([2**31, -(2**63), 10**400, 0.5, 1e39, "", "x", "batch", "0*batch", "3*batch", "relu", "main"]),
    st.sampled_from([[], {}, [0], [1, 1], [[0, 0]], ["batch", 4, 8, 8], [1, 1, 1, 1], {"a": 1}]),
)


@pytest.fixture(scope="module")
def stored(tmp_path_factory) -> tuple[dict, dict]:
    torch.manual_seed(0)
    layers = [nn.Conv2d(4, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU6(), nn.MaxPool2d(2), nn.Conv2d(6, 6, 3)]
    model = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 5), nn.Softmax(1))
    swap(model, "0", from_dense(model[0], TuckerSpec(rank_in=2, rank_out=3)))
    swap(model, "4", from_dense(model[4], SparseSpec(density=0.4)))
    file = save(lower(model, torch.randn(2, 4, 8, 8)), tmp_path_factory.mktemp("net") / "net.dovetail")
    with safe_open(file, "numpy") as opened:
        names = list(opened.keys())
        return json.loads(opened.metadata()["dovetail"]), {name: opened.get_tensor(name) for name in names}


def places(data, path=()):
    """Every place in the header: the path to it."""
    if path:
        yield path
    items = data.items() if isinstance(data, dict) else enumerate(data) if isinstance(data, list) else ()
    for key, value in items:
        yield from places(value, (*path, key))


def mutate(draw, data):
    """Replace, remove, duplicate or exchange what is at a random place."""
    path = draw(st.sampled_from(list(places(data))))
    holder = data
    for key in path[:-1]:
        holder = holder[key]
    match draw(st.sampled_from(["replace", "remove", "double", "borrow"])):
        case "replace":
            holder[path[-1]] = draw(VALUES)
        case "remove":
            del holder[path[-1]]
        case "double" if isinstance(holder, list):
            holder.insert(draw(st.integers(0, len(holder))), copy.deepcopy(holder[path[-1]]))
        case _:
            other = draw(st.sampled_from([p for p in places(data) if len(p) == len(path)]))
            value = data
            for key in other:
                value = value[key]
            holder[path[-1]] = copy.deepcopy(value)


@settings(max_examples=150)
@given(st.data())
def test_a_changed_header_loads_or_is_refused(stored, choices):
    data, arrays = copy.deepcopy(stored[0]), stored[1]
    for _ in range(choices.draw(st.integers(1, 2))):
        mutate(choices.draw, data)
    attempt(data, arrays)


@settings(max_examples=60)
@given(st.data())
def test_changed_arrays_load_or_are_refused(stored, choices):
    data, arrays = copy.deepcopy(stored[0]), dict(stored[1])
    name = choices.draw(st.sampled_from(sorted(arrays)))
    array = arrays[name].copy()
    kind = choices.draw(st.sampled_from(["value", "shorter", "shape", "type", "gone", "extra"]))
    if kind == "value":
        extremes = [np.inf, np.nan, 0.0, 1e38] if array.dtype.kind == "f" else [0, 1, np.iinfo(array.dtype).max]
        array.flat[choices.draw(st.integers(0, array.size - 1))] = choices.draw(st.sampled_from(extremes))
    changes = {"shorter": lambda: array.ravel()[:-1], "shape": lambda: array[None], "type": lambda: array.view(np.int8)}
    arrays = {**arrays, name if kind != "extra" else f"{name}.more": changes.get(kind, array.copy)()}
    if kind == "gone":
        del arrays[name]
    attempt(data, arrays)


def attempt(data, arrays) -> None:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "net.dovetail"
        save_file(arrays, file, metadata={"dovetail": json.dumps(data)})
        program = None
        with contextlib.suppress(ProgramError):
            program = load(file)
        if program is not None:
            run_twice(program, Path(folder))


def run_twice(program, folder) -> None:
    """What loads must run, save and load again, and then mean the same."""
    again = load(save(program, folder / "again.dovetail"))
    graph = program.graph
    if all(names(graph.tensors[name]) <= {"batch"} for name in graph.inputs):
        shapes = graph.bind(batch=2)
        inputs = [np.ones(shapes[name], np.float32) for name in graph.inputs]
        with np.errstate(all="ignore"):
            first, second = run(program, *inputs, every=True), run(again, *inputs, every=True)
        assert {name: array.shape for name, array in first.items()} == shapes
        for name, array in first.items():
            np.testing.assert_array_equal(array, second[name])
        run_on_the_engine(program, inputs, first)


def run_on_the_engine(program: Program, inputs: list[np.ndarray], values: dict[str, np.ndarray]) -> None:
    """By the last kernel that each layer can take, over garbage; as the reference where no number is beyond reason."""
    if not native_status().available:
        return
    graph, choices = program.graph, {}
    shapes = graph.bind(batch=2)
    for node in graph.nodes:
        if node.weight is not None:
            where = place(node, program.shapes(graph, {"batch": 2}))
            choices[node.name] = candidates(node.op, program.weights[node.weight], where)[-1].name
    got = poisoned(Session(program, threads=1, schedule=Schedule(choices)), *inputs)
    for name, array in zip(graph.outputs, got if isinstance(got, tuple) else (got,), strict=True):
        assert array.shape == shapes[name]
        if all(np.abs(value).max() < 1e6 for value in values.values()):
            assert close(array, values[name])


def names(tensor) -> set[str]:
    return {d for d in tensor.shape if isinstance(d, str)}


def test_the_unchanged_file_is_one_that_loads(stored):
    data, arrays = stored
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "net.dovetail"
        save_file(arrays, file, metadata={"dovetail": json.dumps(data)})
        run_twice(load(file), Path(folder))
