"""Boxes as the rows of a task: to the model's form and back, mirrored in training, answered by a model.

A row has `boxes`, (n) of left, top, width and height in pixels of the upright image, and `box_labels`, (n). The model
takes and gives (centre x, centre y, width, height), relative to the image; scores take corners in pixels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from PIL import Image, ImageOps
from torch import Tensor
from transformers import PreTrainedModel

from ...data.images import open_image
from ..answers import Answer, EncodedRows, Row
from ..problems import Array
from .images import ImageAnswers, ImageCollator, RandomViews

MOST_BOXES = 100  # of an image that are looked at, the surest
USUAL_THRESHOLD = 0.5  # of a model that does not say which one was found best
LEAST_OVERLAP = 0.5  # of a box that was found with a true one that it is right for
Boxes = Mapping[str, Any]  # of an image: `boxes` (n, 4), corners in pixels, `labels` (n,) and perhaps `scores` (n,)


class BoxCollator(ImageCollator):
    """Makes a batch of images, and of their boxes in the model's form."""

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        batch: dict[str, Any] = self.pixels([row["image"] for row in rows])
        if "boxes" in rows[0]:
            batch["labels"] = [box_labels(row) for row in rows]
        return batch


def box_labels(row: Mapping[str, Any]) -> dict[str, Tensor]:
    """Return the boxes of a row as the model takes them."""
    left, top, width, height = torch.tensor(row["boxes"], dtype=torch.float32).reshape(-1, 4).unbind(dim=1)
    centres = torch.stack([left + width / 2, top + height / 2, width, height], dim=1)
    sides = torch.tensor([row["width"], row["height"]] * 2, dtype=torch.float32)
    return {"class_labels": torch.tensor(row["box_labels"], dtype=torch.long), "boxes": centres / sides}


class MirroredBoxes(RandomViews):
    """Mirrors half of the training images with their boxes, others in every epoch."""

    def change(self, rows: dict[str, list[Any]]) -> dict[str, list[Any]]:
        """Return rows of which some are mirrored."""
        if "image" not in rows:
            return rows
        changed: dict[str, list[Any]] = {**rows, "image": [], "boxes": []}
        for source, boxes, width in zip(rows["image"], rows["boxes"], rows["width"], strict=True):
            image, is_mirrored = open_image(source), self.random(source).random() < 0.5
            changed["image"].append(ImageOps.mirror(image) if is_mirrored else image)
            changed["boxes"].append([[width - x - w, y, w, h] for x, y, w, h in boxes] if is_mirrored else boxes)
        return changed


