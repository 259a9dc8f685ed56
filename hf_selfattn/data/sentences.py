"""Raw rows of any source to sentences of words and tags; every bad row named."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from datasets import ClassLabel, Dataset

from .conll import DOCSTART, LINES
from .labels import LabelError, is_missing
from .reading import ORIGIN
from .rows import BadRow, column_values, text_mistake
from .spans import read_spans, split_words, tag_words

TOKEN_NAMES = ("tokens", "words", "token")
TAG_NAMES = ("ner_tags", "tags", "ner", "labels", "tag")
SPAN_NAMES = ("spans", "entities", "ner", "labels", "label")
DOCUMENT_NAMES = ("document", "document_id", "doc_id", "doc")
CONLL_EXTRA = (LINES, "document")


@dataclass(frozen=True)
class TaggingColumns:
    """The columns of a split: tokens and tags, or text and spans; perhaps the document's id. None where not used."""

    tokens: str | None = None
    tags: str | None = None
    text: str | None = None
    spans: str | None = None
    document: str | None = None


@dataclass
class Sentence:
    """One raw row: n words with their tags as they stand in the data, and where it stands.

    Args:
        index: of the row in the split.
        place: of the row in the user's file.
        tokens: n words.
        tags: n tags.
        document: its id, None where the data has none.
        lines: n line numbers of a column file, else empty.
        text: the raw text of span data.
        offsets: n (start, end) of the words in it.
        cut: spans that cut a word, as (index of the word, the span).
    """

    index: int
    place: str
    tokens: list[str]
    tags: list[str]
    document: str | None
    lines: list[int] = field(default_factory=list)
    text: str | None = None
    offsets: list[tuple[int, int]] = field(default_factory=list)
    cut: list[tuple[int, str]] = field(default_factory=list)

    def place_of(self, word: int) -> str:
        """Give the place of a word: "file:line", or the row's place with the word's number from 1."""
        if self.lines:
            return f"{self.place.rpartition(':')[0]}:{self.lines[word]}"
        return f"{self.place} (word {word + 1}, '{self.tokens[word]}')"


def find_tagging_columns(
    split: Dataset,
    *,
    token_column: str | int | None = None,
    tag_column: str | int | None = None,
    text_column: str | None = None,
    span_column: str | None = None,
    document_column: str | None = None,
) -> TaggingColumns:
    """Find the columns by the names or numbers given, or by well-known names.

    Args:
        split: raw rows. Of a column file the first column is the token and the last the tag.
        token_column, tag_column: a name, or the number of a column from 0 (from the last: -1).

    Raises:
        ValueError: a column is missing or two are the same; the message lists the columns found.
    """
    conll = LINES in split.column_names
    found = [name for name in split.column_names if name != ORIGIN and not (conll and name in CONLL_EXTRA)]
    place = split[0][ORIGIN]
    document = document_column or _known(split.column_names, DOCUMENT_NAMES)
    if document is not None and document not in split.column_names:
        raise ValueError(f"{place}: there is no column '{document}' (document_column); the columns are {found}.")
    asked = token_column is not None or tag_column is not None
    text, spans = text_column or _known(found, ("text",)), span_column or _known(found, SPAN_NAMES)
    if (text_column or span_column) and asked:
        raise ValueError(f"{place}: give token_column and tag_column, or text_column and span_column, not both.")
    if text_column or span_column or not (asked or conll or _known(found, TOKEN_NAMES)):
        if text is not None and spans is not None:
            return _checked(TaggingColumns(text=text, spans=spans, document=document), found, place)
    tokens = _resolve(token_column, "token_column", found, place)
    tags = _resolve(tag_column, "tag_column", found, place)
    tokens = tokens or (found[0] if conll else _known(found, TOKEN_NAMES))
    tags = tags or (found[-1] if conll else _known([name for name in found if name != tokens], TAG_NAMES))
    if tokens is None or tags is None:
        raise ValueError(
            f"{place}: no {'tokens' if tokens is None else 'tags'} column is known among the columns found: {found}. "
            "Set token_column=… and tag_column=…, or text_column=… and span_column=… for text with character spans. "
            "A file with one word per line must end in .conll or .txt."
        )
    return _checked(TaggingColumns(tokens, tags, document=document), found, place)


