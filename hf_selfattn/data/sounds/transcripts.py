"""Transcripts to the characters that CTC predicts: their normalisation, said aloud, and the vocabulary of train."""

from __future__ import annotations

import json
import tempfile
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from datasets import Dataset, DatasetDict, Value
from transformers import PreTrainedTokenizerBase, Wav2Vec2CTCTokenizer

from ..columns import column_values
from ..findings import BadRow, bad_rows_message, finding, listed, summarise
from ..formats import ORIGIN
from ..media.read import check_on_bad_row, without_rows
from .speech import SpeechData

CASES = ("keep", "lower", "upper")
APOSTROPHES = {"'", "\u2019", "\u02bc", "\uff07"}  # between letters all are the first
PAD, UNKNOWN, DELIMITER = "<pad>", "<unk>", "|"


@dataclass(frozen=True)
class Normalisation:
    """How transcripts are written alike, beside Unicode NFC and one space between words.

    Args:
        case: "keep", or "lower" or "upper" to write all letters so.
        remove_punctuation: leave out punctuation and symbols; an apostrophe between letters stays, and dashes, slashes
            and underscores become spaces.
    """

    case: str = "keep"
    remove_punctuation: bool = False

    def __post_init__(self) -> None:
        if self.case not in CASES:
            raise ValueError(f"case='{self.case}' is unknown; it is one of {', '.join(CASES)}.")

    def apply(self, text: str) -> str:
        """Write one transcript in this form."""
        text = unicodedata.normalize("NFC", text)
        if self.remove_punctuation:
            text = "".join(_spoken(text))
        if self.case != "keep":
            text = text.lower() if self.case == "lower" else text.upper()
        return " ".join(unicodedata.normalize("NFC", text).split())

    def __str__(self) -> str:
        said = ["Unicode NFC, one space between words"]
        said += [f"{self.case} case"] if self.case != "keep" else ["case as given"]
        said += ["no punctuation or symbols (apostrophes inside words stay)"] if self.remove_punctuation else []
        return ", ".join(said)


@dataclass(frozen=True)
class Vocabulary:
    """What a CTC model predicts.

    Args:
        tokens: the id of each; 0 is the padding, CTC's blank, 1 what is unknown, 2 stands between words.
        notes: sentences for the user.
    """

    tokens: dict[str, int]
    word_delimiter: str = DELIMITER
    notes: list[str] = field(default_factory=list)

    def tokenizer(self) -> PreTrainedTokenizerBase:
        """Return the tokenizer; its `save_pretrained` writes `vocab.json`."""
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "vocab.json"
            path.write_text(json.dumps(self.tokens, ensure_ascii=False), encoding="utf-8")
            return Wav2Vec2CTCTokenizer(
                str(path),
                bos_token=None,
                eos_token=None,
                unk_token=UNKNOWN,
                pad_token=PAD,
                word_delimiter_token=self.word_delimiter,
            )


def normalise_transcripts(data: SpeechData, normalisation: Normalisation, *, on_bad_row: str = "error") -> SpeechData:
    """Write all transcripts in one form, and say what that changed.

    Raises:
        ValueError: a transcript of which nothing is left, unless `on_bad_row` is "drop".
    """
    check_on_bad_row(on_bad_row)
    splits, notes, bad = DatasetDict(), [f"Transcripts: {normalisation}."], {}
    for name, split in data.splits.items():
        texts: list[str] = column_values(split, "transcript")
        written = [normalisation.apply(text) for text in texts]
        removed = (
            Counter("".join(texts)) - Counter("".join(written)) if normalisation.remove_punctuation else Counter()
        )
        left_out = [character for character, _ in removed.most_common() if not character.isalnum()]
        if shown := [character for character in left_out if not character.isspace()]:
            notes.append(f"{name}: left out of the transcripts: {' '.join(shown[:20])}{' …' * (len(shown) > 20)}")
        origins = column_values(split, ORIGIN)
        message = "nothing is left of the transcript without punctuation and symbols"
        bad[name] = [
            BadRow(index, origins[index], "transcript_empty", message)
            for index, text in enumerate(written)
            if not text
        ]
        splits[name] = split.remove_columns("transcript").add_column("transcript", written, feature=Value("string"))
    found = [mistake for name, rows in bad.items() for mistake in summarise(name, rows)]
    if found and on_bad_row == "error":
        raise ValueError(bad_rows_message(found, {}, ()))
    notes += [f"Dropped {mistake}." for mistake in found]
    kept = DatasetDict({name: without_rows(name, split, bad[name]) for name, split in splits.items()})
    dropped = [*data.dropped, *(row for rows in bad.values() for row in rows)]
    return replace(data, splits=kept, notes=data.notes + notes, dropped=dropped)


