"""Rows of sounds to checked classification data: every sound read once, labels encoded, every bad row named."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from datasets import Dataset

from ..findings import BadRow
from ..media.read import MediaData, RawMedia, raw_media, read_media
from .inspect import inspect_sounds
from .load import SOUNDS

SECONDS = "seconds"  # column of the lengths


class SoundData(MediaData):
    """Checked data of one classification of sounds, in the column ``sound`` (`open_sound` reads it).

    The column ``seconds`` holds their lengths, where they were looked at.
    """


def read_sounds(
    splits: Mapping[str, Dataset],
    *,
    sound_column: str | None = None,
    label_column: str | Sequence[str] | None = None,
    problem: str | None = None,
    label_names: Sequence[str] | None = None,
    label_separator: str | None = None,
    on_bad_row: str = "error",
    keep_columns: Sequence[str] = (),
    verify_sounds: bool = True,
) -> SoundData:
    """Check raw splits and bring them into one form.

    Args:
        sound_column: a column of paths, of bytes, or of the type `Audio`; found where it is not given.
        label_column: a column, or a list of columns of 0 and 1, one per label.
        problem: overrides the problem that the label column suggests; "ordinal" exists on request only.
        label_names: overrides the names and their order; integer labels may be positions in it.
        label_separator: stands between the labels of a cell; found where it is not given.
        on_bad_row: "error" names all bad rows, "drop" leaves them out and counts them in the notes.
        verify_sounds: whether every sound is read once; if not, a bad one is met when it is needed.

    Raises:
        ValueError: missing or ambiguous column, empty split, one class only, or bad rows (with file and row).
    """
    return read_media(
        SOUNDS,
        SoundData,
        splits,
        on_bad_row=on_bad_row,
        keep_columns=keep_columns,
        inspect=sound_lengths if verify_sounds else None,
        file_column=sound_column,
        label_column=label_column,
        problem=problem,
        label_names=label_names,
        label_separator=label_separator,
    )


def sound_lengths(split: Dataset, column: str) -> tuple[list[BadRow], dict[str, list[Any]]]:
    """Read every sound; return the bad rows, and the column of the lengths."""
    facts, bad = inspect_sounds(split, column)
    return bad, {SECONDS: [0.0 if fact is None else fact.seconds for fact in facts]}


def raw_sounds(splits: Mapping[str, Dataset], *, sound_column: str | None = None, **options: Any) -> RawMedia:
    """Find the columns of sounds and of labels, and what the labels are."""
    return raw_media(SOUNDS, splits, file_column=sound_column, **options)
