"""A report on raw or prepared data, made without training and without stopping at the first mistake."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
from datasets import Dataset
from transformers import PreTrainedTokenizerBase

from .classification import ClassificationData, find_columns, found_columns
from .labels import LabelScheme, Target, degenerate, label_twins, read_scheme
from .reading import ORIGIN
from .rows import PLACES, Columns, Finding, column_values, inspect_rows, summarise
from .sources import with_origin
from .splits import find_conflicts, find_duplicates, text_keys

QUANTILES = (5, 25, 50, 75, 95, 99, 100)
RARE = 10  # rows
ODD_CHARACTERS: dict[str, tuple[str, Callable[[str], Any]]] = {
    "replacement_character": ("U+FFFD, left by a wrong decoding", re.compile("\ufffd").search),
    "control_character": (
        "control characters",
        re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\x80-\x84\x86-\x9f]").search,
    ),
    "mojibake": ("UTF-8 read as Latin-1, such as 'Ã©' for 'é'", re.compile("[ÃÂ][\u0080-\u00bf]|â€").search),
}


def check_classification(
    data: ClassificationData | Mapping[str, Dataset],
    tokenizer: PreTrainedTokenizerBase,
    window: int,
    *,
    text_column: str | None = None,
    text_pair_column: str | None = None,
    label_column: str | None = None,
    problem: str | None = None,
    label_names: Sequence[str] | None = None,
) -> dict[str, Any]:
    """Look at all rows and report what is there and every kind of mistake.

    Args:
        data: raw splits (read with the options below, as in `prepare`), or prepared data.
        tokenizer: counts the tokens; nothing is truncated.

    Returns:
        A dict of plain values for JSON: columns, problem, label_names, window, per split the rows, classes and
        lengths in tokens, the findings (kind, split, message, count, places) and notes.

    Raises:
        ValueError: the columns are missing or ambiguous, or the options contradict the data.
    """
    if isinstance(data, ClassificationData):
        text_column, label_column, problem, label_names = "text", "label", data.problem, data.label_names
        text_pair_column = "text_pair" if "text_pair" in next(iter(data.splits.values())).column_names else None
    raw = data.splits if isinstance(data, ClassificationData) else data
    splits = {name: with_origin(split, name) for name, split in raw.items()}
    filled = {name: split for name, split in splits.items() if len(split)}
    if not filled:
        raise ValueError(f"the data has no rows: the splits are {list(splits)}.")
    columns, notes = find_columns(
        filled, text_column=text_column, text_pair_column=text_pair_column, label_column=label_column
    )
    scheme = read_scheme(filled, columns.label, problem, label_names)
    findings = [Finding("empty_split", name, "the split has no rows", 0, []) for name in splits if name not in filled]
    report: dict[str, Any] = {}
    for name, split in filled.items():
        targets, bad = inspect_rows(split, columns, scheme)
        usable = [target for target in targets if target is not None]
        findings += summarise(name, bad)
        for column in columns.texts:
            findings += odd_characters(name, column, column_values(split, column), column_values(split, ORIGIN))
        if name == "train":
            findings += _label_findings(split, columns, scheme, targets)
        report[name] = {
            "rows": len(split),
            "classes": _class_counts(scheme, usable),
            **_lengths(split, columns, tokenizer, window),
        }
    keys = {name: text_keys(split, columns.texts) for name, split in filled.items()}
    findings += duplicate_findings(filled, keys, columns.label)
    return {
        "columns": asdict(columns),
        "columns_found": found_columns(next(iter(filled.values()))),
        "problem": scheme.problem,
        "label_names": scheme.names,
        "window": window,
        "splits": report,
        "findings": [asdict(finding) for finding in findings],
        "notes": notes + scheme.notes,
    }


def format_report(report: Mapping[str, Any]) -> str:
    """Write a report of `check_classification` or `check_tagging` as plain text for the terminal."""
    lines = ["Data check", *(f"  {note}" for note in report["notes"])]
    for name, split in report["splits"].items():
        lengths = ", ".join(f"{quantile} {value}" for quantile, value in split["lengths"].items())
        sizes = [f"{split[unit]} {unit}" for unit in ("rows", "documents", "words") if unit in split]
        counted = "entities" if "entities" in split else "classes"
        lines += [
            "",
            f"{name}: {', '.join(sizes)}",
            f"  {'labels' if counted == 'classes' else counted}: "
            + ", ".join(f"{label} {count}" for label, count in split[counted].items()),
            f"  tokens: {lengths}",
            f"  longer than the backbone's window of {report['window']} tokens: {split['longer_than_window']} rows "
            + f"({split['share_longer_than_window']:.1%}). Nothing is cut: long rows are read in several windows.",
        ]
    findings = [Finding(**finding) for finding in report["findings"]]
    lines += ["", f"Findings ({len(findings)})" if findings else "No findings: the data looks clean."]
    return "\n".join(lines + [f"  [{finding.kind}] {finding}" for finding in findings])


def _class_counts(scheme: LabelScheme, targets: list[Target]) -> dict[str, float]:
    if scheme.problem == "regression":
        values = np.asarray(targets, dtype=np.float64)
        if not len(values):
            return {}
        return {"min": float(values.min()), "mean": float(values.mean()), "max": float(values.max())}
    counts: Counter[int] = Counter()
    for target in targets:
        counts.update([i for i, on in enumerate(target) if on] if isinstance(target, list) else [int(target)])
    return {name: counts[index] for index, name in enumerate(scheme.names)}


def _label_findings(
    split: Dataset, columns: Columns, scheme: LabelScheme, targets: list[Target | None]
) -> list[Finding]:
    """Rare classes, twins among the names, one class only."""
    usable = [target for target in targets if target is not None]
    findings = []
    reason = degenerate(scheme, usable)
    if reason:
        findings.append(Finding("one_class", "train", f"column '{columns.label}': {reason}", len(split), []))
    if scheme.problem == "regression":
        return findings
    places = column_values(split, ORIGIN)
    examples: dict[str, list[str]] = {name: [] for name in scheme.names}
    for place, target in zip(places, targets, strict=True):
        if target is None:
            continue
        on = [i for i, value in enumerate(target) if value] if isinstance(target, list) else [int(target)]
        for index in on:
            examples[scheme.names[index]].append(place)
    for name, rows in examples.items():
        if len(rows) < RARE:
            message = f"column '{columns.label}': the label '{name}' is rare (fewer than {RARE} rows)"
            findings.append(Finding("rare_class", "train", message, len(rows), rows[:PLACES]))
    for group in label_twins(scheme.names):
        rows = [place for name in group[1:] for place in examples[name]]
        message = f"column '{columns.label}': the labels {group} look like one label"
        findings.append(Finding("label_twins", "train", message, len(rows), rows[:PLACES]))
    return findings


def odd_characters(name: str, column: str, texts: Sequence[Any], places: Sequence[str]) -> list[Finding]:
    """Find texts with characters of a wrong decoding or invisible ones."""
    findings = []
    for kind, (message, search) in ODD_CHARACTERS.items():
        rows = [place for place, text in zip(places, texts, strict=True) if isinstance(text, str) and search(text)]
        if rows:
            findings.append(Finding(kind, name, f"column '{column}': {message}", len(rows), rows[:PLACES]))
    return findings


def duplicate_findings(
    splits: Mapping[str, Dataset], keys: Mapping[str, Sequence[Hashable]], label: str
) -> list[Finding]:
    """Find rows that repeat another row of the same or of another split."""
    places = {name: column_values(split, ORIGIN) for name, split in splits.items()}
    duplicates = find_duplicates(keys)
    findings = []
    for name, pairs in duplicates.inside.items():
        if pairs:
            shown = [f"{places[name][index]} = {places[name][twin]}" for index, twin in pairs[:PLACES]]
            findings.append(Finding("duplicate", name, "the text repeats an earlier row", len(pairs), shown))
        if conflicts := find_conflicts(splits[name], pairs, label):
            message = f"column '{label}': the text repeats an earlier row with another label"
            findings.append(Finding("conflicting_labels", name, message, len(conflicts), conflicts[:PLACES]))
    for (one, other), pairs in duplicates.across.items():
        shown = [f"{places[one][index]} = {places[other][twin]}" for index, twin in pairs[:PLACES]]
        findings.append(Finding("in_two_splits", one, f"the text also stands in {other}", len(pairs), shown))
    return findings


def _lengths(split: Dataset, columns: Columns, tokenizer: PreTrainedTokenizerBase, window: int) -> dict[str, Any]:
    """Count tokens, special tokens included, of the rows whose texts are strings."""
    lengths: list[int] = []
    for batch in split.with_format(None).select_columns(columns.texts).iter(batch_size=1000):
        cells = zip(*(batch[name] for name in columns.texts), strict=True)
        rows = [row for row in cells if all(isinstance(text, str) for text in row)]
        if rows:
            encoded = tokenizer(*map(list, zip(*rows, strict=True)), truncation=False, padding=False, verbose=False)
            lengths += [len(ids) for ids in encoded["input_ids"]]
    return length_summary(lengths, window)


def length_summary(lengths: Sequence[int], window: int) -> dict[str, Any]:
    """Give the quantiles of lengths in tokens, and how many are longer than the window."""
    longer = sum(length > window for length in lengths)
    values: Sequence[float] = np.percentile(lengths, QUANTILES, method="higher").tolist() if lengths else []
    names = [f"{quantile}%" if quantile < 100 else "max" for quantile in QUANTILES]
    return {
        "lengths": {name: int(value) for name, value in zip(names, values, strict=bool(lengths))},
        "longer_than_window": longer,
        "share_longer_than_window": longer / len(lengths) if lengths else 0.0,
    }
