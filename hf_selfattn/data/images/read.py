"""Rows of images to checked classification data: every image opened once, labels encoded, every bad row named."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from datasets import Dataset

from ..media.read import MediaData, RawMedia, raw_media, read_media
from .inspect import inspect_images
from .load import IMAGES


class ImageData(MediaData):
    """Checked data of one classification of images, in the column ``image``: `open_image` reads it."""


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
    return read_media(
        IMAGES,
        ImageData,
        splits,
        on_bad_row=on_bad_row,
        keep_columns=keep_columns,
        inspect=(lambda split, column: (inspect_images(split, column)[1], {})) if verify_images else None,
        file_column=image_column,
        label_column=label_column,
        problem=problem,
        label_names=label_names,
        label_separator=label_separator,
    )


def raw_images(splits: Mapping[str, Dataset], *, image_column: str | None = None, **options: Any) -> RawMedia:
    """Find the columns of images and of labels, and what the labels are."""
    return raw_media(IMAGES, splits, file_column=image_column, **options)
