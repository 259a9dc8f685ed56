from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from hf_selfattn.files import write_json
from hf_selfattn.hub.results import ARGUMENTS_FILE, RESULTS_FILE, backbone_record, environment, open_run
from hf_selfattn.hub.summary import summary
from hf_selfattn.tasks.evaluation import write_predictions


def test_a_finished_run_is_read_and_an_unfinished_one_goes_on(tmp_path: Path) -> None:
    assert open_run(tmp_path, {"a": 1}) is None
    write_json(tmp_path / ARGUMENTS_FILE, {"a": 1})
    assert open_run(tmp_path, {"a": 1}) is None
    write_json(tmp_path / RESULTS_FILE, {"done": True})
    assert open_run(tmp_path, {"a": 1}) == {"done": True}


def test_a_folder_of_another_run_is_left_alone(tmp_path: Path) -> None:
    write_json(tmp_path / ARGUMENTS_FILE, {"a": 1, "b": 2})
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(ValueError, match="already holds another run; it differs in a, c"):
        open_run(tmp_path, {"a": 2, "b": 2, "c": 3})
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_a_folder_with_other_files_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(ValueError, match="is not empty and holds no run"):
        open_run(tmp_path, {"a": 1})
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_a_broken_record_is_named(tmp_path: Path) -> None:
    (tmp_path / ARGUMENTS_FILE).write_text("{")
    with pytest.raises(ValueError, match="arguments.json is not valid JSON"):
        open_run(tmp_path, {})


def test_predictions_have_one_line_per_row(tmp_path: Path) -> None:
    write_predictions(tmp_path / "p.jsonl", [1, 0], np.array([[0.2, 0.8], [0.6, 0.4]]))
    rows = [json.loads(line) for line in (tmp_path / "p.jsonl").read_text().splitlines()]
    assert rows == [
        {"row": 0, "reference": 1, "output": [0.2, 0.8]},
        {"row": 1, "reference": 0, "output": [0.6, 0.4]},
    ]
    with pytest.raises(ValueError):
        write_predictions(tmp_path / "p.jsonl", [1], np.zeros((2, 2)))


def test_the_environment_names_every_version() -> None:
    record = json.loads(json.dumps(environment()))
    assert set(record["versions"]) >= {"hf-selfattn", "torch", "transformers", "peft"}
    assert all(record["versions"].values()) and record["cores"] >= 1


def test_the_backbone_is_a_folder_or_a_name(tmp_path: Path) -> None:
    (tmp_path / "encoder").mkdir()
    assert backbone_record(str(tmp_path / "encoder")) == {"source": "folder", "name": "encoder"}
    unknown = {"source": "hub", "name": "org/encoder-that-nobody-has", "revision": "v1", "commit": None}
    assert backbone_record("org/encoder-that-nobody-has", "v1") == unknown


def test_the_summary_shows_the_baseline_beside_the_model() -> None:
    value = {"value": 0.9, "low": 0.8, "high": 0.95}
    lower = {"value": 0.7, "low": 0.6, "high": 0.75}
    results = {
        "splits": {"test": {"rows": 12, "scores": {"accuracy": value, "f1/a": value, "mcc": value}}},
        "baseline": {"tfidf": {"splits": {"test": {"scores": {"accuracy": lower}}}}},
    }
    lines = summary(results).splitlines()
    assert lines[0] == "test: 12 rows, 95 % intervals"
    assert lines[1].split() == ["model", "tfidf"]
    assert lines[2].split("  ")[1:] == ["accuracy", "0.900 [0.800, 0.950]", "0.700 [0.600, 0.750]"]
    assert lines[3].split() == ["mcc", "0.900", "[0.800,", "0.950]", "-"]
    assert len(lines) == 4
