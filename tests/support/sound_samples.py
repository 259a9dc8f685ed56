"""A sound that is known at every rate, and files of it."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
from numpy.typing import NDArray

SECONDS = 0.3
TONES = (220.0, 701.0, 1803.0)  # Hz, below half of every rate
Sound = NDArray[Any]


def known_sound(rate: int, seconds: float = SECONDS, pitch: float = 1.0) -> Sound:
    """Three tones that swell and fade, so that no edge is cut: (N,)."""
    time = np.arange(round(rate * seconds)) / rate
    tones = sum(np.sin(2 * np.pi * hertz * pitch * time + hertz) for hertz in TONES)
    return np.asarray(0.2 * tones * np.sin(np.pi * time / seconds) ** 2)


def sound_file(
    kind: str = "WAV", coding: str | None = None, rate: int = 16_000, channels: int = 1, **known: Any
) -> bytes:
    """A file of the known sound, whose channels differ but have it as their mean."""
    mono = known_sound(rate, **known)
    spread = np.linspace(-1, 1, channels) if channels > 1 else np.zeros(1)
    stream = io.BytesIO()
    soundfile.write(stream, mono[:, None] * (1 + 0.5 * spread), rate, format=kind, subtype=coding)
    return stream.getvalue()


def write_sound(path: Path, kind: str = "WAV", **options: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(sound_file(kind, **options))
    return path
