"""Probe tuning through the recipes: the backbone runs once, and what is saved answers for plain text."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from runs import HEADS, LABELS, probe_arguments, stopped_after
from transformers import (
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    AutoTokenizer,
    BertModel,
    DistilBertConfig,
    PreTrainedConfig,
    pipeline,
)

from hf_selfattn import NerArguments, RunArguments, TextClassificationArguments, build_arguments, run
from hf_selfattn.tasks import task_of
from hf_selfattn.tasks.backbone import head_settings
from hf_selfattn.training.setup import cached_features, feature_collator, training_arguments


@pytest.fixture
def backbone_calls(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Whether gradients were on, for each time that the backbone is run."""
    calls: list[bool] = []
    forward = BertModel.forward

    def counted(self: Any, *args: Any, **kwargs: Any) -> Any:
        calls.append(torch.is_grad_enabled())
        return forward(self, *args, **kwargs)

    monkeypatch.setattr(BertModel, "forward", counted)
    return calls


def cached_batch(arguments: Any, model: Any) -> dict[str, torch.Tensor]:
    """All rows of validation with their features, as training reads them."""
    task, tokenizer = task_of(arguments), AutoTokenizer.from_pretrained(arguments.model)
    data = task.with_validation(task.load())
    tokens = task.encode(data, tokenizer)
    cache = cached_features(arguments, tokens, task.inputs(tokenizer))
    assert cache is not None
    assert cache.prepare(model, "cpu")["computed_rows"] == 0
    options, _ = training_arguments(task, data, Path(arguments.output_dir))
    collate = feature_collator(task.trainer_options(data, tokens, options, tokenizer)["data_collator"], 4)
    columns = [*tokenizer.model_input_names, "labels", "features"]
    rows = cache.rows["validation"]
    rows = rows.remove_columns([name for name in rows.column_names if name not in columns])
    batch: dict[str, torch.Tensor] = collate([rows[number] for number in range(len(rows))])
    return batch


MIXED = "num_mixed_layers"


def heads_of(kind: type[RunArguments], backbone_config: PreTrainedConfig, **settings: Any) -> dict[str, Any]:
    arguments = build_arguments({"model": "m", "output_dir": "o", **settings}, kind)
    return head_settings(arguments, backbone_config, task_of(arguments).fusion_init)


def test_a_probe_mixes_four_layers_unless_told() -> None:
    def mixed(**settings: Any) -> int:
        return int(heads_of(TextClassificationArguments, DistilBertConfig(n_layers=6), **settings).get(MIXED, 1))

    assert mixed(tuning="probe") == mixed(tuning="probe+lora") == 4
    assert mixed(tuning="lora") == mixed(tuning="full") == 1
    assert mixed(tuning="probe", heads={MIXED: 2}) == 2
    assert mixed(tuning="lora", heads={MIXED: 2}) == 2
    for name in ("n_layers", "num_hidden_layers"):
        assert mixed(tuning="probe", backbone={name: 3}) == 3
    assert heads_of(TextClassificationArguments, PreTrainedConfig(), tuning="probe") == {}, "the model decides"


def test_a_taggers_probe_reads_its_attentions_from_the_first_step_on() -> None:
    def start(kind: type[RunArguments], **settings: Any) -> float | None:
        return heads_of(kind, DistilBertConfig(n_layers=6), **settings).get("fusion_init")

    assert start(NerArguments, tuning="probe") == start(NerArguments, tuning="probe+lora") == 0.1
    assert start(NerArguments, tuning="probe", heads={"fusion_init": 0.5}) == 0.5
    assert start(NerArguments, tuning="lora") is start(NerArguments, tuning="full") is None
    assert start(TextClassificationArguments, tuning="probe") is None


