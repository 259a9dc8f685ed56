"""Rows to checked classification data: columns found, labels encoded, every bad row named."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from datasets import ClassLabel, Dataset, DatasetDict, List, Value

from .columns import LABEL_NAMES, Columns, column_values, find_columns, found_columns
from .findings import BadRow, Finding, bad_rows_message, finding, summarise, text_mistake
from .formats import ORIGIN
from .labels import (
    LEARNED,
    LabelError,
    LabelScheme,
    LabelTarget,
    degenerate,
    encode_label,
    is_missing,
    is_no_answer,
    label_twins,
    named_values,
    read_bit,
    read_scheme,
)
from .load import reading_notes, with_origins
from .streams import Stream

LABEL_MENDS = {
    "label_unknown": "A label that train does not have cannot be scored: add training rows, mend it, or list it in "
    "label_names.",
    "label_not_number": "For classes set problem='single_label_classification'.",
    "label_type": "Lists of labels need problem='multi_label_classification'.",
}

FindColumns = Callable[..., tuple[Columns, list[str]]]


@dataclass
class ClassificationData:
    """Checked data of one classification problem.

    Args:
        splits: columns ``text``, perhaps ``text_pair``, ``label``, ``__origin__`` and the kept ones; a label is an int
            (single-label, ordinal), C floats of 0 and 1 (multi-label) or a float (regression).
        problem: one of `labels.LABEL_PROBLEMS`.
        label_names: the C names in the order of the targets; for regression the name of the one value.
        notes: sentences for the user: what was detected, dropped or looks odd.
        stream: the rows of train, where they are streamed; then they are no split.
    """

    splits: DatasetDict
    problem: str
    label_names: list[str]
    notes: list[str] = field(default_factory=list)
    stream: Stream | None = None


Prepared = TypeVar("Prepared", bound=ClassificationData)


def prepare_classification(
    splits: Mapping[str, Dataset],
    *,
    text_column: str | None = None,
    text_pair_column: str | None = None,
    label_column: str | Sequence[str] | None = None,
    problem: str | None = None,
    label_names: Sequence[str] | None = None,
    label_separator: str | None = None,
    on_bad_row: str = "error",
    keep_columns: Sequence[str] = (),
) -> ClassificationData:
    """Check raw splits and bring them into one form; no text is cut.

    Args:
        label_column: a column, or a list of columns of 0 and 1, one per label.
        problem: overrides the problem that the label column suggests; "ordinal" exists on request only.
        label_names: overrides the names and their order; integer labels may be positions in it.
        label_separator: stands between the labels of a cell; found where it is not given.
        on_bad_row: "error" names all bad rows, "drop" leaves them out and counts them in the notes.

    Raises:
        ValueError: missing or ambiguous column, empty split, one class only, or bad rows (with file and row).
    """
    if on_bad_row not in ("error", "drop"):
        raise ValueError(f"on_bad_row='{on_bad_row}' is unknown; it is 'error' or 'drop'.")
    splits, columns, scheme, notes = read_classification(
        with_origins(splits),
        problem=problem,
        label_names=label_names,
        label_separator=label_separator,
        label_column=label_column,
        text_column=text_column,
        text_pair_column=text_pair_column,
    )
    inspected = {name: inspect_rows(split, columns, scheme) for name, split in splits.items()}
    notes += bad_row_notes({name: bad for name, (_, bad) in inspected.items()}, scheme, on_bad_row)
    notes += label_notes(scheme)
    notes += [f"Look at {found}." for name, split in splits.items() for found in joined_lines(name, split, columns)]
    prepared = DatasetDict()
    for name, (targets, bad) in inspected.items():
        prepared[name] = _build(splits[name], columns, scheme, targets, bad, list(keep_columns))
        if len(prepared[name]) == 0:
            found = summarise(name, bad)
            raise ValueError(f"{name}: all {len(splits[name])} rows are bad. {'; '.join(map(str, found[:5]))}")
    check_labels_differ(splits, prepared, columns, scheme)
    return ClassificationData(prepared, scheme.problem, scheme.names, notes)


def bad_row_notes(bad: Mapping[str, Sequence[BadRow]], scheme: LabelScheme, on_bad_row: str) -> list[str]:
    """Return the notes on the bad rows of each split, which are dropped, or raise the error that lists them."""
    findings = [found for name, rows in bad.items() for found in summarise(name, rows)]
    if findings and on_bad_row == "error":
        unknown = any(found.kind == "label_unknown" for found in findings)
        known = f"\nKnown labels: {scheme.names[:20]}." if unknown else ""
        raise ValueError(bad_rows_message(findings, LABEL_MENDS, bad) + known)
    return [f"Dropped {found}." for found in findings]


def check_labels_differ(
    splits: Mapping[str, Dataset], prepared: Mapping[str, Dataset], columns: Columns, scheme: LabelScheme
) -> None:
    """Refuse a train split with one label only."""
    reason = degenerate(scheme, prepared["train"]["label"]) if "train" in prepared else ""
    if reason:
        place = splits["train"][0][ORIGIN]
        raise ValueError(
            f"train (from {place}): column '{columns.label}': {reason}. Training needs at least two different labels; "
            f"is label_column the right one of {found_columns(splits['train'])}?"
        )


def read_classification(
    splits: Mapping[str, Dataset],
    *,
    problem: str | None = None,
    label_names: Sequence[str] | None = None,
    label_separator: str | None = None,
    label_column: str | Sequence[str] | None = None,
    find: FindColumns = find_columns,
    **columns_given: str | None,
) -> tuple[dict[str, Dataset], Columns, LabelScheme, list[str]]:
    """Find columns and labels; return the splits that have labels, both, and notes on all.

    Args:
        find: finds the columns, of rows that hold no text by another way.
    """
    said = reading_notes(splits)
    if label_column is None and (label_column := find_indicators(splits)):
        said.append(f"Labels: one column of 0 and 1 each: {', '.join(label_column)} (label_column=… to change).")
    if label_column is not None and not isinstance(label_column, str):
        if problem not in (None, "multi_label_classification"):
            raise ValueError(f"label_column={list(label_column)}: columns of 0 and 1 are no {problem}.")
        problem, label_names = "multi_label_classification", label_names or list(label_column)
        splits, label_column = join_label_columns(splits, label_column, label_names)
    columns, notes = find(splits, label_column=label_column, **columns_given)
    answered = {name: split for name, split in splits.items() if not _is_unlabelled(name, splits, columns.label)}
    scheme = read_scheme(answered, columns.label, problem, label_names, label_separator)
    silent = [
        f"{name}: no row has a label (all are -1 or empty), so it is not scored."
        for name in splits
        if name not in answered
    ]
    headless = [f"Warning: {missing}."] if (missing := missing_header(columns, scheme)) else []
    return answered, columns, scheme, [*said, *notes, *scheme.notes, *headless, *silent]


def missing_header(columns: Columns, scheme: LabelScheme) -> str:
    """Say that the names of the columns seem to be a row, a text and one of its labels; else ""."""
    if columns.label not in scheme.names or len(columns.text.split()) < 3:
        return ""
    return f"the columns are called '{columns.text}' and '{columns.label}', as a row is: name them in the first line"


def find_indicators(splits: Mapping[str, Dataset]) -> list[str] | None:
    """List the columns of 0 and 1 of the first split, two at least, where no column has the name of a label."""
    first = next(iter(splits.values()), None)
    names = found_columns(first) if first is not None else []
    if first is None or any(name.lower() in ("label", "labels", *LABEL_NAMES) for name in names):
        return None
    found = [name for name in names if all(read_bit(value) is not None for value in named_values(first, name))]
    return found if len(found) > 1 else None


def join_label_columns(
    splits: Mapping[str, Dataset], columns: Sequence[str], names: Sequence[str]
) -> tuple[dict[str, Dataset], str]:
    """Make one column, of lists of labels, of several that hold 0 and 1; what is neither becomes an unknown label."""
    if len(names) != len(columns) or not columns:
        raise ValueError(f"label_names={list(names)} must name the columns label_column={list(columns)}.")
    joined, result = ", ".join(columns), dict(splits)
    for place, split in splits.items():
        if missing := [name for name in columns if name not in split.column_names]:
            raise ValueError(f"{place}: there is no column {missing}; the columns found are {found_columns(split)}.")
        cells = zip(*(named_values(split, name) for name in columns), strict=True)
        labels = [
            [
                name if bit else f"{name}={cell}"
                for name, cell in zip(names, row, strict=True)
                if (bit := read_bit(cell)) != 0
            ]
            for row in cells
        ]
        rest = split.remove_columns(list(columns))
        result[place] = rest.add_column(joined, labels, feature=List(Value("string")))
    return result, joined


def _is_unlabelled(name: str, splits: Mapping[str, Dataset], column: str) -> bool:
    """Tell whether a test split has no answers, or -1 in their place, which no label of the first split is."""
    if name in LEARNED or len(splits) == 1:
        return False
    first = next(iter(splits.values()))
    return all(map(is_no_answer, named_values(splits[name], column))) and not any(
        is_no_answer(value) and not is_missing(value) for value in named_values(first, column)
    )


def joined_lines(name: str, split: Dataset, columns: Columns) -> list[Finding]:
    """Find texts of several lines in a CSV file: a stray double quote joins rows so."""
    places = [place if re.search(r"\.csv(\.\w+)?:\d+$", place) else "" for place in column_values(split, ORIGIN)]
    found = []
    for column in columns.texts if any(places) else []:
        cells = zip(places, column_values(split, column), strict=True)
        lines = [place for place, text in cells if place and isinstance(text, str) and "\n" in text.strip()]
        message = f"column '{column}': the text has several lines; a double quote too many joins rows so"
        found += [finding("several_lines", name, message, lines)] if lines else []
    return found


def inspect_rows(
    split: Dataset, columns: Columns, scheme: LabelScheme
) -> tuple[list[LabelTarget | None], list[BadRow]]:
    """Encode the label of each row (None where it is bad), and list every mistake rather than stop at the first."""
    places = column_values(split, ORIGIN)
    bad: list[BadRow] = []
    for column in columns.texts:
        for index, text in enumerate(column_values(split, column)):
            kind, message = text_mistake(text)
            if kind:
                bad.append(BadRow(index, places[index], kind, f"column '{column}': {message}"))
    targets, unlabelled = inspect_labels(split, columns.label, scheme)
    return targets, bad + unlabelled


def inspect_labels(split: Dataset, column: str, scheme: LabelScheme) -> tuple[list[LabelTarget | None], list[BadRow]]:
    """Encode the label of each row (None where it is bad), and list the bad ones."""
    places = column_values(split, ORIGIN)
    bad: list[BadRow] = []
    targets: list[LabelTarget | None] = []
    for index, value in enumerate(named_values(split, column)):
        try:
            targets.append(encode_label(scheme, value))
        except LabelError as error:
            targets.append(None)
            bad.append(BadRow(index, places[index], error.kind, f"column '{column}': {error}"))
    return targets, bad


def label_notes(scheme: LabelScheme) -> list[str]:
    """Name the labels, and those that look like one."""
    if scheme.problem == "regression":
        return []
    shown = ", ".join(scheme.names[:20]) + (", …" if len(scheme.names) > 20 else "")
    twins = [
        f"Warning: the labels {group} look like one label; they stay apart." for group in label_twins(scheme.names)
    ]
    return [f"Labels ({len(scheme.names)}): {shown}.", *twins]


def _build(
    split: Dataset,
    columns: Columns,
    scheme: LabelScheme,
    targets: list[LabelTarget | None],
    bad: list[BadRow],
    keep: list[str],
) -> Dataset:
    """Select, rename and encode; the texts stay where they are memory-mapped."""
    check_kept(split, keep, ("text", "text_pair", "label", *columns.texts, columns.label))
    texts = dict(zip(columns.texts, ("text", "text_pair"), strict=False))
    result = split.with_format(None).select_columns([*texts, *keep, ORIGIN])
    for name in texts:
        if getattr(result.features[name], "dtype", "") not in ("string", "large_string"):  # a mixed or empty column
            values = [value if isinstance(value, str) else None for value in column_values(result, name)]
            result = result.remove_columns(name).add_column(name, values, feature=Value("string"))
    result = result.rename_columns(texts).add_column("label", targets, feature=label_feature(scheme))
    dropped = {row.index for row in bad}
    return result.select([index for index in range(len(result)) if index not in dropped]) if dropped else result


def check_kept(split: Dataset, keep: Sequence[str], used: Sequence[str]) -> None:
    """Refuse columns to be kept that are not there, or that are used already."""
    missing = [name for name in keep if name not in split.column_names]
    taken = [name for name in keep if name in used]
    if missing or taken:
        raise ValueError(
            f"keep_columns={list(keep)}: {missing or taken} {'are not' if missing else 'already are'} columns of the "
            f"data; the columns found are {found_columns(split)}."
        )


def label_feature(scheme: LabelScheme) -> Any:
    """Return the type of the column of the targets."""
    if scheme.problem == "regression":
        return Value("float64")
    if scheme.problem == "multi_label_classification":
        return List(Value("float32"))
    return ClassLabel(names=scheme.names)
