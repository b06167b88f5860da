"""What every test shares: one thread of torch, fixed seeds, and where the real data lie."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import settings

ROOT = Path(__file__).resolve().parents[1]

settings.register_profile("dovetail", deadline=None, max_examples=25, derandomize=True)
settings.load_profile("dovetail")


@pytest.fixture(autouse=True, scope="session")
def one_thread():
    import torch

    torch.set_num_threads(1)


@pytest.fixture(autouse=True, scope="session")
def own_tuning_cache(tmp_path_factory):
    """No test reads or writes the times that a user's machine has collected."""
    os.environ["DOVETAIL_CACHE"] = str(tmp_path_factory.mktemp("tuning"))


@pytest.fixture(autouse=True)
def fixed_seeds():
    import numpy as np
    import torch

    torch.manual_seed(0)
    np.random.seed(0)  # noqa: NPY002 - for third parties that use the global generator


@pytest.fixture
def data_root() -> Path:
    """The folder of real data, or a skip that says how to give it."""
    root = os.environ.get("DOVETAIL_DATA")
    if not root or not Path(root).is_dir():
        pytest.skip("set DOVETAIL_DATA to the folder of the real data sets")
    return Path(root)


@pytest.fixture
def data_file(data_root):
    """`data_file(name)` is the path of one real file, or a skip."""

    def find(name: str) -> Path:
        if not (data_root / name).is_file():
            pytest.skip(f"DOVETAIL_DATA lacks {name}")
        return data_root / name

    return find
