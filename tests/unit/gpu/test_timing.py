"""What can be said of recorded graphs without a GPU."""

from __future__ import annotations

import gc
import weakref
from contextlib import nullcontext
from functools import partial
from unittest.mock import MagicMock

import torch

from dovetail.gpu import timing


def test_a_graph_keeps_the_operands_of_its_work(monkeypatch):
    for name in ("CUDAGraph", "Stream", "current_stream", "synchronize"):
        monkeypatch.setattr(torch.cuda, name, MagicMock())
    for name in ("stream", "graph"):
        monkeypatch.setattr(torch.cuda, name, lambda *_: nullcontext())
    operand = torch.ones(3)
    seen = weakref.ref(operand)
    graph = timing.Graph(partial(torch.sum, operand), repeats=2)
    del operand
    gc.collect()
    assert seen() is not None
    assert float(graph.replay()) == 3
    del graph
    gc.collect()
    assert seen() is None
