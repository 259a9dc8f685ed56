"""The columns of raw rows: which one holds the text, the label, the words or the tags, by name or by a known name."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from datasets import Dataset

from .conll import LINES
from .formats import ORIGIN

TEXT_NAMES = "sentence review content document comment tweet body message utterance abstract".split()
PAIR_NAMES = {
    "text": ("text_pair", "text2", "text_2"),
    "text_a": ("text_b",),
    "text1": ("text2",),
    "text_1": ("text_2",),
    "sentence1": ("sentence2",),
    "sentence_1": ("sentence_2",),
    "question1": ("question2",),
    "premise": ("hypothesis",),
    "query": ("document", "passage", "text"),
    "question": ("sentence", "context", "passage", "answer"),
}
LABEL_NAMES = "class category target sentiment polarity rating stars score topic intent emotion".split()
TOKEN_NAMES = ("tokens", "words", "token")
TAG_NAMES = ("ner_tags", "tags", "ner", "labels", "tag")
SPAN_NAMES = ("spans", "entities", "ner", "labels", "label")
DOCUMENT_NAMES = ("document", "document_id", "doc_id", "doc")


@dataclass(frozen=True)
class Columns:
    """The columns of a text, of the second text of a pair (or None) and of the label."""

    text: str
    text_pair: str | None
    label: str

    @property
    def texts(self) -> list[str]:
        """The one or two text columns."""
        return [self.text] if self.text_pair is None else [self.text, self.text_pair]


@dataclass(frozen=True)
class TaggingColumns:
    """The columns of tokens and tags, or of text and spans; perhaps of the document's id. None where not used."""

    tokens: str | None = None
    tags: str | None = None
    text: str | None = None
    spans: str | None = None
    document: str | None = None
    ids: str | None = None  # the numbers of the words in their sentence

    def __str__(self) -> str:
        pair = f"tokens '{self.tokens}', tags '{self.tags}'"
        if not self.tokens:
            pair = f"text '{self.text}', spans '{self.spans}'"
        pair += f", word numbers '{self.ids}' (ranges and empty nodes are left out)" if self.ids else ""
        return f"Columns: {pair}" + (f", document '{self.document}'." if self.document else ".")


def column_values(split: Dataset, column: str) -> list[Any]:
    """Read one column as Python values."""
    batches = split.with_format(None).select_columns([column]).iter(batch_size=1000)
    return [value for batch in batches for value in batch[column]]


def found_columns(split: Dataset) -> list[str]:
    """List the user's columns of a split."""
    ours = {ORIGIN, LINES, "document"} if LINES in split.column_names else {ORIGIN}
    return [name for name in split.column_names if name not in ours]


def find_columns(
    splits: Mapping[str, Dataset],
    *,
    text_column: str | None = None,
    text_pair_column: str | None = None,
    label_column: str | None = None,
) -> tuple[Columns, list[str]]:
    """Find the columns of texts and labels by the names given or by known names; return them, and notes on them."""
    if not splits:
        raise ValueError("no splits: give at least one of train, validation, test.")
    first = next(iter(splits.values()))
    notes: list[str] = []
    text, pair = _texts_and_pair(first, text_column, text_pair_column, notes)
    label = label_column or _known_column(first, "label", ("label", "labels"), LABEL_NAMES, notes)
    columns = Columns(text, pair, label)
    names = [*columns.texts, label]
    if len(set(names)) < len(names):
        raise ValueError(f"text_column, text_pair_column and label_column must differ; they are {names}.")
    for option, name in (("text_column", text), ("label_column", label), ("text_pair_column", pair)):
        for split_name, split in splits.items():
            if name is not None and name not in split.column_names:
                raise ValueError(
                    f"{split_name} (from {_first_place(split)}): there is no column '{name}' ({option}); "
                    f"the columns found are {found_columns(split)}."
                )
    if unread := [name for name in found_columns(first) if name not in names and _holds_texts(first, name)]:
        notes.append(f"Not read: the texts of {unread}; text_pair_column=… reads one column as the second text.")
    used = f"Columns: text '{text}'" + (f", text pair '{pair}'" if pair else "") + f", label '{label}'."
    return columns, [used, *notes]


def find_label_column(splits: Mapping[str, Dataset], *, label_column: str | None = None) -> tuple[Columns, list[str]]:
    """Find the column of labels of rows whose other column is no text, as `find_columns` does; and notes on it."""
    notes: list[str] = []
    label = label_column or _known_column(
        next(iter(splits.values())), "label", ("label", "labels"), LABEL_NAMES, notes
    )
    for name, split in splits.items():
        if label not in split.column_names:
            raise ValueError(
                f"{name} (from {_first_place(split)}): there is no column '{label}' (label_column); the columns found "
                f"are {found_columns(split)}."
            )
    return Columns("", None, label), notes


