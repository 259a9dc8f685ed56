"""Reports on images and on their boxes, made without training and without stopping at the first mistake."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import partial
from typing import Any

from datasets import Dataset

from ..check import RARE, filled_splits, quantiles
from ..columns import column_values, found_columns
from ..findings import Finding
from ..formats import ORIGIN
from ..labels import label_twins
from ..media.check import check_labelled, finding, pair_findings, remark_findings
from .boxes import ROUNDING, ReadBoxes, box_mistakes, box_names, inspect_boxes, raw_boxes
from .duplicates import Looks, equal_images, looks_of, near_duplicates
from .inspect import ImageFacts, inspect_images
from .load import IMAGES
from .read import ImageData, raw_images

TINY = 8  # pixels of the shorter side
NARROW = 20  # times longer than wide, or wider than long
SMALL_BOX = 2.0  # pixels of the shorter side


def check_images(data: ImageData | Mapping[str, Dataset], **options: Any) -> dict[str, Any]:
    """Decode all images and report what is there and every kind of mistake.

    Args:
        data: raw splits, or prepared data.
        options: of raw splits: the columns, `problem`, `label_names` and `label_separator` of `read_images`.

    Returns:
        A dict of plain values for JSON, in the form of `check_classification`: columns, problem, label_names; per
        split the rows, classes, quantiles of the sizes in pixels, formats and modes of the files; the findings (kind,
        split, message, count and all places) and notes.

    Raises:
        ValueError: a column is missing, the options contradict the data, or there are no rows.
    """
    if isinstance(data, ImageData):
        options = {"label_column": "label", "problem": data.problem, "label_names": data.label_names}
    splits, findings = filled_splits(data.splits if isinstance(data, ImageData) else data)
    report = check_labelled(
        IMAGES,
        raw_images(splits, **options),
        findings,
        inspect=lambda split, column: inspect_images(split, column, looks_of),
        describe=lambda name, facts: (_file_findings(name, facts), _size_summary(facts)),
        relate=_repeat_findings,
    )
    return {**report, "notes": list(data.notes)} if isinstance(data, ImageData) else report


def check_boxes(
    data: Mapping[str, Dataset],
    *,
    image_column: str | None = None,
    box_column: str | None = None,
    box_format: str = "xywh",
    label_names: Sequence[str] | None = None,
) -> dict[str, Any]:
    """Decode all images, look at all boxes, and report what is there and every kind of mistake.

    Args:
        data: raw splits, or those of prepared data.

    Returns:
        A dict of plain values for JSON, in the form of `check_images`; the classes count boxes.

    Raises:
        ValueError: a column is missing, or there are no rows or no boxes.
    """
    splits, findings = filled_splits(data)
    raw, notes = raw_boxes(splits, image_column, box_column, box_format)
    names = box_names(raw, label_names)
    report: dict[str, Any] = {}
    facts: dict[str, list[ImageFacts | None]] = {}
    for name, split in raw.items():
        read = inspect_boxes(split, names, looks_of)
        facts[name] = read.facts
        findings += box_mistakes(name, read, None) + _file_findings(name, read.facts) + _box_findings(name, read)
        counts = Counter(names[label] for row in read.labels for label in row)
        if name == "train":
            findings += _category_findings(name, read, names)
        report[name] = {
            "rows": len(split),
            "boxes": sum(map(len, read.boxes)),
            "classes": {category: counts[category] for category in names},
            "boxes_of_images": quantiles([len(row) for row in read.boxes]),
            "box_sides": quantiles([min(box[2:]) for row in read.boxes for box in row]),
            **_size_summary(read.facts),
        }
    return {
        "columns_found": found_columns(next(iter(splits.values()))),
        "problem": "object_detection",
        "label_names": names,
        "splits": report,
        "findings": [asdict(item) for item in findings + _repeat_findings(facts)],
        "notes": notes,
    }


def _size_summary(facts: Sequence[ImageFacts | None]) -> dict[str, Any]:
    known = [fact for fact in facts if fact is not None]
    return {
        "widths": quantiles([fact.size[0] for fact in known]),
        "heights": quantiles([fact.size[1] for fact in known]),
        "formats": dict(Counter(fact.format for fact in known).most_common()),
        "modes": dict(Counter(fact.mode for fact in known).most_common()),
    }


def _file_findings(name: str, facts: Sequence[ImageFacts | None]) -> list[Finding]:
    """Find images that are not read as they stand in their file, and those that can show nothing."""
    return remark_findings(name, facts, _remarks, "image(s)")


def _remarks(fact: ImageFacts) -> list[tuple[str, str]]:
    remarks = list(fact.remarks)
    width, height = sorted(fact.size)
    if width < TINY:
        remarks.append(("image_tiny", f"the image is less than {TINY} pixels wide or high"))
    if height > NARROW * width:
        remarks.append(("image_narrow", f"one side of the image is more than {NARROW} times the other"))
    if fact.measured.is_blank:
        remarks.append(("image_blank", "the image has one colour only"))
    return remarks


def _repeat_findings(
    facts: Mapping[str, Sequence[ImageFacts | None]], labels: Mapping[str, Sequence[Any]] | None = None
) -> list[Finding]:
    """Find images that repeat others or nearly do so, inside a split or across two, and then with another label."""
    looks: dict[str, list[Looks | None]] = {
        name: [fact.measured if fact is not None else None for fact in found] for name, found in facts.items()
    }
    pairs = partial(pair_findings, facts=facts, targets=labels, unit="image(s)")
    findings = pairs(equal_images(looks), said="the image repeats an earlier one")
    return findings + pairs(near_duplicates(looks), said="the image looks like an earlier one", prefix="near_")


def _box_findings(name: str, read: ReadBoxes) -> list[Finding]:
    """Find boxes that are doubled, cut or hardly to be seen, and images that have none."""
    doubled, small, empty = [], [], []
    origins = column_values(read.split, ORIGIN)
    bad = {row.index for row in read.bad_rows}
    for index, (boxes, labels, places) in enumerate(zip(read.boxes, read.labels, read.places, strict=True)):
        seen: dict[tuple[float, ...], str] = {}
        for box, label, place in zip(boxes, labels, places, strict=True):
            first = seen.setdefault((*box, label), place)
            doubled += [f"{place} = {first}"] if first != place else []
            small += [place] if min(box[2:]) < SMALL_BOX else []
        empty += [origins[index]] if not boxes and index not in bad else []
    groups = [
        ("box_over_edge", f"the box reaches over the edge of the image by more than {ROUNDING:g} pixel", read.cut),
        ("box_doubled", "the box stands there twice, with the same category", doubled),
        ("box_tiny", f"the box is less than {SMALL_BOX:g} pixels wide or high", small),
    ]
    found = [finding(kind, name, message, places, "box(es)") for kind, message, places in groups if places]
    if read.turned:
        message = "the boxes were drawn before the image was turned upright, and are turned with it"
        found.append(finding("boxes_turned", name, message, read.turned, "image(s)"))
    if empty:
        found.append(finding("no_boxes", name, "the image has no boxes", empty, "image(s)"))
    return found


def _category_findings(name: str, read: ReadBoxes, names: Sequence[str]) -> list[Finding]:
    """Find categories that are rare, or look like one."""
    examples: dict[str, list[str]] = {category: [] for category in names}
    for labels, places in zip(read.labels, read.places, strict=True):
        for label, place in zip(labels, places, strict=True):
            examples[names[label]].append(place)
    found = [
        finding("rare_class", name, f"the category '{category}' is rare (fewer than {RARE} boxes)", places, "box(es)")
        for category, places in examples.items()
        if len(places) < RARE
    ]
    for group in label_twins(names):
        places = [place for category in group[1:] for place in examples[category]]
        found.append(finding("label_twins", name, f"the categories {group} look like one", places, "box(es)"))
    return found
