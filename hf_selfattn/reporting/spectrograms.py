"""Sounds as parts of a page: their spectrograms."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.signal import ShortTimeFFT

if TYPE_CHECKING:  # a report on texts needs no Pillow
    from PIL import Image

RATE = 16_000  # Hz; half of it is the top of the image
SECONDS = 20  # that are shown at most, from the start
SIZE = (420, 128)  # pixels of the page
QUIETEST = -80.0  # dB below the loudest


def spectrogram(source: Any) -> Image.Image:
    """Return the beginning of a sound as an image: time to the right, 0 to 8 kHz upwards, loud is bright."""
    from PIL import Image

    from ..data.sounds import open_sound

    samples = open_sound(source, RATE)[: SECONDS * RATE]
    samples = np.pad(samples, (0, max(512 - len(samples), 0)))
    transform = ShortTimeFFT.from_window("hann", RATE, 512, 352)
    power = np.maximum(transform.spectrogram(samples), 1e-12)
    decibels = 10 * np.log10(power / power.max())
    bright = np.clip(1 - decibels / QUIETEST, 0, 1)[::-1]
    return Image.fromarray((bright * 255).astype(np.uint8)).resize(SIZE)
