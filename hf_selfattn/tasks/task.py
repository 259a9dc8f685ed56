"""What the kinds of task ask of the recipe: one table."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from datasets import Dataset
from numpy.typing import NDArray
from scipy.special import expit, softmax
from transformers import PreTrainedTokenizerBase

from ..data import ClassificationData

Array = NDArray[Any]


@dataclass(frozen=True)
class Task:
    """What a kind of task adds to a run; training and saving are the same for all.

    Args:
        name: of the task as pipelines have it.
        load: arguments to checked data.
        with_validation: arguments and data to data with a validation split.
        check: arguments to a report on the data.
        tokenise: arguments, data and tokenizer to tokenised splits with the columns `labels` and `length`.
        build_model: arguments, data and the backbone's configuration to the model that trains.
        label_counts: data to how often each label, or entity of each type, stands in train; empty for numbers.
        metrics: data to the names of the metrics of its validation split.
        selection_metric: data to the one that picks the checkpoint where the user names none.
        trainer_options: arguments, data, tokenised splits, `TrainingArguments` and tokenizer to loss, collator and
            metrics.
        evaluate: arguments, data, tokenised splits, a `Trainer` with the final model and the folder of the run to the
            task's part of the results, `splits` among them; sets what the model's configuration keeps of it.
        metrics_see_inputs: whether the metrics of the validation split are given the token ids, too.
    """

    name: str
    load: Callable[..., Any]
    with_validation: Callable[..., Any]
    check: Callable[..., dict[str, Any]]
    tokenise: Callable[..., dict[str, Dataset]]
    build_model: Callable[..., Any]
    label_counts: Callable[..., dict[str, int]]
    metrics: Callable[..., list[str]]
    selection_metric: Callable[..., str]
    trainer_options: Callable[..., dict[str, Any]]
    evaluate: Callable[..., dict[str, Any]]
    metrics_see_inputs: bool = False


@dataclass(frozen=True)
class Problem:
    """What training needs to know of a problem beyond its labels.

    Args:
        problem_type: the name that the model's configuration has for it.
        probabilities: logits (N, C) to what is scored, (N, C) or (N,).
        selection_metric: metric of the validation split that picks the checkpoint.
    """

    problem_type: str
    probabilities: Callable[[Array], Array]
    selection_metric: str


PROBLEMS = {
    "single_label_classification": Problem(
        "single_label_classification", lambda logits: softmax(logits, axis=-1), "macro_f1"
    ),
    "multi_label_classification": Problem("multi_label_classification", expit, "macro_f1"),
    "ordinal": Problem("single_label_classification", lambda logits: softmax(logits, axis=-1), "mae"),
    "regression": Problem("regression", lambda logits: logits[:, 0], "rmse"),
}


def label_options(data: ClassificationData) -> dict[str, Any]:
    """Return the fields of the model's configuration that say what the labels are."""
    return {
        "id2label": dict(enumerate(data.label_names)),
        "label2id": {name: number for number, name in enumerate(data.label_names)},
        "problem_type": PROBLEMS[data.problem].problem_type,
    }


def tokenise(split: Dataset, tokenizer: PreTrainedTokenizerBase, problem: str) -> Dataset:
    """Turn texts into tokens, whole, with the columns `labels` and `length` (in tokens)."""

    def encode(rows: dict[str, list[Any]]) -> dict[str, Any]:
        encoded = dict(tokenizer(rows["text"], rows.get("text_pair"), truncation=False, verbose=False))
        encoded["labels"] = as_references(rows["label"], problem).tolist()
        encoded["length"] = [len(ids) for ids in encoded["input_ids"]]
        return encoded

    return split.map(encode, batched=True, remove_columns=split.column_names, desc="tokenising")


def as_references(labels: Any, problem: str) -> Array:
    """Return the right answers as losses and scores want them: ints for classes, floats otherwise."""
    return np.asarray(labels, dtype=int if problem in ("single_label_classification", "ordinal") else float)