def found_boxes(logits: Tensor, boxes: Tensor) -> Tensor:
    """Return (B, MOST_BOXES, 6) of the surest answers of each image: class, probability and box, 0 sure where none is.

    Args:
        logits: (B, Q, C + 1), the last of "no object".
        boxes: (B, Q, 4) in the model's form.
    """
    probabilities = logits.float().softmax(dim=-1)[..., :-1].flatten(1)
    count = min(MOST_BOXES, probabilities.shape[1])
    scores, places = probabilities.topk(count, dim=1)
    num_labels = logits.shape[-1] - 1
    chosen = boxes.float().take_along_dim((places // num_labels)[..., None], dim=1)
    found = torch.cat([(places % num_labels)[..., None], scores[..., None], chosen], dim=-1)
    return torch.nn.functional.pad(found, (0, 0, 0, MOST_BOXES - count))


def in_pixels(found: Array, width: int, height: int) -> dict[str, Array]:
    """Return what was found in an image, (n, 6) as `found_boxes` gives it, as scores take it."""
    found = found[found[:, 1] > 0]
    centres, sides = found[:, 2:4], found[:, 4:6]
    corners = np.concatenate([centres - sides / 2, centres + sides / 2], axis=1) * ([width, height] * 2)
    return {"boxes": corners, "labels": found[:, 0].astype(int), "scores": found[:, 1].astype(float)}


def pixels_of(found: Array, split: Dataset) -> list[dict[str, Array]]:
    """Return what was found (N, MOST_BOXES, 6) in the images of a split, as scores take it."""
    if len(found) != len(split):
        raise ValueError(f"{len(split)} images were evaluated, but {len(found)} predictions came back.")
    sizes = zip(split["width"], split["height"], strict=True)
    return [in_pixels(of_image, *size) for of_image, size in zip(found, sizes, strict=True)]


def true_boxes(split: Dataset) -> list[dict[str, Array]]:
    """Return the boxes of a split as scores take them."""
    rows = zip(split["boxes"], split["box_labels"], strict=True)
    return [{"boxes": corners_of(boxes), "labels": np.array(labels, dtype=int)} for boxes, labels in rows]


def corners_of(boxes: Sequence[Sequence[float]]) -> Array:
    """Return (n, 4) corners of boxes (n) of left, top, width and height."""
    values = np.array(boxes, dtype=float).reshape(-1, 4)
    return np.concatenate([values[:, :2], values[:, :2] + values[:, 2:]], axis=1)


def best_threshold(truth: Sequence[Boxes], found: Sequence[Boxes]) -> float:
    """Return the least probability at which the boxes that are answered have the best F1, at an overlap of half."""
    pairs = [matched(*both) for both in zip(truth, found, strict=True)]
    scores, hits = (np.concatenate(values) for values in zip(*pairs, strict=True))
    order = np.argsort(-scores, kind="stable")
    count, right = np.arange(1, len(order) + 1), np.cumsum(hits[order])
    actual = sum(len(boxes["labels"]) for boxes in truth)
    if not right.any():
        return USUAL_THRESHOLD
    return float(scores[order][np.argmax(2 * right / (count + actual))])


def matched(truth: Boxes, found: Boxes) -> tuple[Array, Array]:
    """Return the score of each box found in an image, and whether it is the surest for a true one of its class."""
    order = np.argsort(-found["scores"], kind="stable")
    free, hits = np.ones(len(truth["labels"]), dtype=bool), np.zeros(len(order), dtype=bool)
    for number in order:
        overlaps = overlap(truth["boxes"], found["boxes"][number])
        overlaps = np.where(free & (truth["labels"] == found["labels"][number]), overlaps, 0.0)
        if len(overlaps) and overlaps.max() >= LEAST_OVERLAP:
            free[overlaps.argmax()], hits[number] = False, True
    return found["scores"], hits


def overlap(boxes: Array, box: Array) -> Array:
    """Return (n,) the area that boxes (n, 4) share with another, over the area that both cover; corners in pixels."""
    sides = np.minimum(boxes[:, 2:], box[2:]) - np.maximum(boxes[:, :2], box[:2])
    shared = np.clip(sides, 0, None).prod(axis=1)
    areas = (boxes[:, 2:] - boxes[:, :2]).prod(axis=1) + (box[2:] - box[:2]).prod()
    return np.asarray(shared / np.maximum(areas - shared, 1e-9))


class BoxAnswers(ImageAnswers):
    """Answers to an image: its objects, each with its class, its probability and its box."""

    example: Row = {"image": Image.new("RGB", (64, 64))}

    def __init__(self, model: PreTrainedModel, processor: Any):
        super().__init__(model, processor)
        thresholds = getattr(model.config, "thresholds", None)
        self.least = thresholds[0] if thresholds else USUAL_THRESHOLD

    def answer_all(self) -> None:
        """Answer every object, however unsure, as scores need it."""
        self.least = 0.0

    def answered(self, of_words: bool) -> list[str]:
        """Return the objects."""
        return ["objects"]

    def expectation(self, threshold: float, record: Mapping[str, Any]) -> str:
        """Refuse: an image has objects of many probabilities."""
        raise ValueError(f"abstain={threshold} needs one probability for each row, which a detector does not give.")

    def batch(self, encoded: EncodedRows, numbers: Sequence[int]) -> dict[str, Tensor]:
        """Return the images of these numbers as a batch, and keep their sizes in mind."""
        images = [open_image(encoded.inputs["image"][number]) for number in numbers]
        encoded.sizes.update(zip(numbers, (image.size for image in images), strict=True))
        return {name: values.to(self.model.device) for name, values in self.collate.pixels(images).items()}

    def scores_of(self, outputs: Any) -> Tensor:
        """Return (B, MOST_BOXES, 6) the surest boxes of each image."""
        return found_boxes(outputs.logits, outputs.pred_boxes)

    def read(self, logits: Tensor, rows: Sequence[Row], encoded: EncodedRows, numbers: Sequence[int]) -> list[Answer]:
        """Return the objects of each image, the surest first, with left, top, width and height in pixels."""
        answers = []
        for of_image, number in zip(logits.cpu().numpy(), numbers, strict=True):
            found = in_pixels(of_image, *encoded.sizes[number])
            objects = [
                {
                    "label": self.label_names[label],
                    "score": float(score),
                    "box": [float(x0), float(y0), float(x1 - x0), float(y1 - y0)],
                }
                for (x0, y0, x1, y1), label, score in zip(*found.values(), strict=True)
                if score >= self.least
            ]
            answers.append({"objects": objects})
        return answers