def find_text_columns(
    split: Dataset, text_column: str | None = None, text_pair_column: str | None = None
) -> tuple[list[str], list[str]]:
    """Find the one or two columns of texts in rows without labels, as `find_columns` does; and notes on them."""
    notes: list[str] = []
    text, pair = _texts_and_pair(split, text_column, text_pair_column, notes)
    names = [text] if pair is None else [text, pair]
    if missing := [name for name in names if name not in split.column_names]:
        raise ValueError(
            f"{_first_place(split)}: there is no column '{missing[0]}' (text_column, text_pair_column); the columns "
            f"found are {found_columns(split)}."
        )
    return names, notes


def _texts_and_pair(split: Dataset, text: str | None, pair: str | None, notes: list[str]) -> tuple[str, str | None]:
    if text is not None:
        return text, pair
    pairs = _known_pairs([name for name in found_columns(split) if name != pair])
    sure, likely = (pairs[0][:1], ()) if pairs else (("text", *PAIR_NAMES), TEXT_NAMES)
    return _known_column(split, "text", sure, likely, notes), pair or (pairs[0][1] if pairs else None)


def _known_pairs(found: Sequence[str]) -> list[tuple[str, str]]:
    """List the pairs of columns with well-known names; beside a column "text" those that hold it."""
    plain = _known(found, ["text"])
    pairs = [(_known(found, [name]), _known(found, others)) for name, others in PAIR_NAMES.items()]
    return [(one, two) for one, two in pairs if one and two and plain in (None, one, two)]


def _holds_texts(split: Dataset, column: str) -> bool:
    """Tell whether most of the first cells are texts of several words."""
    cells = split.with_format(None)[:100][column]
    texts = [cell for cell in cells if isinstance(cell, str) and len(cell.split()) > 2]
    return 2 * len(texts) > len(cells)


def _holds_classes(split: Dataset, column: str) -> bool:
    """Tell whether the first cells are short texts, not numbers or dates, that come again and again."""
    cells = [cell for cell in split.with_format(None)[:1000][column] if cell]
    named = [cell for cell in cells if isinstance(cell, str) and re.search(r"[^\W\d_]", cell) and len(cell) < 100]
    return len(named) == len(cells) and 1 < len(set(named)) <= len(named) / 2


def _known_column(split: Dataset, role: str, sure: Sequence[str], likely: Sequence[str], notes: list[str]) -> str:
    """Take the column with a sure name; else the only one with a likely name."""
    found = found_columns(split)
    first = _known(found, sure)
    others = [name for name in found if name.lower() in likely]
    candidates = [first] if first else others
    if not candidates:
        holds, what = (_holds_texts, "texts") if role == "text" else (_holds_classes, "classes")
        candidates = [name for name in found if holds(split, name)]
        if len(candidates) == 1:
            notes.append(f"Column '{candidates[0]}' is the {role}: no other holds {what} ({role}_column=… to change).")
    if len(candidates) != 1:
        if not found and role == "label":
            raise ValueError(
                f"{_first_place(split)}: there is no label. Put the files of each class into a folder with its "
                "name, or give a table with a column of labels."
            )
        several = "or, for labels of 0 and 1, to a list of them " if role == "label" else ""
        trouble = f"several columns could be the {role} ({candidates})" if candidates else f"no {role} column is known"
        raise ValueError(
            f"{_first_place(split)}: {trouble} among the columns found: {found}. Set {role}_column=… to one of them "
            f"{several}(the first line of a CSV file must hold the column names)."
        )
    if first and others:
        notes.append(f"Column '{first}' is the {role}; {others} could be too ({role}_column=… to change).")
    return candidates[0]


def _first_place(split: Dataset) -> str:
    return str(split[0][ORIGIN]) if len(split) and ORIGIN in split.column_names else "no rows"


