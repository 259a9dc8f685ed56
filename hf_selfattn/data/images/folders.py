"""Folders of images: the rows that they hold, and the splits that their names tell."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from PIL import Image

from ..findings import listed
from ..formats import ORIGIN, Row
from ..load import SPLIT_ALIASES, STANDARD_SPLITS
from .open import FORMATS, SAME_FORMAT, is_image

SPLIT_FOLDERS = {
    **{name: name for name in STANDARD_SPLITS},
    **SPLIT_ALIASES,
    "training": "train",
    "testing": "test",
}
# Of images that are not read: such files are refused by name rather than left out.
UNREAD_ENDINGS = {".heic", ".heif", ".jxl", ".svg", ".psd", ".tga", ".eps", ".dng", ".cr2", ".nef", ".arw", ".raw"}
METADATA = ("metadata.csv", "metadata.jsonl", "metadata.parquet")  # of the hub's folders of images


def folder_rows(folder: Path) -> tuple[list[Row], list[str]]:
    """Return a row for each image below a folder, and notes on what is no image.

    The label is the name of the first folder on the way to the image; an image that stands in none has no label.
    """
    rows: list[Row] = []
    hidden, others, unnamed = [], [], []
    endings = image_endings() | UNREAD_ENDINGS
    for path in _files_below(folder):
        parts = path.relative_to(folder).parts
        if any(part.startswith(".") or part in ("Thumbs.db", "desktop.ini", "__MACOSX") for part in parts):
            hidden.append(str(path))
        elif path.suffix.lower() in endings:
            rows.append(_row_of(path, parts))
        elif is_image(path):
            unnamed.append(str(path))
            rows.append(_row_of(path, parts))
        else:
            others.append(str(path))
    found = [
        (hidden, "hidden file(s) left out"),
        (others, "file(s) left out that are no images"),
        (unnamed, "file(s) read as images by their content, whose suffix does not say so"),
    ]
    notes = [f"{len(names)} {what}: {listed(names, len(names))}." for names, what in found if names]
    if not any("label" in row for row in rows):
        return rows, notes
    return [{**row, "label": row.get("label")} for row in rows], notes


def image_endings() -> set[str]:
    """Return the suffixes of the formats that are read."""
    known = Image.registered_extensions().items()
    return {ending for ending, told in known if SAME_FORMAT.get(told, told) in FORMATS}


def split_folders(folder: Path) -> dict[str, Path]:
    """Find the folders of splits by their names; none where these may as well be classes."""
    children = [child for child in sorted(folder.iterdir()) if child.is_dir() and not child.name.startswith(".")]
    found: dict[str, Path] = {}
    for child in children:
        name = SPLIT_FOLDERS.get(child.name.lower())
        if name in found:
            raise ValueError(f"{folder}: '{found[name].name}' and '{child.name}' both are {name}; keep one of them.")
        if name:
            found[name] = child
    all_are_splits = len(found) == len(children)
    return found if all_are_splits or ("train" in found and len(found) > 1) else {}


def metadata_file(folder: Path) -> Path | None:
    """Return the table that lists the images of a folder, where there is one."""
    return next((folder / name for name in METADATA if (folder / name).is_file()), None)


def _row_of(path: Path, parts: tuple[str, ...]) -> Row:
    try:
        str(path).encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"{str(path)!r}: the name of the file is no UTF-8; rename it.") from error
    label = {"label": parts[0]} if len(parts) > 1 else {}
    return {"image": str(path), **label, ORIGIN: str(path)}


def _files_below(folder: Path) -> Iterator[Path]:
    """Yield all files in the order of their names, behind links to folders, too, but no folder twice."""
    seen: set[str] = set()
    for place, folders, files in os.walk(folder, followlinks=True, onerror=_raise):
        if os.path.realpath(place) in seen:
            folders.clear()
            continue
        seen.add(os.path.realpath(place))
        folders.sort()
        yield from (Path(place, name) for name in sorted(files))


def _raise(error: OSError) -> None:
    raise ValueError(f"{error.filename}: the folder cannot be read: {error.strerror}.") from error
