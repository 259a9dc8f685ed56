"""Open sounds from folders, tables, the hub or Python as one `DatasetDict` whose rows know their origin."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import datasets
from datasets import DatasetDict

from ..load import Sources
from ..media.load import load_media
from ..media.medium import Medium
from .open import is_sound, sound_endings

if TYPE_CHECKING:
    from typing_extensions import Unpack

SOUND_NAMES = (
    "sound audio speech recording wav clip sound_path audio_path wav_path sound_file audio_file audio_filepath "
    "file_name filename filepath file_path path file flac mp3"
).split()
UNREAD = frozenset(".m4a .aac .mp4 .wma .amr .webm .mka .ac3 .dsf .ape .wv .ra .mid".split())
SOUNDS = Medium("sound", datasets.Audio, tuple(SOUND_NAMES), sound_endings, is_sound, UNREAD)


def load_sounds(
    *,
    sound_column: str | None = None,
    sound_folder: str | os.PathLike[str] | None = None,
    **sources: Unpack[Sources],
) -> DatasetDict:
    """Open the splits of a data set of sounds; no sound is decoded, and every row carries its place.

    Args:
        sound_column: column of the sounds, found by its name or its cells where it is not given.
        sound_folder: what the paths in a table are relative to: the folder of the table where it is not given.
        sources: of sounds, as `load_images` takes those of images.

    Raises:
        ValueError: no data given, a split given twice, no sounds, or a source that cannot be read.
    """
    return load_media(SOUNDS, sources, sound_column, sound_folder)
