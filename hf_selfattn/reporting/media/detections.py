"""What a detector gets wrong: boxes missed, found twice or where nothing is, drawn into their images."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ...hub.sanitize import last_part
from ...metrics.inputs import Array
from ..blocks import Example, Examples, Section, Table, Text, in_digits
from ..runs import FinishedRun
from .pictures import as_picture

if TYPE_CHECKING:  # a report on texts needs no Pillow
    from PIL import Image, ImageDraw

SIDE = 420  # pixels of the longer side on the page, at most
TRUE, FOUND = (40, 200, 80), (255, 120, 0)


def worst_images(run: FinishedRun) -> Section:
    """Return the images with most mistakes, the true boxes and those that were found drawn into them."""
    from ...tasks.media.boxes import matched

    least = float(run.results["threshold"])
    sides = [(as_arrays(answer["reference"]), surer(as_arrays(answer["output"]), least)) for answer in run.answers]
    hits = [int(matched(*both)[1].sum()) for both in sides]
    missed = np.array([len(truth["labels"]) - hit for (truth, _), hit in zip(sides, hits, strict=True)])
    wrong = np.array([len(found["labels"]) - hit for (_, found), hit in zip(sides, hits, strict=True)])
    rows = [
        [name, in_digits(count)]
        for name, count in {
            "found": sum(hits),
            "missed": int(missed.sum()),
            "found where no such object is, or twice": int(wrong.sum()),
        }.items()
    ]
    said = (
        f"Boxes of probability {least:.3f} or more, which had the best F1 on the validation split; a box is right if "
        "it overlaps one of its class by half. Green are the boxes of the labels, orange those that were found."
    )
    order = [int(row) for row in np.argsort(-(missed + wrong), kind="stable") if missed[row] + wrong[row]]
    examples = [
        Example(
            run.place(row),
            [("missed", in_digits(int(missed[row]))), ("wrong", in_digits(int(wrong[row])))],
            [],
            pictures=[as_picture(drawn(run, row, *sides[row]), run.place(row))],
        )
        for row in order[: run.options.examples]
    ]
    table = Table(f"Boxes of {last_part(run.split)}", ["", "boxes"], rows)
    return Section("wrong", "Images it got most wrong", [Text(said), table, Examples("", examples)])


def as_arrays(boxes: dict[str, Any]) -> dict[str, Array]:
    """Return boxes of the predictions file as arrays."""
    return {
        name: np.array(values, dtype=int if name == "labels" else float).reshape((-1, 4) if name == "boxes" else -1)
        for name, values in boxes.items()
    }


def surer(found: dict[str, Array], least: float) -> dict[str, Array]:
    """Return those boxes whose probability is not below a threshold."""
    return {name: values[found["scores"] >= least] for name, values in found.items()}


def drawn(run: FinishedRun, row: int, truth: dict[str, Array], found: dict[str, Array]) -> Image.Image:
    """Return a small image with the boxes of both sides and their labels."""
    from PIL import ImageDraw

    from ...data.images import open_image

    image = open_image(run.rows[row]["image"])
    width = image.width
    image.thumbnail((SIDE, SIDE))
    scale, canvas = image.width / width, ImageDraw.Draw(image)
    names = [run.label_names[label] for label in truth["labels"]]
    draw_boxes(canvas, truth["boxes"] * scale, names, TRUE)
    sure = zip(found["labels"], found["scores"], strict=True)
    draw_boxes(
        canvas, found["boxes"] * scale, [f"{run.label_names[label]} {score:.2f}" for label, score in sure], FOUND
    )
    return image


def draw_boxes(canvas: ImageDraw.ImageDraw, boxes: Array, names: Sequence[str], colour: tuple[int, int, int]) -> None:
    """Draw boxes with their names, the name of a true one above and of a found one below its upper edge."""
    for (left, top, right, bottom), name in zip(boxes.tolist(), names, strict=True):
        canvas.rectangle((left, top, right, bottom), outline=colour, width=2)
        place = (left + 3, top + 2 if colour == FOUND else max(top - 12, 0))
        canvas.rectangle(canvas.textbbox(place, name), fill=(0, 0, 0))
        canvas.text(place, name, fill=colour)
