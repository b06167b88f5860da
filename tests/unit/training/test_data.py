"""Images, splits, augmentation and the loader: batches that can be drawn again."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dovetail.errors import InputError
from dovetail.training.data import Augment, Images, Loader, split

MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.25, 0.3)


def some(count=23, height=6, width=5, channels=3, classes=4):
    rng = np.random.default_rng(count)
    pixels = rng.integers(0, 256, (count, height, width, channels), dtype=np.uint8)
    return Images(pixels, np.arange(count) % classes, classes)


def loader(data=None, batch=4, **options):
    return Loader(data or some(), batch, mean=MEAN, std=STD, **options)


def same(first, second):
    first, second = list(first), list(second)
    assert len(first) == len(second)
    return all(torch.equal(x, u) and torch.equal(y, v) for (x, y), (u, v) in zip(first, second, strict=True))


def test_batches_are_normalised_in_order():
    data = some()
    x = torch.cat([x for x, _ in loader(data)])
    expected = (data.images / 255.0 - np.array(MEAN)) / np.array(STD)
    assert x.dtype == torch.float32
    assert np.abs(x.numpy() - expected.transpose(0, 3, 1, 2)).max() < 1e-6
    assert torch.equal(torch.cat([y for _, y in loader(data)]), torch.from_numpy(data.labels))


def test_batches_have_channels_last_memory_and_int64_labels():
    x, y = next(iter(loader(augment=Augment(2), shuffle=True)))
    assert x.is_contiguous(memory_format=torch.channels_last)
    assert (x.shape, y.dtype) == ((4, 3, 6, 5), torch.int64)


@pytest.mark.parametrize(("drop", "sizes"), [(False, [4, 4, 4, 4, 4, 3]), (True, [4, 4, 4, 4, 4])])
def test_length_and_last_batch(drop, sizes):
    batches = loader(drop_last=drop, shuffle=True)
    assert [len(x) for x, _ in batches] == sizes
    assert len(batches) == len(sizes)


def test_shuffling_visits_every_image_once_and_anew_each_epoch():
    data = Images(np.arange(50, dtype=np.uint8).reshape(50, 1, 1, 1), np.arange(50), 50)
    batches = Loader(data, 8, mean=[0.0], std=[1 / 255], shuffle=True)
    orders = [torch.cat([y for _, y in batches.epoch(number)]).tolist() for number in (0, 1)]
    assert sorted(orders[0]) == sorted(orders[1]) == list(range(50))
    assert orders[0] != orders[1] != list(range(50))
    x, y = next(batches.epoch(1))
    assert x.flatten().round().long().tolist() == y.tolist()


def test_an_epoch_is_determined_by_seed_and_number():
    options = {"augment": Augment(2), "shuffle": True}
    assert same(loader(seed=3, **options).epoch(5), loader(seed=3, **options).epoch(5))
    assert same(loader(seed=3, **options), loader(seed=3, **options).epoch(0))
    assert not same(loader(seed=3, **options).epoch(5), loader(seed=4, **options).epoch(5))
    assert not same(loader(seed=3, **options).epoch(5), loader(seed=3, **options).epoch(6))


def test_the_global_generator_is_neither_read_nor_moved():
    before = torch.random.get_rng_state()
    first = list(loader(augment=Augment(), shuffle=True))
    assert torch.equal(torch.random.get_rng_state(), before)
    torch.manual_seed(99)
    assert same(first, loader(augment=Augment(), shuffle=True))


@given(st.integers(0, 6), st.integers(0, 3), st.booleans(), st.booleans(), st.booleans())
def test_a_resumed_epoch_goes_on_exactly(start, number, shuffle, drop, augmented):
    batches = loader(shuffle=shuffle, drop_last=drop, augment=Augment(1) if augmented else None)
    start = min(start, len(batches))
    assert same(batches.epoch(number, start), list(batches.epoch(number))[start:])


def test_augmentation_differs_between_the_batches_of_an_epoch():
    data = Images(np.repeat(some(1).images, 8, 0), np.zeros(8, int), 1)
    (first, _), (second, _) = loader(data, augment=Augment(2)).epoch(0)
    assert not torch.equal(first, second)


@given(st.integers(0, 3), st.booleans(), st.integers(0, 1000))
def test_augmented_images_are_windows_of_the_padded_image_or_its_mirror(padding, flip, seed):
    pixels = torch.from_numpy(some(6, 4, 5).images)
    out = Augment(padding, flip)(pixels, torch.Generator().manual_seed(seed))
    padded = np.pad(pixels.numpy(), ((0, 0), (padding, padding), (padding, padding), (0, 0)))
    for image, got in zip(padded, out.numpy(), strict=True):
        spots = [(y, x) for y in range(2 * padding + 1) for x in range(2 * padding + 1)]
        windows = [image[y : y + 4, x : x + 5] for y, x in spots]
        windows += [window[:, ::-1] for window in windows] if flip else []
        assert any(np.array_equal(got, window) for window in windows)


def test_every_offset_and_both_directions_occur():
    pixels = torch.arange(1, 10, dtype=torch.uint8).view(1, 3, 3, 1).expand(2000, 3, 3, 1)
    out = Augment(1, True)(pixels, torch.Generator().manual_seed(0))
    kinds, counts = np.unique(out.numpy().reshape(2000, -1), axis=0, return_counts=True)
    assert len(kinds) == 9 * 2
    assert counts.min() > 2000 / 18 / 2


def test_without_augmentation_the_data_are_never_written_to():
    data = some()
    before = data.images.copy()
    for x, y in loader(data):
        x.zero_()
        y.zero_()
    assert np.array_equal(data.images, before)
    assert data.labels.max() == 3


def test_images_take_tensors_read_only_arrays_and_any_integers():
    pixels = np.frombuffer(bytes(24), np.uint8).reshape(2, 2, 2, 3)
    images = Images(pixels, torch.tensor([0, 1], dtype=torch.uint8), 2)
    assert images.images.flags.writeable
    assert images.labels.dtype == np.int64
    assert len(Images(torch.from_numpy(images.images), [1, 1], 2)) == 2


def test_a_loader_takes_anything_with_images_labels_and_classes():
    data = some()
    like = SimpleNamespace(images=data.images, labels=data.labels, classes=data.classes)
    assert same(loader(like), loader(data))


@pytest.mark.parametrize(
    ("images", "labels", "told"),
    [
        (np.zeros((2, 3, 3, 1)), [0, 1], "uint8"),
        (np.zeros((2, 3, 3), np.uint8), [0, 1], r"\(N, H, W, C\)"),
        (np.zeros((0, 3, 3, 1), np.uint8), [], r"\(0, 3, 3, 1\)"),
        (np.zeros((2, 3, 3, 1), np.uint8), [0], "one per image"),
        (np.zeros((2, 3, 3, 1), np.uint8), [0.0, 1.0], "integers"),
        (np.zeros((2, 3, 3, 1), np.uint8), [0, 2], "from 0 to 2"),
        (np.zeros((2, 3, 3, 1), np.uint8), [-1, 1], "from -1 to 1"),
    ],
)
def test_bad_images_are_refused(images, labels, told):
    with pytest.raises(InputError, match=told):
        Images(images, labels, 2)


@pytest.mark.parametrize(
    "options",
    [
        {"batch": 0},
        {"seed": -1},
        {"mean": (0.5, 0.5)},
        {"std": (0.2, 0.2, 0.0)},
        {"std": (0.2, 0.2, -1.0)},
        {"mean": (0.1, float("nan"), 0.1)},
        {"std": ()},
    ],
    ids=str,
)
def test_bad_loader_arguments_are_refused(options):
    with pytest.raises(InputError):
        Loader(some(), **{"batch": 4, "mean": MEAN, "std": STD, **options})


@pytest.mark.parametrize(("number", "start"), [(-1, 0), (0, -1), (0, 7)])
def test_an_epoch_outside_its_bounds_is_refused_at_once(number, start):
    with pytest.raises(InputError, match="6 batches"):
        loader().epoch(number, start)


def test_one_number_normalises_all_channels():
    x, _ = next(iter(Loader(some(), 4, mean=[0.5], std=[0.5])))
    y, _ = next(iter(Loader(some(), 4, mean=[0.5] * 3, std=[0.5] * 3)))
    assert torch.equal(x, y)


def test_split_holds_out_the_last():
    data = some(10)
    rest, held = split(data, 3)
    assert np.array_equal(np.concatenate([rest.images, held.images]), data.images)
    assert held.labels.tolist() == data.labels[-3:].tolist()
    assert rest.classes == held.classes == 4


@pytest.mark.parametrize("held_out", [0, -1, 10, 5000])
def test_split_refuses_empty_parts(held_out):
    with pytest.raises(InputError, match="from 1 to 9"):
        split(some(10), held_out)


def test_negative_padding_is_refused():
    with pytest.raises(InputError, match="crop_padding"):
        Augment(-1)
