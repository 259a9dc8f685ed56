"""Rows of images to checked classification data: every image opened once, labels encoded, every bad row named."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from datasets import Dataset, DatasetDict, Features
from datasets import Image as ImageFeature

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
from ..labels import LabelScheme, LabelTarget
from ..load import with_origins
from .inspect import inspect_images
from .load import find_image_column, undecoded


@dataclass
class ImageData(ClassificationData):
    """Checked data of one classification of images, in the form of `ClassificationData`.

    Args:
        splits: columns ``image`` (``{"bytes": …, "path": …}``, not decoded: `open_image` reads it), ``label``,
            ``__origin__`` and the kept ones; a label is an int (single-label, ordinal), C floats of 0 and 1
            (multi-label) or a float (regression).
        dropped: each bad row that was left out.
    """

    dropped: list[BadRow] = field(default_factory=list)


@dataclass(frozen=True)
class RawImages:
    """The raw rows of a classification of images.

    Args:
        splits: those that have labels.
        labels: the same rows without their images.
        image_columns: of each split.
    """

    splits: dict[str, Dataset]
    labels: dict[str, Dataset]
    image_columns: dict[str, str]
    columns: Columns
    scheme: LabelScheme
    notes: list[str]


def read_images(
    splits: Mapping[str, Dataset],
    *,
    image_column: str | None = None,
    label_column: str | Sequence[str] | None = None,
    problem: str | None = None,
    label_names: Sequence[str] | None = None,
    label_separator: str | None = None,
    on_bad_row: str = "error",
    keep_columns: Sequence[str] = (),
    verify_images: bool = True,
) -> ImageData:
    """Check raw splits and bring them into one form.

    Args:
        image_column: a column of paths, of bytes, or of the type `Image`; found where it is not given.
        label_column: a column, or a list of columns of 0 and 1, one per label.
        problem: overrides the problem that the label column suggests; "ordinal" exists on request only.
        label_names: overrides the names and their order; integer labels may be positions in it.
        label_separator: stands between the labels of a cell; found where it is not given.
        on_bad_row: "error" names all bad rows, "drop" leaves them out and counts them in the notes.
        verify_images: whether every image is decoded once; if not, a bad one is met when it is needed.

    Raises:
        ValueError: missing or ambiguous column, empty split, one class only, or bad rows (with file and row).
    """
    if on_bad_row not in ("error", "drop"):
        raise ValueError(f"on_bad_row='{on_bad_row}' is unknown; it is 'error' or 'drop'.")
    raw = raw_images(
        splits,
        image_column=image_column,
        label_column=label_column,
        problem=problem,
        label_names=label_names,
        label_separator=label_separator,
    )
    targets, bad = {}, {}
    for name, split in raw.splits.items():
        targets[name], bad[name] = inspect_labels(raw.labels[name], raw.columns.label, raw.scheme)
        if verify_images:
            bad[name] = inspect_images(split, raw.image_columns[name])[1] + bad[name]
    notes = [*raw.notes, *bad_row_notes(bad, raw.scheme, on_bad_row), *label_notes(raw.scheme)]
    prepared = DatasetDict()
    for name in raw.splits:
        prepared[name] = _built_images(raw, name, targets[name], bad[name], keep_columns)
    check_labels_differ(raw.labels, prepared, raw.columns, raw.scheme)
    dropped = [row for rows in bad.values() for row in rows]
    return ImageData(prepared, raw.scheme.problem, raw.scheme.names, notes, dropped=dropped)


def raw_images(
    splits: Mapping[str, Dataset],
    *,
    image_column: str | None = None,
    label_column: str | Sequence[str] | None = None,
    **options: Any,
) -> RawImages:
    """Find the columns of images and of labels, and what the labels are."""
    splits = {name: undecoded(split) for name, split in with_origins(splits).items()}
    images = {name: find_image_column(split, image_column) for name, split in splits.items()}
    bare = {name: split.remove_columns(images[name]) for name, split in splits.items()}
    labelled, columns, scheme, notes = read_classification(
        bare, label_column=label_column, find=find_label_column, **options
    )
    said = f"Columns: image '{next(iter(images.values()))}', label '{columns.label}'."
    return RawImages({name: splits[name] for name in labelled}, labelled, images, columns, scheme, [said, *notes])


def image_cells(split: Dataset, column: str) -> Dataset:
    """Return a split with the images of a column as the dictionaries of `datasets`, in the column ``image``."""
    feature = split.features[column]
    if not isinstance(feature, ImageFeature):
        kind = getattr(feature, "dtype", "")
        if kind not in ("string", "large_string", "binary", "large_binary") and not _is_pair(feature):
            raise ValueError(f"column '{column}' holds no images: its type is {feature}. Set image_column=….")
        split = split.cast_column(column, ImageFeature(decode=False))
    return split if column == "image" else split.rename_column(column, "image")


def _is_pair(feature: Any) -> bool:
    return isinstance(feature, (dict, Features)) and set(feature) == {"bytes", "path"}


def _built_images(
    raw: RawImages, name: str, targets: list[LabelTarget | None], bad: list[BadRow], keep: Sequence[str]
) -> Dataset:
    """Select, rename and encode the columns of the right rows of one split."""
    split, column = raw.splits[name], raw.image_columns[name]
    check_kept(split, keep, ("image", "label", column, raw.columns.label))
    chosen = image_cells(split.with_format(None).select_columns([column, *keep, ORIGIN]), column)
    chosen = chosen.add_column("label", targets, feature=label_feature(raw.scheme))
    wrong = {row.index for row in bad}
    if len(wrong) == len(chosen):
        raise ValueError(f"{name}: all {len(chosen)} rows are bad. {'; '.join(map(str, summarise(name, bad)[:5]))}")
    return chosen.select([index for index in range(len(chosen)) if index not in wrong]) if wrong else chosen
