"""Reports on raw or prepared data, made without training and without stopping at the first mistake."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
from datasets import Dataset
from transformers import PreTrainedTokenizerBase

from .classification import ClassificationData, inspect_rows, joined_lines, missing_header, read_classification
from .columns import Columns, column_values, found_columns
from .findings import Finding, finding, summarise
from .formats import ORIGIN
from .labels import LabelScheme, LabelTarget, degenerate, label_twins
from .load import with_origin
from .schemes import iob2_names
from .sentences import ReadTags, Sentence, read_tagging
from .splits import find_conflicts, find_duplicates, text_keys
from .tagging import TaggingData, build_split, by_document

QUANTILES = (5, 25, 50, 75, 95, 99, 100)
RARE = 10  # rows, entities or boxes
# What a report counts of a split, each under its title.
COUNTED = {
    "labels": "classes",
    "entities": "entities",
    "tokens": "lengths",
    "width": "widths",
    "height": "heights",
    "boxes of an image": "boxes_of_images",
    "shorter side of a box": "box_sides",
    "seconds": "seconds",
    "rates in Hz": "rates",
    "channels": "channels",
    "characters": "characters",
    "files": "formats",
    "colours": "modes",
}
CONTROL = "[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\x80-\x84\x86-\x9f]"
ODD_CHARACTERS = {
    "replacement_character": ("U+FFFD, left by a wrong decoding", re.compile("\ufffd")),
    "control_character": ("control characters", re.compile(CONTROL)),
    "mojibake": ("UTF-8 read as Latin-1, such as 'Ã©' for 'é'", re.compile("[ÃÂ][\u0080-\u00bf]|â€")),
}


def check_classification(
    data: ClassificationData | Mapping[str, Dataset],
    tokenizer: PreTrainedTokenizerBase,
    window: int,
    *,
    problem: str | None = None,
    label_names: Sequence[str] | None = None,
    label_column: str | Sequence[str] | None = None,
    **columns: Any,
) -> dict[str, Any]:
    """Look at all rows and report what is there and every kind of mistake.

    Args:
        data: raw splits (read with the options of `prepare_classification`), or prepared data.
        tokenizer: counts the tokens; nothing is truncated.
        label_column: a column, or a list of columns of 0 and 1, one per label.
        columns: further options of `prepare_classification` that name columns, and `label_separator`.

    Returns:
        A dict of plain values for JSON: columns, problem, label_names, window; per split the rows, classes and lengths
        in tokens; the findings (kind, split, message, count, places) and notes.

    Raises:
        ValueError: the columns are missing or ambiguous, or the options contradict the data.
    """
    if isinstance(data, ClassificationData):
        problem, label_names = data.problem, data.label_names
        pair = "text_pair" if "text_pair" in next(iter(data.splits.values())).column_names else None
        columns, label_column = {"text_column": "text", "text_pair_column": pair}, "label"
    splits, findings = filled_splits(data.splits if isinstance(data, ClassificationData) else data)
    splits, found, scheme, notes = read_classification(
        splits, problem=problem, label_names=label_names, label_column=label_column, **columns
    )
    report: dict[str, Any] = {}
    for name, split in splits.items():
        targets, bad = inspect_rows(split, found, scheme)
        findings += summarise(name, bad) + joined_lines(name, split, found)
        for column in found.texts:
            findings += odd_characters(name, column, column_values(split, column), column_values(split, ORIGIN))
        if name == "train":
            findings += label_findings(split, found, scheme, targets)
        report[name] = {
            "rows": len(split),
            "classes": class_counts(scheme, [target for target in targets if target is not None]),
            **_length_summary(_token_counts(split, found, tokenizer), window),
        }
    keys = {name: text_keys(split, found.texts) for name, split in splits.items()}
    return {
        "columns": asdict(found),
        "columns_found": found_columns(next(iter(splits.values()))),
        "problem": scheme.problem,
        "label_names": scheme.names,
        "window": window,
        "splits": report,
        "findings": [asdict(item) for item in findings + _duplicate_findings(splits, keys, found.label)],
        "notes": notes,
    }


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
        options = {"token_column": "tokens", "tag_column": "tags", "document_column": "document", "scheme": "IOB2"}
        options["entity_types"] = data.entity_types
    splits, findings = filled_splits(data.splits if isinstance(data, TaggingData) else data)
    read = read_tagging(splits, **options)
    names = iob2_names(read.entity_types)
    built = {name: build_split(splits[name], rows, names) for name, rows in read.sentences.items() if rows}
    words = (token for rows in read.sentences.values() for row in rows for token in row.tokens)
    pieces = _count_pieces(tokenizer, words)
    special = tokenizer.num_special_tokens_to_add(pair=False)
    report: dict[str, Any] = {}
    for name, rows in read.sentences.items():
        findings += _tag_findings(name, read, pieces)
        report[name] = {
            "rows": len(splits[name]),
            "documents": len(by_document(built[name])) if rows else 0,
            "words": sum(len(row.tokens) for row in rows),
            "entities": _entity_counts(rows, read.entity_types),
            **_length_summary([special + sum(pieces[token] for token in row.tokens) for row in rows], window),
        }
    return {
        "columns": {name: asdict(columns) for name, columns in read.columns.items()},
        "scheme": read.scheme.name,
        "entity_types": read.entity_types,
        "window": window,
        "splits": report,
        "findings": [asdict(item) for item in findings + _overlap_findings(built)],
        "notes": list(data.notes) if isinstance(data, TaggingData) else read.notes(),
    }


def format_report(report: Mapping[str, Any]) -> str:
    """Write a report as plain text for the terminal."""
    lines = ["Data check", *(f"  {note}" for note in report["notes"])]
    for name, split in report["splits"].items():
        sizes = [f"{split[unit]} {unit}" for unit in ("rows", "documents", "words", "boxes", "hours") if unit in split]
        lines += ["", f"{name}: {', '.join(sizes)}"]
        lines += [
            f"  {title}: " + ", ".join(f"{label} {count}" for label, count in split[key].items())
            for title, key in COUNTED.items()
            if key in split
        ]
        if "longer_than_window" in split:
            longer = f"{split['longer_than_window']} rows ({split['share_longer_than_window']:.1%})"
            window = f"the backbone's window of {report['window']} tokens"
            lines.append(f"  longer than {window}: {longer}. Nothing is cut: long rows are read in several windows.")
    findings = [Finding(**item) for item in report["findings"]]
    lines += ["", f"Findings ({len(findings)})" if findings else "No findings: the data looks clean."]
    return "\n".join(lines + [f"  [{item.kind}] {item}" for item in findings])


def filled_splits(data: Mapping[str, Dataset]) -> tuple[dict[str, Dataset], list[Finding]]:
    """Return the splits that have rows, with their origin, and a finding for each that has none."""
    splits = {name: with_origin(split, name) for name, split in data.items()}
    filled = {name: split for name, split in splits.items() if len(split)}
    if not filled:
        raise ValueError(f"the data has no rows: the splits are {list(splits)}.")
    empty = [finding("empty_split", name, "the split has no rows", []) for name in splits if name not in filled]
    return filled, empty


def class_counts(scheme: LabelScheme, targets: list[LabelTarget]) -> dict[str, float]:
    """Return how many rows have each label; of a regression the range of the numbers."""
    if scheme.problem == "regression":
        values = np.asarray(targets, dtype=np.float64)
        if not len(values):
            return {}
        return {"min": float(values.min()), "mean": float(f"{values.mean():.6g}"), "max": float(values.max())}
    named = [scheme.names_of(target) for target in targets]
    counts = Counter(name for names in named for name in names)
    bare = sum(not names for names in named)
    found = {**dict.fromkeys(scheme.names, 0), **counts}
    return {**found, **({"(no label)": bare} if bare else {})}


def label_findings(
    split: Dataset, columns: Columns, scheme: LabelScheme, targets: list[LabelTarget | None]
) -> list[Finding]:
    """Find rare classes, twins among the names, one class only."""
    column, findings = f"column '{columns.label}'", []
    reason = degenerate(scheme, [target for target in targets if target is not None])
    if reason:
        findings.append(Finding("one_class", "train", f"{column}: {reason}", len(split), []))
    if scheme.problem == "regression":
        return findings
    if missing := missing_header(columns, scheme):
        findings.append(finding("no_header", "train", missing, column_values(split, ORIGIN)[:1]))
    examples: dict[str, list[str]] = {name: [] for name in scheme.names}
    for place, target in zip(column_values(split, ORIGIN), targets, strict=True):
        for name in scheme.names_of(target) if target is not None else []:
            examples[name].append(place)
    for name, rows in examples.items():
        if len(rows) < RARE:
            message = f"{column}: the label '{name}' is rare (fewer than {RARE} rows)"
            findings.append(finding("rare_class", "train", message, rows))
    for group in label_twins(scheme.names):
        rows = [place for name in group[1:] for place in examples[name]]
        findings.append(finding("label_twins", "train", f"{column}: the labels {group} look like one label", rows))
    return findings


def odd_characters(name: str, column: str, texts: Sequence[Any], places: Sequence[str]) -> list[Finding]:
    """Find texts with characters of a wrong decoding or invisible ones."""
    findings = []
    for kind, (message, pattern) in ODD_CHARACTERS.items():
        rows = [
            place for place, text in zip(places, texts, strict=True) if isinstance(text, str) and pattern.search(text)
        ]
        if rows:
            findings.append(finding(kind, name, f"column '{column}': {message}", rows))
    return findings


def _duplicate_findings(
    splits: Mapping[str, Dataset], keys: Mapping[str, Sequence[Hashable]], label: str
) -> list[Finding]:
    """Find rows that repeat another row of the same or of another split."""
    places = {name: column_values(split, ORIGIN) for name, split in splits.items()}
    duplicates = find_duplicates(keys)
    findings = []
    for name, pairs in duplicates.inside.items():
        if pairs:
            twins = twin_places(pairs, places[name], places[name])
            findings.append(finding("duplicate", name, "the text repeats an earlier row", twins))
        if conflicts := find_conflicts(splits[name], pairs, label):
            message = f"column '{label}': the text repeats an earlier row with another label"
            findings.append(finding("conflicting_labels", name, message, conflicts))
    for (one, other), pairs in duplicates.across.items():
        twins = twin_places(pairs, places[one], places[other])
        findings.append(finding("in_two_splits", one, f"the text also stands in {other}", twins))
    return findings


def twin_places(pairs: Sequence[tuple[int, int]], places: Sequence[str], others: Sequence[str]) -> list[str]:
    """Name each twin and the row that it repeats."""
    return [f"{places[index]} = {others[twin]}" for index, twin in pairs]


def _token_counts(split: Dataset, columns: Columns, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Count tokens, special tokens included, of the rows whose texts are strings."""
    counts: list[int] = []
    for batch in split.with_format(None).select_columns(columns.texts).iter(batch_size=1000):
        cells = zip(*(batch[name] for name in columns.texts), strict=True)
        rows = [row for row in cells if all(isinstance(text, str) for text in row)]
        if rows:
            encoded = tokenizer(*map(list, zip(*rows, strict=True)), truncation=False, padding=False, verbose=False)
            counts += [len(ids) for ids in encoded["input_ids"]]
    return counts


