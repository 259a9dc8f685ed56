"""Classes, sets of labels, ordered classes or a number for a text or a pair of texts."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
from accelerate import PartialState
from datasets import Dataset, DatasetDict
from transformers import DataCollatorWithPadding, PreTrainedConfig, PreTrainedTokenizerBase, Trainer, TrainingArguments

from ..arguments import RunArguments
from ..data import (
    ClassificationData,
    check_classification,
    deduplicate,
    fingerprint,
    format_report,
    k_folds,
    make_validation,
    prepare_classification,
)
from ..data.classification import read_classification
from ..data.load import with_origins
from ..modeling.modeling_selfattn import SelfAttnForSequenceClassification
from .answers import TextAnswers
from .backbone import open_backbone, window_of
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
    score_tfidf,
)
from .problems import PROBLEMS, Array, as_references, build_loss
from .streaming import STREAM_OPTIONS, ShuffledStream, load_stream, stream_collator
from .task import Task, raw_splits, say


@dataclass
class TextClassificationArguments(RunArguments):
    """Tune a text classifier.

    Args:
        text_pair_column: column of the second texts; a well-known name is found.
        label_column: column of the labels, or a list of columns of 0 and 1, one per label; a well-known name is found.
        problem: `single_label_classification`, `multi_label_classification`, `regression` or `ordinal`; detected from
            the labels where it is not given.
        label_names: the labels in the order wanted.
        label_separator: stands between the labels of a cell that holds several, such as `,`; found where most labels
            that hold one are made of other labels.
        deduplicate: drop repeated training rows, and training rows that stand in an evaluation split.
        group_column: rows of one group never stand on both sides of a split that is made here.
        streaming: read the rows of train while training, for data that no memory holds (docs/scaling.md); needs
            `max_steps` and a validation split.
        streaming_buffer: rows of a stream among which the next one is drawn at random.
        class_weights: `balanced` weighs a class by the inverse of its frequency.
        calibrate: fit temperature and thresholds on the validation split and store them in the model.
        folds: cross-validate: every row of train is tested once.
        baseline: score TF-IDF with a linear model on the same rows beside the model.
    """

    task: ClassVar[str] = "text-classification"

    text_pair_column: str | None = None
    label_column: str | list[str] | None = None
    problem: str | None = None
    label_names: list[str] | None = None
    label_separator: str | None = None
    deduplicate: bool = False
    group_column: str | None = None
    streaming: bool = False
    streaming_buffer: int = 1000
    class_weights: Literal["balanced"] | None = None
    calibrate: bool = True
    folds: int = 0
    baseline: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.streaming and self.caches_features:
            raise ValueError(self.needs_whole_rows("streaming=true"))
        if self.streaming and self.probe_epochs is not None:
            raise ValueError(
                f"probe_epochs={self.probe_epochs}, but with streaming=true an epoch has no end. Leave it out: each "
                "phase makes max_steps."
            )
        if self.seeds > 1 and self.folds:
            raise ValueError(f"seeds={self.seeds} and folds={self.folds} cannot go together. Leave one out.")

    @property
    def makes_several_models(self) -> bool:
        """Whether the run trains several models that stand side by side."""
        return self.seeds > 1 or self.folds > 0

    def columns(self) -> dict[str, Any]:
        """Return what the user said of the columns and labels."""
        names = ("text_column", "text_pair_column", "label_column", "problem", "label_names", "label_separator")
        return {name: getattr(self, name) for name in names}


class TextClassification(Task[TextClassificationArguments]):
    """A row is a text, or a pair of texts, with its labels; answers are calibrated on the validation split."""

    name = pipeline = command = "text-classification"
    model_class = SelfAttnForSequenceClassification
    peft_type = "SEQ_CLS"
    answers = TextAnswers
    arguments_class = TextClassificationArguments
    columns_trained = ("text_column", "text_pair_column", "label_column")
    searchable = ("class_weights",)

    def splits(self) -> tuple[DatasetDict, list[str]]:
        """Return the rows as the task reads them, and what was done to them."""
        return raw_splits(self.arguments), []

    def load(self) -> ClassificationData:
        """Load and check the data, all of it or, with `streaming`, all but the rows of train."""
        arguments = self.arguments
        if arguments.streaming:
            return load_stream(arguments)
        with PartialState().local_main_process_first():
            splits, notes = self.splits()
            kept = [arguments.group_column] if arguments.group_column else []
            data = prepare_classification(
                splits, on_bad_row=arguments.on_bad_row, keep_columns=kept, **arguments.columns()
            )
            data.notes[:0] = notes
        return deduplicate(data) if arguments.deduplicate else data

    def with_validation(self, data: ClassificationData) -> ClassificationData:
        """Return the data with a validation split, taken from train where there is none."""
        if "validation" in data.splits:
            return data
        arguments = self.arguments
        data = make_validation(
            data, fraction=arguments.validation_fraction, seed=arguments.seed, group_column=arguments.group_column
        )
        say(data.notes[-1])
        return data

    def check(self) -> dict[str, Any]:
        """Print the report on the rows that a run would read, bad ones and all, and return it."""
        backbone_config, tokenizer = open_backbone(self.arguments)
        splits, notes = self.splits()
        window = window_of(backbone_config, tokenizer)
        report = check_classification(splits, tokenizer, window, **self.arguments.columns())
        report["notes"][:0] = notes
        report["notes"] += self.outlook(report["notes"])
        say(format_report(report))
        return report

    def settings_found(self) -> tuple[dict[str, Any], list[str]]:
        """Return the columns, the problem and the labels of the data, and notes on them."""
        splits, before = self.splits()
        _, columns, scheme, notes = read_classification(with_origins(splits), **self.arguments.columns())
        found: dict[str, Any] = {
            "text_column": columns.text,
            "text_pair_column": columns.text_pair,
            "problem": scheme.problem,
        }
        if scheme.problem != "regression":
            found["label_names"] = scheme.names
        return {**found, "label_column": columns.label, "problem": scheme.problem}, [*before, *notes]

    def folds(self, data: ClassificationData) -> list[ClassificationData]:
        """Return the data of each fold of the cross-validation that is asked for."""
        arguments = self.arguments
        return list(k_folds(data, arguments.folds, arguments.seed, arguments.group_column)) if arguments.folds else []

    def encode(self, data: ClassificationData, processor: PreTrainedTokenizerBase) -> dict[str, Any]:
        """Return the tokenised splits; of a stream the rows of train, to be tokenised when they are read."""
        encoded: dict[str, Any] = {
            name: tokenise(split, processor, data.problem) for name, split in data.splits.items()
        }
        if data.stream is None:
            return encoded
        stream = ShuffledStream(data.stream, self.arguments.seed, self.arguments.streaming_buffer)
        return {"train": stream, **encoded}

    def label_options(self, data: ClassificationData) -> dict[str, Any]:
        """Return the fields of the model's configuration that say what the labels are."""
        return {**super().label_options(data), "problem_type": PROBLEMS[data.problem].problem_type}

    def metrics(self, data: ClassificationData) -> list[str]:
        """Return the metrics that the validation split defines."""
        return metric_names(data)

    def selection_metric(self, data: ClassificationData) -> str:
        """Return the metric of the problem that picks the checkpoint."""
        return PROBLEMS[data.problem].selection_metric

    def training_defaults(self) -> dict[str, Any]:
        """Return the options that a stream needs, which has no length."""
        return STREAM_OPTIONS if self.arguments.streaming else {}

    def trainer_options(
        self,
        data: ClassificationData,
        encoded: dict[str, Dataset],
        options: TrainingArguments,
        processor: PreTrainedTokenizerBase,
    ) -> dict[str, Any]:
        """Return loss, collator and metrics for `Trainer`."""
        # Only class weights look at the labels, and those are refused for a stream.
        references = [] if data.stream is not None else data.splits["train"]["label"][:]
        return {
            "compute_loss_func": build_loss(
                data.problem,
                as_references(references, data.problem),
                len(data.label_names),
                class_weights=self.arguments.class_weights,
                label_smoothing=options.label_smoothing_factor,
            ),
            "data_collator": DataCollatorWithPadding(processor) if data.stream is None else stream_collator(processor),
            "compute_metrics": metrics_function(data),
        }

    def train_record(self, data: ClassificationData) -> dict[str, Any]:
        """Return rows, fingerprint and counts of the labels of train."""
        if data.stream is not None:
            return data.stream.as_dict()
        train = data.splits["train"]
        return {"rows": len(train), "fingerprint": fingerprint(train), "labels": label_counts(data)}

    def evaluate(
        self, data: ClassificationData, encoded: dict[str, Dataset], evaluator: Trainer, output_dir: Path
    ) -> dict[str, Any]:
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
            "splits": score_splits(data, logits, calibration, output_dir),
            **abstention_record(data, logits["validation"], calibration),
            **self.further_scores(data, logits),
        }
        if self.arguments.baseline and data.stream is None:
            results["baseline"] = self.baselines(data)
        return results

    @classmethod
    def model_options(cls, config: PreTrainedConfig, trained: dict[str, Any]) -> dict[str, Any]:
        """Return the problem, the labels and the columns of a model."""
        names = [config.id2label[number] for number in range(config.num_labels)]
        problem = trained.get("problem", config.problem_type)
        return {**super().model_options(config, trained), "problem": problem, "label_names": names}

    def rows(self, data: ClassificationData) -> list[dict[str, Any]]:
        """Return the texts, or pairs of texts."""
        split = data.splits["test"]
        names = [name for name in ("text", "text_pair") if name in split.column_names]
        rows: list[dict[str, Any]] = split.select_columns(names).to_list()
        return rows

    def score_answers(
        self, data: ClassificationData, answers: list[dict[str, Any]], config: PreTrainedConfig
    ) -> dict[str, Any]:
        """Return the scores of probabilities, or of numbers."""
        if data.problem == "regression":
            outputs = np.array([answer["label"] for answer in answers])
        else:
            outputs = np.array([[answer["probabilities"][name] for name in data.label_names] for answer in answers])
        return score_outputs(data, "test", outputs, config.thresholds)

    def further_scores(self, data: ClassificationData, logits: dict[str, Array]) -> dict[str, Any]:
        """Return what else follows from the logits (N, C) of each split."""
        return {}

    def baselines(self, data: ClassificationData) -> dict[str, Any]:
        """Score what a model must beat to earn its cost, on the same rows."""
        return {"tfidf": score_tfidf(data, self.arguments.seed)}


def tokenise(split: Dataset, tokenizer: PreTrainedTokenizerBase, problem: str) -> Dataset:
    """Turn texts into tokens, whole, with the columns `labels` and `length` (in tokens)."""

    def encode(rows: dict[str, list[Any]]) -> dict[str, Any]:
        encoded = dict(tokenizer(rows["text"], rows.get("text_pair"), truncation=False, verbose=False))
        encoded["labels"] = as_references(rows["label"], problem).tolist()
        encoded["length"] = [len(ids) for ids in encoded["input_ids"]]
        return encoded

    return split.map(encode, batched=True, remove_columns=split.column_names, desc="tokenising")


def label_counts(data: ClassificationData) -> dict[str, int]:
    """Return how many training rows have each label; of a regression nothing."""
    if data.problem == "regression":
        return {}
    labels = as_references(data.splits["train"]["label"][:], data.problem)
    one_hot = labels if labels.ndim == 2 else labels[:, None] == np.arange(len(data.label_names))
    return dict(zip(data.label_names, one_hot.sum(axis=0).astype(int).tolist(), strict=True))
