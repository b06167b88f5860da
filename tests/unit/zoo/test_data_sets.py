"""Reading data sets: every usual form on disk, and every way in which files may be damaged."""

from __future__ import annotations

import gzip
import pickle

import numpy as np
import pytest

from dovetail.errors import DataError
from dovetail.training.data import Images, Loader, split
from dovetail.zoo.data import DATA_SETS, open_data

rng = np.random.default_rng(0)


def images(count, side=32, channels=3):
    return rng.integers(0, 256, (count, side, side, channels), dtype=np.uint8)


def labels(count, classes=10):
    return np.arange(count) % classes


# Digits


def test_digits_need_no_files(monkeypatch):
    monkeypatch.delenv("DOVETAIL_DATA", raising=False)
    data = open_data("digits")
    assert data.train.images.shape[1:] == data.test.images.shape[1:] == (8, 8, 1)
    assert len(data.train) + len(data.test) == 1797
    assert (data.train.images.dtype, data.train.labels.dtype) == (np.uint8, np.int64)
    assert (data.train.images.min(), data.train.images.max()) == (0, 255)
    assert data.class_names == tuple("0123456789")


def test_digits_are_split_by_class_and_always_alike():
    first, second = open_data("digits"), open_data("digits")
    assert np.array_equal(first.test.images, second.test.images)
    share = np.bincount(first.test.labels) / np.bincount(np.r_[first.train.labels, first.test.labels])
    assert np.all(np.abs(share - 0.2) < 0.01)


def test_the_constants_of_digits_normalise_them():
    data = open_data("digits")
    pixels = data.train.images / 255
    assert data.mean == pytest.approx([pixels.mean()], abs=1e-4)
    assert data.std == pytest.approx([pixels.std()], abs=1e-4)


def test_a_loader_reads_what_is_opened():
    data = open_data("digits")
    batch, target = next(iter(Loader(data.train, 16, mean=data.mean, std=data.std)))
    assert (batch.shape, target.shape) == ((16, 1, 8, 8), (16,))
    rest, held = split(data.train, 100)
    assert isinstance(rest, Images)
    assert (len(rest), len(held)) == (len(data.train) - 100, 100)


# MNIST and Fashion-MNIST


def idx(array):
    header = bytes([0, 0, 8, array.ndim]) + b"".join(size.to_bytes(4, "big") for size in array.shape)
    return header + array.astype(np.uint8).tobytes()


def write_idx(folder, *, zipped=False, dot="-"):
    folder.mkdir(parents=True, exist_ok=True)
    written = {}
    for prefix, count in (("train", 20), ("t10k", 10)):
        for what, array in (("images", images(count, 28)[..., 0]), ("labels", labels(count))):
            written[prefix, what] = array
            path = folder / f"{prefix}-{what}{dot}idx{array.ndim}-ubyte{'.gz' if zipped else ''}"
            path.write_bytes(gzip.compress(idx(array)) if zipped else idx(array))
    return written


@pytest.mark.parametrize(
    ("name", "inside", "zipped", "dot"),
    [
        ("mnist", "", False, "-"),
        ("mnist", "MNIST/raw", True, "-"),
        ("mnist", "mnist", False, "."),
        ("fashion_mnist", "FashionMNIST/raw", True, "-"),
    ],
)
def test_idx_files_are_found_and_read(tmp_path, name, inside, zipped, dot):
    written = write_idx(tmp_path / inside, zipped=zipped, dot=dot)
    data = open_data(name, tmp_path)
    assert np.array_equal(data.train.images[..., 0], written["train", "images"])
    assert np.array_equal(data.test.images[..., 0], written["t10k", "images"])
    assert np.array_equal(data.test.labels, written["t10k", "labels"])
    assert len(data.class_names) == 10


@pytest.mark.parametrize(
    "keys", [("train_x", "train_y", "test_x", "test_y"), ("x_train", "y_train", "x_test", "y_test")]
)
def test_npz_files_are_read_in_both_spellings(tmp_path, keys):
    arrays = (images(12, 28)[..., 0], labels(12), images(10, 28)[..., 0], labels(10))
    np.savez(tmp_path / "mnist.npz", **dict(zip(keys, arrays, strict=True)))
    data = open_data("MNIST", tmp_path)
    assert np.array_equal(data.train.images[..., 0], arrays[0])
    assert np.array_equal(data.test.labels, arrays[3])


