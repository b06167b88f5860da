"""Recordings as pictures: the power in bands of the mel scale over time, in decibels below the loudest."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np


@dataclass(frozen=True)
class LogMel:
    """How a recording becomes a picture of `frames` rows (time) and `bands` columns (low to high).

    The defaults suit speech at 8 kHz: windows of 32 ms every 16 ms, so that 64 of them hold a spoken word. They are
    chosen; neither paper nor data set prescribes them.

    Attributes:
        rate: samples per second.
        window: samples under one Hann window.
        hop: samples from one window to the next.
        points: length of the Fourier transform; the window is padded with zeros to it, which parts the low bands.
        bands: number of mel bands between 0 Hz and half the rate.
        frames: windows in the picture; shorter recordings lie in its middle, of longer ones the middle is kept.
        range_db: what lies so far below the loudest value of the recording, or further, is black.
    """

    rate: int = 8000
    window: int = 256
    hop: int = 128
    points: int = 512
    bands: int = 32
    frames: int = 64
    range_db: float = 80.0

    def picture(self, samples: np.ndarray) -> np.ndarray:
        """Uint8 `(frames, bands)`: 255 is the loudest value of the recording, 0 silence.

        Args:
            samples: `(N,)`, at least one of them not zero.
        """
        power = self._spectra(np.asarray(samples, np.float64)) @ mel_bands(self.bands, self.points, self.rate).T
        floor = 10 ** (-self.range_db / 10)
        decibels = 10 * np.log10(np.maximum(power / power.max(), floor))
        return self._fixed(np.round(255 * (1 + decibels / self.range_db)).astype(np.uint8))

    def _spectra(self, samples: np.ndarray) -> np.ndarray:
        """Power per window and frequency; the end is padded with zeros to a whole window."""
        count = max(0, -(-(len(samples) - self.window) // self.hop)) + 1
        padded = np.pad(samples, (0, (count - 1) * self.hop + self.window - len(samples)))
        windows = np.lib.stride_tricks.sliding_window_view(padded, self.window)[:: self.hop]
        return np.abs(np.fft.rfft(windows * _hann(self.window), self.points)) ** 2

    def _fixed(self, picture: np.ndarray) -> np.ndarray:
        spare = self.frames - len(picture)
        if spare < 0:
            return picture[-spare // 2 :][: self.frames]
        return np.pad(picture, ((spare // 2, spare - spare // 2), (0, 0)))


@lru_cache
def mel_bands(bands: int, points: int, rate: int) -> np.ndarray:
    """Triangles over the frequencies of a transform, `(bands, points // 2 + 1)`; their corners are even in mel.

    A mel is `2595 log10(1 + f / 700)` (O'Shaughnessy 1987); every triangle rises to 1 where the next one begins.
    """
    corners = _hertz(np.linspace(0, _mel(rate / 2), bands + 2))
    low, middle, high = (corners[k : k + bands, None] for k in range(3))
    frequencies = np.fft.rfftfreq(points, 1 / rate)
    return np.maximum(0, np.minimum((frequencies - low) / (middle - low), (high - frequencies) / (high - middle)))


def _mel(hertz: float) -> float:
    return float(2595 * np.log10(1 + hertz / 700))


def _hertz(mel: np.ndarray) -> np.ndarray:
    return 700 * (10 ** (mel / 2595) - 1)


def _hann(length: int) -> np.ndarray:
    """Taken between the samples, so that it is zero at none of them: no sound is ever without power."""
    return np.sin(np.pi * (np.arange(length) + 0.5) / length) ** 2
