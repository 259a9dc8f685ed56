"""Rows of images to checked classification data: every image opened once, labels encoded, every bad row named."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from datasets import Dataset

from ..media.read import Inspect, LabelOptions, MediaData, RawMedia, raw_media, read_media
from .inspect import inspect_images
from .load import IMAGES

if TYPE_CHECKING:
    from typing_extensions import Unpack


class ImageData(MediaData):
    """Checked data of one classification of images, in the column ``image``: `open_image` reads it."""


def read_images(
    splits: Mapping[str, Dataset],
    *,
    image_column: str | None = None,
    verify_images: bool = True,
    **options: Unpack[LabelOptions],
) -> ImageData:
    """Check raw splits and bring them into one form.

    Args:
        image_column: a column of paths, of bytes, or of the type `Image`; found where it is not given.
        verify_images: whether every image is decoded once; if not, a bad one is met when it is needed.
        options: as of `prepare_classification`.

    Raises:
        ValueError: missing or ambiguous column, empty split, one class only, or bad rows (with file and row).
    """
    inspect: Inspect | None = (lambda split, column: (inspect_images(split, column)[1], {})) if verify_images else None
    return read_media(IMAGES, ImageData, splits, inspect=inspect, file_column=image_column, **options)


def raw_images(splits: Mapping[str, Dataset], *, image_column: str | None = None, **options: Any) -> RawMedia:
    """Find the columns of images and of labels, and what the labels are."""
    return raw_media(IMAGES, splits, file_column=image_column, **options)
