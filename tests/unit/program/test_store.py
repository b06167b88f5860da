"""The `.dovetail` file: round trip, and one paragraph for each way in which a file can be bad."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time

import numpy as np
import pytest
from program_nets import every_format
from safetensors.numpy import save as to_safetensors
from safetensors.numpy import save_file

from dovetail.errors import DovetailError, ProgramError
from dovetail.formats import DenseSpec, PackedDense
from dovetail.program.build import Builder, Call
from dovetail.program.program import Program
from dovetail.program.reference import run
from dovetail.program.store import VERSION, load, save


@pytest.fixture
def file(tmp_path):
    return save(every_format(), tmp_path / "net.dovetail")


def parts(file):
    """The header data and arrays of a file."""
    from safetensors import safe_open

    with safe_open(file, "numpy") as opened:
        return json.loads(opened.metadata()["dovetail"]), {key: opened.get_tensor(key) for key in opened.keys()}  # noqa: SIM118


def rewrite(file, data, arrays):
    text = data if isinstance(data, str) else json.dumps(data)
    save_file(arrays, file, metadata={"dovetail": text})


def message(file) -> str:
    with pytest.raises(ProgramError) as caught:
        load(file)
    assert str(file) in str(caught.value)
    return str(caught.value)


def test_round_trip_is_exact(file, tmp_path):
    before, after = every_format(), load(file)
    assert after.graphs == before.graphs
    assert after.metadata == before.metadata
    assert [packed.spec for packed in after.weights.values()] == [packed.spec for packed in before.weights.values()]
    again = save(after, tmp_path / "again.dovetail")
    assert again.read_bytes() == file.read_bytes()
    x = np.random.default_rng(0).normal(size=(2, 4, 6, 6))
    for a, b in zip(run(before, x), run(after, x), strict=True):
        np.testing.assert_array_equal(a, b)


def test_program_save_is_the_same(file, tmp_path):
    every_format().save(tmp_path / "b.dovetail")
    assert (tmp_path / "b.dovetail").read_bytes() == file.read_bytes()


def test_overwriting_a_loaded_file_is_safe(file):
    program = load(file)
    save(program, file)
    save(program, file)
    assert load(file).graphs == program.graphs


def test_loading_needs_no_torch(file):
    code = f"import sys; sys.modules['torch'] = None; from dovetail.program.store import load; load({str(file)!r})"
    subprocess.run(
        [sys.executable, "-c", code], check=True, env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    )


def test_a_large_file_loads_at_once(tmp_path):
    b = Builder(lambda name: (packed, 1))
    packed = PackedDense.from_dense(np.ones((1200, 10000), np.float32), DenseSpec())
    b.at(Call("y"))
    b.format("big")
    y = b.emit("linear", b.input("x", ("batch", 10000)), weight="big")
    file = save(b.program((y.name,), {}), tmp_path / "big.dovetail")
    times = []
    for _ in range(3):
        start = time.perf_counter()
        load(file)
        times.append(time.perf_counter() - start)
    assert min(times) < 0.3


def test_missing_file(tmp_path):
    assert "no file" in message(tmp_path / "gone.dovetail")
    assert "no file" in message(tmp_path)


@pytest.mark.parametrize("content", [b"", b"\x00" * 7, b"PK\x03\x04" + b"\x00" * 64, b"\xff" * 100])
def test_not_a_dovetail_file(tmp_path, content):
    path = tmp_path / "x.dovetail"
    path.write_bytes(content)
    assert "no .dovetail file" in message(path)


def test_plain_safetensors(tmp_path):
    path = tmp_path / "x.safetensors"
    path.write_bytes(to_safetensors({"a": np.ones(3, np.float32)}))
    assert "safetensors" in message(path)


@pytest.mark.parametrize("share", [0.1, 0.5, 0.999])
def test_truncated(file, share):
    data = file.read_bytes()
    file.write_bytes(data[: int(len(data) * share)])
    assert "truncated" in message(file)


@pytest.mark.parametrize(
    ("version", "words"),
    [
        ([VERSION[0], VERSION[1] + 1], "update Dovetail"),
        ([0, 9], "too old"),
        (["1", 0], "no version"),
        (None, "no version"),
    ],
)
def test_versions(file, version, words):
    data, arrays = parts(file)
    rewrite(file, {**data, "version": version}, arrays)
    assert words in message(file)


@pytest.mark.parametrize("minor", [5, 4, 3])
def test_two_minor_versions_back_are_read(file, monkeypatch, minor):
    data, arrays = parts(file)
    rewrite(file, {**data, "version": [VERSION[0], minor]}, arrays)
    monkeypatch.setattr("dovetail.program.store.VERSION", (VERSION[0], 5))
    load(file)
    rewrite(file, {**data, "version": [VERSION[0], 2]}, arrays)
    assert "too old" in message(file)


@pytest.mark.parametrize("text", ["{", "[]", "NaN", '{"a": NaN}', '{"a": 1, "a": 2}', "[" * 100000, "9" * 5000])
def test_damaged_headers(file, text):
    rewrite(file, text, parts(file)[1])
    message(file)


def nodes(data):
    return data["graphs"]["main"]["nodes"]


def tensors(data):
    return data["graphs"]["main"]["tensors"]


DAMAGE = {
    "unknown op": (lambda d: nodes(d)[0].update(op="fold"), "unknown op"),
    "unknown field": (lambda d: nodes(d)[0].update(colour=1), "colour"),
    "missing field": (lambda d: nodes(d)[0].pop("output"), "output"),
    "wrong kind": (lambda d: nodes(d)[0].update(inputs="x"), "inputs"),
    "attribute": (lambda d: nodes(d)[0]["attributes"].update(stride=[0, 1]), "stride"),
    "nested attribute": (lambda d: nodes(d)[0]["attributes"].update(stride={"a": 1}), "stride"),
    "activation": (lambda d: nodes(d)[0]["epilogue"].update(activation=["swish"]), "swish"),
    "activation arguments": (lambda d: nodes(d)[0]["epilogue"].update(activation=["clamp", "0", 6]), "activation"),
    "huge number": (lambda d: nodes(d)[0]["epilogue"].update(activation=["clamp", 0, 10**400]), "finite"),
    "order": (lambda d: nodes(d).reverse(), "computed before"),
    "self reference": (lambda d: nodes(d)[0].update(inputs=[nodes(d)[0]["output"]]), "computed before"),
    "two nodes of a name": (lambda d: nodes(d)[1].update(name=nodes(d)[0]["name"]), "twice"),
    "two writers": (lambda d: nodes(d)[1].update(output=nodes(d)[0]["output"]), "exists already"),
    "writes the input": (lambda d: nodes(d)[0].update(output="x"), "exists already"),
    "shape": (lambda d: tensors(d)["dense"].update(shape=["batch", 4, 6, 7]), "is said to have shape"),
    "negative shape": (lambda d: tensors(d)["x"].update(shape=["batch", -4, 6, 6]), "shape"),
    "sixty dimensions": (lambda d: tensors(d)["x"].update(shape=["batch", *[1] * 59]), "60 dimensions"),
    "enormous": (lambda d: tensors(d)["x"].update(shape=["batch", 2**30, 2**30, 6]), "larger than"),
    "type": (lambda d: tensors(d)["x"].update(dtype="object"), "type object"),
    "extra tensor": (lambda d: tensors(d).update(idle={"shape": [1], "dtype": "float32"}), "computed nowhere"),
    "output": (lambda d: d["graphs"]["main"].update(outputs=["gone"]), "computed nowhere"),
    "no output": (lambda d: d["graphs"]["main"].update(outputs=[]), "at least one"),
    "no main": (lambda d: d["graphs"].update(other=d["graphs"].pop("main")), "main"),
    "unknown format": (lambda d: d["weights"]["dense"]["spec"].update(format="felt"), "felt"),
    "spec": (lambda d: d["weights"]["tucker"]["spec"].update(rank_in=99), "rank"),
    "spec of a wrong kind": (lambda d: d["weights"]["tucker"]["spec"].update(rank_in="2"), "rank"),
    "weight shape": (lambda d: d["weights"]["dense"].update(shape=[4, 4, 3, 4]), "dense"),
    "other rank": (lambda d: d["weights"]["svd"].update(shape=[5, 4, 2, 1]), "svd"),
    "array": (lambda d: d["weights"]["dense"].update(arrays=["wait"]), "wait"),
    "forgotten array": (lambda d: d["arrays"].pop(), "does not name"),
    "forgotten weight": (lambda d: d["weights"].pop("dense"), "does not name"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_header_that_lies(file, damage):
    change, words = DAMAGE[damage]
    data, arrays = parts(file)
    change(data)
    rewrite(file, data, arrays)
    assert words in message(file)


def test_arrays_that_lie(file):
    data, arrays = parts(file)
    for key, array in arrays.items():
        if array.dtype == np.float32:
            bad = array.copy()
            bad.flat[0] = np.nan
            rewrite(file, data, {**arrays, key: bad})
            assert "NaN" in message(file)
        rewrite(file, data, {**arrays, key: array.ravel()[:-1]})
        message(file)
        rewrite(file, data, {**arrays, key: array.astype(np.int64)})
        message(file)


def test_nothing_half_written(tmp_path, monkeypatch):
    target = tmp_path / "net.dovetail"
    target.write_bytes(b"old")

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(DovetailError, match="disk is full"):
        save(every_format(), target)
    assert [path.name for path in tmp_path.iterdir()] == ["net.dovetail"]
    assert target.read_bytes() == b"old"


def test_unwritable_places(tmp_path):
    with pytest.raises(DovetailError, match="does not exist"):
        save(every_format(), tmp_path / "gone" / "net.dovetail")
    with pytest.raises(DovetailError, match="is a folder"):
        save(every_format(), tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(DovetailError, match="in the way"):
        save(every_format(), tmp_path / "file" / "net.dovetail")


def test_metadata_must_be_plain(tmp_path):
    program = every_format()
    for value in (np.ones(2), float("nan"), {1, 2}):
        with pytest.raises(ProgramError, match="metadata"):
            save(Program(program.graphs, program.weights, program.arrays, {"a": value}), tmp_path / "x.dovetail")
    assert not list(tmp_path.iterdir())


def test_a_format_that_trips_over_its_arrays_is_named(file, monkeypatch):
    """Formats of others may meet arrays that they did not think of; no foreign exception leaves the loader."""

    def trips(packed):
        raise IndexError("axis 4 is out of bounds")

    monkeypatch.setattr(PackedDense, "validate_arrays", trips)
    assert "its arrays do not fit its spec DenseSpec" in message(file)
