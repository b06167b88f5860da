"""Checkpoints of a run: one safetensors file each, written atomically, the newest readable one wins."""

from __future__ import annotations

import json
import logging
import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.torch
import torch

from dovetail import files
from dovetail.errors import TrainingError
from dovetail.training.flatten import flatten, unflatten

log = logging.getLogger("dovetail.training")
VERSION = 1
NAMES = "checkpoint-*.safetensors"


class Checkpoints:
    """The checkpoints in a folder, numbered in the order of writing; the last `keep` stay.

    A file holds the tensors of a nested state; its header holds the rest as JSON. It is written under another name,
    flushed to disk and renamed, so that a killed run leaves the earlier ones whole.
    """

    def __init__(self, folder: Path, keep: int = 2) -> None:
        self.folder, self.keep = folder, keep
        files.make_folder(folder, error=TrainingError)
        files.sweep(folder)

    def files(self) -> list[Path]:
        """Oldest first."""
        return sorted(self.folder.glob(NAMES))

    def save(self, state: Mapping[str, Any]) -> Path:
        """Write the next checkpoint, then remove all but the last `keep`.

        Raises:
            TrainingError: it cannot be written; earlier checkpoints stay.
        """
        earlier = self.files()
        number = int(earlier[-1].stem.rpartition("-")[2]) + 1 if earlier else 1
        tensors, data = flatten(state)
        payload = safetensors.torch.save(tensors, {"dovetail": json.dumps({"version": VERSION, "state": data})})
        path = self.folder / f"checkpoint-{number:06d}.safetensors"
        files.write(path, payload, error=TrainingError)
        for old in self.files()[: -self.keep]:
            old.unlink()
        return path

    def load(self) -> dict[str, Any] | None:
        """The newest state that can be read; None for a new folder.

        A damaged file is passed over with a warning.

        Raises:
            TrainingError: there are checkpoints, but none can be read.
        """
        found = self.files()
        for path in reversed(found):
            try:
                return read(path)
            except (safetensors.SafetensorError, OSError, ValueError, KeyError, TypeError) as error:
                log.warning("checkpoint %s is damaged (%s); trying the one before it", path, error)
        if found:
            raise TrainingError(f"no checkpoint in {self.folder} can be read; delete the folder to start anew")
        return None


def read(path: Path) -> dict[str, Any]:
    """The state that a file holds; `ValueError` or `KeyError` if it is no checkpoint of a known version."""
    with safetensors.safe_open(path, "pt") as file:
        header = json.loads((file.metadata() or {})["dovetail"])
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
    if header["version"] > VERSION:
        raise ValueError(f"version {header['version']} is newer than {VERSION}")
    state = unflatten(tensors, header["state"])
    if not isinstance(state, dict):
        raise ValueError("its state is not a mapping")
    return state


def seed_all(seed: int) -> None:
    """Seed torch (every device), numpy and Python."""
    torch.manual_seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002 - users' augmentations may draw from it
    random.seed(seed)


def random_state() -> dict[str, Any]:
    """The state of the generators of torch (every device), numpy and Python."""
    return {
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
        "numpy": np.random.get_state(),  # noqa: NPY002 - users' augmentations may draw from it
        "python": random.getstate(),
    }


def set_random_state(state: Mapping[str, Any]) -> None:
    """Inverse of `random_state`; states of GPUs that this machine lacks are left out."""
    torch.set_rng_state(state["torch"])
    if state["cuda"] and torch.cuda.is_available():
        torch.cuda.set_rng_state_all(state["cuda"][: torch.cuda.device_count()])
    np.random.set_state(state["numpy"])  # noqa: NPY002
    random.setstate(state["python"])
