"""Files are whole or not there at all; what fails is told in one sentence, and leaves nothing behind."""

from __future__ import annotations

import errno
import os
import stat
import threading

import pytest

from dovetail import files
from dovetail.errors import DovetailError, TrainingError


def test_bytes_and_text_arrive_as_they_are(tmp_path):
    target = files.write(tmp_path / "a", b"\x00\xff\r\n")
    assert target.read_bytes() == b"\x00\xff\r\n"
    assert files.write(str(target), "größer\n").read_bytes() == "größer\n".encode()
    assert list(tmp_path.iterdir()) == [target]


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_failure_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch, call):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    target = files.write(tmp_path / "a", b"old")
    monkeypatch.setattr("pathlib.Path.replace" if call == "replace" else "os.fsync", full)
    with pytest.raises(TrainingError, match=r"cannot write .*a: the disk is full"):
        files.write(target, b"new", error=TrainingError)
    assert list(tmp_path.iterdir()) == [target]
    assert target.read_bytes() == b"old"


def test_the_data_is_on_disk_before_the_name_points_to_it(tmp_path, monkeypatch):
    seen, fsync = [], os.fsync

    def watched(descriptor):
        seen.append((stat.S_ISDIR(os.fstat(descriptor).st_mode), (tmp_path / "a").exists()))
        fsync(descriptor)

    monkeypatch.setattr("os.fsync", watched)
    files.write(tmp_path / "a", b"new")
    assert seen == [(False, False), (True, True)]


def test_permissions_are_those_of_the_old_file_else_of_any_new_one(tmp_path):
    (tmp_path / "usual").touch()
    usual = (tmp_path / "usual").stat().st_mode
    assert files.write(tmp_path / "new", b"").stat().st_mode == usual
    (tmp_path / "usual").chmod(0o640)
    assert files.write(tmp_path / "usual", b"x").stat().st_mode & 0o777 == 0o640


def test_places_that_cannot_be_written(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(DovetailError, match="does not exist; make it first"):
        files.write(tmp_path / "gone" / "a", b"")
    with pytest.raises(DovetailError, match="is a folder; give a file name"):
        files.write(tmp_path, b"")
    with pytest.raises(DovetailError, match="in the way"):
        files.write(tmp_path / "file" / "a", b"")


def test_folders_are_made_with_those_above_them(tmp_path):
    assert files.make_folder(tmp_path / "a" / "b").is_dir()
    assert files.make_folder(tmp_path / "a" / "b").is_dir()
    (tmp_path / "file").touch()
    for name in ("file", "file/below"):
        with pytest.raises(TrainingError, match=r"cannot make the folder .*in the way"):
            files.make_folder(tmp_path / name, error=TrainingError)


def test_sweeping_removes_what_a_killed_write_left_and_nothing_else(tmp_path, monkeypatch):
    files.write(tmp_path / "kept.part", b"")
    files.write(tmp_path / ".kept", b"")
    monkeypatch.setattr("pathlib.Path.unlink", lambda *_, **__: None)
    monkeypatch.setattr("pathlib.Path.replace", lambda *_: None)  # as if killed before the renaming
    files.write(tmp_path / "lost", b"half")
    monkeypatch.undo()
    assert len(list(tmp_path.iterdir())) == 3
    files.sweep(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [".kept", "kept.part"]


def test_a_folder_is_locked_for_one_process_and_free_again_afterwards(tmp_path):
    told = r"another process works in .*; wait for it, stop it, or choose"
    with files.locked(tmp_path), pytest.raises(TrainingError, match=told):
        files.locked(tmp_path, error=TrainingError).__enter__()
    with files.locked(tmp_path, error=TrainingError):
        pass


def test_a_lock_can_be_waited_for_and_those_of_other_names_are_others(tmp_path):
    order = []

    def second():
        with files.locked(tmp_path, name=".a", wait=True):
            order.append("second")

    waiting = threading.Thread(target=second)
    with files.locked(tmp_path, name=".a"), files.locked(tmp_path, name=".b"):
        waiting.start()
        waiting.join(0.1)
        order.append("first")
    waiting.join()
    assert order == ["first", "second"]


def test_a_folder_that_cannot_be_locked_is_used_without(tmp_path, monkeypatch, caplog):
    def unsupported(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("fcntl.flock", unsupported)
    caplog.set_level("INFO")
    entered = 0
    for _ in range(2):
        with files.locked(tmp_path, error=TrainingError):
            entered += 1
    assert entered == 2
    assert caplog.text.count("cannot be locked (") == 2


def test_a_folder_in_which_nothing_can_be_written_is_told(tmp_path):
    (tmp_path / ".lock").mkdir()
    with pytest.raises(TrainingError, match="cannot work in"):
        files.locked(tmp_path, error=TrainingError).__enter__()


def test_a_child_does_not_keep_the_lock(tmp_path):
    ends = os.pipe()
    with files.locked(tmp_path):
        child = os.fork()
        if not child:
            os.close(ends[1])
            os.read(ends[0], 1)  # until the parent lets it go
            os._exit(0)
    assert os.waitpid(child, os.WNOHANG) == (0, 0)  # it is still there
    with files.locked(tmp_path):
        os.close(ends[1])
    assert os.waitpid(child, 0) == (child, 0)
