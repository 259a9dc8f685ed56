"""Rows of sounds with transcripts to checked data of speech recognition: every bad row named."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from datasets import Dataset, DatasetDict, Value

from ..classification import check_kept
from ..columns import column_values, found_columns
from ..findings import BadRow, bad_rows_message, summarise, text_mistake
from ..formats import ORIGIN
from ..labels import LEARNED, is_no_answer
from ..load import reading_notes, with_origins
from ..media.read import MediaData, check_on_bad_row, file_rows, without_rows
from .load import SOUNDS
from .read import SECONDS, sound_lengths

TRANSCRIPT_NAMES = (
    "transcript transcription sentence normalized_text normalised_text text raw_transcription raw_text words utterance"
).split()
SPEECH = "speech_recognition"


class SpeechData(MediaData):
    """Checked data of speech recognition: columns ``sound``, ``transcript`` (as given) and ``seconds``.

    Its `problem` is "speech_recognition"; it has no label names.
    """


@dataclass(frozen=True)
class RawSpeech:
    """The raw rows of speech recognition, without the splits that have no transcripts.

    Args:
        sounds: the column of the sounds of each split.
        transcripts: the column of the transcripts of all.
    """

    splits: dict[str, Dataset]
    sounds: dict[str, str]
    transcripts: str
    notes: list[str]


def read_speech(
    splits: Mapping[str, Dataset],
    *,
    sound_column: str | None = None,
    transcript_column: str | None = None,
    on_bad_row: str = "error",
    keep_columns: Sequence[str] = (),
    verify_sounds: bool = True,
) -> SpeechData:
    """Check raw splits of sounds with transcripts, which stay as they are given (see `build_vocabulary`).

    Args:
        sound_column: a column of paths, of bytes, or of the type `Audio`; found where it is not given.
        transcript_column: found by its name where it is not given.
        on_bad_row, verify_sounds: as of `read_sounds`.

    Raises:
        ValueError: missing or ambiguous column, empty split, or bad rows (with file and row).
    """
    check_on_bad_row(on_bad_row)
    raw = raw_speech(splits, sound_column, transcript_column)
    prepared, bad = DatasetDict(), {}
    for name, split in raw.splits.items():
        column = raw.sounds[name]
        broken, added = sound_lengths(split, column) if verify_sounds else ([], {})
        bad[name] = broken + transcript_mistakes(split, raw.transcripts)
        check_kept(split, keep_columns, ("sound", "transcript", SECONDS, column, raw.transcripts))
        texts = [cell if isinstance(cell, str) else None for cell in column_values(split, raw.transcripts)]
        chosen = file_rows(SOUNDS, split, column, keep_columns)
        chosen = chosen.add_column("transcript", texts, feature=Value("string"))
        for other, values in added.items():
            chosen = chosen.add_column(other, values)
        prepared[name] = chosen
    found = [mistake for name, rows in bad.items() for mistake in summarise(name, rows)]
    if found and on_bad_row == "error":
        raise ValueError(bad_rows_message(found, {}, ()))
    chosen_rows = DatasetDict({name: without_rows(name, split, bad[name]) for name, split in prepared.items()})
    notes = [*raw.notes, *(f"Dropped {mistake}." for mistake in found)]
    return SpeechData(chosen_rows, SPEECH, [], notes, dropped=[row for rows in bad.values() for row in rows])


def raw_speech(
    splits: Mapping[str, Dataset], sound_column: str | None = None, transcript_column: str | None = None
) -> RawSpeech:
    """Find the columns of sounds and of transcripts."""
    filled = {name: SOUNDS.undecoded(split) for name, split in with_origins(splits).items()}
    if not filled:
        raise ValueError("no splits: give at least one of train, validation, test.")
    sounds = {name: SOUNDS.find_column(split, sound_column) for name, split in filled.items()}
    first = next(iter(filled.values()))
    transcripts, notes = _find_transcripts(first, transcript_column)
    for name, split in filled.items():
        if transcripts not in split.column_names:
            raise ValueError(
                f"{name}: there is no column '{transcripts}' (transcript_column); the columns found are "
                f"{found_columns(split)}."
            )
    silent = [
        name
        for name, split in filled.items()
        if len(filled) > 1 and name not in LEARNED and all(map(is_no_answer, column_values(split, transcripts)))
    ]
    notes += [f"{name}: no row has a transcript, so it is not scored." for name in silent]
    said = f"Columns: sound '{next(iter(sounds.values()))}', transcript '{transcripts}'."
    scored = {name: split for name, split in filled.items() if name not in silent}
    return RawSpeech(scored, sounds, transcripts, [*reading_notes(filled), said, *notes])


def transcript_mistakes(split: Dataset, column: str) -> list[BadRow]:
    """List the rows without a transcript."""
    cells = zip(column_values(split, column), column_values(split, ORIGIN), strict=True)
    found = [(index, place, *text_mistake(cell)) for index, (cell, place) in enumerate(cells)]
    return [
        BadRow(index, place, kind.replace("text", "transcript"), f"column '{column}': {said}")
        for index, place, kind, said in found
        if kind
    ]


def _find_transcripts(split: Dataset, given: str | None) -> tuple[str, list[str]]:
    """Find the column of transcripts, and say which others it could be."""
    if given is not None:
        return given, []
    columns = found_columns(split)
    found = [name for known in TRANSCRIPT_NAMES for name in columns if name.lower() == known]
    if not found:
        raise ValueError(
            f"no column of transcripts is known among the columns found: {columns}. Set transcript_column=… to one of "
            "them (the first line of a CSV file must hold the column names)."
        )
    others = f"Column '{found[0]}' holds the transcripts; {found[1:]} could, too (transcript_column=… to change)."
    return found[0], [others] if found[1:] else []
