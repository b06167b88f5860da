"""The interpreter: what it takes, what it gives."""

from __future__ import annotations

import numpy as np
import pytest
from program_nets import every_format

from dovetail.errors import InputError, ProgramError
from dovetail.program.program import Program
from dovetail.program.reference import run

X = np.random.default_rng(0).normal(size=(3, 4, 6, 6))


def test_outputs_come_as_a_tuple_in_float32():
    first, second = run(every_format(), X)
    assert first.dtype == second.dtype == np.float32
    assert (first.shape, second.shape) == ((3, 5), (3, 9, 8))


def test_float64_is_an_oracle_for_float32():
    for exact, plain in zip(run(every_format(), X, dtype=np.float64), run(every_format(), X), strict=True):
        assert exact.dtype == np.float64
        assert np.abs(exact - plain).max() <= 1e-5 * np.ptp(exact)


def test_every_tensor_by_name():
    program = every_format()
    values = run(program, X, every=True)
    assert {name: array.shape for name, array in values.items()} == program.graph.bind(batch=3)
    np.testing.assert_array_equal(values[program.graph.outputs[0]], run(program, X)[0])


def test_images_do_not_see_each_other():
    whole = run(every_format(), X)[0]
    parts = np.concatenate([run(every_format(), X[i : i + 1])[0] for i in range(3)])
    np.testing.assert_allclose(whole, parts, rtol=1e-5, atol=1e-6)


def test_graphs_by_name():
    program = every_format()
    twin = Program({**program.graphs, "twin": program.graph}, program.weights, program.arrays)
    np.testing.assert_array_equal(run(twin, X, graph="twin")[0], run(program, X)[0])
    with pytest.raises(ProgramError, match="no graph 'early'"):
        run(program, X, graph="early")


@pytest.mark.parametrize(
    ("inputs", "words"),
    [
        ((), "takes 1: x \\(batch, 4, 6, 6\\)"),
        ((X, X), "2 inputs given"),
        ((X[0],), "has shape \\(4, 6, 6\\)"),
        ((X[:, :3],), "has shape \\(3, 3, 6, 6\\)"),
        ((X[:0],), "empty"),
        ((X.astype(np.uint8),), "uint8"),
        ((X.astype(object),), "object"),
    ],
)
def test_wrong_inputs_are_refused(inputs, words):
    with pytest.raises(InputError, match=words):
        run(every_format(), *inputs)
