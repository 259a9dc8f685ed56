"""A folder that `export` writes answers as the model does: of a tagger, whose decoding is no part of the graph."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tiny_models import tiny_model, tiny_text, tiny_wordpiece

from hf_selfattn import open_predictor
from hf_selfattn.hub.export import DECODING, GRAPH, ExportArguments, export

IOB = ["O", "B-PER", "I-PER", "B-LOC", "I-LOC"]
TAGS = {"id2label": dict(enumerate(IOB)), "label2id": {name: number for number, name in enumerate(IOB)}}
ROWS = [{"text": f"w5a {tiny_text(length, seed=length)}"} for length in (1, 70, 4, 9, 2, 33)]


@pytest.mark.slow
def test_a_tagger_with_a_crf(tmp_path: Path) -> None:
    model, tokenizer = tiny_model("token", decoding="crf", **TAGS), tiny_wordpiece()
    model.read_marks(tokenizer)
    tokenizer.model_input_names = ["input_ids", "attention_mask"]  # the graph reads token_type_ids all the same
    for parameter in [*model.crf.parameters(), *model.classifier.parameters()]:
        torch.nn.init.normal_(parameter)
    model.save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    arguments = ExportArguments(model=str(tmp_path / "model"), folder=str(tmp_path / "onnx"))
    export(arguments)
    names = {path.name for path in (tmp_path / "onnx").iterdir()}
    assert {GRAPH, DECODING, "config.json", "tokenizer.json"} <= names and "model.safetensors" not in names
    rows = [*ROWS, {"tokens": ["w5ab", "w9-w9", "w7"]}]
    expected = open_predictor(tmp_path / "model", dtype="float32").answers(rows)
    answers = open_predictor(tmp_path / "onnx").answers(rows)
    assert sum(len(answer["entities"]) for answer in expected) > 5
    for answer, wanted in zip(answers, expected, strict=True):
        scores, wanted_scores = ([entity.pop("score") for entity in found["entities"]] for found in (answer, wanted))
        assert answer == wanted and scores == pytest.approx(wanted_scores, abs=1e-4)
    assert len(open_predictor(tmp_path / "onnx").digest()) == 64
    with pytest.raises(ValueError, match="model.onnx exists and stays as it is"):
        export(arguments)


def test_what_is_no_model_of_this_package_is_said(tmp_path: Path, tiny_backbone: str) -> None:
    with pytest.raises(ValueError, match="no model of this package: tune it first"):
        export(ExportArguments(model=tiny_backbone, folder=str(tmp_path / "onnx")))
    with pytest.raises(ValueError, match="cannot be opened"):
        export(ExportArguments(model=str(tmp_path), folder=str(tmp_path / "onnx")))
