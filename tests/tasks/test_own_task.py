"""A task that stands outside of the package: `run` trains it, and what it saves opens and answers."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from datasets import Dataset, DatasetDict, load_dataset
from runs import HEADS, QUICK, stopped_after, write_rows
from tiny_models import tiny_text
from transformers import AutoModelForSequenceClassification, DataCollatorWithPadding, pipeline

from hf_selfattn import (
    RunArguments,
    SelfAttnForSequenceClassification,
    Task,
    build_arguments,
    parse_arguments,
    register_task,
    run,
)
from hf_selfattn.tasks import TASKS, task_of


@dataclass
class HighestArguments(RunArguments):
    """Learn the highest word of a text.

    Args:
        unit: what a word is counted in.
        loss_power: of the error in the loss.
    """

    task: ClassVar[str] = "highest-word"

    unit: float = 100.0
    loss_power: int = 2


@dataclass
class HighestData:
    splits: DatasetDict
    label_names: list[str] = field(default_factory=lambda: ["highest"])
    notes: list[str] = field(default_factory=lambda: ["The highest word is found in the text itself."])


class Highest(Task[HighestArguments]):
    """The words are w5 to w98; a row is labelled by the number of its highest word."""

    name = "highest-word"
    pipeline = "text-classification"
    model_class = SelfAttnForSequenceClassification
    peft_type = "SEQ_CLS"
    searchable = ("loss_power",)

    def load(self) -> HighestData:
        files = {name: getattr(self.arguments, name) for name in ("train", "test")}
        return HighestData(load_dataset("json", data_files=files))

    def with_validation(self, data: HighestData) -> HighestData:
        parts = data.splits["train"].train_test_split(self.arguments.validation_fraction, seed=self.arguments.seed)
        return replace(data, splits=DatasetDict({**data.splits, "train": parts["train"], "validation": parts["test"]}))

    def check(self) -> dict[str, Any]:
        return {name: len(split) for name, split in self.load().splits.items()}

    def encode(self, data: HighestData, tokenizer: Any) -> dict[str, Dataset]:
        def tokenised(row: dict[str, Any]) -> dict[str, Any]:
            tokens = tokenizer(row["text"])
            highest = max(int(word[1:]) for word in row["text"].split())
            return {**tokens, "labels": highest / self.arguments.unit, "length": len(tokens["input_ids"])}

        return {name: split.map(tokenised, remove_columns=split.column_names) for name, split in data.splits.items()}

    def label_options(self, data: HighestData) -> dict[str, Any]:
        return {**super().label_options(data), "problem_type": "regression"}

    def trainer_options(self, data: Any, tokens: Any, options: Any, tokenizer: Any) -> dict[str, Any]:
        def loss(outputs: Any, labels: Any, num_items_in_batch: Any = None) -> Any:
            errors = (outputs["logits"][:, 0] - labels).abs() ** self.arguments.loss_power
            return errors.mean() if num_items_in_batch is None else errors.sum() / num_items_in_batch

        def error(prediction: Any) -> dict[str, float]:
            return {"error": float(np.abs(prediction.predictions[:, 0] - prediction.label_ids).mean())}

        collator = DataCollatorWithPadding(tokenizer)
        return {"compute_loss_func": loss, "compute_metrics": error, "data_collator": collator}

    def metrics(self, data: HighestData) -> list[str]:
        return ["error"]

    def selection_metric(self, data: HighestData) -> str:
        return "loss"

    def evaluate(self, data: Any, tokens: Any, evaluator: Any, output_dir: Path) -> dict[str, Any]:
        record = {}
        for name in ("validation", "test"):
            found = evaluator.predict(tokens[name]).predictions[:, 0]
            wanted = np.array(tokens[name]["labels"][:])
            correlation = float(np.corrcoef(found, wanted)[0, 1])
            (output_dir / f"found-{name}.json").write_text(json.dumps(found.tolist()))
            scores = {"pearson": {"value": correlation, "low": correlation, "high": correlation}}
            record[name] = {"rows": len(tokens[name]), "scores": scores}
        return {"problem": "regression", "splits": record}


@pytest.fixture(autouse=True)
def registered(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The task is known for as long as a test takes."""
    monkeypatch.setattr("hf_selfattn.tasks.TASKS", {**TASKS})
    assert register_task(Highest) is Highest
    yield


