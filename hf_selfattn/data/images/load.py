"""Open images from folders, tables, the hub or Python as one `DatasetDict` whose rows know their origin."""

from __future__ import annotations

import os
from collections.abc import Mapping

import datasets
from datasets import Dataset, DatasetDict

from ..load import DataFiles
from ..media.load import load_media
from ..media.medium import Medium
from .open import image_endings, is_image

IMAGE_NAMES = (
    "image img image_path img_path image_file image_name file_name filename filepath file_path path file picture "
    "photo jpg jpeg png"
).split()
UNREAD_ENDINGS = frozenset(".heic .heif .jxl .svg .psd .tga .eps .dng .cr2 .nef .arw .raw".split())
IMAGES = Medium("image", datasets.Image, tuple(IMAGE_NAMES), image_endings, is_image, UNREAD_ENDINGS)


def load_images(
    *,
    train: DataFiles | None = None,
    validation: DataFiles | None = None,
    test: DataFiles | None = None,
    dataset: str | os.PathLike[str] | Dataset | DatasetDict | None = None,
    dataset_config: str | None = None,
    revision: str | None = None,
    extra: Mapping[str, DataFiles] | None = None,
    image_column: str | None = None,
    image_folder: str | os.PathLike[str] | None = None,
) -> DatasetDict:
    """Open the splits of a data set of images; no image is decoded, and every row carries its place.

    Args:
        train, validation, test: a folder of images (its folders are the labels), image files, or a table with a
            column of paths or of bytes: a path, a glob or a list of them.
        dataset: a folder that holds the folders train, validation and test, or those of the labels (it is train
            then), or whatever `load_splits` opens.
        image_column: column of the images, found by its name or its cells where it is not given.
        image_folder: what the paths in a table are relative to: the folder of the table where it is not given.

    Raises:
        ValueError: no data given, a split given twice, no images, or a source that cannot be read.
    """
    return load_media(
        IMAGES,
        files={"train": train, "validation": validation, "test": test},
        dataset=dataset,
        column=image_column,
        folder=image_folder,
        extra=extra,
        dataset_config=dataset_config,
        revision=revision,
    )