def build_vocabulary(data: SpeechData, *, word_delimiter: str = DELIMITER, least_count: int = 1) -> Vocabulary:
    """Make the vocabulary of the characters of train, in the order of Unicode.

    Args:
        word_delimiter: stands for the space between words; a character that no transcript has.
        least_count: a character that occurs more rarely in train is unknown.

    Raises:
        ValueError: no train split, or a transcript with the word delimiter.
    """
    if "train" not in data.splits:
        raise ValueError(f"there is no train split to take the characters from; the splits are {list(data.splits)}.")
    if len(word_delimiter) != 1 or word_delimiter.isspace():
        raise ValueError(f"word_delimiter={word_delimiter!r} must be one visible character.")
    counts = count_characters(data.splits["train"])
    places = [place for split in data.splits.values() for place in rows_with(split, {word_delimiter})]
    if places:
        raise ValueError(
            f"the transcripts of {len(places)} row(s) hold '{word_delimiter}', which stands for the space between "
            f"words: {listed(places, len(places))}. Set word_delimiter to a character that none has, or remove it."
        )
    known = sorted(character for character, count in counts.items() if count >= least_count)
    tokens = [PAD, UNKNOWN, word_delimiter, *known]
    rare = {character for character, count in counts.items() if count < least_count}
    notes = [f"Vocabulary: {len(known)} characters of train: {' '.join(known[:60])}{' …' * (len(known) > 60)}"]
    if rare:
        notes.append(f"Unknown, since rarer than {least_count}: {' '.join(sorted(rare))}")
    notes += _case_notes(known) + _unknown_notes(data, {*known})
    return Vocabulary({token: index for index, token in enumerate(tokens)}, word_delimiter, notes)


def count_characters(split: Dataset) -> Counter[str]:
    """Count the characters of the transcripts of a split, spaces left out."""
    counts = Counter(character for text in column_values(split, "transcript") for character in text)
    return Counter({character: count for character, count in counts.items() if not character.isspace()})


def rows_with(split: Dataset, characters: set[str]) -> list[str]:
    """List the places of the rows whose transcript has one of these characters."""
    cells = zip(column_values(split, "transcript"), column_values(split, ORIGIN), strict=True)
    return [place for text, place in cells if not characters.isdisjoint(text)]


def _spoken(text: str) -> Iterator[str]:
    """Yield the characters that are not punctuation."""
    for index, character in enumerate(text):
        kind = unicodedata.category(character)
        if character in APOSTROPHES:
            around = text[index - 1 : index] + text[index + 1 : index + 2]
            yield "'" if len(around) == 2 and around.isalpha() else ""
        elif kind in ("Pd", "Pc") or character in "/\\":
            yield " "
        elif kind[0] not in "PS":
            yield character


def _case_notes(characters: Iterable[str]) -> list[str]:
    """Say that letters stand in both cases, which cannot be heard."""
    known = {*characters}
    both = sorted(letter for letter in known if letter.isupper() and letter.lower() in known)
    if not both:
        return []
    shown = " ".join(both[:10])
    return [
        f"Warning: {len(both)} letters stand in both cases ({shown} …), which sound alike: case='lower' folds them."
    ]


def _unknown_notes(data: SpeechData, known: set[str]) -> list[str]:
    """Name the characters of the other splits that train does not have."""
    notes = []
    for name, split in data.splits.items():
        unknown: Sequence[str] = sorted({*count_characters(split)} - known)
        if unknown and name != "train":
            places = finding("unknown_characters", name, "", rows_with(split, {*unknown}))
            rows = f"{places.count} row(s), {listed(places.places, places.count)}"
            notes.append(
                f"Warning: {name}: characters that train does not have, never predicted: {' '.join(unknown)} ({rows})."
            )
    return notes