@pytest.mark.parametrize("layers", [1, 2])
def test_a_classifier_trained_on_the_cache_answers_for_text(
    tiny_backbone: str, tmp_path: Path, layers: int, backbone_calls: list[bool]
) -> None:
    arguments = probe_arguments(tiny_backbone, tmp_path, heads={**HEADS, "num_mixed_layers": layers})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("transformers.Trainer.predict", lambda *_, **__: pytest.fail("trained"))
        with pytest.raises(pytest.fail.Exception, match="trained"):
            run(arguments)
    assert len(backbone_calls) == 1 and not any(backbone_calls)  # one batch, before all steps and evaluations
    results = run(arguments)
    record = results["training"]["feature_cache"]
    assert (record["rows"], record["dtype"], record["computed_rows"]) == (42, "float32", 0)

    model = AutoModelForSequenceClassification.from_pretrained(tmp_path / "run")
    batch = cached_batch(arguments, model)
    raw = {name: values for name, values in batch.items() if name != "features"}
    with torch.no_grad():
        found, expected = model(**batch).logits, model(**raw).logits
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)
    texts = [json.loads(line)["text"] for line in (tmp_path / "validation.jsonl").read_text().splitlines()]
    answers = pipeline("text-classification", model=str(tmp_path / "run"), top_k=None)(texts)
    lines = (tmp_path / "run/predictions-validation.jsonl").read_text().splitlines()
    predictions = [json.loads(line) for line in lines]
    for probabilities, answer, prediction in zip(found.softmax(-1).tolist(), answers, predictions, strict=True):
        by_label = {entry["label"]: entry["score"] for entry in answer}
        assert dict(zip(LABELS, probabilities, strict=True)) == pytest.approx(by_label, abs=1e-5)
        assert prediction["output"] == pytest.approx(probabilities, abs=1e-5)


