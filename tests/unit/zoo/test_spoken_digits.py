"""The spoken digits: what a picture of a recording shows, both forms on disk, and how they may be damaged."""

from __future__ import annotations

import wave

import numpy as np
import pytest

from dovetail.errors import DataError
from dovetail.training.data import split
from dovetail.zoo.data import open_data
from dovetail.zoo.data.log_mel import LogMel, mel_bands

# Pictures


def tone(hertz, seconds=0.5, rate=8000, loudness=8000.0):
    return (loudness * np.sin(2 * np.pi * hertz * np.arange(int(seconds * rate)) / rate)).astype(np.int16)


def centres(features):
    """In Hz, by the definition of the mel scale alone."""
    top = 2595 * np.log10(1 + features.rate / 2 / 700)
    mel = top * np.arange(1, features.bands + 1) / (features.bands + 1)
    return 700 * (10 ** (mel / 2595) - 1)


@pytest.mark.parametrize("band", [2, 9, 20, 31])
def test_a_tone_is_brightest_in_the_band_around_it(band):
    features = LogMel()
    picture = features.picture(tone(centres(features)[band]))
    middle = picture[features.frames // 2]
    assert middle.argmax() == band
    assert middle[band] == 255
    assert middle[(band + 16) % 32] < 130  # half the scale is 40 dB below


def test_loudness_does_not_matter_and_silence_is_black():
    features = LogMel()
    samples = tone(900, loudness=2000)
    loud = features.picture(8 * samples)
    assert np.array_equal(loud, features.picture(samples))
    count = 1 + -(-(4000 - 256) // 128)
    before = (64 - count) // 2
    assert not loud[:before].any()
    assert not loud[before + count :].any()
    assert loud[before : before + count].max(axis=1).min() > 200


def test_of_a_long_recording_the_middle_is_kept():
    features = LogMel()
    early, late = tone(500, 1.0), tone(2500, 1.0)
    picture = features.picture(np.concatenate([early, late]))
    assert picture.shape == (64, 32)
    low, high = (int(np.abs(centres(features) - hertz).argmin()) for hertz in (500, 2500))
    assert (picture[:28].argmax(axis=1) == low).all()
    assert (picture[-28:].argmax(axis=1) == high).all()


@pytest.mark.parametrize("samples", [1, 255, 256, 257, 384, 385])
def test_short_recordings_fill_as_many_windows_as_they_need(samples):
    picture = LogMel().picture(tone(700, loudness=9000)[1 : samples + 1])
    needed = 1 if samples <= 256 else 2 if samples <= 384 else 3
    assert np.count_nonzero(picture.any(axis=1)) <= needed
    assert picture.max() == 255


def test_ten_times_the_amplitude_is_twenty_decibels():
    features = LogMel(frames=2, hop=256)
    samples = np.concatenate([tone(1000, 0.032, loudness=10000), tone(1000, 0.032, loudness=1000)])
    first, second = features.picture(samples).max(axis=1).astype(int)
    assert first - second == pytest.approx(255 * 20 / 80, abs=1)


def test_triangles_reach_one_and_share_the_frequencies_between_their_centres():
    bands = mel_bands(32, 4096, 8000)
    frequencies = np.arange(2049) * 8000 / 4096
    middle = centres(LogMel())
    inside = (frequencies > middle[0]) & (frequencies < middle[-1])
    assert np.allclose(bands.sum(axis=0)[inside], 1)
    assert (np.abs(frequencies[bands.argmax(axis=1)] - middle) < 8000 / 4096).all()
    assert bands.min() == 0


# Files


def recordings(takes=7, speakers=("ada", "bob")):
    """(digit, speaker, take) → samples, each another tone."""
    return {
        (digit, speaker, take): tone(300 + 250 * digit + 40 * take, 0.1 + 0.02 * index)
        for digit in range(10)
        for index, speaker in enumerate(speakers)
        for take in range(takes)
    }


def write_npz(path, told, **changes):
    audio = np.concatenate(list(told.values()))
    names = sorted({speaker for _, speaker, _ in told})
    arrays = {
        "audio": audio,
        "offsets": np.cumsum([0, *map(len, told.values())]),
        "digit": np.array([digit for digit, _, _ in told], np.uint8),
        "speaker": np.array([names.index(speaker) for _, speaker, _ in told], np.uint8),
        "take": np.array([take for _, _, take in told], np.uint8),
        "rate": np.int64(8000),
    } | changes
    np.savez(path, **{name: array for name, array in arrays.items() if array is not None})


def write_wavs(folder, told, rate=8000, channels=1):
    folder.mkdir(parents=True, exist_ok=True)
    for (digit, speaker, take), samples in told.items():
        with wave.open(str(folder / f"{digit}_{speaker}_{take}.wav"), "wb") as file:
            file.setnchannels(channels)
            file.setsampwidth(2)
            file.setframerate(rate)
            file.writeframes(samples.astype("<i2").tobytes())


@pytest.mark.parametrize("inside", ["recordings", "free-spoken-digit-dataset/recordings"])
def test_both_forms_hold_the_same_pictures(tmp_path, inside):
    told = recordings()
    write_wavs(tmp_path / "wav" / inside, told)
    (tmp_path / "wav" / inside / "README.md").write_text("no recording")
    (tmp_path / "npz").mkdir()
    write_npz(tmp_path / "npz" / "fsdd.npz", told)
    one, other = (open_data("spoken-digits", tmp_path / form) for form in ("wav", "npz"))
    assert one.name == "spoken_digits"
    for ours, theirs in ((one.train, other.train), (one.test, other.test)):
        assert np.array_equal(ours.images, theirs.images)
        assert np.array_equal(ours.labels, theirs.labels)
    assert one.train.images.shape == (40, 64, 32, 1)
    assert one.test.images.shape == (100, 64, 32, 1)


def test_the_first_five_takes_are_the_test_part_and_the_last_are_held_out(tmp_path):
    told = recordings(takes=12)
    write_npz(tmp_path / "fsdd.npz", told)
    data = open_data("spoken_digits", tmp_path)
    expected = [LogMel().picture(samples) for (_, _, take), samples in told.items() if take < 5]
    assert {picture.tobytes() for picture in data.test.images} == {picture.tobytes() for picture in expected}
    _, held_out = split(data.train, 40)
    assert np.bincount(held_out.labels).tolist() == [4] * 10
    last = {LogMel().picture(samples).tobytes() for (_, _, take), samples in told.items() if take >= 10}
    assert {picture.tobytes() for picture in held_out.images} == last


def test_without_data_the_error_names_both_forms(tmp_path):
    with pytest.raises(DataError, match=r"fsdd\.npz.*DOVETAIL_DATA"):
        open_data("spoken_digits", tmp_path)


def few(change=None, at=(3, "ada", 1)):
    told = recordings()
    return told if change is None else told | {at: change}


@pytest.mark.parametrize(
    ("told", "changes", "message"),
    [
        (few(), {"rate": np.int64(16000)}, "16000 samples a second; bring it to 8000"),
        (few(tone(1, 0.0)), {}, r"recording 43 of .*fsdd\.npz.* is empty"),
        (few(np.zeros(900, np.int16)), {}, r"recording 43 of .* is silent"),
        (few(), {"take": None}, "no arrays take"),
        (few(), {"digit": np.full(140, 1.5)}, "digit must be whole numbers"),
        (few(), {"rate": np.array("8k")}, "rate must be whole numbers"),
        (few(), {"rate": np.array([8000, 8000])}, "rate one number"),
        (few(), {"audio": np.zeros((10, 2), np.int16)}, "must have one axis each"),
        (few(), {"take": np.zeros(140, np.uint8)}, "0 recordings to train on and 140 to test on"),
        (few(), {"take": np.zeros(139, np.uint8)}, "as many speakers and takes"),
        (few(), {"offsets": np.arange(141)}, "offsets that rise from 0"),
        (few(), {"audio": np.zeros(10, np.int16)}, "offsets that rise from 0 to its 10 samples"),
        (few(), {"digit": np.full(140, 10, np.uint8)}, "labels from 10 to 10"),
    ],
)
def test_archives_that_contradict_themselves_are_refused(tmp_path, told, changes, message):
    write_npz(tmp_path / "fsdd.npz", told, **changes)
    with pytest.raises(DataError, match=message):
        open_data("spoken_digits", tmp_path)


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({"rate": 44100}, "44100 samples a second"),
        ({"channels": 2}, "found 2 of 16 bits"),
    ],
)
def test_wavs_of_another_kind_are_refused(tmp_path, how, message):
    write_wavs(tmp_path / "recordings", few(), **how)
    with pytest.raises(DataError, match=message):
        open_data("spoken_digits", tmp_path)


@pytest.mark.parametrize("kept", [0, 10, 40, 60])
def test_cut_wavs_are_refused_by_name(tmp_path, kept):
    write_wavs(tmp_path / "recordings", few())
    path = tmp_path / "recordings" / "4_bob_6.wav"
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(DataError, match=r"4_bob_6\.wav"):
        open_data("spoken_digits", tmp_path)


@pytest.mark.data
def test_the_real_recordings_are_those_of_the_data_set(data_root, data_file):
    data_file("fsdd.npz")
    data = open_data("spoken_digits", data_root)
    assert np.bincount(data.train.labels).tolist() == [270] * 10
    assert np.bincount(data.test.labels).tolist() == [30] * 10
    pixels = data.train.images / 255
    assert data.mean == pytest.approx([pixels.mean()], abs=1e-4)
    assert data.std == pytest.approx([pixels.std()], abs=1e-4)
