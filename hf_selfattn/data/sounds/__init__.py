"""Sounds, with labels or transcripts: files of any kind to checked, normalised data."""

from __future__ import annotations

from .check import check_sounds, check_speech
from .duplicates import deduplicate_sounds
from .load import load_sounds
from .open import open_sound
from .read import SoundData, read_sounds
from .speech import SpeechData, read_speech
from .transcripts import Normalisation, Vocabulary, build_vocabulary, normalise_transcripts

__all__ = [
    "Normalisation",
    "SoundData",
    "SpeechData",
    "Vocabulary",
    "build_vocabulary",
    "check_sounds",
    "check_speech",
    "deduplicate_sounds",
    "load_sounds",
    "normalise_transcripts",
    "open_sound",
    "read_sounds",
    "read_speech",
]