def read_sentences(
    split: Dataset, columns: TaggingColumns, tag_names: Sequence[str] | None = None
) -> tuple[list[Sentence], list[BadRow]]:
    """Read the rows of a split, and list every mistake rather than stop at the first.

    Rows of one token ``-DOCSTART-`` begin a document and are no sentences.

    Returns:
        The sentences without mistakes, and the mistakes.
    """
    places = column_values(split, ORIGIN)
    names = list(tag_names) if tag_names is not None else declared_tags(split, columns)
    first = column_values(split, columns.tokens or columns.text or "")
    second = column_values(split, columns.tags or columns.spans or "")
    lines = column_values(split, LINES) if LINES in split.column_names else [[]] * len(split)
    documents = column_values(split, columns.document) if columns.document else [None] * len(split)
    started: str | None = None  # by a row -DOCSTART-
    sentences: list[Sentence] = []
    bad: list[BadRow] = []
    for index, (place, left, right) in enumerate(zip(places, first, second, strict=True)):
        if columns.tokens and left == [DOCSTART]:
            started = place
            continue
        document = started if is_missing(documents[index]) else str(documents[index])
        try:
            if columns.tokens:
                tokens, tags = _read_tokens(left, columns.tokens), _read_tags(right, columns.tags, names)
                _check_lengths(tokens, tags, columns)
                sentences.append(Sentence(index, place, tokens, tags, document, lines[index]))
            else:
                sentences.append(_read_text(index, place, left, right, document, columns))
        except LabelError as error:
            shown = f"{place} ({error.detail})" if error.detail else place
            bad.append(BadRow(index, shown, error.kind, error.message))
    return sentences, bad


def declared_tags(split: Dataset, columns: TaggingColumns) -> list[str]:
    """List the names of a tag column's `ClassLabel`; empty where it has none."""
    feature = split.features[columns.tags] if columns.tags else None
    inner = getattr(feature, "feature", None)
    return list(inner.names) if isinstance(inner, ClassLabel) else []


def _read_tokens(value: Any, column: str) -> list[str]:
    if not isinstance(value, list) or not all(isinstance(token, str) for token in value):
        raise LabelError("tokens_type", f"column '{column}': the tokens are no list of strings")
    if not value:
        raise LabelError("sentence_empty", f"column '{column}': the sentence has no words")
    return value


def _read_tags(value: Any, column: str | None, names: list[str]) -> list[str]:
    if not isinstance(value, list):
        raise LabelError("tags_type", f"column '{column}': the tags are no list")
    tags = []
    for tag in value:
        if isinstance(tag, int) and not isinstance(tag, bool) and names:
            if not 0 <= tag < len(names):
                raise LabelError(
                    "tag_unknown", f"column '{column}': the tag {tag} is no number from 0 to {len(names) - 1}"
                )
            tag = names[tag]
        if is_missing(tag):
            raise LabelError("tag_missing", f"column '{column}': a word has no tag (empty or null)")
        if not isinstance(tag, str):
            raise LabelError("tags_type", f"column '{column}': the tags are numbers without names; give tag_names=[…]")
        tags.append(tag.strip())
    return tags


def _check_lengths(tokens: list[str], tags: list[str], columns: TaggingColumns) -> None:
    if len(tokens) != len(tags):
        raise LabelError(
            "unequal_lengths",
            f"'{columns.tokens}' and '{columns.tags}' have unequal lengths",
            f"{len(tokens)} words, {len(tags)} tags",
        )


def _read_text(
    index: int, place: str, text: Any, value: Any, document: str | None, columns: TaggingColumns
) -> Sentence:
    kind, message = text_mistake(text)
    words = [] if kind else split_words(text)
    if kind or not words:
        kind = "sentence_empty" if kind in ("", "text_empty") else kind
        raise LabelError(kind, f"column '{columns.text}': {message or 'the text has no words'}")
    try:
        spans = read_spans(value, len(text))
        tags, cut = tag_words(text, words, spans)
    except LabelError as error:
        raise LabelError(error.kind, f"column '{columns.spans}': {error.message}", error.detail) from error
    return Sentence(index, place, [text[s:e] for s, e in words], tags, document, [], text, words, cut)


def _known(found: Sequence[str], names: Sequence[str]) -> str | None:
    return next((name for wanted in names for name in found if name.lower() == wanted), None)


def _resolve(column: str | int | None, option: str, found: list[str], place: str) -> str | None:
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


def _checked(columns: TaggingColumns, found: list[str], place: str) -> TaggingColumns:
    pair = (columns.tokens, columns.tags) if columns.tokens else (columns.text, columns.spans)
    options = "token_column and tag_column" if columns.tokens else "text_column and span_column"
    missing = [name for name in pair if name not in found]
    if missing:
        raise ValueError(f"{place}: there is no column {missing} ({options}); the columns are {found}.")
    if pair[0] == pair[1]:
        raise ValueError(f"{place}: {options} must differ, but both are '{pair[0]}' of the columns {found}.")
    return columns
