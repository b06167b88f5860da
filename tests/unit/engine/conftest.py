"""A small network for the tests of this room."""

from __future__ import annotations

import numpy as np
import pytest

from dovetail.program.program import Activation, Program
from programs import Sketch, random_packed


@pytest.fixture
def program() -> Program:
    sketch = Sketch(1)
    x = sketch.input("batch", 3, 8, 8)
    y = sketch.add(
        "conv2d",
        x,
        packed=random_packed("sparse", (6, 3, 3, 3), sketch.random, density=0.4),
        padding=(1, 1, 1, 1),
        biased=True,
    )
    z = sketch.add("mean", sketch.add("activation", y, activation=Activation("relu")), axes=(2, 3), keepdims=False)
    return sketch.program(sketch.add("linear", z, packed=random_packed("dense", (4, 6), sketch.random)))


@pytest.fixture
def image() -> np.ndarray:
    return np.random.default_rng(0).standard_normal((2, 3, 8, 8)).astype(np.float32)