@pytest.mark.parametrize(("context", "decoding"), [("sentence", "viterbi"), ("document", "crf")])
def test_a_tagger_trained_on_the_cache_answers_for_text(
    wordpiece: str, tmp_path: Path, context: str, decoding: str, backbone_calls: list[bool]
) -> None:
    arguments = probe_arguments(
        wordpiece, tmp_path, NerArguments, context=context, heads={**HEADS, "decoding": decoding}, learning_rate=0.01
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("transformers.Trainer.predict", lambda *_, **__: pytest.fail("trained"))
        with pytest.raises(pytest.fail.Exception, match="trained"):
            run(arguments)
    assert len(backbone_calls) == 1
    results = run(arguments)
    history = [entry for entry in results["training"]["history"] if "eval_f1" in entry]
    best = max(history, key=lambda entry: entry["eval_f1"])
    assert results["splits"]["validation"]["scores"]["f1"]["value"] == pytest.approx(best["eval_f1"])

    model = AutoModelForTokenClassification.from_pretrained(tmp_path / "run")
    batch = cached_batch(arguments, model)
    raw = {name: values for name, values in batch.items() if name != "features"}
    with torch.no_grad():
        found, expected = model(**batch).logits, model(**raw).logits
    mask = batch["attention_mask"].bool()
    torch.testing.assert_close(found[mask], expected[mask], atol=1e-5, rtol=0)
    document = (tmp_path / "validation.txt").read_text().split("-DOCSTART- O\n\n")[1]
    row = document if context == "document" else document.split("\n\n")[0]
    text = " ".join(line.split()[0] for line in row.split("\n") if line)
    answers = pipeline("token-classification", model=str(tmp_path / "run"), ignore_labels=[])(text)
    scores, labels = found[0][mask[0]][1:-1].softmax(-1).max(-1)
    assert [answer["entity"] for answer in answers] == [model.config.id2label[label] for label in labels.tolist()]
    assert [float(answer["score"]) for answer in answers] == pytest.approx(scores.tolist(), abs=1e-5)


def test_a_probe_that_was_stopped_goes_on_and_ends_alike(
    tiny_backbone: str, tmp_path: Path, backbone_calls: list[bool]
) -> None:
    whole = probe_arguments(tiny_backbone, tmp_path, num_train_epochs=3, save_total_limit=5)
    run(whole)
    stopped = probe_arguments(
        tiny_backbone, tmp_path, num_train_epochs=3, save_total_limit=5, output_dir=str(tmp_path / "stopped")
    )
    with stopped_after(epochs=2):
        run(stopped)
    assert len(list((tmp_path / "stopped").glob("checkpoint-*"))) == 2
    backbone_calls.clear()
    results = run(stopped)
    assert results["run_state"]["resumed_from"] and results["training"]["feature_cache"]["computed_rows"] == 0
    models = [AutoModelForSequenceClassification.from_pretrained(tmp_path / name) for name in ("run", "stopped")]
    for mine, theirs in zip(*(model.parameters() for model in models), strict=True):
        assert torch.equal(mine, theirs)


def test_sixteen_bits_train_alike_and_the_cache_can_be_left_out(
    tiny_backbone: str, tmp_path: Path, backbone_calls: list[bool]
) -> None:
    losses = {}
    for name, changes in {
        "raw": {"feature_cache": False},
        "float32": {},
        "float16": {"feature_dtype": "float16"},
        "bfloat16": {"feature_dtype": "bfloat16"},
        "int8": {"feature_dtype": "int8"},
    }.items():
        backbone_calls.clear()
        changes = {"num_train_epochs": 1, "output_dir": str(tmp_path / name), "logging_steps": 1, **changes}
        results = run(probe_arguments(tiny_backbone, tmp_path, **changes))
        assert (results["training"]["feature_cache"] is None) == (name == "raw")
        losses[name] = [entry["loss"] for entry in results["training"]["history"] if "loss" in entry]
    assert losses["float32"] == pytest.approx(losses["raw"], abs=1e-5)
    assert losses["float16"] == pytest.approx(losses["raw"], abs=1e-3)
    assert losses["bfloat16"] == pytest.approx(losses["raw"], abs=3e-2) and losses["bfloat16"] != losses["raw"]
    assert losses["int8"] == pytest.approx(losses["raw"], abs=2e-2) and losses["int8"] != losses["raw"]


def test_trials_share_the_features_and_have_their_own_layers(
    tiny_backbone: str, tmp_path: Path, backbone_calls: list[bool]
) -> None:
    pytest.importorskip("optuna")
    space = {"learning_rate": [1e-3, 1e-2], "heads.num_mixed_layers": [1, 2]}
    results = run(probe_arguments(tiny_backbone, tmp_path, search={"trials": 5, "space": space}, num_train_epochs=1))
    tried = {trial["settings"]["heads.num_mixed_layers"] for trial in results["search"]["trials"]}
    assert results["search"]["counts"] == {"complete": 5}
    assert len(list((tmp_path / "features").iterdir())) == len(tried | {1})
    assert results["training"]["feature_cache"]["computed_rows"] == 0


def test_folds_compute_each_row_once(tiny_backbone: str, tmp_path: Path) -> None:
    changes = {"validation": None, "test": None, "folds": 3, "num_train_epochs": 1}
    results = run(probe_arguments(tiny_backbone, tmp_path, **changes))
    computed = [entry["training"]["feature_cache"]["computed_rows"] for entry in results["runs"].values()]
    assert computed[0] == 20 and sum(computed) == 30 and computed[2] == 0


@pytest.mark.parametrize("changes", [{"sample_tokens": 24}, {"streaming": True, "max_steps": 4}])
def test_what_reads_no_whole_rows_does_not_go_with_the_cache(tmp_path: Path, changes: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=f"{next(iter(changes))}=.* does not read. .* feature_cache=false"):
        probe_arguments("m", tmp_path, **changes)
    assert not probe_arguments("m", tmp_path, feature_cache=False, **changes).caches_features
    assert not probe_arguments("m", tmp_path, tuning="lora", **changes).caches_features


def test_where_features_lie_is_no_part_of_a_run(tmp_path: Path) -> None:
    here, there = (probe_arguments("m", tmp_path, feature_cache=folder) for folder in (True, "elsewhere"))
    assert here.without_places() == there.without_places()
    assert here.without_places() != probe_arguments("m", tmp_path, feature_cache=False).without_places()
