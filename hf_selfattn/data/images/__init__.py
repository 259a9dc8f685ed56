"""Images, with labels or boxes: files of any kind to checked, normalised data."""

from __future__ import annotations

from .boxes import BoxData, read_boxes
from .check import check_boxes, check_images
from .duplicates import deduplicate_images
from .load import load_images
from .load_boxes import load_boxes
from .open import open_image
from .read import ImageData, read_images

__all__ = [
    "BoxData",
    "ImageData",
    "check_boxes",
    "check_images",
    "deduplicate_images",
    "load_boxes",
    "load_images",
    "open_image",
    "read_boxes",
    "read_images",
]
