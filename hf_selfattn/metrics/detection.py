"""COCO's average precision of boxes with intervals over images, and the paired test of two detectors.

pycocotools matches the boxes of each image once; a resample of the images only counts the matches otherwise.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass
from io import StringIO
from typing import Any

import numpy as np

from .comparison import PairedTest, compare_statistics
from .inputs import Array
from .intervals import (
    Score,
    Statistic,
    bca_interval,
    check_confidence,
    cumulative,
    mean_of_defined,
    ratio,
    replicate,
    values_of,
    wilson_interval,
)

Boxes = Mapping[str, Any]  # of an image

IOU_THRESHOLDS = np.linspace(0.5, 0.95, 10)
RECALLS = np.linspace(0, 1, 101)
MAX_DETECTIONS = 100  # of a class in an image that count, the surest
# Which of the mean over IoU thresholds each metric is.
MEANS: dict[str, slice] = {"": slice(None), "_50": slice(0, 1), "_75": slice(5, 6)}


@dataclass(frozen=True)
class ClassMatches:
    """The D detections of one class in all N images, surest first."""

    actual: Array  # (N,) true boxes of each image
    images: Array  # (D,) the image of each detection
    hits: Array  # (T, D) whether it matches a true box, at each IoU threshold


def score_boxes(
    references: Sequence[Boxes],
    predictions: Sequence[Boxes],
    label_names: Sequence[str],
    *,
    confidence: float = 0.95,
    resamples: int = 1000,
    seed: int = 0,
) -> dict[str, Score]:
    """Score detections as COCO does (Lin et al. 2014), each metric with its interval.

    - map, map_50, map_75: average precision over 101 recalls, mean over the classes that occur and over the IoU
      thresholds .50, .55, …, .95, or at one of them;
    - "ap/NAME", "ap_50/NAME", "ap_75/NAME": of one class.

    A metric that is undefined on the data (of a class without true boxes) is absent. The intervals are BCa over
    images, since the boxes of an image are not independent; where all resamples agree on 0 or 1, Wilson's over the
    images that show the class.

    Args:
        references: for each image `boxes` (G, 4), corners (x0, y0, x1, y1) in pixels, and `labels` (G,) ints.
        predictions: the same with `scores` (N,), as `post_process_object_detection` gives them; a low threshold there
            is right here, since precision is read at every recall.
        label_names: C names.

    Raises:
        ValueError: the inputs do not fit each other, or a box or a label is none.
    """
    check_confidence(confidence)
    classes = match_boxes(references, predictions, label_names)
    replicates = replicate(detection_statistic(classes), len(references), resamples, seed)
    scores = {}
    for name, value in replicates.values.items():
        resampled = replicates.resampled[name]
        defined = resampled[np.isfinite(resampled)]
        if value in (0.0, 1.0) and (defined == value).all():
            shown = sum(found.actual > 0 for kind, found in classes.items() if name.partition("/")[2] in ("", kind))
            count = int(np.count_nonzero(shown))
            low, high = wilson_interval(value * count, count, confidence)
        else:
            low, high = bca_interval(value, resampled, replicates.jackknife[name], confidence)
        scores[name] = Score(value, low, high)
    return scores


def box_metric_values(
    references: Sequence[Boxes], predictions: Sequence[Boxes], label_names: Sequence[str]
) -> dict[str, float]:
    """Compute the metrics of `score_boxes` without intervals, as the evaluations during training need them."""
    return values_of(detection_statistic(match_boxes(references, predictions, label_names)), len(references))


def paired_bootstrap_boxes(
    references: Sequence[Boxes],
    predictions_a: Sequence[Boxes],
    predictions_b: Sequence[Boxes],
    label_names: Sequence[str],
    metric: str = "map",
    *,
    confidence: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
) -> PairedTest:
    """Test whether two detectors differ, by drawing the same images for both (see `paired_bootstrap`)."""
    check_confidence(confidence)
    first, second = (
        detection_statistic(match_boxes(references, predictions, label_names))
        for predictions in (predictions_a, predictions_b)
    )
    known = values_of(first, len(references))
    if metric not in known:
        raise ValueError(f"metric is {metric!r}, but must be one of {', '.join(known)}, which are defined here.")
    rows = len(references)
    return compare_statistics(first, second, metric, rows, confidence=confidence, resamples=resamples, seed=seed)


def match_boxes(
    references: Sequence[Boxes], predictions: Sequence[Boxes], label_names: Sequence[str]
) -> dict[str, ClassMatches]:
    """Match the detections of every image with its true boxes, class by class, with pycocotools."""
    try:
        from pycocotools.cocoeval import COCOeval
    except ImportError as error:
        raise ImportError("Scores of boxes need pycocotools: pip install pycocotools") from error
    if len(references) != len(predictions) or len(references) == 0:
        raise ValueError(
            f"There are references of {len(references)} images and predictions of {len(predictions)}: give one of "
            "each for every image, and one image at least."
        )
    with redirect_stdout(StringIO()):  # it tells what it does
        truth, found = (
            as_coco(boxes, label_names, names)
            for boxes, names in ((references, ("boxes", "labels")), (predictions, ("boxes", "labels", "scores")))
        )
        evaluation = COCOeval(truth, found, "bbox")
        evaluation.params.iouThrs = IOU_THRESHOLDS
        evaluation.params.areaRng, evaluation.params.areaRngLbl = [[0, np.inf]], ["all"]
        evaluation.params.maxDets = [MAX_DETECTIONS]
        evaluation.evaluate()
    rows = len(references)
    parts = [evaluation.evalImgs[number * rows : (number + 1) * rows] for number in range(len(label_names))]
    return {name: class_matches(part) for name, part in zip(label_names, parts, strict=True)}


def class_matches(images: Sequence[Mapping[str, Any] | None]) -> ClassMatches:
    """Return the matches of a class of what pycocotools says of each image."""
    actual = np.array([0 if image is None else len(image["gtIds"]) for image in images])
    found = [(number, image) for number, image in enumerate(images) if image is not None]
    none = [np.zeros((len(IOU_THRESHOLDS), 0))]
    hits = np.concatenate(none + [image["dtMatches"] > 0 for _, image in found], axis=1).astype(np.bool_)
    owners = np.repeat([number for number, _ in found], [len(image["dtIds"]) for _, image in found]).astype(np.int64)
    scores = np.array([score for _, image in found for score in image["dtScores"]], dtype=np.float64)
    order = np.argsort(-scores, kind="stable")
    return ClassMatches(actual, owners[order], hits[:, order])


def as_coco(images: Sequence[Boxes], label_names: Sequence[str], names: Sequence[str]) -> Any:
    """Return checked boxes as an object of pycocotools, images and annotations numbered from 1."""
    from pycocotools.coco import COCO

    annotations: list[dict[str, Any]] = []
    for row, image in enumerate(images):
        boxes, labels, *scores = (np.asarray(image[name], dtype=np.float64) for name in names)
        boxes = boxes.reshape(-1, 4)
        if any(values.shape != (len(boxes),) for values in (labels, *scores)):
            raise ValueError(f"Image {row} has {len(boxes)} boxes, but {' and '.join(names[1:])} of another number.")
        sizes = boxes[:, 2:] - boxes[:, :2]
        if not np.isfinite([*boxes.ravel(), *(np.concatenate(scores) if scores else ())]).all() or (sizes < 0).any():
            raise ValueError(
                f"Image {row} has boxes or scores that are none: {boxes.tolist()}. Give corners in pixels."
            )
        if not np.isin(labels, range(len(label_names))).all():
            raise ValueError(
                f"Image {row} has the labels {labels.tolist()}, but they are 0 to {len(label_names) - 1}."
            )
        for place, (box, size) in enumerate(zip(boxes, sizes, strict=True)):
            annotation: dict[str, Any] = {
                "id": len(annotations) + 1,
                "image_id": row + 1,
                "category_id": int(labels[place]) + 1,
            }
            annotation |= {"bbox": [*box[:2], *size], "area": size.prod(), "iscrowd": 0}
            annotations.append(annotation | ({"score": scores[0][place]} if scores else {}))
    coco = COCO()
    coco.dataset = {
        "images": [{"id": row + 1} for row in range(len(images))],
        "categories": [{"id": number + 1, "name": name} for number, name in enumerate(label_names)],
        "annotations": annotations,
    }
    coco.createIndex()
    return coco


def detection_statistic(classes: Mapping[str, ClassMatches]) -> Statistic:
    """Build the statistic over images: weights (N, R) to values (R,) per metric."""

    def statistic(weights: Array) -> dict[str, Array]:
        precisions = np.stack([average_precisions(matches, weights) for matches in classes.values()])  # (C, T, R)
        values = {f"map{end}": mean_of_defined(precisions[:, part].mean(axis=1)) for end, part in MEANS.items()}
        for name, of_class in zip(classes, precisions, strict=True):
            values |= {f"ap{end}/{name}": of_class[part].mean(axis=0) for end, part in MEANS.items()}
        return values

    return statistic


def average_precisions(matches: ClassMatches, weights: Array) -> Array:
    """Return (T, R) the average precision at each IoU threshold on each resample; NaN without true boxes.

    The precision at a recall is the best at that recall or a higher one. It is best at a hit, so only hits are looked
    at: a hit counts for the recalls that it is the first to reach.
    """
    actual = matches.actual @ weights  # (R,)
    weights = weights[matches.images]  # (D, R)
    claimed = cumulative(weights)[1:]
    averages = []
    for hits in matches.hits:
        hit = cumulative(weights[hits])  # (hits + 1, R)
        best = np.maximum.accumulate(np.nan_to_num(ratio(hit[1:], claimed[hits]))[::-1], axis=0)[::-1]
        reached = np.searchsorted(RECALLS, ratio(hit, actual), side="right")
        reached[0] = 0  # the recall 0, too, is reached by the first hit
        averages.append((best * np.diff(reached, axis=0)).sum(axis=0) / len(RECALLS))
    return np.where(actual > 0, np.stack(averages), np.nan)
