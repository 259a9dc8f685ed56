"""Every kind of problem as a user types it, up to the answers of a pipeline."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
from tiny_models import tiny_text
from transformers import AutoModelForSequenceClassification, AutoTokenizer, pipeline
from warm_python import warm_python

ROOT = Path(__file__).parents[2]
LABELS: dict[str, list[Any]] = {
    "multi_label_classification": [["art"], ["law", "money"], []],
    "ordinal": ["1 star", "2 stars", "3 stars"],
    "regression": [-1.5, 0.25, 2.0],
}
NAMES = {
    "multi_label_classification": ["art", "law", "money"],
    "ordinal": ["1 star", "2 stars", "3 stars"],
    "regression": ["label"],
}
METRICS = {"multi_label_classification": "macro_f1", "ordinal": "quadratic_kappa", "regression": "pearson"}


def write_rows(path: Path, problem: str, count: int, seed: int) -> str:
    """Rows whose label shows in the first word; every fifth text is longer than the backbone's window."""
    rows = (
        {"text": f"w{10 + i % 3} {tiny_text(60 if i % 5 == 0 else 5, seed=seed + i)}", "label": LABELS[problem][i % 3]}
        for i in range(count)
    )
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


@pytest.mark.slow
@pytest.mark.parametrize("problem", LABELS)
def test_one_command_from_rows_to_a_pipeline(tiny_backbone: str, tmp_path: Path, problem: str) -> None:
    words = [
        f"model={tiny_backbone}",
        f"train={write_rows(tmp_path / 'train.jsonl', problem, 60, 0)}",
        f"test={write_rows(tmp_path / 'test.jsonl', problem, 21, 1000)}",
        f"output_dir={tmp_path / 'run'}",
        "heads={head_dim: 8, num_groups: 4, block_size: 8}",
        *("tuning=full", "learning_rate=3e-3", "num_train_epochs=8", "per_device_train_batch_size=8", "bf16=false"),
    ]
    if problem == "ordinal":
        words += ["problem=ordinal", f"label_names={json.dumps(NAMES[problem])}"]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    command = [warm_python(), "recipes/text_classification.py", *words]
    subprocess.run(command, cwd=ROOT, check=True, env=environment, timeout=300)

    results = json.loads((tmp_path / "run/results.json").read_text(encoding="utf-8"))
    assert results["problem"] == problem and results["label_names"] == NAMES[problem]
    assert results["splits"]["test"]["scores"][METRICS[problem]]["value"] > 0.5, "the label shows in the words"
    assert "tfidf" in results["baseline"]
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path / "run").eval()
    assert list(model.config.id2label.values()) == NAMES[problem]
    assert model.config.temperature == results["calibration"]["temperature"]
    assert model.config.thresholds == results["thresholds"]
    assert (model.config.thresholds is not None) == (problem == "multi_label_classification")
    assert model.config.temperature == 1 or problem != "regression"

    texts = [json.loads(line)["text"] for line in (tmp_path / "test.jsonl").read_text().splitlines()]
    rows = [json.loads(line) for line in (tmp_path / "run/predictions-test.jsonl").read_text().splitlines()]
    answers = pipeline("text-classification", model=str(tmp_path / "run"), top_k=None)(texts)
    for row, answer in zip(rows, answers, strict=True):
        found = {entry["label"]: entry["score"] for entry in answer}
        output = row["output"] if isinstance(row["output"], list) else [row["output"]]
        assert found == pytest.approx(dict(zip(NAMES[problem], output, strict=True)), abs=1e-5)
    if problem == "multi_label_classification":
        batch = AutoTokenizer.from_pretrained(tmp_path / "run")(texts, padding=True, return_tensors="pt")
        decided = model.predict_labels(model(**batch).logits).int().tolist()
        thresholds = model.config.thresholds
        for row, labels in zip(rows, decided, strict=True):
            passed = [int(value >= least) for value, least in zip(row["output"], thresholds, strict=True)]
            assert labels == passed or (not any(passed) and sum(labels) == 1)
