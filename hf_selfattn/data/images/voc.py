"""Boxes of Pascal VOC: one XML file for each image."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from datasets import Dataset

from ..findings import listed
from ..labels import natural_key
from .box_rows import BoxRow, as_numbers, box_dataset, text_lines
from .folders import image_endings

CORNERS = ("xmin", "ymin", "xmax", "ymax")


def read_voc(files: Sequence[Path], image_folder: Path | None = None, is_whole: bool = True) -> Dataset:
    """Read XML files with their images; corners count pixels from 1, as VOC has them.

    Args:
        is_whole: these are all files, so that an image that none describes is named.
    """
    counts: Counter[str] = Counter()
    rows = [_read_file(path, image_folder, counts) for path in files]
    notes = (
        [f"{counts['difficult']} object(s) marked difficult are read as the others."] if counts["difficult"] else []
    )
    if is_whole and (lone := _images_without(files, rows)):
        notes.append(f"{len(lone)} image(s) left out that have no XML file: {listed(lone, len(lone))}.")
    return box_dataset(rows, sorted({name for row in rows for name in row.names}, key=natural_key), notes)


def _images_without(files: Sequence[Path], rows: Sequence[BoxRow]) -> list[str]:
    """List the images beside those of the rows that no file describes."""
    used, stems = {row.image for row in rows}, {path.stem for path in files}
    folders = {Path(row.image).parent for row in rows if row.image}
    found = (path for folder in folders if folder.is_dir() for path in sorted(folder.iterdir()))
    images = (path for path in found if path.suffix.lower() in image_endings() and path.stem not in stems)
    return [str(path) for path in images if str(path) not in used]


def voc_files(folder: Path) -> list[Path]:
    """List the XML files of a folder of VOC."""
    places = [folder / "Annotations", folder / "annotations", folder]
    return next((files for place in places if (files := sorted(place.glob("*.xml")))), [])


def voc_splits(folder: Path) -> dict[str, list[Path]]:
    """List the XML files of each split that the folder ImageSets/Main tells; none where it does not."""
    sets = {"train": "train", "val": "validation", "test": "test"}
    found: dict[str, list[Path]] = {}
    for name, split in sets.items():
        path = folder / "ImageSets" / "Main" / f"{name}.txt"
        if path.is_file():
            names = [line.split()[0] for line in text_lines(path) if line]
            found[split] = [folder / "Annotations" / f"{name}.xml" for name in names]
    return {split: files for split, files in found.items() if files}


def _read_file(path: Path, image_folder: Path | None, counts: Counter[str]) -> BoxRow:
    try:
        root = ElementTree.fromstring(path.read_bytes())
    except (OSError, ElementTree.ParseError, ValueError, LookupError) as error:  # of an encoding that is none, too
        return BoxRow(None, str(path), problem=f"the XML file does not parse ({error})")
    size = as_numbers([root.findtext("size/width"), root.findtext("size/height")], 2)
    has_size = size is not None and min(size) > 0
    image = _image_of(path, root.findtext("filename") or "", image_folder)
    row = BoxRow(str(image), str(path), (size[0], size[1]) if size and has_size else None)
    for index, item in enumerate(root.iter("object")):
        place = f"{path}[object {index}]"
        counts["difficult"] += (item.findtext("difficult") or "").strip() == "1"
        corners: Any = as_numbers([item.findtext(f"bndbox/{corner}") for corner in CORNERS], 4)
        if corners is not None:
            left, top, right, bottom = corners
            corners = [left - 1, top - 1, right - left + (left <= right), bottom - top + (top <= bottom)]
        row.add(corners, (item.findtext("name") or "").strip() or None, place)
    return row


def _image_of(path: Path, name: str, image_folder: Path | None) -> Path:
    """Find the image of an XML file: by the name in it, else by the name of the file."""
    near, above = path.parent, path.parent.parent
    folders = [near, *(place / name for place in (above, near) for name in ("JPEGImages", "images"))]
    folders = [image_folder] if image_folder else folders
    bare = name.replace("\\", "/").rsplit("/", 1)[-1]
    names = [bare, *(f"{path.stem}{ending}" for ending in sorted(image_endings()))]
    found = (folder / one for one in names for folder in folders if one and (folder / one).is_file())
    return next(found, folders[0] / (bare or path.stem))
