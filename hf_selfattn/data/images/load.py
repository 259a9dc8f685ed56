"""Open images from folders, tables, the hub or Python as one `DatasetDict` whose rows know their origin."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import datasets
from datasets import DatasetDict

from ..load import Sources
from ..media.load import load_media
from ..media.medium import Medium
from .open import image_endings, is_image

if TYPE_CHECKING:
    from typing_extensions import Unpack

IMAGE_NAMES = (
    "image img image_path img_path image_file image_name file_name filename filepath file_path path file picture "
    "photo jpg jpeg png"
).split()
UNREAD_ENDINGS = frozenset(".heic .heif .jxl .svg .psd .tga .eps .dng .cr2 .nef .arw .raw".split())
IMAGES = Medium("image", datasets.Image, tuple(IMAGE_NAMES), image_endings, is_image, UNREAD_ENDINGS)


def load_images(
    *,
    image_column: str | None = None,
    image_folder: str | os.PathLike[str] | None = None,
    **sources: Unpack[Sources],
) -> DatasetDict:
    """Open the splits of a data set of images; no image is decoded, and every row carries its place.

    Args:
        image_column: column of the images, found by its name or its cells where it is not given.
        image_folder: what the paths in a table are relative to: the folder of the table where it is not given.
        sources: train, validation, test: a folder of images (its folders are the labels), image files, or a table
            with a column of paths or of bytes: a path, a glob or a list of them. dataset: a folder that holds the
            folders train, validation and test, or those of the labels (it is train then), or whatever `load_splits`
            opens.

    Raises:
        ValueError: no data given, a split given twice, no images, or a source that cannot be read.
    """
    return load_media(IMAGES, sources, image_column, image_folder)