def find_tagging_columns(
    split: Dataset,
    *,
    token_column: str | int | None = None,
    tag_column: str | int | None = None,
    text_column: str | None = None,
    span_column: str | None = None,
    document_column: str | None = None,
) -> TaggingColumns:
    """Find the columns of words and tags by the names or numbers given, or by known names.

    Args:
        split: raw rows. Of a CoNLL column file the first column is the token and the last the tag.
        token_column, tag_column: a name, or the number of a column from 0 (from the last: -1).
    """
    conll = LINES in split.column_names
    found, place = found_columns(split), split[0][ORIGIN]
    document = document_column or _known(split.column_names, DOCUMENT_NAMES)
    if document is not None and document not in split.column_names:
        raise ValueError(f"{place}: there is no column '{document}' (document_column); the columns are {found}.")
    asked = token_column is not None or tag_column is not None
    text = text_column or _known(found, ("text", *TEXT_NAMES))
    spans = span_column or _known([name for name in found if name != text], SPAN_NAMES)
    if (text_column or span_column) and asked:
        raise ValueError(f"{place}: give token_column and tag_column, or text_column and span_column, not both.")
    if text_column or span_column or not (asked or conll or _known(found, TOKEN_NAMES)):
        if text is not None and spans is not None:
            _check_pair((text, spans), "text_column and span_column", found, place)
            return TaggingColumns(text=text, spans=spans, document=document)
    tokens = _named(token_column, "token_column", found, place)
    tags = _named(tag_column, "tag_column", found, place)
    ids = (
        found[0]
        if conll and tokens != found[0] and len(found) > 2 and _are_counted(column_values(split, found[0]))
        else None
    )
    if conll and tokens is None:
        tokens = found[1 if ids else 0]
        _check_words(column_values(split, tokens), tokens, found, place)
    tokens = tokens or _known(found, TOKEN_NAMES)
    tags = tags or (found[-1] if conll else _known([name for name in found if name != tokens], TAG_NAMES))
    if tokens is None or tags is None:
        raise ValueError(
            f"{place}: no {'tokens' if tokens is None else 'tags'} column is known among the columns found: {found}. "
            "Set token_column=… and tag_column=…, or text_column=… and span_column=… for text with character spans. "
            "A file with one word per line must end in .conll or .txt."
        )
    _check_pair((tokens, tags), "token_column and tag_column", found, place)
    return TaggingColumns(tokens, tags, document=document, ids=ids)


def find_token_column(split: Dataset, token_column: str | int | None = None) -> tuple[str | None, str | None]:
    """Find the column of words in rows without tags, or None; and of a column file that of their numbers, or None."""
    found = found_columns(split)
    tokens = _named(token_column, "token_column", found, _first_place(split))
    if LINES not in split.column_names:
        return tokens or _known(found, TOKEN_NAMES), None
    is_counted = len(found) > 1 and tokens != found[0] and _are_counted(column_values(split, found[0]))
    tokens = tokens or found[1 if is_counted else 0]
    return tokens, found[0] if is_counted else None


def _are_counted(rows: list[list[str]]) -> bool:
    """Tell whether the cells of each row count on by one, as the numbers of words do, beside those of CoNLL-U."""
    if not all(re.fullmatch(r"\d+([-.]\d+)?", cell) for row in rows for cell in row):
        return False
    numbers = [[int(cell) for cell in row if cell.isdecimal()] for row in rows]
    counting = all(list(row) == list(range(row[0], row[0] + len(row))) for row in numbers if row)
    return counting and any(len(row) > 1 for row in numbers)


def _check_words(rows: list[list[str]], column: str, found: list[str], place: str) -> None:
    """Refuse a column, taken by its place, that holds tags, or the same text for all words of each sentence."""
    longer = [row for row in rows if len(row) > 1]
    same = len(longer) > 1 and all(len({*row}) == 1 for row in longer)
    tags = {cell for row in rows for cell in row} - {"O"}
    if same or (tags and all(re.fullmatch(r"[BIESLUMW][-_].+", tag) for tag in tags)):
        what = "one and the same text in each sentence" if same else "tags"
        raise ValueError(
            f"{place}: column {column} holds {what}, such as '{rows[0][0]}', and no words. Set token_column=… and "
            f"tag_column=… to the numbers of the right columns, from 0 to {len(found) - 1}."
        )


def _known(found: Sequence[str], names: Sequence[str]) -> str | None:
    return next((name for wanted in names for name in found if name.lower() == wanted), None)


def _named(column: str | int | None, option: str, found: list[str], place: str) -> str | None:
    """Turn a number into a column's name; a name that no column has may be a number written as text."""
    if column is None or column in found:
        return column if column is None else str(column)
    try:
        return found[int(column)]
    except (ValueError, IndexError) as error:
        raise ValueError(
            f"{place}: there is no column {column!r} ({option}); the columns are {found}, numbered 0 to "
            f"{len(found) - 1} (-1 is the last)."
        ) from error


def _check_pair(pair: tuple[str, str], options: str, found: list[str], place: str) -> None:
    missing = [name for name in pair if name not in found]
    if missing:
        raise ValueError(f"{place}: there is no column {missing} ({options}); the columns are {found}.")
    if pair[0] == pair[1]:
        raise ValueError(f"{place}: {options} must differ, but both are '{pair[0]}' of the columns {found}.")
