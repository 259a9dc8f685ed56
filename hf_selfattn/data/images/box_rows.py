"""Rows of images with boxes as the files have them, before they are checked."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from datasets import ClassLabel, Dataset, Features, List, Value
from datasets import Image as ImageFeature

from ..formats import ORIGIN, decoded_lines


@dataclass
class BoxRow:
    """One image and its boxes, or what is wrong with it.

    Args:
        image: a path, or the dictionary of `datasets`; None where `problem` says why.
        origin: its place in the user's files.
        size: width and height that the boxes were drawn on, where the file tells.
        is_relative: whether boxes are shares of the image rather than pixels.
        boxes: (x, y, width, height) of each, from the upper left corner.
        names: category of each.
        places: of each in the user's files.
        problem: what is wrong with the row as a whole.
        bad: place, kind and message of each box that is none.
    """

    image: Any
    origin: str
    size: tuple[float, float] | None = None
    is_relative: bool = False
    boxes: list[list[float]] = field(default_factory=list)
    names: list[str] = field(default_factory=list)
    places: list[str] = field(default_factory=list)
    problem: str = ""
    bad: list[dict[str, str]] = field(default_factory=list)

    def add(self, box: Sequence[Any] | None, name: str | None, place: str) -> None:
        """Add a box of four numbers and a known category, or what is wrong with it."""
        numbers = as_numbers(box, 4)
        if numbers is None:
            self.reject(place, "box_not_numbers", "the box is not four finite numbers")
        elif name is None:
            self.reject(place, "label_unknown", "the category of the box is unknown")
        else:
            self.boxes.append(numbers)
            self.names.append(name)
            self.places.append(place)

    def reject(self, place: str, kind: str, message: str) -> None:
        """Note a box that is none."""
        self.bad.append({"place": place, "kind": kind, "message": message})


def text_lines(path: Path) -> list[str]:
    """Return the lines of a text file without the spaces around them; an error names one that is no text."""
    with path.open("rb") as stream:
        return [line.strip() for line in decoded_lines(stream, path)]


def as_numbers(values: Any, count: int) -> list[float] | None:
    """Return so many finite numbers, which may be written as text; None where they are none."""
    if not isinstance(values, (list, tuple)) or len(values) != count:
        return None
    try:
        numbers = [float(value) for value in values]
    except (TypeError, ValueError, OverflowError):
        return None
    return numbers if all(map(math.isfinite, numbers)) else None


def box_dataset(rows: Iterable[BoxRow], names: Sequence[str] | None, notes: Sequence[str] = ()) -> Dataset:
    """Make a split of rows; `names` are the categories in their order, where the files declare them."""
    rows = list(rows)
    known = list(names) if names is not None else sorted({name for row in rows for name in row.names})
    numbers = {name: number for number, name in enumerate(known)}
    columns: dict[str, list[Any]] = {
        "image": [{"bytes": None, "path": row.image} if isinstance(row.image, str) else row.image for row in rows],
        "size": [row.size for row in rows],
        "is_relative": [row.is_relative for row in rows],
        "boxes": [row.boxes for row in rows],
        "categories": [[numbers[name] for name in row.names] for row in rows],
        "places": [row.places for row in rows],
        "problem": [row.problem for row in rows],
        "bad": [row.bad for row in rows],
        ORIGIN: [row.origin for row in rows],
    }
    text = Value("string")
    features = Features(
        {
            "image": ImageFeature(decode=False),
            "size": List(Value("float64")),
            "is_relative": Value("bool"),
            "boxes": List(List(Value("float64"))),
            "categories": List(ClassLabel(names=known)) if known else List(Value("int64")),
            "places": List(text),
            "problem": text,
            "bad": List({"place": text, "kind": text, "message": text}),
            ORIGIN: text,
        }
    )
    split = Dataset.from_dict(columns, features=features)
    split.info.description = "\n".join(notes)
    return split
