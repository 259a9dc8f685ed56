"""Images that repeat others: the same file, the same pixels, or nearly so by a perceptual hash."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import imagehash
import numpy as np
from datasets import Dataset
from numpy.typing import NDArray
from PIL import Image

from ...files import digest_of
from ..splits import Duplicates, deduplicate, find_duplicates
from .read import ImageData

# On real photographs copies of another size, brightness or JPEG quality differ in 6 of the 64 bits at most, and nearly
# all are as like as this; of pictures of one kind many share their bits, and few are as like.
NEAR_BITS = 6
NEAR_LIKENESS = 0.99  # correlation of the grey thumbnails
NEAR_COLOUR = 16.0  # of 255, that the colours of fields may differ in on average
SIDE = 32
BLOCK = 1000  # rows compared with all others at once


@dataclass(frozen=True)
class Looks:
    """How an image looks.

    Args:
        digest: of the pixels.
        bits: of the perceptual hash, (64,).
        grey: thumbnail, (32, 32).
        colours: of 8 x 8 fields, (8, 8, 3).
        is_blank: it has one colour only.
    """

    digest: str
    bits: NDArray[np.bool_]
    grey: NDArray[np.uint8]
    colours: NDArray[np.uint8]
    is_blank: bool

    def is_near(self, other: Looks) -> bool:
        """Tell whether two images, whose bits are close, look alike."""
        pixels = np.stack([self.grey, other.grey]).reshape(2, -1).astype(np.float32)
        pixels -= pixels.mean(axis=1, keepdims=True)
        lengths = np.linalg.norm(pixels, axis=1)
        likeness = float(pixels[0] @ pixels[1]) / max(float(lengths.prod()), 1e-6)
        colour = np.abs(self.colours.astype(np.int16) - other.colours).mean()
        return likeness >= NEAR_LIKENESS and float(colour) <= NEAR_COLOUR


def looks_of(image: Image.Image) -> Looks:
    """Measure an upright RGB image."""
    digest = hashlib.sha256(str(image.size).encode() + image.tobytes()).hexdigest()
    grey = image.convert("L").resize((SIDE, SIDE), Image.Resampling.LANCZOS)
    colours = np.asarray(image.resize((8, 8), Image.Resampling.BOX))
    is_blank = all(low == high for low, high in (band.getextrema() for band in image.split()))
    return Looks(digest, imagehash.phash(grey).hash.ravel(), np.asarray(grey), colours, is_blank)


def near_duplicates(looks: Mapping[str, Sequence[Looks | None]]) -> Duplicates:
    """Find images that look like an earlier one of their split, or like one of another split, and are not its equal.

    An image of one colour looks like every other of it, and is left out.
    """
    rows = {
        name: [index for index, one in enumerate(found) if one is not None and not one.is_blank]
        for name, found in looks.items()
    }
    filled = {name: [one for one in found if one is not None and not one.is_blank] for name, found in looks.items()}
    found = Duplicates()
    for name, own in filled.items():
        pairs = _look_alikes(own, own, is_same=True)
        found.inside[name] = [(rows[name][index], rows[name][twin]) for index, twin in pairs]
    for one, other in itertools.combinations(filled, 2):
        if pairs := _look_alikes(filled[one], filled[other], is_same=False):
            found.across[one, other] = [(rows[one][index], rows[other][twin]) for index, twin in pairs]
    return found


def _look_alikes(rows: Sequence[Looks], others: Sequence[Looks], is_same: bool) -> list[tuple[int, int]]:
    """List (index, index of the first look-alike); of the same rows only earlier ones count."""
    if not rows or not others:
        return []
    signs = np.stack([one.bits for one in others]).astype(np.float32) * 2 - 1  # (N, bits): products count agreements
    pairs = []
    for start in range(0, len(rows), BLOCK):
        block = rows[start : start + BLOCK]
        mine = np.stack([one.bits for one in block]).astype(np.float32) * 2 - 1
        near = mine @ signs.T >= signs.shape[1] - 2 * NEAR_BITS
        seen = -1
        for index, twin in zip(*np.nonzero(near), strict=True):
            row = start + int(index)
            if row == seen or (is_same and twin >= row):
                continue
            one, other = block[index], others[twin]
            if one.digest != other.digest and one.is_near(other):
                pairs.append((row, int(twin)))
                seen = row
    return pairs


def equal_images(looks: Mapping[str, Sequence[Looks | None]]) -> Duplicates:
    """Find images with the same pixels, whatever their files."""
    keys: dict[str, list[Hashable]] = {
        name: [one.digest if one is not None else (name, index) for index, one in enumerate(found)]
        for name, found in looks.items()
    }
    return find_duplicates(keys)


def deduplicate_images(data: ImageData, *, inside_evaluation: bool = False) -> ImageData:
    """Drop repeated files of train, and files of train that also stand in an evaluation split, as `deduplicate`."""
    keys = {name: image_digests(split) for name, split in data.splits.items()}
    return deduplicate(data, inside_evaluation=inside_evaluation, keys=keys, what="image")


def image_digests(split: Dataset) -> list[Hashable]:
    """Return the SHA-256 of each file of a prepared split."""
    digests: list[Hashable] = []
    for batch in split.with_format(None).select_columns(["image"]).iter(batch_size=100):
        for cell in batch["image"]:
            is_held = cell["bytes"] is not None
            digests.append(hashlib.sha256(cell["bytes"]).hexdigest() if is_held else digest_of(Path(cell["path"])))
    return digests
