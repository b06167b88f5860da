"""How targets are timed in turn, without a GPU."""

from __future__ import annotations

import contextlib

import numpy as np
import pytest
import torch

from dovetail.errors import GpuError
from dovetail.gpu import timing
from dovetail.gpu.timing import Pace


def test_targets_run_in_turn_and_back():
    order = []

    def target(name: str):
        def run(runs: int) -> np.ndarray:
            order.append((name, runs))
            return np.full(runs, 1.0)

        return run

    times = timing.interleave({name: target(name) for name in "abc"}, Pace(blocks=3, runs=5, warm=2))
    assert [name for name, runs in order if runs == 5] == list("abccbaabc")
    assert order[:4] == [("a", 2), ("a", 5), ("b", 2), ("b", 5)]
    assert {name: [len(block) for block in blocks] for name, blocks in times.items()} == {n: [5, 5, 5] for n in "abc"}


def test_full_float32_is_undone_in_the_end():
    before = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
    with contextlib.suppress(KeyError), timing.full_float32():
        assert not torch.backends.cudnn.allow_tf32
        assert not torch.backends.cuda.matmul.allow_tf32
        raise KeyError
    assert (torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32) == before


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_without_a_gpu_it_says_so():
    with pytest.raises(GpuError, match="needs a CUDA GPU"):
        timing.require_device()
