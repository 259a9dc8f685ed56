"""Every sound of a split read once, block by block: what each file is, or what is wrong with it."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from datasets import Dataset

from ..findings import BadRow
from ..media.inspect import inspect_media
from .open import Samples, SoundSource, opened_sound

FULL_SCALE = 0.99  # of the largest value: where samples that stand still are cut off


@dataclass(frozen=True)
class SoundFacts:
    """What one sound is.

    Args:
        place: the row, and the file where that is another.
        rate, channels, format, coding: of the file, the rate in Hz.
        remarks: kind and sentence of each thing that is done to it in reading.
        peak, mono_peak: largest absolute value in any channel, and of their mean.
        clipped: share of the samples that stand still at full scale.
        digest: of the mono samples at the rate of the file.
    """

    place: str
    seconds: float
    rate: int
    channels: int
    format: str
    coding: str
    remarks: list[tuple[str, str]]
    peak: float
    mono_peak: float
    clipped: float
    digest: str


@dataclass
class _Meter:
    """What is measured of a sound while its blocks go by."""

    peak: float = 0.0
    mono_peak: float = 0.0
    still: int = 0
    digest: Any = field(default_factory=hashlib.sha256)

    def add(self, block: Samples) -> None:
        mono = block.mean(axis=1)
        loud = np.abs(block) >= FULL_SCALE
        self.peak = max(self.peak, float(np.abs(block).max()))
        self.mono_peak = max(self.mono_peak, float(np.abs(mono).max()))
        self.still += int(((block[1:] == block[:-1]) & loud[1:]).sum())
        self.digest.update(mono.astype("<f4").tobytes())


def inspect_sounds(split: Dataset, column: str) -> tuple[list[SoundFacts | None], list[BadRow]]:
    """Decode every sound of a split, one at a time; return what each is (None where it is bad), and the bad rows."""
    return inspect_media(split, column, look_at)


def look_at(source: SoundSource, place: str) -> SoundFacts:
    """Read one sound to its end."""
    meter = _Meter()
    with opened_sound(source) as sound:
        for block in sound.blocks():
            meter.add(block)
    return SoundFacts(
        place,
        sound.frames / sound.rate,
        sound.rate,
        sound.channels,
        sound.format,
        sound.coding,
        sound.remarks,
        meter.peak,
        meter.mono_peak,
        meter.still / (sound.frames * sound.channels),
        f"{meter.digest.hexdigest()} {sound.rate}",
    )
