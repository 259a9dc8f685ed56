"""Detectors on kept maps, ours and the head after RetinaNet: trained by the runner on tiny scenes and compared."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import yaml
from image_runs import box_settings
from transformers.image_transforms import center_to_corners_format

from benchmarks.peers import retina
from benchmarks.peers.detectors import KeptMaps
from benchmarks.quality import compare, predictions
from benchmarks.quality import run as runner
from hf_selfattn.modeling.detection_selfattn import TrueBoxes


def test_rows_of_detectors_are_trained_scored_and_compared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for module in (runner, compare, predictions):
        for name in {"RUNS", "RESULTS", "EXPERIMENTS"} & vars(module).keys():
            folder = tmp_path if name == "EXPERIMENTS" else tmp_path / name.lower()
            monkeypatch.setattr(module, name, folder)
    settings = box_settings(tmp_path, tuning="probe", num_train_epochs=2)
    settings.pop("output_dir")
    rows: dict[str, Any] = {"heads": {"recipe": "detection"}, "retina": {"recipe": "retina"}}
    experiment = {"settings": settings, "seeds": [0], "rows": rows, "against": ["retina"], "metric": "map"}
    (tmp_path / "scenes.yaml").write_text(yaml.safe_dump(experiment, sort_keys=False), encoding="utf-8")
    record = runner.run_experiment(tmp_path / "scenes.yaml")
    assert record["runs"].keys() == {"heads-seed-0", "retina-seed-0"}
    found = compare.compare("scenes", "heads", "retina", "map")
    for name, value in (("heads", found["value_a"]), ("retina", found["value_b"])):
        expected = record["runs"][f"{name}-seed-0"]["scores"]["test"].get("map", [0.0])[0]
        assert value == pytest.approx(expected, abs=1e-3)


def test_each_image_runs_through_the_backbone_once() -> None:
    seen: list[int] = []

    def forward(pixel_values: torch.Tensor, **options: Any) -> Any:
        seen.append(len(pixel_values))
        maps = pixel_values.mean(dim=1, keepdim=True)
        return SimpleNamespace(hidden_states=(maps, 2 * maps), last_hidden_state=3 * maps)

    kept, images = KeptMaps(forward), torch.rand(3, 3, 4, 4)
    kept(images[:2])
    found = kept(images)
    assert seen == [2, 1]
    torch.testing.assert_close(found.last_hidden_state, 3 * images.mean(dim=1, keepdim=True), rtol=1e-3, atol=1e-3)
    assert len(found.hidden_states) == 2


def test_anchors_learn_the_boxes_that_they_overlap() -> None:
    anchors = retina.anchor_boxes(4, 4, (128, 128))
    assert anchors.shape == (4 * 4 * 9, 4)
    matched = retina.anchors_of(anchors, torch.tensor([[0.25, 0.25, 0.5, 0.5], [0.0, 0.0, 0.02, 0.02]]))
    assert (matched == 0).any() and (matched == 1).sum() == 1, "a box that no anchor overlaps has its best one"
    assert (retina.anchors_of(anchors, torch.zeros(0, 4)) == -1).all()


def test_of_boxes_that_double_one_another_the_surest_is_answered() -> None:
    scores = torch.tensor([[[0.9, 0.1], [0.8, 0.1], [0.1, 0.7]]])
    boxes = torch.tensor([[[0.1, 0.1, 0.5, 0.5], [0.1, 0.1, 0.5, 0.52], [0.1, 0.1, 0.5, 0.5]]])
    logits, found = retina.surest(scores, boxes)
    probabilities = logits.softmax(dim=-1)[0]
    torch.testing.assert_close(probabilities[0], torch.tensor([0.9, 0.0, 0.1]), atol=1e-6, rtol=0)
    torch.testing.assert_close(probabilities[1], torch.tensor([0.0, 0.7, 0.3]), atol=1e-6, rtol=0)
    assert probabilities[2, -1] > 0.99, "it doubles the first"
    torch.testing.assert_close(center_to_corners_format(found[0, 0]), boxes[0, 0])


def test_the_focal_loss_falls_as_answers_get_right() -> None:
    truth = [TrueBoxes(torch.tensor([1]), torch.tensor([[0.0, 0.0, 0.5, 0.5]]))]
    matched = torch.tensor([[0, -1, -2]])
    right = torch.tensor([[[-4.0, 4.0], [-4.0, -4.0], [9.0, 9.0]]])
    wrong = torch.tensor([[[4.0, -4.0], [-4.0, -4.0], [-9.0, -9.0]]])
    assert retina.focal_loss(right, matched, truth) < 0.01 < 1 < retina.focal_loss(wrong, matched, truth)
