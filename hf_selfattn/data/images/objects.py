"""Boxes in tables and data sets of the hub: a column of objects, or one of boxes beside one of categories."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from datasets import ClassLabel, Dataset

from ..columns import column_values, found_columns
from ..formats import ORIGIN
from ..labels import natural_key
from .box_rows import BoxRow, as_numbers, box_dataset
from .load import IMAGES

OBJECT_NAMES = ("objects", "annotations", "object", "annotation", "detections")
BOX_NAMES = ("bbox", "boxes", "bboxes", "box")
CATEGORY_NAMES = tuple("category categories label labels class classes name category_id class_id box_labels".split())


def object_rows(split: Dataset, image_column: str | None, box_column: str | None, box_format: str) -> Dataset:
    """Bring a table with boxes into the raw form of `box_rows`."""
    if box_format not in ("xywh", "xyxy"):
        raise ValueError(f"box_format='{box_format}' is unknown; it is 'xywh' or 'xyxy'.")
    image = IMAGES.find_column(split, image_column)
    found = [name for name in found_columns(split) if name != image]
    column = box_column or next(
        (n for known in (*OBJECT_NAMES, *BOX_NAMES) for n in found if n.lower() == known), None
    )
    if column is None or column not in found:
        raise ValueError(
            f"{split[0][ORIGIN]}: there is no column of boxes ({box_column or 'objects'}) among the columns found: "
            f"{found}. It holds objects with bbox and category; box_column=… names it."
        )
    feature = split.features[column]
    beside = next((n for known in CATEGORY_NAMES for n in found if n.lower() == known and n != column), None)
    is_bare = column.lower() in BOX_NAMES and beside is not None
    names = _class_names(split.features[beside] if is_bare and beside else feature)
    cells = column_values(split, column)
    categories = column_values(split, beside) if is_bare and beside else [None] * len(cells)
    rows = []
    for cell, labels, place in zip(cells, categories, column_values(split, ORIGIN), strict=True):
        row = BoxRow(None, place)
        for index, (box, category) in enumerate(_box_pairs({"bbox": cell, "category": labels} if is_bare else cell)):
            row.add(_as_xywh(box, box_format), _category_name(category, names), f"{place}, object {index}")
        rows.append(row)
    order = names or sorted({name for row in rows for name in row.names}, key=natural_key)
    boxes = box_dataset(rows, order, (split.info.description or "").splitlines())
    images = IMAGES.cells(split.with_format(None).select_columns([image, ORIGIN]), image)
    for name in boxes.column_names:
        if name not in ("image", ORIGIN):
            images = images.add_column(name, column_values(boxes, name), feature=boxes.features[name])
    images.info.description = boxes.info.description
    return images


def _box_pairs(cell: Any) -> Iterator[tuple[Any, Any]]:
    """Yield the box and the category of each object of a cell: lists side by side, or a list of objects."""
    if isinstance(cell, str):
        cell = _from_json(cell)
    if isinstance(cell, dict):
        boxes, categories = _value(cell, BOX_NAMES), _value(cell, CATEGORY_NAMES)
        if boxes and not isinstance(boxes[0], (list, tuple)) and not isinstance(categories, list):
            boxes, categories = [boxes], [categories]  # one box
        boxes, categories = boxes or [], categories or []
        if isinstance(boxes, list) and isinstance(categories, list) and len(boxes) == len(categories):
            yield from zip(boxes, categories, strict=True)
        else:
            yield None, None
    elif isinstance(cell, list):
        for item in cell:
            yield (_value(item, BOX_NAMES), _value(item, CATEGORY_NAMES)) if isinstance(item, dict) else (None, None)
    elif cell is not None:
        yield None, None


def _from_json(cell: str) -> Any:
    """Read a cell of CSV; what does not parse stays text, which holds no boxes."""
    try:
        return json.loads(cell) if cell.strip() else None
    except (json.JSONDecodeError, RecursionError):
        return cell


def _value(item: dict[str, Any], names: tuple[str, ...]) -> Any:
    return next((item[name] for name in names if item.get(name) is not None), None)


def _as_xywh(box: Any, box_format: str) -> list[float] | None:
    numbers = as_numbers(box, 4)
    if numbers is None or box_format == "xywh":
        return numbers
    left, top, right, bottom = numbers
    return [left, top, right - left, bottom - top]


def _category_name(category: Any, names: list[str]) -> str | None:
    if isinstance(category, bool) or not isinstance(category, (int, str)) or category == "":
        return None
    if names and isinstance(category, int):
        return names[category] if 0 <= category < len(names) else None
    return str(category)


def _class_names(feature: Any) -> list[str]:
    """Find the names of a `ClassLabel` anywhere in a feature."""
    if isinstance(feature, ClassLabel):
        return list(feature.names or [])
    inner = feature.values() if isinstance(feature, dict) else [getattr(feature, "feature", None)]
    return next((names for one in inner if one is not None and (names := _class_names(one))), [])