def spoil(path, how):
    good = path.read_bytes()
    path.write_bytes(
        {"cut": good[: len(good) * 2 // 3], "long": good + b"x", "magic": b"\x00\x00\x09" + good[3:], "empty": b""}[how]
    )


@pytest.mark.parametrize("how", ["cut", "long", "magic", "empty"])
@pytest.mark.parametrize("file", ["train-images-idx3-ubyte", "t10k-labels-idx1-ubyte"])
def test_damaged_idx_files_are_refused_by_name(tmp_path, file, how):
    write_idx(tmp_path)
    spoil(tmp_path / file, how)
    with pytest.raises(DataError, match=file):
        open_data("mnist", tmp_path)


@pytest.mark.parametrize("how", ["cut", "magic", "empty"])
def test_damaged_gzip_is_refused_by_name(tmp_path, how):
    write_idx(tmp_path, zipped=True)
    spoil(tmp_path / "train-images-idx3-ubyte.gz", how)
    with pytest.raises(DataError, match=r"train-images-idx3-ubyte\.gz"):
        open_data("mnist", tmp_path)


@pytest.mark.parametrize("how", ["cut", "magic", "empty"])
def test_damaged_npz_is_refused_by_name(tmp_path, how):
    np.savez(tmp_path / "mnist.npz", train_x=images(10, 28)[..., 0])
    spoil(tmp_path / "mnist.npz", how)
    with pytest.raises(DataError, match=r"mnist\.npz"):
        open_data("mnist", tmp_path)


def test_objects_in_an_npz_are_refused(tmp_path):
    np.savez(tmp_path / "mnist.npz", train_x=np.array([{"a": 1}], dtype=object))
    with pytest.raises(DataError, match=r"mnist\.npz.*plain arrays"):
        open_data("mnist", tmp_path)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"train_y": labels(12) + 1}, "labels from 1 to 10"),
        ({"train_y": labels(11)}, "expected 12 integer labels"),
        ({"train_y": labels(12) / 2}, "integer labels"),
        ({"train_x": np.zeros((12, 28, 28))}, "expected uint8 images"),
        ({"train_x": images(12, 28)[:, 0, :, 0]}, "expected uint8 images"),
        ({"test_x": None}, "no arrays test_x and test_y"),
    ],
)
def test_arrays_of_the_wrong_kind_are_refused(tmp_path, change, told):
    arrays = {"train_x": images(12, 28)[..., 0], "train_y": labels(12), "test_x": images(10, 28), "test_y": labels(10)}
    kept = {key: value for key, value in {**arrays, **change}.items() if value is not None}
    np.savez(tmp_path / "mnist.npz", **kept)
    with pytest.raises(DataError, match=told):
        open_data("mnist", tmp_path)


# CIFAR-10


def sheet(tiles, columns):
    rows = len(tiles) // columns
    return tiles.reshape(rows, columns, 32, 32, 3).transpose(0, 2, 1, 3, 4).reshape(rows * 32, columns * 32, 3)


@pytest.fixture
def sheets(tmp_path):
    """Six sheets of 12 images: what was written, by part."""
    image = pytest.importorskip("PIL.Image")
    parts = {"train": (images(60), labels(60)), "test": (images(12), labels(12))}
    for name, tiles in [(f"train_{k}", parts["train"][0][12 * k : 12 * k + 12]) for k in range(5)] + [
        ("test", parts["test"][0])
    ]:
        image.fromarray(sheet(tiles, 3)).save(tmp_path / f"cifar10_{name}.webp", lossless=True)
    np.savez(tmp_path / "cifar10_labels.npz", train_labels=parts["train"][1], test_labels=parts["test"][1])
    return parts


def same(data, parts):
    for part, (pixels, target) in ((data.train, parts["train"]), (data.test, parts["test"])):
        assert np.array_equal(part.images, pixels)
        assert np.array_equal(part.labels, target)


def test_sheets_are_cut_into_images(tmp_path, sheets):
    same(open_data("cifar10", tmp_path), sheets)


def test_sheets_are_decoded_once_until_they_change(tmp_path, sheets, monkeypatch):
    image = pytest.importorskip("PIL.Image")
    first = open_data("cifar10", tmp_path)
    monkeypatch.setattr(image, "open", lambda *_: pytest.fail("decoded again"))
    assert open_data("cifar10", tmp_path).train.images is first.train.images
    monkeypatch.undo()
    other = images(12)
    image.fromarray(sheet(other, 3)).save(tmp_path / "cifar10_test.webp", lossless=True)
    assert np.array_equal(open_data("cifar10", tmp_path).test.images, other)


@pytest.mark.parametrize("how", ["cut", "magic", "empty"])
def test_a_damaged_sheet_is_refused_by_name(tmp_path, sheets, how):
    spoil(tmp_path / "cifar10_train_3.webp", how)
    with pytest.raises(DataError, match=r"cifar10_train_3\.webp"):
        open_data("cifar10", tmp_path)


def test_a_sheet_of_another_size_is_refused(tmp_path, sheets):
    image = pytest.importorskip("PIL.Image")
    image.fromarray(images(1)[0, :31]).save(tmp_path / "cifar10_test.webp")
    with pytest.raises(DataError, match=r"cifar10_test\.webp.*32x32"):
        open_data("cifar10", tmp_path)
    image.fromarray(sheet(images(6), 3)).save(tmp_path / "cifar10_test.webp")
    with pytest.raises(DataError, match="expected 6 integer labels"):
        open_data("cifar10", tmp_path)


