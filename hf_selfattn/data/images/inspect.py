"""Every image of a split looked at once: what each file is, or what is wrong with it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from datasets import Dataset
from PIL import Image

from ..findings import BadRow
from ..formats import ORIGIN
from .open import ImageError, ImageSource, decode_image, source_name


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
    facts: list[ImageFacts | None] = []
    bad: list[BadRow] = []
    for batch in split.with_format(None).select_columns([column, ORIGIN]).iter(batch_size=100):
        for source, origin in zip(batch[column], batch[ORIGIN], strict=True):
            place = place_of(source, origin)
            try:
                decoded = decode_image(source)
            except ImageError as error:
                bad.append(BadRow(len(facts), place, error.kind, f"column '{column}': {error.message}"))
                facts.append(None)
                continue
            facts.append(
                ImageFacts(
                    place,
                    decoded.image.size,
                    decoded.stored_size,
                    decoded.format,
                    decoded.mode,
                    decoded.orientation,
                    decoded.remarks,
                    measure(decoded.image) if measure else None,
                )
            )
    return facts, bad


def place_of(source: ImageSource, origin: str) -> str:
    """Name a row and, where that is another, the file of its image."""
    name = source_name(source)
    return f"{origin} ({name})" if name and name not in origin else origin
