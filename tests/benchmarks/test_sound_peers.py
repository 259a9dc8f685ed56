"""Heads on kept features of sounds, and the recurrent recogniser: trained by the runner on tiny sounds and scored."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from sound_runs import sound_folders, sound_settings, speech_settings
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from benchmarks.peers.recurrent_speech import BidirectionalLSTM
from benchmarks.quality import predictions
from benchmarks.quality import run as runner

CLASSIFIERS = {
    "spectrogram-probe": {"recipe": "spectrogram-probe"},
    "linear-probe": {"recipe": "sound-linear-probe"},
    "deviation-probe": {"recipe": "deviation-probe"},
    "neighbours": {"recipe": "sound-neighbours"},
    "probe": {"recipe": "sound-probe"},
}
RECOGNISERS = {"recurrent": {"recipe": "recurrent-speech"}, "probe": {"recipe": "speech"}}


@pytest.fixture
def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The runner's folders, in a temporary one."""
    monkeypatch.chdir(tmp_path)
    for name in ("RUNS", "RESULTS"):
        monkeypatch.setattr(runner, name, tmp_path / name.lower())
    return tmp_path


def run_rows(places: Path, settings: dict[str, Any], rows: dict[str, dict[str, Any]]) -> tuple[Any, dict[str, Any]]:
    """Return the record of an experiment, and the predictions of its rows."""
    settings.pop("output_dir")
    path = places / "tiny.yaml"
    path.write_text(yaml.safe_dump({"settings": settings, "seeds": [0], "rows": rows}, sort_keys=False), "utf-8")
    record = runner.run_experiment(path)
    folder = places / "runs" / "tiny" / "predictions"
    return record, {name: predictions.read_rows(folder / f"{name}-seed-0.jsonl.gz") for name in rows}


def test_every_head_answers_each_test_sound_in_order(places: Path) -> None:
    settings = sound_settings(places, tuning="probe", baseline=False)
    settings["validation"] = sound_folders(places / "validation", 4, seed=2)
    record, found = run_rows(places, settings, CLASSIFIERS)
    truth = [row["reference"] for row in found["probe"]]
    assert len(set(truth)) == 3 and all([row["reference"] for row in rows] == truth for rows in found.values())
    for rows in found.values():
        assert np.allclose([sum(row["output"]) for row in rows], 1, atol=1e-3)
    scores = {name: run["scores"]["test"]["accuracy"][0] for name, run in record["runs"].items()}
    assert scores["spectrogram-probe-seed-0"] == 1.0  # pitches are bands
    assert "C" in record["runs"]["deviation-probe-seed-0"]["chosen"]


def test_the_recurrent_recogniser_is_trained_by_the_recipe(places: Path) -> None:
    settings = speech_settings(places, tuning="probe", max_steps=3)
    record, found = run_rows(places, settings, RECOGNISERS)
    assert [row["reference"] for row in found["recurrent"]] == [row["reference"] for row in found["probe"]]
    trained = {name: run["parameters"]["trainable"] for name, run in record["runs"].items()}
    assert trained["recurrent-seed-0"] > trained["probe-seed-0"]
    assert all("wer" in run["scores"]["test"] for run in record["runs"].values())


def test_padding_changes_nothing_for_the_recurrent_layer() -> None:
    layer, lengths = BidirectionalLSTM(6, 4), torch.tensor([7, 3])
    x = torch.randn(2, 7, 6)
    mask = torch.arange(7) < lengths[:, None]
    packed = nn.LSTM(6, 4, batch_first=True, bidirectional=True)
    for one, end in ((layer.forwards, ""), (layer.backwards, "_reverse")):
        packed.load_state_dict(
            {**packed.state_dict(), **{f"{name}{end}": value for name, value in one.state_dict().items()}}
        )
    expected, _ = pad_packed_sequence(packed(pack_padded_sequence(x, lengths, batch_first=True))[0], batch_first=True)
    torch.testing.assert_close(layer(x, mask)[mask], expected[mask])
    torch.testing.assert_close(layer(x[:1], None), expected[:1])


@pytest.mark.parametrize(("metric", "better"), [("accuracy", "high"), ("wer", "low")])
def test_of_error_rates_the_lowest_is_best(metric: str, better: str) -> None:
    scores = {"low": 0.2, "high": 0.6}
    tried = {name: {"scores": {"validation": {metric: [value, 0, 1]}}} for name, value in scores.items()}
    runs = {f"lstm={name}-seed-0": run for name, run in tried.items()}
    best = (f"lstm={better}-seed-0", {**tried[better], "grid": better})
    assert runner.best_of(dict.fromkeys(tried, {}), "lstm", runs, metric) == best
