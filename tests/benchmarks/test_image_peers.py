"""Heads on kept features of images, and the stock classifier: trained by the runner on tiny images and scored."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from image_runs import image_folders, image_settings
from torch import nn

from benchmarks.peers import image_probes
from benchmarks.peers.stock_images import StockImageArguments
from benchmarks.quality import predictions
from benchmarks.quality import run as runner

ROWS = {
    "linear-probe": {"recipe": "linear-probe"},
    "neighbours": {"recipe": "neighbours"},
    "attention-pool": {"recipe": "attention-pool"},
    "probe": {"recipe": "image-probe"},
    "run": {"recipe": "images"},
    "stock-full": {"recipe": "stock-images", "tuning": "full", "heads": {}},
}


@pytest.fixture
def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The runner's folders, in a temporary one; attention pooling is short."""
    monkeypatch.chdir(tmp_path)
    for name in ("RUNS", "RESULTS"):
        monkeypatch.setattr(runner, name, tmp_path / name.lower())
    monkeypatch.setattr(image_probes, "EPOCHS", 2)
    monkeypatch.setattr(image_probes, "BATCH_SIZE", 8)
    monkeypatch.setattr(image_probes.AttentionPool.__init__, "__defaults__", (4,))
    return tmp_path


def test_every_head_answers_each_test_image_in_order(places: Path) -> None:
    settings = image_settings(places, tuning="probe", baseline=False)
    settings |= {"validation": image_folders(places / "validation", 5, seed=2)}
    settings.pop("output_dir")
    path = places / "tiny.yaml"
    experiment = {"settings": settings, "seeds": [0], "rows": ROWS}
    path.write_text(yaml.safe_dump(experiment, sort_keys=False), encoding="utf-8")
    record = runner.run_experiment(path)
    assert list(record["runs"]) == [f"{name}-seed-0" for name in ROWS]
    references, outputs = [], {}
    for name, entry in record["runs"].items():
        rows = predictions.read_rows(places / "runs" / "tiny" / "predictions" / f"{name}.jsonl.gz")
        references.append([row["reference"] for row in rows])
        outputs[name] = np.array([row["output"] for row in rows])
        assert np.allclose(outputs[name].sum(axis=1), 1, atol=1e-3)
        value, low, high = entry["scores"]["test"]["accuracy"]
        assert low <= value <= high and entry["training"]["seconds"] >= 0
    assert all(other == references[0] for other in references) and len(set(references[0])) == 3
    # What is answered from kept features is what the saved model answers to the images.
    assert np.allclose(outputs["probe-seed-0"], outputs["run-seed-0"], atol=2e-2)
    assert {"C", "validation_accuracy"} == record["runs"]["linear-probe-seed-0"]["chosen"].keys()


def test_attention_pooling_finds_the_place_that_matters() -> None:
    torch.manual_seed(0)
    labels = torch.arange(64) % 2
    features = torch.randn(64, 9, 16) * 0.1
    features[torch.arange(64), torch.randint(9, (64,)), labels] += 3.0
    model = image_probes.AttentionPool(16, 2, num_queries=4)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for _ in range(60):
        loss = nn.functional.cross_entropy(model(features), labels)
        optimizer.zero_grad()
        loss.backward()
        assert all(parameter.grad is not None and parameter.grad.any() for parameter in model.parameters())
        optimizer.step()
    assert (model.eval()(features).argmax(dim=1) == labels).float().mean() > 0.9


def test_the_best_settings_are_those_of_validation() -> None:
    def candidates() -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
        yield {"C": 1.0}, {"validation": np.array([[0.9, 0.1], [0.9, 0.1]]), "test": np.array([[1.0, 0.0]])}
        yield {"C": 2.0}, {"validation": np.array([[0.6, 0.4], [0.4, 0.6]]), "test": np.array([[0.5, 0.5]])}
        yield {"C": 3.0}, {"validation": np.array([[0.9, 0.1], [0.1, 0.9]]), "test": np.array([[0.0, 1.0]])}

    answers, found = image_probes.best_of(candidates(), np.array([0, 1]))
    assert found["chosen"] == {"C": 3.0, "validation_accuracy": 1.0} and answers["test"][0, 1] == 1.0


def test_a_peer_refuses_our_heads() -> None:
    with pytest.raises(ValueError, match="a peer has none of ours"):
        StockImageArguments(heads={"num_groups": 4})