def test_a_missing_sheet_says_what_to_set(tmp_path, sheets):
    (tmp_path / "cifar10_train_2.webp").unlink()
    with pytest.raises(DataError, match=r"cifar10_train_2\.webp.*--data.*DOVETAIL_DATA"):
        open_data("cifar10", tmp_path)


def planes(pixels):
    return pixels.transpose(0, 3, 1, 2).reshape(len(pixels), -1)


def batches(parts):
    train, target = parts["train"]
    for k in range(5):
        yield f"data_batch_{k + 1}", train[12 * k : 12 * k + 12], target[12 * k : 12 * k + 12]
    yield "test_batch", *parts["test"]


@pytest.fixture
def parts():
    return {"train": (images(60), labels(60)), "test": (images(12), labels(12))}


@pytest.mark.parametrize("inside", ["", "cifar-10-batches-bin"])
def test_the_binary_version_is_read(tmp_path, parts, inside):
    write_bin(tmp_path / inside, parts)
    same(open_data("cifar10", tmp_path), parts)


def write_bin(folder, parts):
    folder.mkdir(exist_ok=True)
    for name, pixels, target in batches(parts):
        records = np.concatenate([target[:, None].astype(np.uint8), planes(pixels)], 1)
        (folder / f"{name}.bin").write_bytes(records.tobytes())


def test_damaged_binary_files_are_refused(tmp_path, parts):
    write_bin(tmp_path, parts)
    whole = (tmp_path / "data_batch_2.bin").read_bytes()
    for damaged, told in (
        (whole[:-1], r"data_batch_2\.bin"),
        (b"", r"data_batch_2\.bin"),
        (whole[:-3073], "truncated"),
    ):
        (tmp_path / "data_batch_2.bin").write_bytes(damaged)
        with pytest.raises(DataError, match=told):
            open_data("cifar10", tmp_path)
    (tmp_path / "data_batch_2.bin").write_bytes(b"\x0a" + whole[1:])
    with pytest.raises(DataError, match="labels from 0 to 10"):
        open_data("cifar10", tmp_path)
    (tmp_path / "data_batch_2.bin").unlink()
    with pytest.raises(DataError, match=r"data_batch_2\.bin.*DOVETAIL_DATA"):
        open_data("cifar10", tmp_path)


@pytest.mark.parametrize("protocol", [2, 4])
def test_the_python_version_is_read(tmp_path, parts, protocol):
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    for name, pixels, target in batches(parts):
        batch = {
            b"batch_label": b"x",
            b"labels": target.tolist(),
            b"data": planes(pixels),
            b"filenames": [b"a.png"] * 12,
        }
        (folder / name).write_bytes(pickle.dumps(batch, protocol))
    same(open_data("cifar10", tmp_path), parts)
    (folder / "data_batch_4").write_bytes(pickle.dumps({"labels": [1]}))
    with pytest.raises(DataError, match="data_batch_4"):
        open_data("cifar10", tmp_path)


def test_no_cifar_at_all_names_the_three_forms(tmp_path):
    with pytest.raises(DataError, match=r"sheets, cifar-10-batches-bin nor cifar-10-batches-py.*DOVETAIL_DATA"):
        open_data("cifar10", tmp_path)


# Roots


@pytest.mark.parametrize("name", [each for each in DATA_SETS if each != "digits"])
def test_without_a_root_the_error_says_what_to_set(monkeypatch, tmp_path, name):
    monkeypatch.delenv("DOVETAIL_DATA", raising=False)
    with pytest.raises(DataError, match=r"--data.*DOVETAIL_DATA"):
        open_data(name)
    with pytest.raises(DataError, match="absent"):
        open_data(name, tmp_path / "absent")
    with pytest.raises(DataError, match=str(tmp_path)):
        open_data(name, tmp_path)


def test_the_environment_names_the_root(monkeypatch, tmp_path):
    write_idx(tmp_path)
    monkeypatch.setenv("DOVETAIL_DATA", str(tmp_path))
    assert len(open_data("mnist").train) == 20


@pytest.mark.data
@pytest.mark.parametrize(("name", "file"), [("mnist", "mnist.npz"), ("fashion_mnist", "fashion_mnist.npz")])
def test_the_real_mnists_have_their_published_statistics(data_root, data_file, name, file):
    data_file(file)
    data = open_data(name, data_root)
    assert (len(data.train), len(data.test)) == (60_000, 10_000)
    pixels = data.train.images / np.float32(255)
    assert data.mean == pytest.approx([pixels.mean()], abs=2e-3)
    assert data.std == pytest.approx([pixels.std()], abs=2e-3)


@pytest.mark.data
def test_the_real_cifar10_has_its_published_statistics(data_root, data_file):
    data_file("cifar10_train_0.webp")
    data = open_data("cifar10", data_root)
    assert np.bincount(data.train.labels).tolist() == [5000] * 10
    assert np.bincount(data.test.labels).tolist() == [1000] * 10
    assert data.train.images.mean((0, 1, 2)) / 255 == pytest.approx(data.mean, abs=2e-4)
    assert open_data("cifar10", data_root).train.images is data.train.images
