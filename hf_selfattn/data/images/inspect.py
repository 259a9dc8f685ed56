"""Every image of a split looked at once: what each file is, or what is wrong with it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from datasets import Dataset
from PIL import Image

from ..findings import BadRow
from ..media.inspect import inspect_media
from .open import ImageSource, decode_image


@dataclass(frozen=True)
class ImageFacts:
    """What one image is.

    Args:
        place: the row, and the file where that is another.
        size, stored_size: width and height in pixels, upright and as the file has them.
        format, mode: of the file, in the terms of Pillow.
        orientation: of its EXIF data, 1 to 8.
        remarks: kind and sentence of each thing that is done to it in reading.
        measured: what was asked for beside.
    """

    place: str
    size: tuple[int, int]
    stored_size: tuple[int, int]
    format: str
    mode: str
    orientation: int
    remarks: list[tuple[str, str]]
    measured: Any = None


def inspect_images(
    split: Dataset, column: str, measure: Callable[[Image.Image], Any] | None = None
) -> tuple[list[ImageFacts | None], list[BadRow]]:
    """Decode every image of a split, one at a time; return what each is (None where it is bad), and the bad rows.

    Args:
        measure: a further look at the pixels of each.
    """

    def look(source: ImageSource, place: str) -> ImageFacts:
        decoded = decode_image(source)
        measured = measure(decoded.image) if measure else None
        kind, size = decoded.format, decoded.image.size
        return ImageFacts(
            place, size, decoded.stored_size, kind, decoded.mode, decoded.orientation, decoded.remarks, measured
        )

    return inspect_media(split, column, look)