def _count_pieces(tokenizer: PreTrainedTokenizerBase, words: Iterable[str]) -> dict[str, int]:
    """Count the sub-words of each word when it is tokenised as a word of its own."""
    different = list(dict.fromkeys(words))
    if not different:
        return {}
    encoded = tokenizer(different, add_special_tokens=False, truncation=False, padding=False, verbose=False)
    return {word: len(ids) for word, ids in zip(different, encoded["input_ids"], strict=True)}


def _length_summary(lengths: Sequence[int], window: int) -> dict[str, Any]:
    """Give the quantiles of lengths in tokens, and how many are longer than the window."""
    longer = sum(length > window for length in lengths)
    return {
        "lengths": quantiles(lengths),
        "longer_than_window": longer,
        "share_longer_than_window": longer / len(lengths) if lengths else 0.0,
    }


def quantiles(values: Sequence[float]) -> dict[str, float]:
    """Return the quantiles of lengths or sizes, whole or to two places; none of nothing."""
    if not len(values):
        return {}
    found = np.percentile(values, QUANTILES, method="higher").tolist()
    names = [f"{quantile}%" if quantile < 100 else "max" for quantile in QUANTILES]
    return {
        name: int(value) if value == int(value) else round(value, 2) for name, value in zip(names, found, strict=True)
    }


