"""torch.compile with frozen weights (inductor, C++), in f32; the network travels as a `torch.export` file."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np

from dovetail.errors import PeerError
from dovetail.peers.peer import Arguments, Images, Runner, Source
from dovetail.peers.quiet import quietly


def export(source: Source, folder: Path, dtype: str) -> Arguments:
    """Write `<name>.pt2`; `PeerError` where inductor would find no C++ compiler."""
    if compiler() is None:
        raise PeerError("torch-compile: not available: no C++ compiler (g++ or clang++, or CXX)")
    return {"path": str(save_program(source, folder))}


def compiler() -> str | None:
    """The C++ compiler that inductor would find, by name or path."""
    return next((name for name in (os.environ.get("CXX", "g++"), "g++", "clang++") if shutil.which(name)), None)


def save_program(source: Source, folder: Path) -> Path:
    """The network as a `torch.export` archive, shared with eager torch."""
    import torch

    path = folder / f"{source.name}.pt2"
    if not path.exists():
        with quietly():
            torch.export.save(torch.export.export(source.model, (source.example,)), path)
    return path


def load(threads: int, path: str) -> Runner:
    """Compile on the first bound input; this takes tens of seconds for a deep network."""
    import torch
    import torch._inductor.config as inductor

    torch.set_num_threads(threads)
    inductor.freezing = True
    module = torch.export.load(path).module(check_guards=False)
    return TorchRunner(torch.compile(module))


class TorchRunner:
    """A torch callable on a bound tensor; compiles, where it does, while binding."""

    def __init__(self, module: Any) -> None:
        self.module = module
        self.x: Any = None
        self.y: Any = None

    def bind(self, x: Images) -> None:
        """Take the input without a copy and run once."""
        import torch

        self.x = torch.from_numpy(x)
        self.inference = torch.inference_mode
        self.run()

    def run(self) -> None:
        """One forward pass without autograd."""
        with self.inference():
            self.y = self.module(self.x)

    def outputs(self) -> tuple[np.ndarray, ...]:
        """The results as numpy arrays."""
        results = self.y if isinstance(self.y, (tuple, list)) else (self.y,)
        return tuple(result.numpy() for result in results)
