"""Eager torch in f32: for orientation only. It wastes most of a structure's gain, so beating it means nothing."""

from __future__ import annotations

from pathlib import Path

from dovetail.peers.peer import Arguments, Runner, Source
from dovetail.peers.torch_compile import TorchRunner, save_program


def export(source: Source, folder: Path, dtype: str) -> Arguments:
    """Write `<name>.pt2`."""
    return {"path": str(save_program(source, folder))}


def load(threads: int, path: str) -> Runner:
    """The exported graph, op by op."""
    import torch

    torch.set_num_threads(threads)
    return TorchRunner(torch.export.load(path).module(check_guards=False))
