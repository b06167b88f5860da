from __future__ import annotations

import errno
import logging
import math
import random

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dovetail.errors import TrainingError
from dovetail.training import checkpoint
from dovetail.training.checkpoint import Checkpoints, random_state, read, set_random_state
from dovetail.training.flatten import flatten, unflatten

scalars = st.one_of(st.none(), st.booleans(), st.integers(-(2**70), 2**70), st.floats(allow_nan=False), st.text())
tensors = st.sampled_from(
    [torch.tensor(3), torch.zeros(0, 2), torch.arange(6).view(2, 3).t(), torch.tensor([True]), torch.ones(2).bfloat16()]
)
keys = st.one_of(st.text(), st.integers(), st.sampled_from(["$tensor", "$items", "a/b", "a"]))
states = st.recursive(
    st.one_of(scalars, tensors),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.tuples(inner, inner), st.dictionaries(keys, inner, max_size=4)
    ),
    max_leaves=12,
)


def same(a, b) -> bool:
    if isinstance(a, torch.Tensor):
        return isinstance(b, torch.Tensor) and a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, dict):
        return isinstance(b, dict) and list(a) == list(b) and all(same(a[k], b[k]) for k in a)
    if isinstance(a, list | tuple):
        return type(a) is type(b) and len(a) == len(b) and all(map(same, a, b))
    return type(a) is type(b) and a == b


@given(state=states)
def test_any_nested_state_survives_a_file(state, tmp_path_factory):
    folder = Checkpoints(tmp_path_factory.mktemp("run"))
    assert same(read(folder.save({"state": state}))["state"], state)


def test_arrays_numpy_numbers_and_infinities():
    state = {"array": np.arange(3, dtype=np.uint32), "number": np.float64(0.1), "limit": math.inf}
    back = unflatten(*flatten(state))
    np.testing.assert_array_equal(back["array"], state["array"])
    assert (type(back["number"]), back["number"], back["limit"]) == (float, 0.1, math.inf)


def test_a_later_change_does_not_reach_the_flattened_copy():
    weight = torch.zeros(2)
    stored, data = flatten({"w": weight, "again": weight})
    weight.fill_(1)
    assert torch.equal(unflatten(stored, data)["again"], torch.zeros(2))


def test_an_unknown_value_is_named_with_its_path():
    with pytest.raises(TrainingError, match=r"'method/sets/0' is a set"):
        flatten({"method": {"sets": [{1}]}})


def test_random_numbers_go_on_where_they_were(tmp_path):
    def draw():
        return torch.rand(2).tolist(), np.random.rand(), random.random()  # noqa: NPY002

    folder = Checkpoints(tmp_path)
    folder.save({"random": random_state()})
    expected = draw()
    draw()
    set_random_state(folder.load()["random"])
    assert draw() == expected


@pytest.mark.parametrize("count", [1, 2, 3])
def test_a_machine_with_fewer_gpus_takes_the_states_of_those_it_has(monkeypatch, count):
    state, taken = {**random_state(), "cuda": ["first", "second"]}, []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
    monkeypatch.setattr(torch.cuda, "set_rng_state_all", taken.extend)
    set_random_state(state)
    assert taken == ["first", "second"][:count]


def test_the_last_two_stay(tmp_path):
    folder = Checkpoints(tmp_path)
    for number in range(12):
        folder.save({"number": number})
    assert [read(file)["number"] for file in folder.files()] == [10, 11]
    assert Checkpoints(tmp_path).load() == {"number": 11}


@pytest.mark.parametrize("damage", ["truncate", "empty", "text", "header"])
def test_a_damaged_checkpoint_falls_back_to_the_one_before(tmp_path, caplog, damage):
    folder = Checkpoints(tmp_path)
    first, last = (folder.save({"number": n, "weight": torch.full((50,), float(n))}) for n in (1, 2))
    whole = last.read_bytes()
    parts = {
        "truncate": whole[:-20],
        "empty": b"",
        "text": b"not a checkpoint",
        "header": whole.replace(b"weight", b"w\x00ight"),
    }
    last.write_bytes(parts[damage])
    with caplog.at_level(logging.WARNING):
        assert folder.load()["number"] == 1
    assert f"{last} is damaged" in caplog.text
    first.write_bytes(b"")
    with pytest.raises(TrainingError, match=r"no checkpoint in .* can be read"):
        folder.load()


def test_a_newer_version_is_not_read(tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoint, "VERSION", 2)
    path = Checkpoints(tmp_path).save({})
    monkeypatch.setattr(checkpoint, "VERSION", 1)
    with pytest.raises(ValueError, match="version 2 is newer"):
        read(path)


def test_a_full_disk_is_a_training_error_and_leaves_the_earlier_checkpoint(tmp_path, monkeypatch):
    def full(_):
        raise OSError(errno.ENOSPC, "No space left on device")

    folder = Checkpoints(tmp_path)
    folder.save({"number": 1})
    before = sorted(tmp_path.iterdir())
    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(TrainingError, match="disk is full"):
        folder.save({"number": 2})
    assert sorted(tmp_path.iterdir()) == before
    assert folder.load() == {"number": 1}


def test_leftovers_of_a_killed_run_are_removed_and_a_file_is_no_folder(tmp_path):
    leftover = tmp_path / ".checkpoint-000003.safetensors.x1y2.part"
    leftover.write_bytes(b"half")
    Checkpoints(tmp_path)
    assert not leftover.exists()
    (tmp_path / "file").touch()
    with pytest.raises(TrainingError, match=r"cannot make the folder .*in the way"):
        Checkpoints(tmp_path / "file")
