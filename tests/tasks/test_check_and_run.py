"""`check=true` reads what a run reads, and a run reads what people bring."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from runs import rows_of, settings, text_arguments, write_rows
from transformers import AutoModel, AutoModelForSequenceClassification, AutoTokenizer

from hf_selfattn import SentimentArguments, TextClassificationArguments, build_arguments, run


def checked(backbone: str, folder: Path, kind: Any = TextClassificationArguments, **changes: Any) -> dict[str, Any]:
    """The report on the data of a run."""
    return run(build_arguments(settings(backbone, folder, check=True, **changes), kind))


def test_check_reads_the_arguments_that_a_run_reads(tiny_backbone: str, tmp_path: Path) -> None:
    rows = [{"text": f"w{10 + i} w9", "valence": (i % 3 - 1) * 1.5, "who": f"w{i % 6}"} for i in range(30)]
    options = {"train": write_rows(tmp_path / "v.jsonl", [*rows, rows[0]]), "test": None, "label_column": "valence"}
    options |= {"neutral_band": 0.5, "deduplicate": True, "group_column": "who"}
    report = checked(tiny_backbone, tmp_path, SentimentArguments, **options)
    assert report["splits"]["train"]["classes"] == {"negative": 11, "positive": 10}
    said = "\n".join(report["notes"])
    assert "10 rows are left out" in said and "In a run: Dropped 1 exact duplicate(s) inside train." in said
    assert "by 'who': no group stands in both" in said
    given = settings(tiny_backbone, tmp_path, **{**options, "lexicon": False, "output_dir": str(tmp_path / "run")})
    results = run(build_arguments(given, SentimentArguments))
    assert results["train"]["rows"] + results["splits"]["validation"]["rows"] == 20


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"group_column": "who"}, r"keep_columns=\['who'\]"),
        ({"streaming": True, "tuning": "full"}, "streaming=true"),
        ({"validation_fraction": 2}, "fraction=2"),
    ],
)
def test_check_says_where_a_run_would_stop(
    tiny_backbone: str, tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        run(text_arguments(settings(tiny_backbone, tmp_path, **changes)))
    stops = [note for note in checked(tiny_backbone, tmp_path, **changes)["notes"] if "A run would stop: " in note]
    assert len(stops) == 1 and message.replace("\\", "") in stops[0]


def test_a_test_split_without_labels_is_not_scored(
    tiny_backbone: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    hidden = [{**row, "label": -1} for row in rows_of("ordinal", 5)]
    results = run(
        text_arguments(settings(tiny_backbone, tmp_path, test=write_rows(tmp_path / "hidden.jsonl", hidden)))
    )
    assert list(results["splits"]) == ["validation"]
    assert "test: no row has a label (all are -1 or empty), so it is not scored." in capsys.readouterr().out


@pytest.mark.parametrize("end", ["[SEP]", None])
def test_a_tokenizer_without_a_padding_token(tiny_backbone: str, tmp_path: Path, end: str | None) -> None:
    folder = shutil.copytree(tiny_backbone, tmp_path / "backbone")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.pad_token, tokenizer.unk_token, tokenizer.eos_token = None, None, end
    tokenizer.save_pretrained(folder)
    given = settings(str(folder), tmp_path, tuning="full")
    if end is None:
        with pytest.raises(ValueError, match=f"The tokenizer of model='{folder}' has no token to pad"):
            run(text_arguments(given))
        return
    padded = run(text_arguments(given))
    assert AutoTokenizer.from_pretrained(tmp_path / "run").pad_token == end
    usual = run(text_arguments({**given, "model": tiny_backbone, "output_dir": str(tmp_path / "usual")}))
    scores = [results["splits"]["test"]["scores"]["nll"]["value"] for results in (padded, usual)]
    assert scores[0] == pytest.approx(scores[1], abs=1e-5)


@pytest.mark.parametrize("options", [{"bf16": True}, {"fp16": True}])
def test_a_backbone_that_was_stored_in_float16_trains_in_float32(
    tiny_backbone: str, tmp_path: Path, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hf_selfattn.training.setup.has_bf16", lambda: True)  # the default that `fp16` stands beside
    folder = shutil.copytree(tiny_backbone, tmp_path / "backbone")
    AutoModel.from_pretrained(folder, dtype=torch.float16).save_pretrained(folder)
    given = {**settings(str(folder), tmp_path, tuning="full"), "num_train_epochs": 1, **options}
    given = {name: value for name, value in given.items() if name != "bf16" or "bf16" in options}
    given.pop("bf16", None) if "fp16" in options else None
    results = run(text_arguments(given))
    assert results["training"]["steps"] > 0
    opened = AutoModelForSequenceClassification.from_pretrained(tmp_path / "run")
    assert opened.dtype == torch.float32 and all(value.isfinite().all() for value in opened.parameters())
