"""What the configurations on images and sounds expect is what the results files hold."""

from __future__ import annotations

import re
from typing import Any

import pytest

from benchmarks.records import RESULTS, ROOT, read_results
from hf_selfattn.settings import read_yaml

SAID = re.compile(r"Expected: (?:accuracy|word error rate) \.(\d{3}) \[\.(\d{3}), \.(\d{3})\]")


@pytest.mark.parametrize(
    ("name", "experiment", "metric"),
    [
        ("elpv", "image-elpv", "accuracy"),
        ("stamps", "image-stamps", "accuracy"),
        ("languages", "languages-base", "accuracy"),
        ("asterisk", "speech-asterisk", "wer"),
    ],
)
def test_the_expected_score_is_that_of_the_run_with_these_settings(name: str, experiment: str, metric: str) -> None:
    path = ROOT / "recipes" / "configs" / f"{name}.yaml"
    run = read_results(RESULTS / f"{experiment}.json")["runs"]["probe-seed-0"]
    said = SAID.search(path.read_text(encoding="utf-8"))
    assert said is not None
    score = [f"{value:.3f}"[2:] for value in run["scores"]["test"][metric]]
    assert list(said.groups()) == score
    is_told(read_yaml(path), run)


def test_the_expected_precision_of_a_detector_is_that_of_the_run_with_these_settings() -> None:
    path = ROOT / "recipes" / "configs" / "stamp-scenes.yaml"
    run = read_results(RESULTS / "detection-scenes.json")["runs"]["heads-seed-0"]
    for metric, said in (
        ("map", r"mAP \.(\d{3}) \[\.(\d{3}), \.(\d{3})\]"),
        ("map_50", r"half \.(\d{3}) \[\.(\d{3}), \.(\d{3})\]"),
    ):
        found = re.search(said, path.read_text(encoding="utf-8"))
        assert found is not None
        assert list(found.groups()) == [f"{value:.3f}"[2:] for value in run["scores"]["test"][metric]]
    is_told({"heads": {}, **read_yaml(path)}, run)


def is_told(settings: dict[str, Any], run: dict[str, Any]) -> None:
    """Check that a configuration has the settings of a run."""
    kept = run["arguments"]
    for key in ("model", "heads", "image_size", "tuning", "train", "validation", "test"):
        assert settings.get(key) == kept.get(key), key
    assert settings["num_train_epochs"] == kept["options"]["num_train_epochs"] and settings["seed"] == run["seed"]
