"""What a task adds to a run; training and saving are the same for all."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Generic, TypeVar

import numpy as np
from accelerate import PartialState
from datasets import Dataset, DatasetDict
from torch import Tensor
from transformers import AutoTokenizer, PreTrainedConfig, PreTrainedModel

from ..adapters import tune
from ..arguments import RunArguments
from ..data import format_report, load_splits, make_validation
from ..metrics.baselines import LinearModel
from ..modeling.base_selfattn import SelfAttnPreTrainedModel
from .answers import Answers
from .backbone import (
    NO_LIMIT,
    Inputs,
    backbone_settings,
    head_settings,
    is_tuned,
    open_backbone,
    text_inputs,
    tuned_model,
)
from .problems import Array

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import Trainer, TrainingArguments

AnyRunArguments = TypeVar("AnyRunArguments", bound=RunArguments)


class Task(ABC, Generic[AnyRunArguments]):
    """What a row means, its batch, its loss and its scores.

    A task is one class: register it (`register_task`), and `run` trains it. Checked data has `splits` (a `DatasetDict`
    with `train`, and `validation` after `with_validation`), `label_names` and `notes`, which are said aloud.

    Args:
        arguments: of the run.

    Attributes:
        name: of the task, as arguments name it.
        command: its name on the command line, of a task that comes with the package.
        pipeline: the pipeline that serves its models.
        example_model: the backbone that `new` writes where the user names none.
        model_class: what trains.
        peft_type: what PEFT calls the task, such as `SEQ_CLS`; it has no name for tasks on images.
        encodes_by: what `encode` does to rows, as a run says it.
        processor_class: opens what turns rows into the backbone's input, from the folder of a model.
        answers: how its models read a new row and answer it; none for a task that `predict` does not serve.
        arguments_class: what a run of it is told.
        columns_trained: arguments of a training that say how such rows are read, too.
        fusion_init: first weights of the attentions in the sum of a probe.
        probe_heads_share: rate of a probe's attention heads, as a share of `learning_rate`.
        searchable: own arguments that a search may change.
        candidates: choices of `tuning: auto`, each between named settings of the arguments; the first is tried first.
        backbone: weights by name that the backbone starts from, where a phase before changed them.
    """

    name: ClassVar[str]
    command: ClassVar[str] = ""
    pipeline: ClassVar[str]
    example_model: ClassVar[str] = "sentence-transformers/all-MiniLM-L6-v2"
    model_class: ClassVar[type[SelfAttnPreTrainedModel]]
    peft_type: ClassVar[str | None] = None
    encodes_by: ClassVar[str] = "tokenised"
    processor_class: ClassVar[Any] = AutoTokenizer
    answers: ClassVar[type[Answers] | None] = None
    arguments_class: ClassVar[Any] = None
    columns_trained: ClassVar[tuple[str, ...]] = ()
    fusion_init: ClassVar[float | None] = None
    probe_heads_share: ClassVar[float] = 0.3
    searchable: ClassVar[tuple[str, ...]] = ()
    candidates: ClassVar[dict[str, dict[str, dict[str, Any]]]] = {
        "attention": {
            "from 0": {"heads.fusion_init": 0.0},
            "from .1": {"heads.fusion_init": 0.1},
            "none": {"heads.num_self_attention_heads": 0, "heads.num_grouped_attention_heads": 0},
        },
        "features": {"standardised": {"standardise": True}, "as they are": {"standardise": False}},
        "rate": {name: {"probe_learning_rate": float(name)} for name in ("1e-3", "3e-3", "1e-2")},
    }

    def __init__(self, arguments: AnyRunArguments):
        self.arguments = arguments
        self.backbone: dict[str, Tensor] | None = None

    @abstractmethod
    def load(self) -> Any:
        """Return the data that the arguments name, checked."""

    def with_validation(self, data: Any) -> Any:
        """Return data with a validation split, taken from train where there is none."""
        if "validation" in data.splits:
            return data
        arguments = self.arguments
        groups = getattr(arguments, "group_column", None)
        return make_validation(data, fraction=arguments.validation_fraction, seed=arguments.seed, group_column=groups)

    def check(self) -> dict[str, Any]:
        """Print the report on the rows that a run would read, bad ones and all, and return it."""
        report = self.report()
        report["notes"] += self.outlook(report["notes"])
        say(format_report(report))
        return report

    def report(self) -> dict[str, Any]:
        """Return the report on the rows, with the `notes` that come before those of a run."""
        raise NotImplementedError

    def settings_found(self) -> tuple[dict[str, Any], list[str]]:
        """Return the arguments that the data itself answers, such as its columns, and notes on them."""
        return {}, []

    def outlook(self, known: list[str]) -> list[str]:
        """Return what a run would say of the data beside what is known, or the error that it would stop with."""
        try:
            data = self.with_validation(self.load())
        except ValueError as error:
            return [f"A run would stop: {' '.join(map(str.strip, str(error).splitlines()[:2]))}"]
        return [f"In a run: {note}" for note in data.notes if note not in known]

    def open_processor(self) -> tuple[PreTrainedConfig, Any]:
        """Return the configuration of the backbone and its processor: here its tokenizer, which cuts nothing."""
        backbone_config, tokenizer = open_backbone(self.arguments)
        tokenizer.model_max_length = NO_LIMIT
        return backbone_config, tokenizer

    def fitted_processor(self, data: Any, processor: Any) -> Any:
        """Return the processor that the model is saved with; it may depend on the data, as a vocabulary does."""
        return processor

    def inputs(self, processor: Any) -> Inputs:
        """Return how the backbone reads a row that `encode` returns."""
        return text_inputs(processor)

    @abstractmethod
    def encode(self, data: Any, processor: Any) -> dict[str, Dataset]:
        """Return the splits as the model reads them, with the columns `labels` and `length`."""

    def training_defaults(self) -> dict[str, Any]:
        """Return options of `TrainingArguments` that the task starts with; the user's own win."""
        return {}

    @abstractmethod
    def trainer_options(
        self, data: Any, encoded: dict[str, Dataset], options: TrainingArguments, processor: Any
    ) -> dict[str, Any]:
        """Return collator, metrics and perhaps a loss for `Trainer`; metrics see the rows of validation in order.

        There may be `callbacks`, too, and the `train_dataset`, where training reads rows otherwise than `encode` says.
        """

    @abstractmethod
    def metrics(self, data: Any) -> list[str]:
        """Return the names of the metrics of the validation split."""

    @abstractmethod
    def selection_metric(self, data: Any) -> str:
        """Return the metric that picks the checkpoint where the user names none."""

    @abstractmethod
    def evaluate(self, data: Any, encoded: dict[str, Dataset], evaluator: Trainer, output_dir: Path) -> dict[str, Any]:
        """Score every evaluation split and write its predictions; return the task's part of the results.

        Args:
            data: checked data.
            encoded: the splits as the model reads them.
            evaluator: holds the final model, whose configuration takes what it keeps of the scores.
            output_dir: folder of the run.

        Returns:
            `problem`; `splits` with `rows` and `scores` (value, low and high of each) of every one; and what else the
            task has to say.
        """

    def linear_start(self, data: Any, features: Mapping[str, Array]) -> LinearModel:
        """Return the linear model that the task head starts from, of what it reads (N, D) in train and validation."""
        raise ValueError(f"linear_start=true is for classifiers of whole inputs, not for {self.name}. Leave it out.")

    def feature_baselines(self, data: Any, features: Callable[[], dict[str, Array]]) -> dict[str, Any]:
        """Score baselines on the frozen features of a probe, as further entries of `baseline` in the results.

        Args:
            data: checked data.
            features: returns (N, D) of the rows of each split, the means of the backbone's last layer.
        """
        return {}

    def linear_scores(self, data: Any, features: Callable[[], dict[str, Array]]) -> dict[str, float]:
        """Return the metrics of a linear model on the validation split, its features as of `feature_baselines`."""
        return {}

    def cross_validation(self, data: Any, folds: int) -> list[Any]:
        """Return data whose train and validation splits are made of train, one for each fold of it."""
        train = data.splits["train"]
        units = self.units(train)
        fold_of = np.random.default_rng(self.arguments.seed).permutation(len(units)) % folds
        made = []
        for fold in range(folds):
            splits = DatasetDict()
            for name, is_here in (("train", fold_of != fold), ("validation", fold_of == fold)):
                rows = [row for unit in np.flatnonzero(is_here) for row in units[unit]]
                splits[name] = train.select(sorted(rows))
            made.append(replace(data, splits=splits))
        return made

    def units(self, train: Dataset) -> list[list[int]]:
        """Return the numbers of rows that never stand on both sides of a split: each alone, or those of a document."""
        return [[row] for row in range(len(train))]

    @classmethod
    def of_model(cls, config: PreTrainedConfig, trained: dict[str, Any], given: dict[str, Any]) -> Task[Any]:
        """Return the task that reads labelled rows, as the split `test`, with the labels of a tuned model.

        Args:
            config: of the model.
            trained: results of the run that made it, where they are known.
            given: arguments on data, columns and labels; they win.
        """
        if cls.arguments_class is None:
            raise ValueError(f"The task {cls.name!r} has no `arguments_class`, so its models cannot be evaluated.")
        known = {item.name for item in fields(cls.arguments_class)}
        if foreign := sorted(given.keys() - known):
            raise ValueError(
                f"{foreign[0]}={given[foreign[0]]!r} says nothing to a model of {cls.name}. Leave it out."
            )
        return cls(cls.arguments_class(**{**cls.model_options(config, trained), **given}))

    @classmethod
    def model_options(cls, config: PreTrainedConfig, trained: dict[str, Any]) -> dict[str, Any]:
        """Return the arguments that a tuned model implies: its labels, and the columns that it was trained on."""
        before = trained.get("arguments", {})
        return {name: before[name] for name in cls.columns_trained if before.get(name) is not None}

    def raw_rows(self, **options: Any) -> DatasetDict:
        """Return the rows that the arguments name, as they are; options are of `read_files`."""
        names = ("train", "validation", "test", "dataset", "dataset_config", "revision")
        given = {name: getattr(self.arguments, name) for name in names}
        return self.read_files(**given, extra=self.arguments.test_files or None, **options)

    @classmethod
    def read_files(cls, **files: Any) -> DatasetDict:
        """Return the rows of files of splits, as they are."""
        return load_splits(**files)

    def rows(self, data: Any) -> list[dict[str, Any]]:
        """Return the rows of the split `test` as a `Predictor` reads them."""
        raise NotImplementedError

    def score_answers(self, data: Any, answers: list[dict[str, Any]], config: PreTrainedConfig) -> dict[str, Any]:
        """Return `rows` and `scores` (value, low and high of each) of the answers of a `Predictor` to these rows."""
        raise NotImplementedError

    def train_record(self, data: Any) -> dict[str, Any]:
        """Return what the model was trained on."""
        return {"rows": len(data.splits["train"])}

    def folds(self, data: Any) -> list[Any]:
        """Return the data of each fold of a cross-validation; none where none is asked for."""
        return []

    def classes(self, data: Any) -> Array | None:
        """Return (N,) the class of each row of train, or None where a row has not one of them."""
        return None

    def label_options(self, data: Any) -> dict[str, Any]:
        """Return the fields of the model's configuration that say what the labels are."""
        return {
            "id2label": dict(enumerate(data.label_names)),
            "label2id": {name: number for number, name in enumerate(data.label_names)},
        }

    def row_options(self, data: Any) -> dict[str, Any]:
        """Return the fields of the model's configuration that say what its rows are."""
        return {}

    def build_model(self, data: Any, backbone_config: PreTrainedConfig) -> PreTrainedModel | PeftModel:
        """Return the model that trains: fresh heads on a backbone, or a tuned model; with adapters where asked for."""
        arguments, told = self.arguments, {**self.label_options(data), **self.row_options(data)}
        if is_tuned(arguments):
            model, said = tuned_model(self.model_class, arguments, told)
            say(said)
        else:
            model = self.model_class.from_backbone(
                arguments.model,
                **backbone_settings(arguments, backbone_config),
                **head_settings(arguments, backbone_config, self.fusion_init),
                **told,
            )
        if self.backbone is not None:
            model.base_model.backbone.load_state_dict(self.backbone)
            model.config.backbone_hash = None  # no longer the backbone that was opened
        return tune(model, arguments.tuning, self.peft_type, **arguments.lora)


def say(text: str) -> None:
    """Print a line on the main process."""
    PartialState().print(text, flush=True)
