"""Boxes as a task: to the model's form and back, mirrored, learned, answered and drawn."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from image_runs import box_arguments, coco_scenes
from runs import stopped_after
from tiny_images import tiny_image_processor
from transformers import AutoModelForObjectDetection, pipeline

from hf_selfattn import (
    EvaluateArguments,
    PredictArguments,
    ReportArguments,
    evaluate,
    open_predictor,
    predict,
    report,
    run,
)
from hf_selfattn.tasks.media.boxes import (
    MOST_BOXES,
    BoxCollator,
    MirroredBoxes,
    best_threshold,
    corners_of,
    found_boxes,
    in_pixels,
    matched,
    overlap,
)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder with a finished run, and its data."""
    folder = tmp_path_factory.mktemp("scenes")
    run(box_arguments(folder, tuning="full", num_train_epochs=8))
    return folder


def results_of(folder: Path) -> dict[str, Any]:
    results: dict[str, Any] = json.loads((folder / "run/results.json").read_text(encoding="utf-8"))
    return results


def test_a_detector_is_scored_with_intervals_and_opens_again(trained: Path) -> None:
    results = results_of(trained)
    assert results["problem"] == "object_detection" and results["label_names"] == ["circles", "squares"]
    scores = results["splits"]["test"]["scores"]
    assert {"map", "map_50", "map_75"} <= scores.keys() and scores["map"]["low"] <= scores["map"]["value"]
    assert results["train"]["labels"].keys() == {"circles", "squares"}
    model = AutoModelForObjectDetection.from_pretrained(trained / "run")
    assert model.config.thresholds == [results["threshold"]] * 2
    lines = (trained / "run/predictions-test.jsonl").read_text(encoding="utf-8").splitlines()
    assert len(lines) == results["splits"]["test"]["rows"]
    assert json.loads(lines[0])["output"].keys() == {"boxes", "labels", "scores"}


def test_boxes_are_predicted_scored_and_drawn(trained: Path, tmp_path: Path) -> None:
    output = tmp_path / "objects.jsonl"
    predict(PredictArguments(model=str(trained / "run"), input=str(trained / "images/*.png"), output=str(output)))
    rows = [json.loads(line) for line in output.read_text(encoding="utf-8").splitlines()]
    detect = pipeline("object-detection", model=str(trained / "run"), threshold=0.0)
    best = max(detect(rows[0]["image"]), key=lambda found: float(found["score"]))
    predictor = open_predictor(trained / "run", dtype="float32")
    predictor.kind.answer_all()
    mine = predictor.answers([{"image": rows[0]["image"]}])[0]["objects"][0]
    assert mine["label"] == best["label"] and mine["score"] == pytest.approx(best["score"], abs=1e-4)
    assert mine["box"][:2] == pytest.approx([best["box"]["xmin"], best["box"]["ymin"]], abs=1.0)
    least = results_of(trained)["threshold"]
    for row in rows:
        assert all(found["score"] >= least - 1e-6 and len(found["box"]) == 4 for found in row["objects"])
    now = evaluate(EvaluateArguments(model=str(trained / "run"), input=str(trained / "test.json")))["splits"]["test"]
    before = results_of(trained)["splits"]["test"]
    assert now["scores"]["map"]["value"] == pytest.approx(before["scores"]["map"]["value"], abs=1e-3)
    page = report(ReportArguments(runs=[str(trained / "run")], output=str(tmp_path / "page.html")))
    assert "Images it got most wrong" in page.read_text(encoding="utf-8")
    assert "data:image/jpeg;base64," in page.read_text(encoding="utf-8")


@pytest.mark.parametrize("tuning", ["lora", "probe"])
def test_every_way_to_tune_is_stopped_and_goes_on(tuning: str, tmp_path: Path) -> None:
    arguments = box_arguments(tmp_path, tuning=tuning)
    with stopped_after(epochs=1):
        run(arguments)
    assert run(arguments)["run_state"]["starts"] == 2


def test_boxes_go_to_the_models_form_and_back(tmp_path: Path) -> None:
    coco_scenes(tmp_path, "train", 1)
    row = {"image": {"bytes": None, "path": str(tmp_path / "images/train-0.png")}, "width": 64, "height": 48}
    row |= {"boxes": [[16, 12, 8, 24], [0, 0, 64, 48]], "box_labels": [1, 0]}
    (label,) = BoxCollator(tiny_image_processor())([row])["labels"]
    assert label["boxes"].tolist() == [[0.3125, 0.5, 0.125, 0.5], [0.5, 0.5, 1.0, 1.0]]
    logits = torch.full((1, 2, 3), -9.0)
    logits[0, 0, 1] = logits[0, 1, 0] = 9.0
    found = found_boxes(logits, label["boxes"][None]).numpy()
    assert found.shape == (1, MOST_BOXES, 6)
    back = in_pixels(found[0], 64, 48)
    sure = back["scores"] > 0.5
    order = np.argsort(back["labels"][sure])
    assert back["boxes"][sure][order].tolist() == [[0, 0, 64, 48], [16, 12, 24, 36]]


def test_mirrored_images_keep_their_boxes_on_their_objects(tmp_path: Path) -> None:
    coco_scenes(tmp_path, "train", 6)
    content = json.loads((tmp_path / "train.json").read_text(encoding="utf-8"))
    paths = [str(tmp_path / "images" / image["file_name"]) for image in content["images"]]
    boxes = [[one["bbox"] for one in content["annotations"] if one["image_id"] == image] for image in range(6)]
    rows = {"image": [{"bytes": None, "path": path} for path in paths], "boxes": boxes, "width": [64] * 6}
    changed = MirroredBoxes(0).change(rows)
    assert any(now != before for now, before in zip(changed["boxes"], boxes, strict=True))
    assert any(now == before for now, before in zip(changed["boxes"], boxes, strict=True))
    for image, of_image in zip(changed["image"], changed["boxes"], strict=True):
        pixels = np.asarray(image).astype(int)
        for x, y, w, h in of_image:
            inside = pixels[y + 1 : y + h - 1, x + 1 : x + w - 1].reshape(-1, 3)
            assert np.ptp(inside, axis=0).max() == 0, "an object has one colour"


def test_the_threshold_is_the_best_on_validation() -> None:
    truth = [{"boxes": corners_of([[0, 0, 10, 10], [20, 0, 10, 10]]), "labels": np.array([0, 1])}]
    found = [
        {
            "boxes": corners_of([[0, 0, 10, 9], [0, 0, 10, 10], [20, 0, 10, 8], [40, 0, 5, 5]]),
            "labels": np.array([0, 0, 1, 1]),
            "scores": np.array([0.9, 0.3, 0.6, 0.2]),
        }
    ]
    scores, hits = matched(truth[0], found[0])
    assert hits.tolist() == [True, False, True, False] and scores.tolist() == [0.9, 0.3, 0.6, 0.2]
    assert best_threshold(truth, found) == 0.6
    assert overlap(truth[0]["boxes"], np.array([5.0, 0, 15, 10])).tolist() == pytest.approx([1 / 3, 0])
