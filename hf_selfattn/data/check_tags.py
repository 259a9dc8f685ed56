"""A report on tagging data, made without training and without stopping at the first mistake."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from datasets import Dataset
from transformers import PreTrainedTokenizerBase

from .check import RARE, duplicate_findings, length_summary, odd_characters
from .reading import ORIGIN
from .rows import PLACES, Finding, column_values, summarise
from .schemes import iob2_names
from .sentences import Sentence
from .sources import with_origin
from .splits import find_duplicates
from .tag_rows import ReadTags, read_tagging
from .tagging import TaggingData, build_split, by_document


def check_tagging(
    data: TaggingData | Mapping[str, Dataset], tokenizer: PreTrainedTokenizerBase, window: int, **options: Any
) -> dict[str, Any]:
    """Look at all rows and report the entities, the lengths and every kind of mistake.

    Args:
        tokenizer: counts the tokens; nothing is truncated.
        options: of raw splits: the columns, scheme, tag_names and entity_types of `prepare_tagging`.

    Returns:
        A dict of plain values for JSON, in the form of `check_classification`: columns, scheme, entity_types, window;
        per split the rows, documents, words, entities per type and lengths in tokens; the findings and notes.

    Raises:
        ValueError: a column is missing, the scheme is unknown, or there are no rows.
    """
    if isinstance(data, TaggingData):
        options = {
            "token_column": "tokens",
            "tag_column": "tags",
            "scheme": "IOB2",
            "entity_types": data.entity_types,
            "document_column": "document",
        }
    raw = data.splits if isinstance(data, TaggingData) else data
    splits = {name: with_origin(split, name) for name, split in raw.items()}
    filled = {name: split for name, split in splits.items() if len(split)}
    if not filled:
        raise ValueError(f"the data has no rows: the splits are {list(splits)}.")
    read = read_tagging(filled, **options)
    names = iob2_names(read.entity_types)
    built = {name: build_split(filled[name], rows, names) for name, rows in read.sentences.items() if rows}
    findings = [Finding("empty_split", name, "the split has no rows", 0, []) for name in splits if name not in filled]
    pieces = count_pieces(
        tokenizer, (token for rows in read.sentences.values() for row in rows for token in row.tokens)
    )
    report: dict[str, Any] = {}
    for name, rows in read.sentences.items():
        findings += _row_findings(name, read, pieces)
        special = tokenizer.num_special_tokens_to_add(pair=False)
        report[name] = {
            "rows": len(filled[name]),
            "documents": len(by_document(built[name])) if rows else 0,
            "words": sum(len(row.tokens) for row in rows),
            "entities": _entity_counts(rows, read.entity_types),
            **length_summary([special + sum(pieces[token] for token in row.tokens) for row in rows], window),
        }
    findings += _overlap_findings(built)
    return {
        "columns": {name: asdict(columns) for name, columns in read.columns.items()},
        "scheme": read.scheme.name,
        "entity_types": read.entity_types,
        "window": window,
        "splits": report,
        "findings": [asdict(finding) for finding in findings],
        "notes": read.notes() if not isinstance(data, TaggingData) else list(data.notes),
    }


def count_pieces(tokenizer: PreTrainedTokenizerBase, words: Iterable[str]) -> dict[str, int]:
    """Count the sub-words of each word when it is tokenised as a word of its own."""
    different = list(dict.fromkeys(words))
    if not different:
        return {}
    encoded = tokenizer(different, add_special_tokens=False, truncation=False, padding=False, verbose=False)
    return {word: len(ids) for word, ids in zip(different, encoded["input_ids"], strict=True)}


def _row_findings(name: str, read: ReadTags, pieces: Mapping[str, int]) -> list[Finding]:
    """Bad rows, repaired tags, words without tokens, odd characters, rare types of train."""
    rows = read.sentences[name]
    findings = summarise(name, read.bad[name]) + summarise(name, read.repaired[name], "place(s)")
    silent = [row.place_of(word) for row in rows for word, token in enumerate(row.tokens) if not pieces[token]]
    if silent:
        message = "a word that the tokenizer turns into nothing (the model sees no part of it)"
        findings.append(Finding("word_without_tokens", name, message, len(silent), silent[:PLACES], "word(s)"))
    column = read.columns[name].tokens or read.columns[name].text or ""
    findings += odd_characters(name, column, [" ".join(row.tokens) for row in rows], [row.place for row in rows])
    for kind, count in _entity_counts(rows, read.entity_types).items():
        if name == "train" and count < RARE:
            message = f"the entity type '{kind}' is rare (fewer than {RARE} entities)"
            places = [row.place_of(i) for row in rows for i, tag in enumerate(row.tags) if tag == f"B-{kind}"]
            findings.append(Finding("rare_type", name, message, count, places[:PLACES], "entities"))
    return findings


def _entity_counts(rows: Sequence[Sentence], types: Sequence[str]) -> dict[str, int]:
    counts = Counter(tag[2:] for row in rows for tag in row.tags if tag.startswith("B-"))
    return {kind: counts[kind] for kind in types}


def _overlap_findings(splits: Mapping[str, Dataset]) -> list[Finding]:
    """Repeated sentences, and whole documents of several sentences that stand in two splits."""
    keys: dict[str, list[Hashable]] = {
        name: [tuple(tokens) for tokens in column_values(split, "tokens")] for name, split in splits.items()
    }
    findings = duplicate_findings(splits, keys, "tags")
    documents: dict[str, list[Hashable]] = {}
    places: dict[str, list[str]] = {}
    for name, split in splits.items():
        groups = [rows for rows in by_document(split) if len(rows) > 1]
        documents[name] = [tuple(keys[name][row] for row in rows) for rows in groups]
        origins = column_values(split, ORIGIN)
        places[name] = [origins[rows[0]] for rows in groups]
    for (one, other), pairs in find_duplicates(documents).across.items():
        shown = [f"{places[one][index]} = {places[other][twin]}" for index, twin in pairs[:PLACES]]
        message = f"the whole document also stands in {other}"
        findings.append(Finding("document_in_two_splits", one, message, len(pairs), shown, "document(s)"))
    return findings
