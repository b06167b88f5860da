"""The Free Spoken Digit Dataset as pictures: 3,000 recordings of the digits by six speakers, 8 kHz, log-mel power.

A picture has 64 rows of time and 32 columns of frequency (`LogMel`), so that networks over pictures and over sequences
read the same data. The test part is the data set's own: takes 0 to 4 of every digit and speaker.
"""

from __future__ import annotations

import re
import wave
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dovetail.errors import DataError
from dovetail.zoo.data.arrays import Read, load_npz, part
from dovetail.zoo.data.log_mel import LogMel
from dovetail.zoo.root import missing

FEATURES = LogMel()
TEST_TAKES = 5
_ARCHIVE = "fsdd.npz"
_FOLDERS = ("recordings", "free-spoken-digit-dataset/recordings", "free-spoken-digit-dataset-master/recordings")
_NAME = re.compile(r"(?P<digit>\d)_(?P<speaker>\w+)_(?P<take>\d+)\.wav")
_KEYS = ("audio", "offsets", "digit", "speaker", "take")


@dataclass(frozen=True)
class _Recording:
    """One spoken digit, the sampling rate that its file claims, and what to call it in an error."""

    samples: np.ndarray
    rate: int
    digit: int
    speaker: str
    take: int
    where: str


def read_spoken_digits(root: Path) -> Read:
    """`fsdd.npz` under `root`, else the `.wav` files of the data set's repository in a folder `recordings`.

    Training recordings come in the order of their takes, so that the last ones, which are held out, hold every digit
    and speaker alike.

    Raises:
        DataError: neither is there, a file is damaged, or a recording is empty, silent or of another sampling rate.
    """
    archive = root / _ARCHIVE
    folder = next((root / each for each in _FOLDERS if (root / each).is_dir()), None)
    if not archive.is_file() and folder is None:
        raise missing(archive, "data set 'spoken_digits' (neither the .npz nor a folder recordings of .wav files)")
    found = list(_from_npz(archive) if archive.is_file() else _from_folder(folder or root))
    found.sort(key=lambda each: (each.take, each.digit, each.speaker))
    where = archive if archive.is_file() else folder or root
    train = [each for each in found if each.take >= TEST_TAKES]
    test = [each for each in found if each.take < TEST_TAKES]
    if not train or not test:
        raise DataError(
            f"{str(where)!r}: {len(train)} recordings to train on and {len(test)} to test on (takes below "
            f"{TEST_TAKES}); both parts are needed: get it anew"
        )
    parts = (part([_picture(r) for r in chosen], [r.digit for r in chosen], 10, where) for chosen in (train, test))
    return Read(*parts, tuple("0123456789"))


def _picture(recording: _Recording) -> np.ndarray:
    if recording.rate != FEATURES.rate:
        raise DataError(f"{recording.where} has {recording.rate} samples a second; bring it to {FEATURES.rate} first")
    if not len(recording.samples):
        raise DataError(f"{recording.where} is empty; get it anew")
    if not recording.samples.any():
        raise DataError(f"{recording.where} is silent: all its samples are zero; get it anew")
    return FEATURES.picture(recording.samples)


def _from_npz(path: Path) -> Iterator[_Recording]:
    """Arrays `audio` (int16, one recording behind the other), `offsets`, `digit`, `speaker`, `take`, `rate`."""
    arrays = load_npz(path)
    if lacking := [key for key in _KEYS if key not in arrays]:
        raise DataError(f"{str(path)!r} has no arrays {', '.join(lacking)}; it has {', '.join(arrays)}")
    audio, offsets, digit, speaker, take = (arrays[key] for key in _KEYS)
    rates = np.ravel(arrays.get("rate", FEATURES.rate))
    whole = {"offsets": offsets, "digit": digit, "take": take, "rate": rates}
    if wrong := [key for key, array in whole.items() if array.dtype.kind not in "iu"]:
        raise DataError(f"{str(path)!r}: {', '.join(wrong)} must be whole numbers; get it anew")
    if len(rates) != 1 or {array.ndim for array in (audio, offsets, digit, speaker, take)} != {1}:
        raise DataError(f"{str(path)!r}: {', '.join(_KEYS)} must have one axis each, and rate one number; get it anew")
    rate, count = int(rates[0]), len(digit)
    ordered = offsets.shape == (count + 1,) and offsets[0] == 0 and offsets[-1] == len(audio)
    if audio.dtype != np.int16 or not ordered or (np.diff(offsets) < 0).any() or {len(speaker), len(take)} != {count}:
        raise DataError(
            f"{str(path)!r}: {count} digits need as many speakers and takes, int16 audio and {count + 1} offsets that "
            f"rise from 0 to its {len(audio)} samples; get it anew"
        )
    for k in range(count):
        samples = audio[offsets[k] : offsets[k + 1]]
        where = f"recording {k} of {str(path)!r}"
        yield _Recording(samples, rate, int(digit[k]), str(speaker[k]), int(take[k]), where)


def _from_folder(folder: Path) -> Iterator[_Recording]:
    """Files `<digit>_<speaker>_<take>.wav`; others are passed over."""
    for path in sorted(folder.iterdir()):
        if found := _NAME.fullmatch(path.name):
            samples, rate = _wav(path)
            yield _Recording(samples, rate, int(found["digit"]), found["speaker"], int(found["take"]), repr(str(path)))


def _wav(path: Path) -> tuple[np.ndarray, int]:
    try:
        with wave.open(str(path), "rb") as file:
            form, data = file.getparams(), file.readframes(file.getnframes())
    except (OSError, EOFError, wave.Error) as error:
        raise DataError(f"{str(path)!r} cannot be read: {error or 'it is truncated'}; get it anew") from None
    if (form.nchannels, form.sampwidth) != (1, 2) or len(data) != 2 * form.nframes:
        raise DataError(
            f"{str(path)!r}: expected one channel of 16-bit samples, {form.nframes} of them; found {form.nchannels} of "
            f"{8 * form.sampwidth} bits and {len(data)} bytes"
        )
    return np.frombuffer(data, "<i2"), form.framerate
