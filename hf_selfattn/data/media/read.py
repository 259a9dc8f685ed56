"""Rows of images or sounds to checked classification data: files looked at, labels encoded, every bad row named."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypedDict, TypeVar

from datasets import Dataset, DatasetDict

from ..classification import (
    ClassificationData,
    bad_row_notes,
    check_kept,
    check_labels_differ,
    inspect_labels,
    label_feature,
    label_notes,
    read_classification,
)
from ..columns import Columns, find_label_column
from ..findings import BadRow, summarise
from ..formats import ORIGIN
from ..labels import LabelScheme
from ..load import with_origins
from .medium import Medium


@dataclass
class MediaData(ClassificationData):
    """Checked data of one classification of files, in the form of `ClassificationData`.

    Args:
        splits: the column of the files (``{"bytes": …, "path": …}``, not decoded), ``label``, ``__origin__`` and the
            kept ones; a label is an int (single-label, ordinal), C floats of 0 and 1 (multi-label) or a float
            (regression).
        dropped: each bad row that was left out.
    """

    dropped: list[BadRow] = field(default_factory=list)


class LabelOptions(TypedDict, total=False):
    """What labels are and where, and what becomes of bad rows, as `prepare_classification` takes it."""

    label_column: str | Sequence[str] | None
    problem: str | None
    label_names: Sequence[str] | None
    label_separator: str | None
    on_bad_row: str
    keep_columns: Sequence[str]


Data = TypeVar("Data", bound=MediaData)
Inspect = Callable[[Dataset, str], tuple[list[BadRow], dict[str, list[Any]]]]


@dataclass(frozen=True)
class RawMedia:
    """The raw rows of a classification of files.

    Args:
        splits: those that have labels.
        labels: the same rows without their files.
        file_columns: of each split.
    """

    splits: dict[str, Dataset]
    labels: dict[str, Dataset]
    file_columns: dict[str, str]
    columns: Columns
    scheme: LabelScheme
    notes: list[str]


def read_media(
    medium: Medium,
    kind: type[Data],
    splits: Mapping[str, Dataset],
    *,
    inspect: Inspect | None,
    on_bad_row: str = "error",
    keep_columns: Sequence[str] = (),
    **options: Any,
) -> Data:
    """Check raw splits and bring them into one form, as `read_images` and `read_sounds` describe.

    Args:
        kind: class of the data returned.
        inspect: looks at the files of a split, in this column; returns the rows that are bad, and columns to add.
        options: of `raw_media`.
    """
    check_on_bad_row(on_bad_row)
    raw = raw_media(medium, splits, **options)
    targets, bad, added = {}, {}, {}
    for name, split in raw.splits.items():
        targets[name], bad[name] = inspect_labels(raw.labels[name], raw.columns.label, raw.scheme)
        broken, added[name] = inspect(split, raw.file_columns[name]) if inspect else ([], {})
        bad[name] = broken + bad[name]
    notes = [*raw.notes, *bad_row_notes(bad, raw.scheme, on_bad_row), *label_notes(raw.scheme)]
    prepared = DatasetDict()
    for name, split in raw.splits.items():
        column = raw.file_columns[name]
        check_kept(split, keep_columns, (medium.name, "label", column, raw.columns.label, *added[name]))
        chosen = file_rows(medium, split, column, keep_columns)
        for other, values in added[name].items():
            chosen = chosen.add_column(other, values)
        chosen = chosen.add_column("label", targets[name], feature=label_feature(raw.scheme))
        prepared[name] = without_rows(name, chosen, bad[name])
    check_labels_differ(raw.labels, prepared, raw.columns, raw.scheme)
    dropped = [row for rows in bad.values() for row in rows]
    return kind(prepared, raw.scheme.problem, raw.scheme.names, notes, dropped=dropped)


def raw_media(
    medium: Medium,
    splits: Mapping[str, Dataset],
    *,
    file_column: str | None = None,
    label_column: str | Sequence[str] | None = None,
    **options: Any,
) -> RawMedia:
    """Find the columns of files and of labels, and what the labels are."""
    splits = {name: medium.undecoded(split) for name, split in with_origins(splits).items()}
    files = {name: medium.find_column(split, file_column) for name, split in splits.items()}
    bare = {name: split.remove_columns(files[name]) for name, split in splits.items()}
    labelled, columns, scheme, notes = read_classification(
        bare, label_column=label_column, find=find_label_column, **options
    )
    said = f"Columns: {medium.name} '{next(iter(files.values()))}', label '{columns.label}'."
    return RawMedia({name: splits[name] for name in labelled}, labelled, files, columns, scheme, [said, *notes])


def file_rows(medium: Medium, split: Dataset, column: str, keep: Sequence[str]) -> Dataset:
    """Select the column of files, which gets the name of the medium, those to be kept, and the origin."""
    return medium.cells(split.with_format(None).select_columns([column, *keep, ORIGIN]), column)


def without_rows(name: str, split: Dataset, bad: Sequence[BadRow]) -> Dataset:
    """Leave the bad rows out of a split, which must keep one."""
    wrong = {row.index for row in bad}
    if len(wrong) == len(split):
        raise ValueError(f"{name}: all {len(split)} rows are bad. {'; '.join(map(str, summarise(name, bad)[:5]))}")
    return split.select([index for index in range(len(split)) if index not in wrong]) if wrong else split


def check_on_bad_row(on_bad_row: str) -> None:
    """Refuse what is no answer to a bad row."""
    if on_bad_row not in ("error", "drop"):
        raise ValueError(f"on_bad_row='{on_bad_row}' is unknown; it is 'error' or 'drop'.")