def _tag_findings(name: str, read: ReadTags, pieces: Mapping[str, int]) -> list[Finding]:
    """Bad rows, repaired tags, words without tokens, odd characters, rare types of train."""
    rows = read.sentences[name]
    findings = summarise(name, read.bad[name]) + summarise(name, read.repaired[name], "place(s)")
    silent = [row.place_of(word) for row in rows for word, token in enumerate(row.tokens) if not pieces[token]]
    if silent:
        message = "a word that the tokenizer turns into nothing (the model sees no part of it)"
        findings.append(finding("word_without_tokens", name, message, silent, "word(s)"))
    column = read.columns[name].tokens or read.columns[name].text or ""
    findings += odd_characters(name, column, [" ".join(row.tokens) for row in rows], [row.place for row in rows])
    for kind, count in _entity_counts(rows, read.entity_types).items():
        if name == "train" and count < RARE:
            message = f"the entity type '{kind}' is rare (fewer than {RARE} entities)"
            places = [row.place_of(i) for row in rows for i, tag in enumerate(row.tags) if tag == f"B-{kind}"]
            findings.append(finding("rare_type", name, message, places, "entities"))
    return findings


def _entity_counts(rows: Sequence[Sentence], types: Sequence[str]) -> dict[str, int]:
    counts = Counter(tag[2:] for row in rows for tag in row.tags if tag.startswith("B-"))
    return {kind: counts[kind] for kind in types}


def _overlap_findings(splits: Mapping[str, Dataset]) -> list[Finding]:
    """Repeated sentences, and whole documents of several sentences that stand in two splits."""
    keys: dict[str, list[Hashable]] = {
        name: [tuple(tokens) for tokens in column_values(split, "tokens")] for name, split in splits.items()
    }
    findings = _duplicate_findings(splits, keys, "tags")
    documents: dict[str, list[Hashable]] = {}
    places: dict[str, list[str]] = {}
    for name, split in splits.items():
        groups = [rows for rows in by_document(split) if len(rows) > 1]
        documents[name] = [tuple(keys[name][row] for row in rows) for rows in groups]
        origins = column_values(split, ORIGIN)
        places[name] = [origins[rows[0]] for rows in groups]
    for (one, other), pairs in find_duplicates(documents).across.items():
        message, twins = f"the whole document also stands in {other}", twin_places(pairs, places[one], places[other])
        findings.append(finding("document_in_two_splits", one, message, twins, "document(s)"))
    return findings