def given(backbone: str, folder: Path, **changes: Any) -> dict[str, Any]:
    rows = {
        name: [{"text": tiny_text(3 + i % 3, seed + i)} for i in range(count)]
        for name, count, seed in (("train", 90, 0), ("test", 20, 1000))
    }
    return {
        "model": backbone,
        **{name: write_rows(folder / f"{name}.jsonl", texts) for name, texts in rows.items()},
        "output_dir": str(folder / "run"),
        "heads": HEADS,
        **QUICK,
        **changes,
    }


def test_it_learns_is_saved_and_answers(tiny_backbone: str, tmp_path: Path) -> None:
    changes = {"tuning": "full", "num_train_epochs": 15, "learning_rate": 3e-3, "per_device_train_batch_size": 8}
    arguments = build_arguments(given(tiny_backbone, tmp_path, **changes), HighestArguments)
    assert isinstance(task_of(arguments), Highest)
    results = run(arguments)
    assert results == json.loads((tmp_path / "run/results.json").read_text())
    assert results["task"] == "text-classification" and results["train"] == {"rows": 81}
    assert results["splits"]["test"]["scores"]["pearson"]["value"] > 0.5, "the label shows in the words"
    assert results["notes"] == ["The highest word is found in the text itself."]
    assert (tmp_path / "run/README.md").is_file()

    model = AutoModelForSequenceClassification.from_pretrained(tmp_path / "run")
    assert model.config.id2label == {0: "highest"} and model.config.problem_type == "regression"
    texts = [json.loads(line)["text"] for line in (tmp_path / "test.jsonl").read_text().splitlines()]
    found = [answer["score"] for answer in pipeline("text-classification", model=str(tmp_path / "run"))(texts)]
    assert found == pytest.approx(json.loads((tmp_path / "run/found-test.json").read_text()), abs=1e-5)
    assert run(arguments) == results, "a finished run is read"


@pytest.mark.parametrize("tuning", ["lora", "probe", "probe+lora"])
def test_it_has_what_every_task_has(tuning: str, tiny_backbone: str, tmp_path: Path) -> None:
    """Adapters, kept features, and a run that goes on where it was stopped."""
    changes = {"tuning": tuning, "num_train_epochs": 2, "feature_cache": str(tmp_path / "features")}
    arguments = build_arguments(given(tiny_backbone, tmp_path, **changes), HighestArguments)
    with stopped_after(epochs=1):
        run(arguments)
    results = run(arguments)
    first = results["training"]["phases"]["probe"] if tuning == "probe+lora" else results
    assert first["run_state"]["starts"] == 2
    AutoModelForSequenceClassification.from_pretrained(tmp_path / "run")


def test_its_own_argument_is_searched_and_its_seeds_stand_together(tiny_backbone: str, tmp_path: Path) -> None:
    pytest.importorskip("optuna")
    sweep = {"loss_power": [1, 2]}
    arguments = build_arguments(given(tiny_backbone, tmp_path, sweep=sweep, seeds=2), HighestArguments)
    results = run(arguments)
    assert [trial["settings"] for trial in results["sweep"]["trials"]] == [{"loss_power": 1}, {"loss_power": 2}]
    assert results["sweep"]["direction"] == "minimize"
    best = results["sweep"]["best"]["settings"]["loss_power"]
    assert {one["arguments"]["loss_power"] for one in results["runs"].values()} == {best}
    assert results["summary"]["test"]["pearson"]["runs"] == 2


def test_its_arguments_are_parsed_and_helped(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = parse_arguments(["model=m", "output_dir=o", "unit=1", "loss_power=3"], HighestArguments)
    assert isinstance(arguments.unit, float) and arguments.loss_power == 3
    with pytest.raises(ValueError, match="Did you mean 'loss_power'"):
        parse_arguments(["model=m", "output_dir=o", "los_power=3"], HighestArguments)
    with pytest.raises(SystemExit):
        parse_arguments(["--help"], HighestArguments)
    said = " ".join(capsys.readouterr().out.split())
    assert "what a word is counted in. (type: float, default: 100.0)" in said and "Learn the highest word" in said


def test_a_task_that_nobody_registered_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hf_selfattn.tasks.TASKS", {**TASKS})
    arguments = build_arguments({"model": "m", "output_dir": str(tmp_path / "run")}, HighestArguments)
    with pytest.raises(ValueError, match=r"There is no task 'highest-word'; there are .*Call register_task"):
        run(arguments)


def test_its_check_trains_nothing(tiny_backbone: str, tmp_path: Path) -> None:
    arguments = build_arguments(given(tiny_backbone, tmp_path, check=True), HighestArguments)
    assert run(arguments) == {"train": 90, "test": 20} and not (tmp_path / "run").exists()
