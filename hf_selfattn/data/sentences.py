"""Raw rows of any source to sentences of words with tags in IOB2, as preparing and checking need them."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from datasets import Dataset

from .columns import TaggingColumns, column_values, find_tagging_columns
from .conll import DOCSTART, LINES
from .findings import BadRow, text_mistake
from .formats import ORIGIN
from .labels import LEARNED, LabelError, class_names, is_missing, is_no_answer, natural_key
from .load import reading_notes
from .schemes import (
    OUTSIDE,
    TagScheme,
    check_scheme,
    detect_form,
    detect_scheme,
    iob2_names,
    is_tag,
    split_tag,
    to_iob2,
)
from .spans import read_spans, split_words, tag_words


@dataclass
class Sentence:
    """One row: n words with their tags, and where it stands."""

    index: int  # of the row in the split
    place: str  # of the row in the user's file
    tokens: list[str]
    tags: list[str]
    document: str | None  # its id
    lines: list[int] = field(default_factory=list)  # of the words in a column file
    text: str | None = None  # of span data
    offsets: list[tuple[int, int]] = field(default_factory=list)  # (start, end) of the words in it
    cut: list[str] = field(default_factory=list)  # the spans that cut a word
    overlapping: list[str] = field(default_factory=list)  # the pairs of spans of which one was left out

    def place_of(self, word: int) -> str:
        """Give the place of a word: "file:line", or the row's place with the word's number from 1."""
        if self.lines:
            return f"{self.place.rpartition(':')[0]}:{self.lines[word]}"
        return f"{self.place} (word {word + 1}, '{self.tokens[word]}')"


@dataclass
class ReadTags:
    """The sentences of all splits, and what is wrong with them."""

    columns: dict[str, TaggingColumns]  # of each split
    scheme: TagScheme  # of the tags in the data
    entity_types: list[str]  # in natural order
    sentences: dict[str, list[Sentence]]  # the right ones of each split, with tags in IOB2
    bad: dict[str, list[BadRow]]  # the mistakes in each split
    repaired: dict[str, list[BadRow]]  # what was mended in each split
    said: list[str]  # by the readers of the files, and on how the tags are written

    def notes(self) -> list[str]:
        """Say which columns, scheme, types and documents were found."""
        shown = dict.fromkeys(map(str, self.columns.values()))
        types = f"Entity types ({len(self.entity_types)}): {', '.join(self.entity_types)}."
        scheme = f"Tagging scheme: {self.scheme.name} ({self.scheme.reason}), read as IOB2."
        single = [name for name, rows in self.sentences.items() if all(row.document is None for row in rows)]
        documents = [f"No document borders in {', '.join(single)}: each row is its own document."] if single else []
        return [*self.said, *shown, scheme, types, *documents]


def read_tagging(
    splits: Mapping[str, Dataset],
    *,
    scheme: str | None = None,
    tag_names: Sequence[str] | None = None,
    entity_types: Sequence[str] | None = None,
    on_overlap: str = "error",
    **columns: Any,
) -> ReadTags:
    """Read all rows, detect the scheme (on train, where there is one), write the tags in IOB2 and collect mistakes."""
    if not splits:
        raise ValueError("no splits: give at least one of train, validation, test.")
    if scheme is not None:
        check_scheme(scheme)
    found = {name: find_tagging_columns(split, **columns) for name, split in splits.items()}
    hidden = [name for name, split in splits.items() if len(splits) > 1 and _is_untagged(name, split, found[name])]
    splits = {name: split for name, split in splits.items() if name not in hidden}
    found = {name: found[name] for name in splits}
    read = {name: _read_sentences(split, found[name], tag_names, on_overlap) for name, split in splits.items()}
    sources = ["train"] if "train" in splits else list(splits)
    declared = list(tag_names or _declared_tags(splits[sources[0]], found[sources[0]]))
    tagged = {name: rows for name, (rows, _) in read.items() if found[name].tags}
    known = {*declared, *(tag for name in sources for row in tagged.get(name, []) for tag in row.tags)}
    form = detect_form(known, scheme)
    for row in itertools.chain.from_iterable(tagged.values()):
        row.tags = [form.read(tag) for tag in row.tags]
    declared = [form.read(tag) for tag in declared]
    if scheme is not None:
        chosen = TagScheme(scheme, "as set")
    else:
        chosen = _detected([row.tags for name in sources for row in read[name][0] if found[name].tags], declared)
    bad = {name: bad for name, (_, bad) in read.items()}
    silent = [f"{name}: no word has a tag (all are -1 or empty), so it is not scored." for name in hidden]
    result = ReadTags(found, chosen, [], {}, bad, {}, [*reading_notes(splits), *form.notes(known), *silent])
    for name, (rows, _) in read.items():
        own = chosen.name if found[name].tags else "IOB2"  # spans became IOB2 when they were read
        result.sentences[name], result.repaired[name] = _normalise(rows, own, result.bad[name])
    types = _types(declared, chosen.name)
    present = {tag[2:] for name in sources for row in result.sentences[name] for tag in row.tags if tag != OUTSIDE}
    result.entity_types = sorted(set(entity_types or types or present), key=natural_key)
    for name, rows in result.sentences.items():
        result.sentences[name] = _known_types(rows, result.entity_types, result.bad[name])
    return result


def _is_untagged(name: str, split: Dataset, columns: TaggingColumns) -> bool:
    """Tell whether a test split has no tags, or -1 in their place."""
    if name in LEARNED or not columns.tags:
        return False
    return all(tags == [] or is_no_answer(tags) for tags in column_values(split, columns.tags))


def _detected(tagged: list[list[str]], declared: list[str]) -> TagScheme:
    if not tagged:
        return TagScheme("IOB2", "made from character spans")
    scheme = detect_scheme(tagged)
    untagged = scheme.name == "IO" and all(tag == OUTSIDE for tags in tagged for tag in tags)
    return detect_scheme([declared]) if untagged else scheme


def _read_sentences(
    split: Dataset, columns: TaggingColumns, tag_names: Sequence[str] | None, on_overlap: str
) -> tuple[list[Sentence], list[BadRow]]:
    """Read the sentences without mistakes, and list every mistake rather than stop at the first.

    Rows of one token ``-DOCSTART-`` begin a document and are no sentences.
    """
    names = list(tag_names) if tag_names is not None else _declared_tags(split, columns)
    first = column_values(split, columns.tokens or columns.text or "")
    second = column_values(split, columns.tags or columns.spans or "")
    lines = column_values(split, LINES) if LINES in split.column_names else [[]] * len(split)
    if columns.ids:
        ids = column_values(split, columns.ids)
        first, second, lines = (_without_extra_nodes(rows, ids) for rows in (first, second, lines))
    documents = column_values(split, columns.document) if columns.document else [None] * len(split)
    started: str | None = None  # by a row -DOCSTART-
    sentences: list[Sentence] = []
    bad: list[BadRow] = []
    for index, place in enumerate(column_values(split, ORIGIN)):
        left, right = first[index], second[index]
        if columns.tokens and left == [DOCSTART]:
            started = place
            continue
        document = started if is_missing(documents[index]) else str(documents[index])
        try:
            if columns.tokens:
                tokens, tags = _read_words(left, right, columns, names)
                sentences.append(Sentence(index, place, tokens, tags, document, lines[index]))
            else:
                sentences.append(_read_text(index, place, left, right, document, columns, on_overlap))
        except LabelError as error:
            shown = f"{place} ({error.detail})" if error.detail else place
            bad.append(BadRow(index, shown, error.kind, error.message))
    return sentences, bad


def _without_extra_nodes(rows: list[list[Any]], ids: list[list[str]]) -> list[list[Any]]:
    """Leave the ranges ("1-2") and empty nodes ("3.1") of CoNLL-U out, which stand beside their words."""
    return [
        [cell for cell, i in zip(row, of_row, strict=True) if i.isdecimal()]
        for row, of_row in zip(rows, ids, strict=True)
    ]


def _declared_tags(split: Dataset, columns: TaggingColumns) -> list[str]:
    return class_names(split.features[columns.tags]) if columns.tags else []


def _read_words(tokens: Any, value: Any, columns: TaggingColumns, names: list[str]) -> tuple[list[str], list[str]]:
    if not isinstance(tokens, list) or not all(isinstance(token, str) for token in tokens):
        raise LabelError("tokens_type", f"column '{columns.tokens}': the tokens are no list of strings")
    if not tokens:
        raise LabelError("sentence_empty", f"column '{columns.tokens}': the sentence has no words")
    if not isinstance(value, list):
        raise LabelError("tags_type", f"column '{columns.tags}': the tags are no list")
    tags = [_read_tag(tag, f"column '{columns.tags}'", names) for tag in value]
    if len(tokens) != len(tags):
        message = f"'{columns.tokens}' and '{columns.tags}' have unequal lengths"
        raise LabelError("unequal_lengths", message, f"{len(tokens)} words, {len(tags)} tags")
    return tokens, tags


def _read_tag(tag: Any, column: str, names: list[str]) -> str:
    if isinstance(tag, int) and not isinstance(tag, bool) and names:
        if not 0 <= tag < len(names):
            raise LabelError("tag_unknown", f"{column}: the tag {tag} is no number from 0 to {len(names) - 1}")
        tag = names[tag]
    if is_missing(tag):
        raise LabelError("tag_missing", f"{column}: a word has no tag (empty or null)")
    if not isinstance(tag, str):
        raise LabelError("tags_type", f"{column}: the tags are numbers without names; give tag_names=[…]")
    return tag.strip()


def _read_text(
    index: int, place: str, text: Any, value: Any, document: str | None, columns: TaggingColumns, on_overlap: str
) -> Sentence:
    kind, message = text_mistake(text)
    words = [] if kind else split_words(text)
    if kind or not words:
        kind = "sentence_empty" if kind in ("", "text_empty") else kind
        raise LabelError(kind, f"column '{columns.text}': {message or 'the text has no words'}")
    try:
        tags, cut, overlapping = tag_words(text, words, read_spans(value, text), on_overlap)
    except LabelError as error:
        raise LabelError(error.kind, f"column '{columns.spans}': {error.message}", error.detail) from error
    return Sentence(index, place, [text[s:e] for s, e in words], tags, document, [], text, words, cut, overlapping)


def _normalise(rows: list[Sentence], scheme: str, bad: list[BadRow]) -> tuple[list[Sentence], list[BadRow]]:
    """Write the tags in IOB2; return the good rows and what was repaired in them."""
    good, repaired = [], []
    for row in rows:
        try:
            row.tags, broken = to_iob2(row.tags, scheme)
        except LabelError as error:
            word = next(i for i, tag in enumerate(row.tags) if not is_tag(tag, scheme))
            bad.append(BadRow(row.index, row.place_of(word), error.kind, str(error)))
            continue
        good.append(row)
        repaired += [BadRow(row.index, row.place_of(word), "broken_tag", message) for word, message in broken]
        repaired += [
            BadRow(row.index, f"{row.place} ({cut})", "span_cuts_word", "a span cuts a word") for cut in row.cut
        ]
        repaired += [
            BadRow(row.index, f"{row.place} ({pair})", "span_overlap", "two spans overlap, and one is left out")
            for pair in row.overlapping
        ]
    return good, repaired


def _known_types(rows: list[Sentence], types: list[str], bad: list[BadRow]) -> list[Sentence]:
    good, known = [], set(iob2_names(types))
    for row in rows:
        unknown = next((word for word, tag in enumerate(row.tags) if tag not in known), None)
        if unknown is None:
            good.append(row)
            continue
        message = f"the entity type '{row.tags[unknown][2:]}' is none of {types}"
        bad.append(BadRow(row.index, row.place_of(unknown), "tag_unknown", message))
    return good


def _types(names: Sequence[str], scheme: str) -> list[str]:
    """List the types of declared tag names; none where a name does not fit the scheme."""
    if not all(is_tag(name, scheme) for name in names):
        return []
    return [kind for _, kind in (split_tag(name, scheme) for name in names) if kind]
