"""Boxes of COCO: one JSON file with `images`, `annotations` and `categories`."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

from datasets import Dataset

from .box_rows import BoxRow, box_dataset

MEND = "A file of COCO is an object with the lists images, annotations and categories."


def read_coco(path: Path, image_folder: Path | None = None) -> Dataset:
    """Read the images of a COCO file with their boxes; regions of a crowd are left out, and counted."""
    content = _content(path)
    names = _names(content["categories"], path)
    folder = image_folder or _image_folder(path, content["images"])
    rows: dict[Any, BoxRow] = {}
    for index, image in enumerate(content["images"]):
        place = f"{path}[images][{index}]"
        name, key = image.get("file_name"), _key(image.get("id"))
        if not isinstance(name, str) or not name or key is None or key in rows:
            problem = "the image has no file_name, or no id of its own"
            rows[place] = BoxRow(None, place, problem=problem)
            continue
        size = (image.get("width"), image.get("height"))
        has_size = all(isinstance(side, (int, float)) and not isinstance(side, bool) and side > 0 for side in size)
        rows[key] = BoxRow(str(folder / name), place, size if has_size else None)  # type: ignore[arg-type]
    counts: Counter[str] = Counter()
    for index, annotation in enumerate(content["annotations"]):
        place = f"{path}[annotations][{index}]"
        row = rows.get(_key(annotation.get("image_id")))
        if row is None:
            rows[place] = BoxRow(None, place, problem="the annotation belongs to no image of the file")
        elif annotation.get("iscrowd") in (1, True):
            counts["crowd"] += 1
        else:
            row.add(annotation.get("bbox"), names.get(_key(annotation.get("category_id"))), place)
    notes = [f"{path}: {counts['crowd']} region(s) of a crowd left out."] if counts["crowd"] else []
    return box_dataset(rows.values(), [*dict.fromkeys(names.values())], notes)


def is_coco(path: Path) -> bool:
    """Tell whether a JSON file has the form of COCO."""
    if path.suffix.lower() != ".json" or not path.is_file():
        return False
    data = path.read_bytes().lstrip()
    return data[:1] == b"{" and b'"images"' in data and b'"annotations"' in data


def _content(path: Path) -> dict[str, list[dict[str, Any]]]:
    try:
        content = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: the JSON does not parse: {error}. {MEND}") from error
    for name in ("images", "annotations", "categories"):
        items = content.get(name) if isinstance(content, dict) else None
        if not isinstance(items, list) or not all(isinstance(item, dict) for item in items):
            raise ValueError(f"{path}: '{name}' is no list of objects. {MEND}")
    if not content["images"]:
        raise ValueError(f"{path}: the file names no images.")
    return dict(content)


def _key(value: Any) -> str | None:
    """Return an id, which may be a number or a text."""
    return str(value) if isinstance(value, (int, str)) and not isinstance(value, bool) else None


def _names(categories: list[dict[str, Any]], path: Path) -> dict[str | None, str]:
    """Return the name of each category by its id, in the order of the file."""
    names: dict[str | None, str] = {}
    for index, category in enumerate(categories):
        key, name = _key(category.get("id")), category.get("name")
        if key is None or key in names or not isinstance(name, str) or not name.strip():
            raise ValueError(f"{path}[categories][{index}]: a category has an id of its own and a name. {MEND}")
        names[key] = name
    return names


def _image_folder(path: Path, images: list[dict[str, Any]]) -> Path:
    """Find the folder that the names of the images are relative to, in the usual layouts."""
    subset = path.stem.split("_", 1)[-1]  # train2017 of instances_train2017
    near, above = path.parent, path.parent.parent
    folders = [near, near / "images", near / subset, above, above / "images", above / subset]
    folders += [near / "images" / subset, above / "images" / subset]
    first = next((str(image["file_name"]) for image in images if image.get("file_name")), "")
    return next((folder for folder in folders if (folder / first).is_file()), near)
