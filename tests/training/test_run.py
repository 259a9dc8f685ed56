from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from datasets import Dataset, DatasetDict
from huggingface_hub import ModelCard
from runs import rows_of, settings, text_arguments, write_rows
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    pipeline,
    trainer_utils,
)

from hf_selfattn import run
from hf_selfattn.data import ClassificationData
from hf_selfattn.metrics import metric_values
from hf_selfattn.modeling.modeling_selfattn import SelfAttnForSequenceClassification
from hf_selfattn.tasks.classification import label_counts
from hf_selfattn.training.trainer import RecipeTrainer


@pytest.fixture
def backbone(tiny_backbone: str) -> str:
    return tiny_backbone


@pytest.mark.parametrize(
    "problem", ["single_label_classification", "multi_label_classification", "regression", "ordinal"]
)
@pytest.mark.parametrize("tuning", ["lora", "full"])
def test_a_run_is_scored_saved_and_opens(backbone: str, tmp_path: Path, problem: str, tuning: str) -> None:
    extra = {"problem": "ordinal"} if problem == "ordinal" else {}
    results = run(text_arguments(settings(backbone, tmp_path, problem, tuning=tuning, **extra)))
    folder = tmp_path / "run"
    assert results == json.loads((folder / "results.json").read_text())
    assert results["problem"] == problem and results["splits"]["test"]["rows"] == 17
    assert results["backbone"] == {"source": "folder", "name": Path(backbone).name}
    assert list(results["train"]["labels"]) == ([] if problem == "regression" else results["label_names"])
    for score in results["splits"]["test"]["scores"].values():
        assert score["low"] <= score["value"] <= score["high"]

    predictions = [json.loads(line) for line in (folder / "predictions-test.jsonl").read_text().splitlines()]
    assert [row["row"] for row in predictions] == list(range(17))
    assert ModelCard.load(folder / "README.md").data.pipeline_tag == "text-classification"
    model = AutoModelForSequenceClassification.from_pretrained(folder)
    if problem != "regression":
        assert list(model.config.id2label.values()) == results["label_names"]
    texts = [row["text"] for row in rows_of(problem, 17, seed=1)]
    answers = pipeline("text-classification", model=str(folder), top_k=None)(texts, batch_size=4)
    for prediction, answer in zip(predictions, answers, strict=True):
        by_label = {entry["label"]: entry["score"] for entry in answer}
        if problem == "regression":
            assert prediction["output"] == pytest.approx(answer[0]["score"], abs=1e-5)
        else:
            mine = dict(zip(results["label_names"], prediction["output"], strict=True))
            assert mine == pytest.approx(by_label, abs=1e-5)


def test_a_mistyped_field_of_the_heads_is_named_before_data_are_read(tmp_path: Path) -> None:
    given = settings("no-backbone", tmp_path, heads={"pollling": "mean"})
    with pytest.raises(ValueError, match="no field 'pollling'. Did you mean 'pooling'"):
        run(text_arguments({**given, "train": str(tmp_path / "none.csv")}))


@pytest.mark.parametrize(
    ("problem", "labels", "expected"),
    [
        ("single_label_classification", [0, 2, 2, 0, 0], {"a": 3, "b": 0, "c": 2}),
        ("ordinal", [1, 1, 2], {"a": 0, "b": 2, "c": 1}),
        ("multi_label_classification", [[1.0, 0.0, 1.0], [0.0, 0.0, 1.0], [0.0, 0.0, 0.0]], {"a": 1, "b": 0, "c": 2}),
        ("regression", [0.5, 1.5], {}),
    ],
)
def test_labels_of_train_are_counted(problem: str, labels: list[Any], expected: dict[str, int]) -> None:
    splits = DatasetDict({"train": Dataset.from_dict({"label": labels})})
    assert label_counts(ClassificationData(splits, problem, ["a", "b", "c"])) == expected


