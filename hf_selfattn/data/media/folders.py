"""Folders of files: the rows that they hold, and the splits that their names tell."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from ..findings import listed
from ..formats import ORIGIN, Row
from ..load import SPLIT_ALIASES, STANDARD_SPLITS
from .medium import Medium

SPLIT_FOLDERS = {
    **{name: name for name in STANDARD_SPLITS},
    **SPLIT_ALIASES,
    "training": "train",
    "testing": "test",
}
METADATA = ("metadata.csv", "metadata.jsonl", "metadata.parquet")  # of the hub's folders of images and sounds


def folder_rows(medium: Medium, folder: Path) -> tuple[list[Row], list[str]]:
    """Return a row for each file of a medium below a folder, and notes on what is none.

    The label is the name of the first folder on the way to the file; a file that stands in none has no label.
    """
    rows: list[Row] = []
    hidden, others, unnamed = [], [], []
    name, endings = medium.name, medium.endings() | medium.unread_endings
    for path in _files_below(folder):
        parts = path.relative_to(folder).parts
        if any(part.startswith(".") or part in ("Thumbs.db", "desktop.ini", "__MACOSX") for part in parts):
            hidden.append(str(path))
        elif path.suffix.lower() in endings:
            rows.append(_row_of(name, path, parts))
        elif medium.is_one(path):
            unnamed.append(str(path))
            rows.append(_row_of(name, path, parts))
        else:
            others.append(str(path))
    found = [
        (hidden, "hidden file(s) left out"),
        (others, f"file(s) left out that are no {name}s"),
        (unnamed, f"file(s) read as {name}s by their content, whose suffix does not say so"),
    ]
    notes = [f"{len(names)} {what}: {listed(names, len(names))}." for names, what in found if names]
    if not any("label" in row for row in rows):
        return rows, notes
    return [{**row, "label": row.get("label")} for row in rows], notes


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
    """Return the table that lists the files of a folder, where there is one."""
    return next((folder / name for name in METADATA if (folder / name).is_file()), None)


def _row_of(name: str, path: Path, parts: tuple[str, ...]) -> Row:
    try:
        str(path).encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"{str(path)!r}: the name of the file is no UTF-8; rename it.") from error
    label = {"label": parts[0]} if len(parts) > 1 else {}
    return {name: str(path), **label, ORIGIN: str(path)}


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
