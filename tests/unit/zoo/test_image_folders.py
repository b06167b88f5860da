"""Folders of images: how they are split and resized, and which are refused."""

from __future__ import annotations

import numpy as np
import pytest

from dovetail.errors import DataError
from dovetail.zoo.data import open_data


def write_images(folder, counts, ending="png", value=None):
    image = pytest.importorskip("PIL.Image")
    for label, (name, count) in enumerate(counts.items()):
        (folder / name).mkdir(parents=True)
        for k in range(count):
            pixels = np.full((20, 30, 3), 40 * label + 7 if value is None else value, np.uint8)
            image.fromarray(pixels).save(folder / name / f"{k}.{ending}")


@pytest.mark.parametrize(("test", "ending"), [("test", "png"), ("val", "jpg")])
def test_a_folder_with_parts_is_read_and_resized(tmp_path, test, ending):
    write_images(tmp_path / "pets" / "train", {"cat": 3, "dog": 2}, ending)
    write_images(tmp_path / "pets" / test, {"cat": 1, "dog": 1}, ending)
    data = open_data("pets", tmp_path, size=(16, 24))
    assert (data.name, data.class_names, data.train.classes) == ("pets", ("cat", "dog"), 2)
    assert data.train.images.shape == (5, 16, 24, 3)
    assert sorted(data.train.labels.tolist()) == [0, 0, 0, 1, 1]
    for part in (data.train, data.test):  # every image has the brightness of its class
        assert np.abs(part.images - (40.0 * part.labels + 7)[:, None, None, None]).max() <= 2


def test_a_folder_without_parts_holds_out_every_fifth(tmp_path):
    write_images(tmp_path, {"a": 10, "b": 5})
    data = open_data(str(tmp_path), size=8)
    assert (len(data.train), len(data.test)) == (12, 3)
    assert sorted(data.test.labels.tolist()) == [0, 0, 1]


def test_the_classes_are_mixed_and_always_in_the_same_way(tmp_path):
    write_images(tmp_path, {"a": 50, "b": 50})
    labels = open_data(str(tmp_path), size=4).train.labels
    assert set(labels[-20:].tolist()) == {0, 1}
    np.testing.assert_array_equal(open_data(str(tmp_path), size=4).train.labels, labels)


def test_resizing_keeps_the_centre(tmp_path):
    image = pytest.importorskip("PIL.Image")
    write_images(tmp_path, {"a": 10})
    wide = np.zeros((10, 30, 3), np.uint8)
    wide[:, 10:20] = 200
    image.fromarray(wide).save(tmp_path / "a" / "0.png")
    brightness = open_data(str(tmp_path), size=10).train.images.mean(axis=(1, 2, 3))
    assert brightness.max() == 200
    assert np.sort(brightness)[:-1].max() == 7


def test_folders_that_do_not_serve_are_refused(tmp_path):
    with pytest.raises(DataError, match=r"nothing.*digits, cifar10.*DOVETAIL_DATA"):
        open_data("nothing", tmp_path)
    with pytest.raises(DataError, match="no folders of images"):
        open_data(str(tmp_path))
    write_images(tmp_path / "train", {"a": 2})
    with pytest.raises(DataError, match="test part"):
        open_data(str(tmp_path))
    write_images(tmp_path / "test", {"b": 2})
    with pytest.raises(DataError, match="training part lacks: b"):
        open_data(str(tmp_path), size=8)
    (tmp_path / "train" / "empty").mkdir()
    with pytest.raises(DataError, match=r"empty.*no images"):
        open_data(str(tmp_path), size=8)


def test_an_unreadable_image_is_named(tmp_path):
    write_images(tmp_path, {"a": 6})
    path = tmp_path / "a" / "2.png"
    path.write_bytes(path.read_bytes()[:60])
    with pytest.raises(DataError, match=r"2\.png"):
        open_data(str(tmp_path), size=8)


def test_more_than_memory_is_refused_before_reading(tmp_path):
    write_images(tmp_path, {"a": 6})
    with pytest.raises(DataError, match="GiB"):
        open_data(str(tmp_path), size=100_000)
