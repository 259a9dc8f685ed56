"""Sounds, with labels or transcripts: files of any kind to checked, normalised data."""

from __future__ import annotations

from .load import load_sounds
from .open import open_sound
from .read import SoundData, read_sounds
from .speech import SpeechData, read_speech

__all__ = ["SoundData", "SpeechData", "load_sounds", "open_sound", "read_sounds", "read_speech"]
