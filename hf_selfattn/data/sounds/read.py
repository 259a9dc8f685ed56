"""Rows of sounds to checked classification data: every sound read once, labels encoded, every bad row named."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from datasets import Dataset

from ..findings import BadRow
from ..media.read import LabelOptions, MediaData, RawMedia, raw_media, read_media
from .inspect import inspect_sounds
from .load import SOUNDS

if TYPE_CHECKING:
    from typing_extensions import Unpack

SECONDS = "seconds"  # column of the lengths


class SoundData(MediaData):
    """Checked data of one classification of sounds, in the column ``sound`` (`open_sound` reads it).

    The column ``seconds`` holds their lengths, where they were looked at.
    """


def read_sounds(
    splits: Mapping[str, Dataset],
    *,
    sound_column: str | None = None,
    verify_sounds: bool = True,
    **options: Unpack[LabelOptions],
) -> SoundData:
    """Check raw splits and bring them into one form.

    Args:
        sound_column: a column of paths, of bytes, or of the type `Audio`; found where it is not given.
        verify_sounds: whether every sound is read once; if not, a bad one is met when it is needed.
        options: as of `prepare_classification`.

    Raises:
        ValueError: missing or ambiguous column, empty split, one class only, or bad rows (with file and row).
    """
    inspect = sound_lengths if verify_sounds else None
    return read_media(SOUNDS, SoundData, splits, inspect=inspect, file_column=sound_column, **options)


def sound_lengths(split: Dataset, column: str) -> tuple[list[BadRow], dict[str, list[Any]]]:
    """Read every sound; return the bad rows, and the column of the lengths."""
    facts, bad = inspect_sounds(split, column)
    return bad, {SECONDS: [0.0 if fact is None else fact.seconds for fact in facts]}


def raw_sounds(splits: Mapping[str, Dataset], *, sound_column: str | None = None, **options: Any) -> RawMedia:
    """Find the columns of sounds and of labels, and what the labels are."""
    return raw_media(SOUNDS, splits, file_column=sound_column, **options)
