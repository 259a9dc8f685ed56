"""Boxes of YOLO: one text file for each image, with a class and a box in each line."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from datasets import Dataset

from ..findings import listed
from .box_rows import BoxRow, as_numbers, box_dataset, text_lines
from .folders import folder_rows

NAME_FILES = ("classes.txt", "obj.names", "names.txt", "_darknet.labels")
YAML_FILES = ("data.yaml", "dataset.yaml", "data.yml", "dataset.yml")
SPLIT_KEYS = {"train": "train", "val": "validation", "valid": "validation", "test": "test"}


def read_yolo(folders: Sequence[Path], names: Sequence[str] | None) -> Dataset:
    """Read the images below folders (or that a text file lists) with the label files beside them.

    Boxes are shares of the image; a polygon becomes the box around it. An image without a label file has no boxes.
    """
    images, notes = _images(folders)
    rows, silent, polygons = [], [], 0
    for image in images:
        labels = _labels_of(image)
        if not labels.is_file():
            silent.append(str(image))
            rows.append(BoxRow(str(image), str(image), is_relative=True))
            continue
        row, found = _read_labels(image, labels, names)
        polygons += found
        rows.append(row)
    known = {_labels_of(image) for image in images}
    lone = [path for folder in {path.parent for path in known} for path in sorted(folder.glob("*.txt"))]
    rows += [
        BoxRow(None, str(path), problem="there is no image to this label file")
        for path in lone
        if path not in known and path.name not in NAME_FILES
    ]
    if silent:
        notes.append(f"{len(silent)} image(s) have no label file and so no boxes: {listed(silent, len(silent))}.")
    notes += [f"{polygons} polygon(s) are read as the boxes around them."] if polygons else []
    if names is None:
        notes.append("No classes.txt or data.yaml names the classes: their numbers are their names.")
        numbers = sorted({name for row in rows for name in row.names}, key=int)
        return box_dataset(rows, numbers, notes)
    return box_dataset(rows, names, notes)


def yolo_names(folder: Path) -> list[str] | None:
    """Read the names of the classes from a file in a folder or in the two above it."""
    for place in (folder, folder.parent, folder.parent.parent):
        for name in YAML_FILES:
            if (place / name).is_file():
                return yaml_names(place / name, _yaml(place / name))
        for name in NAME_FILES:
            if (place / name).is_file():
                return _listed_names(place / name)
    return None


def _listed_names(path: Path) -> list[str]:
    """Read the names of the classes, one a line; those at the end may be blank."""
    names = text_lines(path)
    while names and not names[-1]:
        names.pop()
    if not names or "" in names or len({*names}) < len(names):
        raise ValueError(f"{path}: each line must be the name of a class, and each name stand there once.")
    return names


def yolo_splits(folder: Path) -> tuple[dict[str, list[Path]], list[str]] | None:
    """Return the folders of each split and the names that the YAML file of a data set tells; None where none is."""
    path = folder if folder.is_file() else next((folder / n for n in YAML_FILES if (folder / n).is_file()), None)
    if path is None:
        return None
    content = _yaml(path)
    root = path.parent / str(content.get("path") or "")
    splits: dict[str, list[Path]] = {}
    for key, split in SPLIT_KEYS.items():
        given = content.get(key)
        if given and split not in splits:
            splits[split] = [_yaml_place(root, one, path) for one in (given if isinstance(given, list) else [given])]
    if not splits:
        raise ValueError(f"{path}: names no train, val or test.")
    return splits, yaml_names(path, content)


def yaml_names(path: Path, content: dict[str, Any]) -> list[str]:
    """Return the names of the classes, which are a list or numbered."""
    names = content.get("names")
    if isinstance(names, dict) and sorted(names) == list(range(len(names))):
        names = [names[number] for number in range(len(names))]
    if not isinstance(names, list) or not names or len({*map(str, names)}) < len(names):
        raise ValueError(f"{path}: 'names' must list the classes, each once, or number them from 0.")
    return [str(name) for name in names]


def _yaml(path: Path) -> dict[str, Any]:
    try:
        content = yaml.safe_load(path.read_bytes())
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise ValueError(f"{path}: the YAML does not parse: {error}.") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path}: holds no names and folders, but a {type(content).__name__}.")
    return content


def _yaml_place(root: Path, given: Any, path: Path) -> Path:
    """Return a folder that a YAML file names, which some tools write as if it stood one folder deeper."""
    places = [root / str(given), path.parent / str(given), path.parent / str(given).removeprefix("../")]
    found = next((place for place in places if place.exists()), None)
    if found is None:
        raise ValueError(f"{path}: there is no '{given}' (looked for '{places[0]}').")
    return found


def _images(folders: Sequence[Path]) -> tuple[list[Path], list[str]]:
    images: list[Path] = []
    notes: list[str] = []
    for folder in folders:
        if folder.is_file():
            images += [folder.parent / line for line in text_lines(folder) if line]
            continue
        rows, said = folder_rows(folder)
        images += [Path(row["image"]) for row in rows]
        notes += [note for note in said if "that are no images" not in note]
    if not images:
        raise ValueError(f"{', '.join(map(str, folders))}: no images.")
    return images, notes


def _labels_of(image: Path) -> Path:
    """Return the label file of an image: in `labels` where the image stands in `images`, else beside it."""
    parts = list(image.parts)
    for index in range(len(parts) - 2, -1, -1):
        if parts[index] == "images":
            parts[index] = "labels"
            return Path(*parts).with_suffix(".txt")
    return image.with_suffix(".txt")


def _read_labels(image: Path, labels: Path, names: Sequence[str] | None) -> tuple[BoxRow, int]:
    """Read the boxes of one image; return them, and how many were polygons."""
    row = BoxRow(str(image), str(labels), is_relative=True)
    try:
        lines = text_lines(labels)
    except ValueError as error:
        row.problem = str(error)
        return row, 0
    polygons = 0
    for number, line in enumerate(lines, start=1):
        cells, place = line.split(), f"{labels}:{number}"
        if not cells:
            continue
        values = as_numbers(cells[1:], len(cells) - 1)
        if values is not None and len(values) >= 6 and len(values) % 2 == 0:
            polygons += 1
            xs, ys = values[::2], values[1::2]
            box: list[float] | None = [min(xs), min(ys), max(xs) - min(xs), max(ys) - min(ys)]
        elif values is not None and len(values) in (4, 5):  # the fifth is a detector's confidence
            x, y, width, height = values[:4]
            box = [x - width / 2, y - height / 2, width, height]
        else:
            box = None
        row.add(box, _class_name(cells[0], names), place)
    return row, polygons


def _class_name(cell: str, names: Sequence[str] | None) -> str | None:
    if not cell.isascii() or not cell.isdecimal() or len(cell) > 9:
        return None
    number = int(cell)
    if names is None:
        return str(number)
    return names[number] if number < len(names) else None