def test_full_tuning_changes_the_backbone_lora_and_probe_freeze_it(backbone: str, tmp_path: Path) -> None:
    trained: dict[str, int] = {}
    for tuning in ("probe", "lora", "full"):
        (tmp_path / tuning).mkdir()
        results = run(text_arguments(settings(backbone, tmp_path / tuning, tuning=tuning)))
        trained[tuning] = results["parameters"]["trainable"]
        before = AutoModel.from_pretrained(backbone, add_pooling_layer=False).state_dict()
        after = AutoModelForSequenceClassification.from_pretrained(tmp_path / tuning / "run").model.backbone
        changed = {name for name, value in after.state_dict().items() if not torch.equal(before[name], value)}
        linear = {name for name in before if before[name].dim() == 2 and not name.startswith("embeddings.")}
        assert changed == {"probe": set(), "lora": linear, "full": set(before)}[tuning]
    assert trained["probe"] < trained["lora"] < trained["full"] == results["parameters"]["all"]


def test_a_tokenizer_with_tokens_for_begin_and_end(
    backbone: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """`Trainer` writes their numbers into the configuration, which has to open again."""
    folder = shutil.copytree(backbone, tmp_path / "backbone")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.bos_token, tokenizer.eos_token = tokenizer.cls_token, tokenizer.sep_token
    tokenizer.save_pretrained(folder)
    assert getattr(AutoConfig.from_pretrained(folder), "bos_token_id", None) is None
    run(text_arguments(settings(str(folder), tmp_path, save="adapter")))
    assert f"on the command line add backbone_name_or_path={folder}." in capsys.readouterr().out
    options = {"backbone_name_or_path": str(folder)}
    config = AutoModelForSequenceClassification.from_pretrained(tmp_path / "run", **options).config
    assert (config.bos_token_id, config.eos_token_id) == (tokenizer.bos_token_id, tokenizer.eos_token_id)


@pytest.mark.parametrize(("tuning", "rate"), [("lora", 2.5e-4), ("probe", 1e-3), ("full", 5e-5)])
def test_adapters_of_a_wide_backbone_learn_slower(
    backbone: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tuning: str, rate: float
) -> None:
    class Begun(Exception):
        pass

    def begin(self: RecipeTrainer, **_: Any) -> None:
        raise Begun(self.args.learning_rate)

    monkeypatch.setattr(RecipeTrainer, "train", begin)
    monkeypatch.setattr("hf_selfattn.training.setup.WIDTH", AutoConfig.from_pretrained(backbone).hidden_size // 2)
    given = settings(backbone, tmp_path, tuning=tuning, feature_cache=str(tmp_path / "features"))
    with pytest.raises(Begun) as caught:
        run(text_arguments(given))
    assert caught.value.args[0] == pytest.approx(rate)
    with pytest.raises(Begun) as caught:
        run(text_arguments({**given, "learning_rate": 0.5, "output_dir": str(tmp_path / "named")}))
    assert caught.value.args == (0.5,)


def test_the_same_arguments_train_once(
    backbone: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    given = settings(backbone, tmp_path, baseline=True)
    first = run(text_arguments(given))
    monkeypatch.setattr("hf_selfattn.training.run.train_and_evaluate", lambda *_: pytest.fail("trained again"))
    assert run(text_arguments(given)) == first
    assert "nothing to train" in capsys.readouterr().out
    with pytest.raises(ValueError, match="already holds another run; it differs in learning_rate"):
        run(text_arguments({**given, "learning_rate": 0.5}))


@pytest.mark.parametrize("sampling", [{}, {"sample_tokens": 24}])
def test_a_run_that_was_stopped_goes_on_and_ends_alike(
    backbone: str, tmp_path: Path, sampling: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("whole", "stopped"):
        (tmp_path / name).mkdir()
    changes = {"num_train_epochs": 3, "save_total_limit": 5, **sampling}
    whole = run(text_arguments(settings(backbone, tmp_path / "whole", **changes)))
    given = settings(backbone, tmp_path / "stopped", **changes)

    class Stop(Exception):
        pass

    def stop(*_: Any, **__: Any) -> None:
        raise Stop

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("transformers.Trainer.predict", stop)  # all epochs are trained, nothing is scored
        with pytest.raises(Stop):
            run(text_arguments(given))
    newest = sorted((tmp_path / "stopped/run").glob("checkpoint-*"), key=lambda path: int(path.name.split("-")[1]))[-1]
    for path in sorted(newest.rglob("*"), reverse=True):
        path.unlink()
    newest.rmdir()
    warned: list[str] = []
    monkeypatch.setattr(trainer_utils.logger, "warning_once", warned.append)
    resumed = run(text_arguments(given))
    assert not warned
    assert resumed["splits"]["test"]["scores"] == whole["splits"]["test"]["scores"]
    models = [
        AutoModelForSequenceClassification.from_pretrained(tmp_path / name / "run") for name in ("whole", "stopped")
    ]
    for mine, theirs in zip(*(model.parameters() for model in models), strict=True):
        assert torch.equal(mine, theirs)


def test_a_model_that_is_saved_wrong_is_noticed(
    backbone: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = SelfAttnForSequenceClassification.from_pretrained

    def opened_wrong(*args: Any, **kwargs: Any) -> Any:
        model = opened(*args, **kwargs)
        model.classifier.vote.bias.data += 1
        return model

    monkeypatch.setattr(SelfAttnForSequenceClassification, "from_pretrained", opened_wrong)
    with pytest.raises(ValueError, match="answers differently when it is opened again"):
        run(text_arguments(settings(backbone, tmp_path)))
    assert not (tmp_path / "run" / "results.json").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"text_column": "body"}, "body"),
        ({"train": "nowhere.csv"}, "nowhere.csv"),
        ({"model": "no/such-model"}, "no/such-model"),
        ({"heads": {"blok_size": 4}}, "Did you mean 'block_size'"),
        ({"heads": {"head_dim": 12}}, "head_dim=12"),
        ({"selection_metric": "macro_f2"}, "macro_f2"),
    ],
)
def test_bad_input_is_an_error_that_names_it(
    backbone: str, tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    with pytest.raises((ValueError, OSError), match=message):
        run(text_arguments(settings(backbone, tmp_path, **change)))


@pytest.mark.parametrize("problem", ["single_label_classification", "multi_label_classification", "ordinal"])
def test_the_scores_of_an_evaluation_are_those_of_the_predictions_row_by_row(
    backbone: str, tmp_path: Path, problem: str
) -> None:
    """Training groups rows by length, and the validation split is read by length; predictions are in order."""
    changes = {"tuning": "full", "num_train_epochs": 3, "learning_rate": 5e-3, "per_device_eval_batch_size": 3}
    validation = {"validation": write_rows(tmp_path / "validation.jsonl", rows_of(problem, 20, seed=2))}
    given = settings(backbone, tmp_path, problem, problem=problem, calibrate=False, **validation, **changes)
    results = run(text_arguments(given))
    metric = "mae" if problem == "ordinal" else "macro_f1"
    evaluations = [entry for entry in results["training"]["history"] if f"eval_{metric}" in entry]
    (best,) = (entry for entry in evaluations if entry["step"] == results["training"]["best_step"])
    lines = (tmp_path / "run/predictions-validation.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    references, outputs = (np.array([row[side] for row in rows]) for side in ("reference", "output"))
    scores = metric_values(problem, references, outputs, results["label_names"])
    compared = {name for name in scores if f"eval_{name}" in best}
    assert len(evaluations) == 3 and len(compared) >= 4 and metric in compared
    for name in compared:
        assert best[f"eval_{name}"] == pytest.approx(scores[name], abs=1e-6), name


@pytest.mark.parametrize("patience", [None, 9])
def test_of_equal_scores_that_with_the_lower_loss_is_the_best(
    backbone: str, tmp_path: Path, patience: int | None
) -> None:
    rows = rows_of("single_label_classification", 3, seed=2)
    given = settings(backbone, tmp_path, validation=write_rows(tmp_path / "validation.jsonl", rows), calibrate=False)
    changes = {"num_train_epochs": 8, "learning_rate": 2e-3, "tuning": "full", "early_stopping_patience": patience}
    training = run(text_arguments({**given, **changes}))["training"]
    evaluations = [entry for entry in training["history"] if "eval_macro_f1" in entry]
    best = max(entry["eval_macro_f1"] for entry in evaluations)
    equal = [entry for entry in evaluations if entry["eval_macro_f1"] == best]
    lowest = min(equal, key=lambda entry: float(entry["eval_loss"]))
    assert lowest["step"] > equal[0]["step"]
    assert (training["best_step"], training["best_metric"]) == (lowest["step"], best)


def test_a_row_of_the_evaluation_with_an_unknown_label_is_named(backbone: str, tmp_path: Path) -> None:
    given = settings(backbone, tmp_path)
    rows = rows_of("single_label_classification", 5)
    rows[3]["label"] = "down"
    write_rows(tmp_path / "test.jsonl", rows)
    with pytest.raises(ValueError, match=r"test\.jsonl:4") as caught:
        run(text_arguments(given))
    assert "down" in str(caught.value)
    assert not (tmp_path / "run").exists()


def test_options_of_the_training_reach_it(backbone: str, tmp_path: Path) -> None:
    weighted = settings(
        backbone,
        tmp_path,
        tuning="full",
        class_weights="balanced",
        early_stopping_patience=1,
        num_train_epochs=2,
        test_files={"second": "*"},
    )
    weighted["test_files"] = {"second": weighted["test"]}
    results = run(text_arguments(weighted))
    assert results["splits"]["second"]["scores"] == results["splits"]["test"]["scores"]
    assert results["splits"]["second"]["fingerprint"] == results["splits"]["test"]["fingerprint"]
    (tmp_path / "plain").mkdir()
    plain = run(text_arguments(settings(backbone, tmp_path / "plain", tuning="full", num_train_epochs=2)))
    losses = [
        [entry["loss"] for entry in record["training"]["history"] if "loss" in entry] for record in (results, plain)
    ]
    assert losses[0] != losses[1]


def test_training_reads_excerpts_and_evaluation_everything(backbone: str, tmp_path: Path) -> None:
    lengths: dict[bool, list[int]] = {True: [], False: []}
    forward = SelfAttnForSequenceClassification.forward

    def watched(model: Any, input_ids: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        lengths[model.training].append(input_ids.shape[1])
        return forward(model, input_ids, *args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(SelfAttnForSequenceClassification, "forward", watched)
        run(text_arguments(settings(backbone, tmp_path, sample_tokens=24, tuning="full")))
    assert max(lengths[True]) == 24
    assert max(lengths[False]) > 70


def test_excerpts_of_text_pairs_are_refused(backbone: str, tmp_path: Path) -> None:
    rows = [{**row, "other": "w3 w4"} for row in rows_of("single_label_classification", 48)]
    pairs = {"train": write_rows(tmp_path / "pairs.jsonl", rows), "text_pair_column": "other", "sample_tokens": 24}
    with pytest.raises(ValueError, match="the rows are text pairs. Set sample_tokens=0"):
        run(text_arguments({**settings(backbone, tmp_path), "test": None, **pairs}))


def test_answers_are_calibrated_by_the_model_itself(backbone: str, tmp_path: Path) -> None:
    results = run(text_arguments(settings(backbone, tmp_path, "multi_label_classification", num_train_epochs=2)))
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path / "run")
    assert model.config.temperature == results["calibration"]["temperature"] != 1
    assert model.config.thresholds == results["thresholds"] and len(results["thresholds"]) == 3
    (tmp_path / "raw").mkdir()
    raw = run(
        text_arguments(
            settings(backbone, tmp_path / "raw", "multi_label_classification", num_train_epochs=2, calibrate=False)
        )
    )
    assert raw["calibration"] == {"temperature": 1.0, "thresholds": None}
    validation = results["splits"]["validation"]
    assert validation["scores"]["nll"]["value"] < validation["uncalibrated"]["nll"]
    assert raw["splits"]["test"]["scores"]["nll"]["value"] == pytest.approx(
        results["splits"]["test"]["uncalibrated"]["nll"]
    )


def test_several_seeds_stand_in_one_record(backbone: str, tmp_path: Path) -> None:
    results = run(text_arguments(settings(backbone, tmp_path, seeds=2)))
    assert list(results["runs"]) == ["seed-0", "seed-1"]
    values = [entry["splits"]["test"]["scores"]["nll"]["value"] for entry in results["runs"].values()]
    assert values[0] != values[1]
    summary = results["summary"]["test"]["nll"]
    assert summary == pytest.approx({"mean": sum(values) / 2, "sd": abs(values[0] - values[1]) / 2**0.5, "runs": 2})
    assert results["runs"]["seed-1"]["seed"] == 1
    for name in results["runs"]:
        AutoModelForSequenceClassification.from_pretrained(tmp_path / "run" / name)


def test_folds_test_every_row_of_train_once(backbone: str, tmp_path: Path) -> None:
    given = settings(backbone, tmp_path, folds=3)
    del given["test"]
    results = run(text_arguments(given))
    assert list(results["runs"]) == ["fold-0", "fold-1", "fold-2"]
    assert sum(entry["splits"]["test"]["rows"] for entry in results["runs"].values()) == 48
    with pytest.raises(ValueError, match="seeds=2 and folds=3 cannot go together"):
        run(text_arguments({**given, "seeds": 2, "output_dir": str(tmp_path / "both")}))


def test_check_reports_bad_rows_too(backbone: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = settings(backbone, tmp_path, check=True)
    rows = rows_of("single_label_classification", 9)
    rows[4]["text"], rows[6]["label"] = "  ", None
    write_rows(tmp_path / "train.jsonl", rows)
    run(text_arguments(given))
    printed = capsys.readouterr().out
    assert "train.jsonl:5" in printed and "train.jsonl:7" in printed


def test_check_reports_and_trains_nothing(backbone: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report = run(text_arguments(settings(backbone, tmp_path, check=True)))
    assert not (tmp_path / "run").exists()
    printed = capsys.readouterr().out
    assert "left" in printed and json.dumps(report)


@pytest.mark.parametrize("problem", ["single_label_classification", "multi_label_classification"])
def test_the_adapter_alone_is_saved(
    backbone: str, tmp_path: Path, problem: str, capsys: pytest.CaptureFixture[str]
) -> None:
    results = run(text_arguments(settings(backbone, tmp_path, problem, save="adapter")))
    folder = tmp_path / "run"
    assert [path.parent.name for path in folder.glob("**/adapter_model.safetensors") if "checkpoint" not in str(path)]
    assert not (folder / "model.safetensors").exists()
    assert f"backbone_name_or_path='{backbone}'" in capsys.readouterr().out
    place = {"backbone_name_or_path": backbone}
    model = AutoModelForSequenceClassification.from_pretrained(folder, **place)
    assert model.config.temperature == results["calibration"]["temperature"] != 1
    assert model.config.thresholds == results["thresholds"]
    predictions = [json.loads(line) for line in (folder / "predictions-test.jsonl").read_text().splitlines()]
    texts = [row["text"] for row in rows_of(problem, 17, seed=1)]
    answers = pipeline("text-classification", model=str(folder), top_k=None, model_kwargs=place)(texts)
    for prediction, answer in zip(predictions, answers, strict=True):
        mine = dict(zip(results["label_names"], prediction["output"], strict=True))
        assert mine == pytest.approx({entry["label"]: entry["score"] for entry in answer}, abs=1e-5)
    card = (folder / "README.md").read_text()
    assert "without the weights of the backbone" in card and "backbone_name_or_path" in card
    with pytest.raises(ValueError, match="save='adapter' needs tuning='lora'"):
        text_arguments(settings(backbone, tmp_path, problem, save="adapter", tuning="full"))
