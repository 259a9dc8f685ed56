"""What the configurations on images and sounds expect is what the results files hold."""

from __future__ import annotations

import re

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
    settings, kept = read_yaml(path), run["arguments"]
    for key in ("model", "heads", "image_size", "tuning", "train", "validation", "test"):
        assert settings.get(key) == kept.get(key), key
    assert settings["num_train_epochs"] == kept["options"]["num_train_epochs"] and settings["seed"] == run["seed"]
