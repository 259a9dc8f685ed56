"""Rows of images with boxes to checked data: boxes in pixels of the upright image, every bad row and box named."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from datasets import ClassLabel, Dataset, DatasetDict, List, Value

from ..columns import column_values
from ..findings import PLACES, BadRow, Finding, bad_rows_message, listed, summarise
from ..formats import ORIGIN
from ..labels import class_names, natural_key
from ..load import reading_notes, with_origins
from .inspect import ImageFacts, inspect_images
from .load import IMAGES
from .objects import object_rows

ROUNDING = 1.0  # pixels that a box may reach over the edge unsaid
MENDS = {
    "size_differs": "Boxes are drawn on an image of one size: give the image that they were drawn on.",
    "label_unknown": "A category that train does not have cannot be scored: mend it, or list it in label_names.",
}

Box = list[float]  # x, y, width, height


@dataclass
class BoxData:
    """Checked data of one object detection.

    Args:
        splits: columns ``image`` (``{"bytes": …, "path": …}``, not decoded: `open_image` reads it), ``width`` and
            ``height`` of it, ``boxes`` (n of x, y, width, height in pixels of the upright image), ``box_labels`` (n)
            and ``__origin__``. An image may have no boxes.
        label_names: the categories in the order of the labels.
        notes: sentences for the user: what was detected, dropped or looks odd.
        dropped: each bad row and box that was left out.
    """

    splits: DatasetDict
    label_names: list[str]
    notes: list[str] = field(default_factory=list)
    dropped: list[BadRow] = field(default_factory=list)
    problem: str = "object_detection"


@dataclass
class ReadBoxes:
    """The boxes of one split, as they were found to be.

    Args:
        split: raw rows.
        facts: of each image, None where it is bad.
        boxes, labels, places: of each row the right ones.
        bad_rows: that are bad as a whole.
        bad_boxes: in rows that are right.
        cut: places of the boxes that reached over the edge of the image, and are cut.
        turned: places of the rows whose boxes were drawn before the image was turned upright.
    """

    split: Dataset
    facts: list[ImageFacts | None]
    boxes: list[list[Box]] = field(default_factory=list)
    labels: list[list[int]] = field(default_factory=list)
    places: list[list[str]] = field(default_factory=list)
    bad_rows: list[BadRow] = field(default_factory=list)
    bad_boxes: list[BadRow] = field(default_factory=list)
    cut: list[str] = field(default_factory=list)
    turned: list[str] = field(default_factory=list)


def read_boxes(
    splits: Mapping[str, Dataset],
    *,
    image_column: str | None = None,
    box_column: str | None = None,
    box_format: str = "xywh",
    label_names: Sequence[str] | None = None,
    on_bad_row: str = "error",
) -> BoxData:
    """Check raw splits, each image decoded once, and bring them into one form.

    Boxes that reach over the edge of their image are cut there. Boxes that were drawn on an image before it was
    turned upright are turned with it, where the file tells the size.

    Args:
        image_column, box_column: of a table, found where they are not given.
        box_format: of a table: "xywh" (left, top, width, height) or "xyxy" (left, top, right, bottom), in pixels.
        label_names: overrides the names of the categories and their order.
        on_bad_row: "error" names all bad rows and boxes, "drop" leaves them out and counts them in the notes.

    Raises:
        ValueError: missing column, empty split, no boxes to learn from, or bad rows (with file and row).
    """
    if on_bad_row not in ("error", "drop"):
        raise ValueError(f"on_bad_row='{on_bad_row}' is unknown; it is 'error' or 'drop'.")
    raw, notes = raw_boxes(splits, image_column, box_column, box_format)
    names = box_names(raw, label_names)
    read = {name: inspect_boxes(split, names) for name, split in raw.items()}
    findings = [found for name, one in read.items() for found in box_mistakes(name, one)]
    if findings and on_bad_row == "error":
        raise ValueError(bad_rows_message(findings, MENDS, read))
    notes += [f"Dropped {found}." for found in findings]
    for name, one in read.items():
        notes += [f"{name}: {said}" for said in _edge_notes(one)]
    prepared = DatasetDict({name: _built_boxes(name, one, names) for name, one in read.items()})
    if "train" in prepared and not any(column_values(prepared["train"], "boxes")):
        raise ValueError(f"train: none of its {len(prepared['train'])} images has a box to learn from.")
    notes.append(f"Categories ({len(names)}): {', '.join(names[:20])}{', …' if len(names) > 20 else ''}.")
    return BoxData(prepared, names, notes, [bad for one in read.values() for bad in one.bad_rows + one.bad_boxes])


def box_mistakes(name: str, read: ReadBoxes, most: int | None = PLACES) -> list[Finding]:
    """List what is wrong with the rows and with the boxes of a split, and so many places of each mistake."""
    return summarise(name, read.bad_rows, most=most) + summarise(name, read.bad_boxes, "box(es)", most)


def raw_boxes(
    splits: Mapping[str, Dataset], image_column: str | None = None, box_column: str | None = None, form: str = "xywh"
) -> tuple[dict[str, Dataset], list[str]]:
    """Bring all splits into the raw form of `box_rows`; return them, and notes on how they were read."""
    found = {name: IMAGES.undecoded(split) for name, split in with_origins(splits).items()}
    tables = {
        name: object_rows(split, image_column, box_column, form)
        for name, split in found.items()
        if "is_relative" not in split.column_names
    }
    return {**found, **tables}, reading_notes(found)


def box_names(raw: Mapping[str, Dataset], given: Sequence[str] | None = None) -> list[str]:
    """Return the categories: those given, else those of train (of all splits where there is no train)."""
    if given is not None:
        if len(set(given)) < len(given) or not given:
            raise ValueError(f"label_names={list(given)}: the names must be different texts, one at least.")
        return list(given)
    sources = [raw["train"]] if "train" in raw else list(raw.values())
    names = dict.fromkeys(name for split in sources for name in class_names(split.features["categories"]))
    if not names:
        raise ValueError(f"the data has no boxes: the splits are {list(raw)}.")
    return list(names) if len(sources) == 1 else sorted(names, key=natural_key)


def inspect_boxes(split: Dataset, names: Sequence[str], measure: Any = None) -> ReadBoxes:
    """Look at each image and each box of a raw split, and list every mistake rather than stop at the first."""
    problems = column_values(split, "problem")
    whole = [index for index, problem in enumerate(problems) if not problem]
    facts: list[ImageFacts | None] = [None] * len(split)
    looked, bad = inspect_images(split.select(whole), "image", measure)
    for index, fact in zip(whole, looked, strict=True):
        facts[index] = fact
    read = ReadBoxes(split, facts)
    read.bad_rows += [BadRow(whole[row.index], row.place, row.kind, row.message) for row in bad]
    numbers = {name: number for number, name in enumerate(names)}
    declared = [numbers.get(name, -1) for name in class_names(split.features["categories"])]
    rows = split.with_format(None).remove_columns("image")
    for index, row in enumerate(rows):
        if row["problem"]:
            read.bad_rows.append(BadRow(index, row[ORIGIN], "annotation_broken", row["problem"]))
        _inspect_row(read, index, row, [declared[number] for number in row["categories"]])
    return read


def _inspect_row(read: ReadBoxes, index: int, row: dict[str, Any], labels: list[int]) -> None:
    """Check the boxes of one row, and append those that are right."""
    boxes: list[Box] = []
    kept_labels: list[int] = []
    places: list[str] = []
    read.boxes.append(boxes)
    read.labels.append(kept_labels)
    read.places.append(places)
    facts = read.facts[index]
    if facts is None:
        return
    read.bad_boxes += [BadRow(index, item["place"], item["kind"], item["message"]) for item in row["bad"]]
    drawn_on = facts.size
    if row["size"] and not row["is_relative"] and (size := tuple(row["size"])) != facts.size:
        if size != facts.stored_size:
            message = "the boxes were drawn on an image of another size than this one"
            read.bad_rows.append(BadRow(index, facts.place, "size_differs", message))
            return
        drawn_on = facts.stored_size
        read.turned.append(facts.place)
    for box, label, place in zip(row["boxes"], labels, row["places"], strict=True):
        if row["is_relative"]:
            box = [value * side for value, side in zip(box, facts.size * 2, strict=True)]
        if drawn_on != facts.size:
            box = turn_box(box, facts.orientation, drawn_on)
        kind, message = _box_mistake(box, label, facts.size)
        if kind:
            read.bad_boxes.append(BadRow(index, place, kind, message))
            continue
        if _overhang(box, facts.size) > ROUNDING:
            read.cut.append(place)
        boxes.append(_cut(box, facts.size))
        kept_labels.append(label)
        places.append(place)


def turn_box(box: Box, orientation: int, stored_size: tuple[int, int]) -> Box:
    """Turn a box as an image of EXIF orientation 5 to 8 is turned upright."""
    x, y, width, height = box
    across, down = stored_size
    left = y if orientation in (5, 8) else down - y - height
    top = x if orientation in (5, 6) else across - x - width
    return [left, top, height, width]


def _box_mistake(box: Box, label: int, size: tuple[int, int]) -> tuple[str, str]:
    """Give the kind of mistake and what is wrong with a box; two empty strings if it is right."""
    if label < 0:
        return "label_unknown", "the category of the box is unknown"
    x, y, width, height = box
    if width <= 0 or height <= 0:
        return "box_no_area", "the box has no area"
    if x >= size[0] or y >= size[1] or x + width <= 0 or y + height <= 0:
        return "box_outside", "the box lies outside of the image"
    return "", ""


def _overhang(box: Box, size: tuple[int, int]) -> float:
    """Return how many pixels a box reaches over the edge of its image."""
    x, y, width, height = box
    return max(-x, -y, x + width - size[0], y + height - size[1], 0.0)


def _cut(box: Box, size: tuple[int, int]) -> Box:
    x, y, width, height = box
    left, top = max(x, 0.0), max(y, 0.0)
    return [left, top, min(x + width, float(size[0])) - left, min(y + height, float(size[1])) - top]


def _edge_notes(read: ReadBoxes) -> list[str]:
    notes = []
    if read.cut:
        shown = listed(read.cut, len(read.cut))
        notes.append(f"{len(read.cut)} box(es) reach over the edge of their image and are cut there: {shown}.")
    if read.turned:
        shown = listed(read.turned, len(read.turned))
        notes.append(f"{len(read.turned)} image(s) are turned upright, and their boxes with them: {shown}.")
    return notes


def _built_boxes(name: str, read: ReadBoxes, names: Sequence[str]) -> Dataset:
    """Put the right rows of a split together; the bytes of images stay where they are."""
    wrong = {row.index for row in read.bad_rows}
    right = [index for index in range(len(read.split)) if index not in wrong]
    if not right:
        found = "; ".join(map(str, summarise(name, read.bad_rows)[:5]))
        raise ValueError(f"{name}: all {len(read.split)} rows are bad. {found}")
    split = read.split.with_format(None).select_columns(["image", ORIGIN])
    sizes = [fact.size if fact is not None else (0, 0) for fact in read.facts]
    split = split.add_column("width", [size[0] for size in sizes])
    split = split.add_column("height", [size[1] for size in sizes])
    split = split.add_column("boxes", read.boxes, feature=List(List(Value("float64"))))
    split = split.add_column("box_labels", read.labels, feature=List(ClassLabel(names=list(names))))
    return split.select(right) if wrong else split  # the last step: columns added to a selection copy the bytes
