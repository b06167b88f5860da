"""Pickle files are read as plain data: what CIFAR-10 needs comes through, and nothing is ever run."""

from __future__ import annotations

import pickle
import pickletools
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dovetail.errors import DataError
from dovetail.zoo.data.inert_pickle import read_inert

ARRAY = np.arange(24, dtype=np.uint8).reshape(4, 6)


def read(data, tmp_path):
    (tmp_path / "file").write_bytes(data)
    return read_inert(tmp_path / "file")


@pytest.mark.parametrize("protocol", [2, 3, 4])
@pytest.mark.parametrize("order", ["C", "F"])
def test_arrays_come_through(tmp_path, protocol, order):
    content = {
        "data": np.asarray(ARRAY, order=order),
        b"labels": [3, 300, 70_000, -1],
        "name": "x",
        "n": None,
        "t": (1, 2),
    }
    got = read(pickle.dumps(content, protocol), tmp_path)
    assert np.array_equal(got["data"], ARRAY)
    assert got["labels"] == [3, 300, 70_000, -1]
    assert (got["name"], got["n"], got["t"]) == ("x", None, (1, 2))


def python_2():
    """The bytes that Python 2 wrote, opcode by opcode, as the published files have them."""

    def string(text):
        return b"U" + bytes([len(text)]) + text

    array = (
        b"cnumpy.core.multiarray\n_reconstruct\nq\x01(cnumpy\nndarray\nq\x02K\x00\x85" + string(b"b") + b"tR"
        b"(K\x01K\x04K\x06\x86cnumpy\ndtype\n" + string(b"u1") + b"K\x00K\x01\x87R(K\x03" + string(b"|") + b"NNN"
        b"J\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89T\x18\x00\x00\x00" + ARRAY.tobytes() + b"tb"
    )
    return b"\x80\x02}q\x00(" + string(b"labels") + b"]q\x03(K\x06K\x09e" + string(b"data") + array + b"u."


def test_what_python_2_wrote_comes_through(tmp_path):
    assert np.array_equal(pickle.loads(python_2(), encoding="bytes")[b"data"], ARRAY)  # the fixture itself is right
    got = read(python_2(), tmp_path)
    assert np.array_equal(got["data"], ARRAY)
    assert got["labels"] == [6, 9]


class Evil:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (Path(self.path),)


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_nothing_is_ever_run(tmp_path, protocol):
    data = pickle.dumps({"data": Evil(str(tmp_path / "touched"))}, protocol)
    with pytest.raises(DataError, match="plain arrays"):
        read(data, tmp_path)
    assert not (tmp_path / "touched").exists()
    pickle.loads(data)  # what the file would have done
    assert (tmp_path / "touched").exists()


@pytest.mark.parametrize(
    "content", [[1, 2], {"data": ARRAY.astype(np.float32)}, {"data": np.array([None])}, {"data": {1, 2}}, 7], ids=str
)
def test_other_content_is_refused(tmp_path, content):
    with pytest.raises(DataError):
        read(pickle.dumps(content, 4), tmp_path)


def test_the_shape_must_agree_with_the_bytes(tmp_path):
    data = pickle.dumps({"data": ARRAY}, 4)
    lying = data.replace(b"K\x04K\x06\x86", b"K\x05K\x06\x86")
    assert lying != data
    with pytest.raises(DataError, match="24 bytes"):
        read(lying, tmp_path)


GOOD = pickletools.optimize(pickle.dumps({"data": ARRAY, "labels": [1, 2]}, 4))


@given(st.integers(0, len(GOOD) - 1), st.integers(0, 255), st.booleans())
def test_any_damage_is_a_data_error_or_other_plain_data(tmp_path_factory, at, value, cut):
    damaged = GOOD[:at] if cut else GOOD[:at] + bytes([value]) + GOOD[at + 1 :]
    path = tmp_path_factory.mktemp("damaged") / "file"
    path.write_bytes(damaged)
    try:
        content = read_inert(path)
    except DataError as error:
        content = str(error)
    assert isinstance(content, dict) or str(path) in content
