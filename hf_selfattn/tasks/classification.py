"""What classifications of texts and of images share: labels, calibration, scores and folds."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, TypeVar

import numpy as np
from datasets import Dataset, DatasetDict
from transformers import PreTrainedConfig

from ..arguments import RunArguments
from ..data import fingerprint, k_folds
from ..metrics import LOWER_IS_BETTER, metric_values
from ..metrics.baselines import LinearModel, best_linear
from .evaluation import (
    Calibration,
    abstention_record,
    fit_calibration,
    metric_names,
    metrics_function,
    plain_model,
    predicted_logits,
    score_outputs,
    score_splits,
)
from .problems import PROBLEMS, Array, as_references, build_loss
from .task import Task

if TYPE_CHECKING:
    from transformers import Trainer, TrainingArguments

AnyClassificationArguments = TypeVar("AnyClassificationArguments", bound="ClassificationArguments")


@dataclass
class ClassificationArguments(RunArguments):
    """The labels, and what is made of them.

    Args:
        label_column: column of the labels, or a list of columns of 0 and 1, one per label; a well-known name is found.
        problem: `single_label_classification`, `multi_label_classification`, `regression` or `ordinal`; detected from
            the labels where it is not given.
        label_names: the labels in the order wanted.
        label_separator: stands between the labels of a cell that holds several, such as `,`; found where most labels
            that hold one are made of other labels.
        group_column: rows of one group, such as a speaker's, never stand on both sides of a split that is made here,
            and intervals are over groups.
        class_weights: `balanced` weighs a class by the inverse of its frequency.
        calibrate: fit temperature and thresholds on the validation split and store them in the model.
        folds: cross-validate: every row of train is tested once.
    """

    label_column: str | list[str] | None = None
    problem: str | None = None
    label_names: list[str] | None = None
    label_separator: str | None = None
    group_column: str | None = None
    class_weights: Literal["balanced"] | None = None
    calibrate: bool = True
    folds: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.seeds > 1 and self.folds:
            raise ValueError(f"seeds={self.seeds} and folds={self.folds} cannot go together. Leave one out.")

    @property
    def makes_several_models(self) -> bool:
        """Whether the run trains several models that stand side by side."""
        return self.seeds > 1 or self.folds > 0


class Classification(Task[AnyClassificationArguments]):
    """A row has a class, several, an ordered one or a number; answers are calibrated on the validation split.

    Its data has `problem`, a name of `PROBLEMS`, and its splits a column `label`.

    Attributes:
        top: among how many likeliest classes the right one is looked for in a score of its own; 0 for none.
    """

    top: ClassVar[int] = 0

    searchable = ("class_weights",)
    candidates = {
        **Task.candidates,
        "pooling": {name: {"heads.pooling": name} for name in ("class_query", "mean")},
    }

    def folds(self, data: Any) -> list[Any]:
        """Return the data of each fold of the cross-validation that is asked for."""
        arguments = self.arguments
        return list(k_folds(data, arguments.folds, arguments.seed, arguments.group_column)) if arguments.folds else []

    def classes(self, data: Any) -> Array | None:
        """Return (N,) the class of each row of train, or None where a row has not one of them."""
        if PROBLEMS[data.problem].problem_type != "single_label_classification" or "train" not in data.splits:
            return None
        return as_references(data.splits["train"]["label"][:], data.problem)

    def label_options(self, data: Any) -> dict[str, Any]:
        """Return the fields of the model's configuration that say what the labels are."""
        return {**super().label_options(data), "problem_type": PROBLEMS[data.problem].problem_type}

    def metrics(self, data: Any) -> list[str]:
        """Return the metrics that the validation split defines."""
        return metric_names(data)

    def selection_metric(self, data: Any) -> str:
        """Return the metric of the problem that picks the checkpoint."""
        return PROBLEMS[data.problem].selection_metric

    def trainer_options(
        self, data: Any, encoded: dict[str, Dataset], options: TrainingArguments, processor: Any
    ) -> dict[str, Any]:
        """Return loss, collator and metrics for `Trainer`."""
        # Only class weights look at the labels; a stream, whose rows are not there yet, has none.
        references = data.splits["train"]["label"][:] if "train" in data.splits else []
        return {
            "compute_loss_func": build_loss(
                data.problem,
                as_references(references, data.problem),
                len(data.label_names),
                class_weights=self.arguments.class_weights,
                label_smoothing=options.label_smoothing_factor,
            ),
            "data_collator": self.inputs(processor).collate,
            "compute_metrics": metrics_function(data),
        }

    def linear_start(self, data: Any, features: Mapping[str, Array]) -> LinearModel:
        """Return the linear model of features (N, D) of train that answers those of validation best."""
        truth = {name: as_references(data.splits[name]["label"][:], data.problem) for name in ("train", "validation")}
        metric = PROBLEMS[data.problem].selection_metric
        sign = -1 if metric in LOWER_IS_BETTER else 1

        def score(outputs: Array) -> tuple[float, float]:  # of equals the more probable: few rows tell few apart
            values = metric_values(data.problem, truth["validation"], outputs, data.label_names)
            return sign * values[metric], -values.get("nll", 0.0)

        num_labels, seed = len(data.label_names), self.arguments.seed
        return best_linear(data.problem, features, truth["train"], num_labels, score, seed=seed)

    def train_record(self, data: Any) -> dict[str, Any]:
        """Return rows, fingerprint and counts of the labels of train."""
        train = data.splits["train"]
        return {"rows": len(train), "fingerprint": fingerprint(train), "labels": label_counts(data)}

    def evaluate(self, data: Any, encoded: dict[str, Dataset], evaluator: Trainer, output_dir: Path) -> dict[str, Any]:
        """Calibrate the model, score every evaluation split, write its predictions and score the baselines."""
        logits = {
            name: predicted_logits(evaluator, split, data.problem)
            for name, split in encoded.items()
            if name != "train"
        }
        calibration = fit_calibration(data, logits["validation"]) if self.arguments.calibrate else Calibration()
        config = plain_model(evaluator).config
        config.temperature, config.thresholds = calibration.temperature, calibration.thresholds
        results: dict[str, Any] = {
            "problem": data.problem,
            "thresholds": calibration.thresholds,
            "calibration": calibration.as_dict(),
            "splits": score_splits(data, logits, calibration, output_dir, self.top, self.arguments.group_column),
            **abstention_record(data, logits["validation"], calibration),
            **self.further_scores(data, logits),
        }
        if baselines := self.baselines(data):
            results["baseline"] = baselines
        return results

    @classmethod
    def model_options(cls, config: PreTrainedConfig, trained: dict[str, Any]) -> dict[str, Any]:
        """Return the problem, the labels and the columns of a model."""
        names = [config.id2label[number] for number in range(config.num_labels)]
        problem = trained.get("problem", config.problem_type)
        return {**super().model_options(config, trained), "problem": problem, "label_names": names}

    def score_answers(self, data: Any, answers: list[dict[str, Any]], config: PreTrainedConfig) -> dict[str, Any]:
        """Return the scores of probabilities, or of numbers."""
        if data.problem == "regression":
            outputs = np.array([answer["label"] for answer in answers])
        else:
            outputs = np.array([[answer["probabilities"][name] for name in data.label_names] for answer in answers])
        return score_outputs(data, "test", outputs, config.thresholds, self.top)

    def further_scores(self, data: Any, logits: dict[str, Array]) -> dict[str, Any]:
        """Return what else follows from the logits (N, C) of each split."""
        return {}

    def cross_validation(self, data: Any, folds: int) -> list[Any]:
        """Return the folds of train, stratified by label, each of which is the validation split once."""
        alone = replace(data, splits=DatasetDict(train=data.splits["train"]))
        parts = k_folds(alone, folds, self.arguments.seed, self.arguments.group_column)
        return [
            replace(part, splits=DatasetDict(train=part.splits["train"], validation=part.splits["test"]))
            for part in parts
        ]

    def linear_scores(self, data: Any, features: Callable[[], dict[str, Array]]) -> dict[str, float]:
        """Return the metrics of a linear model on the validation split."""
        means = features()
        answers = self.linear_start(data, means).answers(means["validation"], data.problem)
        references = as_references(data.splits["validation"]["label"][:], data.problem)
        return metric_values(data.problem, references, answers, data.label_names)

    def baselines(self, data: Any) -> dict[str, Any]:
        """Score what a model must beat to earn its cost, on the same rows."""
        return {}


def label_counts(data: Any) -> dict[str, int]:
    """Return how many training rows have each label; of a regression nothing."""
    if data.problem == "regression":
        return {}
    labels = as_references(data.splits["train"]["label"][:], data.problem)
    one_hot = labels if labels.ndim == 2 else labels[:, None] == np.arange(len(data.label_names))
    return dict(zip(data.label_names, one_hot.sum(axis=0).astype(int).tolist(), strict=True))
