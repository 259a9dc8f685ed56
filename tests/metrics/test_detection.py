"""Scores of boxes: equal to pycocotools', on resamples to those of the copied images, with intervals and a test."""

from __future__ import annotations

import time
from contextlib import redirect_stdout
from io import StringIO
from typing import Any

import numpy as np
import pytest
from pycocotools.cocoeval import COCOeval

from hf_selfattn.metrics import box_metric_values, paired_bootstrap_boxes, score_boxes
from hf_selfattn.metrics.detection import as_coco, detection_statistic, match_boxes

NAMES = ["bird", "cat", "dog", "never"]
Boxes = list[dict[str, Any]]


def sample(count: int, seed: int = 0, noise: float = 6, most: int = 8) -> tuple[Boxes, Boxes]:
    """True boxes, and detections near most of them, doubled and with others by chance among them."""
    rng = np.random.default_rng(seed)
    truth, found = [], []
    for _ in range(count):
        corner, side = rng.uniform(0, 200, (rng.integers(0, most), 2)), rng.uniform(10, 90)
        boxes = np.concatenate([corner, corner + side], axis=1)
        labels = rng.integers(0, 3, len(boxes))
        truth.append({"boxes": boxes, "labels": labels})
        copies = np.repeat(np.arange(len(boxes)), rng.integers(0, 3, len(boxes)))
        moved = boxes[copies] + rng.normal(0, noise, (len(copies), 4))
        chance = rng.uniform(0, 200, (rng.integers(0, 4), 2))
        moved = np.concatenate(
            [np.sort(moved.reshape(-1, 2, 2), axis=1).reshape(-1, 4), np.tile(chance, 2) + [0, 0, 30, 30]]
        )
        guessed = np.concatenate([labels[copies], rng.integers(0, 3, len(chance))])
        scores = rng.permutation(40)[: len(moved)] / 40  # many are equal, of other images
        found.append({"boxes": moved, "labels": guessed, "scores": scores})
    return truth, found


def reference(truth: Boxes, found: Boxes) -> dict[str, float]:
    """The metrics as pycocotools sums them up itself."""
    with redirect_stdout(StringIO()):
        evaluation = COCOeval(
            as_coco(truth, NAMES, ("boxes", "labels")), as_coco(found, NAMES, ("boxes", "labels", "scores")), "bbox"
        )
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    values = dict(zip(("map", "map_50", "map_75"), evaluation.stats, strict=False))
    precisions = evaluation.eval["precision"][..., 0, -1]  # (T, recalls, C)
    for number, name in enumerate(NAMES):
        if (precisions[..., number] > -1).any():
            values[f"ap/{name}"] = precisions[..., number].mean()
            values[f"ap_50/{name}"] = precisions[0, :, number].mean()
            values[f"ap_75/{name}"] = precisions[5, :, number].mean()
    return values


@pytest.mark.parametrize("seed", range(4))
def test_values_are_those_of_pycocotools(seed: int) -> None:
    truth, found = sample(25, seed)
    values = box_metric_values(truth, found, NAMES)
    assert 0.1 < values["map"] < values["map_50"] < 0.9
    assert values == pytest.approx(reference(truth, found), abs=1e-9)


def test_a_resample_counts_as_its_copied_images() -> None:
    truth, found = sample(12, seed=5)
    rng = np.random.default_rng(0)
    weights = np.stack([np.bincount(rng.integers(12, size=12), minlength=12) for _ in range(6)], axis=1)
    values = detection_statistic(match_boxes(truth, found, NAMES))(weights.astype(float))
    for column, counts in enumerate(weights.T):
        copies = np.repeat(np.arange(12), counts)
        expected = reference([truth[i] for i in copies], [found[i] for i in copies])
        drawn = {name: value[column] for name, value in values.items() if np.isfinite(value[column])}
        assert drawn == pytest.approx(expected, abs=1e-9)


def test_intervals_hold_the_value_and_shrink_with_the_images() -> None:
    widths = []
    for count in (20, 180):
        scores = score_boxes(*sample(count), NAMES, resamples=200)
        assert all(score.low <= score.value <= score.high for score in scores.values())
        assert "ap/never" not in scores
        widths.append(scores["map"].high - scores["map"].low)
    assert widths[1] < 0.6 * widths[0]


def test_a_thousand_resamples_are_fast() -> None:
    truth, found = sample(300, most=12)
    start = time.perf_counter()
    score_boxes(truth, found, NAMES, resamples=1000)
    assert time.perf_counter() - start < 20


def test_perfect_and_worst_answers_have_intervals_of_their_images() -> None:
    truth, _ = sample(30)
    answers = [{**image, "scores": np.ones(len(image["labels"]))} for image in truth]
    scores = score_boxes(truth, answers, NAMES, resamples=50)
    assert scores["map"].value == 1 and 0.8 < scores["map"].low < 1 == scores["map"].high
    none: Boxes = [{"boxes": [], "labels": [], "scores": []} for _ in truth]
    scores = score_boxes(truth, none, NAMES, resamples=50)
    assert scores["map"].value == scores["map"].low == 0 < scores["map"].high < 0.2


def test_only_the_surest_hundred_of_an_image_count() -> None:
    truth = [{"boxes": [[0, 0, 10, 10]], "labels": [0]}]
    wrong = [[50, 50, 60, 60]] * 100
    found = {"boxes": [*wrong, [0, 0, 10, 10]], "labels": [0] * 101}
    assert box_metric_values(truth, [{**found, "scores": [0.9] * 100 + [0.1]}], NAMES)["map"] == 0
    assert box_metric_values(truth, [{**found, "scores": [0.9] * 100 + [1.0]}], NAMES)["map"] == 1


def test_two_detectors_are_compared_on_the_same_images() -> None:
    truth, found = sample(60, noise=4)
    _, worse = sample(60, noise=9)
    test = paired_bootstrap_boxes(truth, found, worse, NAMES, resamples=200)
    assert test.difference > 0.05 and test.low > 0 and test.p_value < 0.05
    same = paired_bootstrap_boxes(truth, found, found, NAMES, "ap_50/cat", resamples=50)
    assert same.difference == 0 and same.p_value == 1
    with pytest.raises(ValueError, match="metric is 'ap/never', but must be one of map, map_50"):
        paired_bootstrap_boxes(truth, found, worse, NAMES, "ap/never")


@pytest.mark.parametrize(
    ("truth", "found", "message"),
    [
        ([], [], "one image at least"),
        ([{"boxes": [[0, 0, 1, 1]], "labels": [0, 1]}], None, "Image 0 has 1 boxes, but labels of another number"),
        ([{"boxes": [[5, 0, 1, 1]], "labels": [0]}], None, "Image 0 has boxes or scores that are none"),
        ([{"boxes": [[0, 0, 1, np.nan]], "labels": [0]}], None, "Image 0 has boxes or scores that are none"),
        ([{"boxes": [[0, 0, 1, 1]], "labels": [4]}], None, "labels .4.0., but they are 0 to 3"),
    ],
)
def test_odd_inputs_are_refused(truth: Boxes, found: Boxes | None, message: str) -> None:
    none: Boxes = [{"boxes": [], "labels": [], "scores": []}]
    with pytest.raises(ValueError, match=message):
        box_metric_values(truth, none if found is None else found, NAMES)
