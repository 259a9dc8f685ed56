"""Rows to checked tagging data: one form for all sources, tags in IOB2, every broken tag and bad row named."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from datasets import ClassLabel, Dataset, DatasetDict, Features, List, Value, concatenate_datasets

from .columns import column_values
from .findings import BadRow, bad_rows_message, summarise
from .formats import ORIGIN
from .load import with_origins
from .schemes import OUTSIDE, iob2_names
from .sentences import ReadTags, Sentence, read_tagging

CHOICES = {  # beside "error"
    "on_broken_tag": ("repair",),
    "on_cut_word": ("widen",),
    "on_overlap": ("longest", "first"),
    "on_bad_row": ("drop",),
}
TAGGING_COLUMNS = ("tokens", "tags", "document", "sentence", "text", "offsets", ORIGIN)
REPAIRS = {
    "broken_tag": "Broken tags are mended as conlleval reads them.",
    "span_cuts_word": "A span that cuts a word is widened to the whole word.",
    "span_overlap": "Of spans that overlap one is kept, as on_overlap says.",
}
TAG_MENDS = {
    "tag_unknown": "A type that train does not have cannot be scored: add training rows, mend it, or list all types "
    "in entity_types. A scheme that was taken wrongly is set by scheme='…'.",
    "span_cuts_word": "Set on_cut_word='widen' to take the whole word.",
    "span_overlap": "A word has one tag: of spans that overlap, on_overlap='longest' keeps the longest, 'first' the "
    "one that begins first.",
    "span_outside": "Spans count characters (code points) from 0; 'end' is the first character after the span.",
    "broken_tag": "Set on_broken_tag='repair' to read them as conlleval does.",
}


@dataclass
class TaggingData:
    """Checked data of one tagging problem.

    Args:
        splits: columns ``tokens`` (n words), ``tags`` (n ids of ``label_names``), ``document`` (id), ``sentence``
            (number in the document, from 0), ``__origin__`` and the kept ones; for character spans also ``text`` and
            ``offsets`` (n times start, end).
        label_names: the 2·T + 1 tags in IOB2: "O", "B-LOC", "I-LOC", "B-ORG", …
        entity_types: the T types in natural order.
        notes: sentences for the user: what was detected, repaired or dropped.
    """

    splits: DatasetDict
    label_names: list[str]
    entity_types: list[str]
    notes: list[str] = field(default_factory=list)


def prepare_tagging(
    splits: Mapping[str, Dataset],
    *,
    token_column: str | int | None = None,
    tag_column: str | int | None = None,
    text_column: str | None = None,
    span_column: str | None = None,
    document_column: str | None = None,
    scheme: str | None = None,
    tag_names: Sequence[str] | None = None,
    entity_types: Sequence[str] | None = None,
    on_broken_tag: str = "repair",
    on_cut_word: str = "error",
    on_overlap: str = "error",
    on_bad_row: str = "error",
    keep_columns: Sequence[str] = (),
) -> TaggingData:
    """Check raw splits and bring them into one form; no sentence is cut.

    Args:
        token_column, tag_column: names, or numbers of the columns of a column file (default: the first, the last).
        text_column, span_column: instead of these, texts and lists of {"start", "end", "label"}, in characters.
        on_broken_tag: "repair" as `schemes.to_iob2` states, or "error".
        on_overlap: of spans that overlap keep the "longest" or the "first", or "error".
        on_bad_row: "error", or "drop" bad rows (they are counted in the notes).

    Raises:
        ValueError: missing column, empty split, no entity in train, or bad rows (with file and line).
    """
    for option, value in zip(CHOICES, (on_broken_tag, on_cut_word, on_overlap, on_bad_row), strict=True):
        if value not in ("error", *CHOICES[option]):
            raise ValueError(f"{option}='{value}' is unknown; it is one of error, {', '.join(CHOICES[option])}.")
    splits = with_origins(splits)
    read = read_tagging(
        splits,
        token_column=token_column,
        tag_column=tag_column,
        text_column=text_column,
        span_column=span_column,
        document_column=document_column,
        scheme=scheme,
        tag_names=tag_names,
        entity_types=entity_types,
        on_overlap=on_overlap,
    )
    refused = {"broken_tag": on_broken_tag == "error", "span_cuts_word": on_cut_word == "error", "span_overlap": False}
    notes = _drop_bad_rows(read, refused, on_bad_row)
    for name, rows in read.sentences.items():
        if not rows:
            raise ValueError(f"{name}: no good row is left of {len(splits[name])} (from {splits[name][0][ORIGIN]}).")
    if "train" in splits and all(tag == OUTSIDE for row in read.sentences["train"] for tag in row.tags):
        raise ValueError(
            f"train (from {splits['train'][0][ORIGIN]}): no word is in an entity; all tags are '{OUTSIDE}'. "
            f"Is this the right column? {read.columns['train']}"
        )
    names = iob2_names(read.entity_types)
    built = {name: build_split(splits[name], rows, names, keep_columns) for name, rows in read.sentences.items()}
    return TaggingData(DatasetDict(built), names, read.entity_types, notes)


def by_document(split: Dataset) -> list[list[int]]:
    """List the indices of the rows of each document of a prepared split, in order of their sentences."""
    groups: dict[str, list[int]] = {}
    for index, document in enumerate(column_values(split, "document")):
        groups.setdefault(document, []).append(index)
    numbers = column_values(split, "sentence")
    return [sorted(rows, key=numbers.__getitem__) for rows in groups.values()]


def _drop_bad_rows(read: ReadTags, refused: Mapping[str, bool], on_bad_row: str) -> list[str]:
    """Raise the mistakes, or leave their rows out and return notes on them."""
    bad: dict[str, list[BadRow]] = {}
    notes = read.notes()
    for name, rows in read.repaired.items():
        bad[name] = read.bad[name] + [row for row in rows if refused[row.kind]]
        mended = [row for row in rows if not refused[row.kind]]
        notes += [f"Repaired: {finding}." for finding in summarise(name, mended, "place(s)")]
        notes += [REPAIRS[kind] for kind in REPAIRS if any(row.kind == kind for row in mended)]
    findings = [finding for name, rows in bad.items() for finding in summarise(name, rows)]
    if findings and on_bad_row == "error":
        raise ValueError(bad_rows_message(findings, TAG_MENDS, bad))
    notes += [f"Dropped {finding}." for finding in findings]
    for name, rows in bad.items():
        dropped = {row.index for row in rows}
        read.sentences[name] = [row for row in read.sentences[name] if row.index not in dropped]
    return list(dict.fromkeys(notes))


def build_split(split: Dataset, rows: Sequence[Sentence], names: list[str], keep: Sequence[str] = ()) -> Dataset:
    """Write sentences (at least one, with tags in IOB2) as a prepared split that keeps some columns."""
    ids = {name: index for index, name in enumerate(names)}
    taken = [name for name in keep if name in TAGGING_COLUMNS or name not in split.column_names]
    if taken:
        raise ValueError(
            f"keep_columns={list(keep)}: {taken} are not columns of the data, or are made anew; "
            f"the columns found are {split.column_names}."
        )
    documents = [row.place if row.document is None else row.document for row in rows]
    columns: dict[str, tuple[Any, list[Any]]] = {
        "tokens": (List(Value("string")), [row.tokens for row in rows]),
        "tags": (List(ClassLabel(names=names)), [[ids[tag] for tag in row.tags] for row in rows]),
        "document": (Value("string"), documents),
        "sentence": (Value("int32"), _numbers(documents)),
        ORIGIN: (Value("string"), [row.place for row in rows]),
    }
    if rows[0].text is not None:
        columns["text"] = (Value("string"), [row.text for row in rows])
        columns["offsets"] = (List(List(Value("int32"))), [row.offsets for row in rows])
    features = Features({name: feature for name, (feature, _) in columns.items()})
    result = Dataset.from_dict({name: values for name, (_, values) in columns.items()}, features=features)
    if not keep:
        return result
    kept = split.with_format(None).select([row.index for row in rows]).select_columns(list(keep))
    return concatenate_datasets([result, kept], axis=1)


def _numbers(documents: list[str]) -> list[int]:
    """Number the rows of each document from 0."""
    seen: dict[str, int] = {}
    numbers = []
    for document in documents:
        numbers.append(seen.get(document, 0))
        seen[document] = numbers[-1] + 1
    return numbers
