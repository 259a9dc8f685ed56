"""Options of `Trainer` that change how a step is computed, not what: they work with our models through the recipes."""

from __future__ import annotations

import json
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_models import tiny_text
from transformers import AutoModelForSequenceClassification, TrainingArguments

from hf_selfattn import NerArguments, TextClassificationArguments, build_arguments, run

HEADS = {
    "head_dim": 8,
    "group_dim": 8,
    "num_groups": 4,
    "block_size": 8,
    "subsequence_stride": 4,
    "classifier_dropout": 0.0,
    "fusion_init": 0.7,
}
# Transformers renamed it.
CHECKPOINTING = next(item.name for item in fields(TrainingArguments) if item.name.endswith("ion_checkpointing"))
EXACT: dict[str, dict[str, Any]] = {
    "gradient checkpointing": {CHECKPOINTING: True},
    "checkpointing of LoRA": {CHECKPOINTING: True, "tuning": "lora"},
    "automatic batch size": {"auto_find_batch_size": True},
    "accumulation": {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 4},
    "evaluation in parts": {"eval_accumulation_steps": 1, "per_device_eval_batch_size": 3},
}


def losses_of(results: dict[str, Any]) -> list[float]:
    return [entry["loss"] for entry in results["training"]["history"] if "loss" in entry]


def train(recipe: str, backbone: str, folder: Path, **changes: Any) -> dict[str, Any]:
    """A run of three steps of 8 rows, on texts of which every fourth has several windows."""
    folder.mkdir()
    texts = [tiny_text(40 if i % 4 == 0 else 5 + i % 3, seed=i) for i in range(30)]
    if recipe == "ner":
        tags = ("O", "B-PER", "O", "B-LOC")
        lines = ["\n".join(f"{word} {tags[int(word[1:]) % 4]}" for word in text.split()) + "\n\n" for text in texts]
        train_file = folder / "train.conll"
    else:
        lines = [json.dumps({"text": text, "label": "ab"[i % 2]}) + "\n" for i, text in enumerate(texts)]
        train_file = folder / "train.jsonl"
    train_file.write_text("".join(lines), encoding="utf-8")
    settings = {
        "model": backbone,
        "train": str(train_file),
        "output_dir": str(folder / "run"),
        "validation_fraction": 0.2,
        "tuning": "full",
        "heads": HEADS,
        "backbone": {"hidden_dropout_prob": 0.0},
        "max_steps": 3,
        "logging_steps": 1,
        "eval_strategy": "steps",
        "save_strategy": "steps",
        "eval_steps": 3,
        "save_steps": 3,
        "per_device_train_batch_size": 8,
        "bf16": False,
        "seed": 0,
        "disable_tqdm": True,
        **({} if recipe == "ner" else {"baseline": False}),
        **changes,
    }
    return run(build_arguments(settings, kind=NerArguments if recipe == "ner" else TextClassificationArguments))


@pytest.fixture(scope="module")
def plain(tiny_backbone: str, tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str], list[float]]:
    """The losses without any switch, by recipe and tuning."""
    folder = tmp_path_factory.mktemp("plain")
    ways = [("text_classification", "full"), ("text_classification", "lora"), ("ner", "full")]
    return {
        (recipe, tuning): losses_of(train(recipe, tiny_backbone, folder / f"{recipe}-{tuning}", tuning=tuning))
        for recipe, tuning in ways
    }


@pytest.mark.parametrize("switch", EXACT)
def test_same_losses_and_the_result_opens(
    switch: str, tiny_backbone: str, tmp_path: Path, plain: dict[tuple[str, str], list[float]]
) -> None:
    results = train("text_classification", tiny_backbone, tmp_path / "switched", **EXACT[switch])
    expected = plain["text_classification", EXACT[switch].get("tuning", "full")]
    assert len(expected) == 3
    assert losses_of(results) == pytest.approx(expected, abs=1e-5)
    AutoModelForSequenceClassification.from_pretrained(tmp_path / "switched/run")


def test_mixed_precision_is_near(
    tiny_backbone: str, tmp_path: Path, plain: dict[tuple[str, str], list[float]]
) -> None:
    for recipe in ("text_classification", "ner"):
        results = train(recipe, tiny_backbone, tmp_path / recipe, bf16=True)
        assert results["training"]["bf16"]
        found, expected = losses_of(results), plain[recipe, "full"]
        assert found == pytest.approx(expected, abs=0.02) and found != expected


@pytest.mark.slow
@pytest.mark.parametrize("recipe", ["text_classification", "ner"])
def test_a_compiled_model_trains_alike_and_opens(
    recipe: str, tiny_backbone: str, tmp_path: Path, plain: dict[tuple[str, str], list[float]]
) -> None:
    torch.compiler.reset()
    compiled = {"torch_compile": True, "torch_compile_backend": "aot_eager"}
    results = train(recipe, tiny_backbone, tmp_path / "compiled", **compiled)
    assert losses_of(results) == pytest.approx(plain[recipe, "full"], abs=1e-5)
    assert (tmp_path / "compiled/run/model.safetensors").is_file()
