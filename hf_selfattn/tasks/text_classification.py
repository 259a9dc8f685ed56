"""Classification and regression of texts, as a task of the training."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset
from transformers import DataCollatorWithPadding, PreTrainedTokenizerBase, Trainer, TrainingArguments

from ..arguments import RecipeArguments
from ..data import ClassificationData
from .evaluation import (
    Calibration,
    fit_calibration,
    metric_names,
    metrics_function,
    plain_model,
    predict,
    score_baselines,
    score_polarity,
    score_splits,
)
from .losses import build_loss
from .preparation import build_model, load_data, report_on_data, seed_of, with_validation
from .streaming import ShuffledStream, load_stream, stream_collator
from .task import PROBLEMS, Task, as_references, tokenise


def tokenise_splits(
    arguments: RecipeArguments, data: ClassificationData, tokenizer: PreTrainedTokenizerBase
) -> dict[str, Any]:
    """Return the tokenised splits; of a stream the rows of train, to be tokenised when they are read."""
    tokens = {name: tokenise(split, tokenizer, data.problem) for name, split in data.splits.items()}
    if data.stream is None:
        return tokens
    return {"train": ShuffledStream(data.stream, seed_of(arguments), arguments.streaming_buffer), **tokens}


def label_counts(data: ClassificationData) -> dict[str, int]:
    """Return how many training rows have each label; of a regression nothing."""
    if data.problem == "regression":
        return {}
    if data.stream is not None:
        return data.stream.label_counts
    labels = as_references(data.splits["train"]["label"][:], data.problem)
    one_hot = labels if labels.ndim == 2 else labels[:, None] == np.arange(len(data.label_names))
    return dict(zip(data.label_names, one_hot.sum(axis=0).astype(int).tolist(), strict=True))


def selection_metric(data: ClassificationData) -> str:
    """Return the metric that picks the checkpoint where the user names none."""
    return PROBLEMS[data.problem].selection_metric


def trainer_options(
    arguments: RecipeArguments,
    data: ClassificationData,
    tokens: dict[str, Dataset],
    options: TrainingArguments,
    tokenizer: PreTrainedTokenizerBase,
) -> dict[str, Any]:
    """Return loss, collator and metrics for `Trainer`."""
    # Only class weights look at the labels, and those are refused for a stream.
    references = [] if data.stream is not None else data.splits["train"]["label"][:]
    return {
        "compute_loss_func": build_loss(
            data.problem,
            as_references(references, data.problem),
            len(data.label_names),
            kind=arguments.loss,
            class_weights=arguments.class_weights,
            label_smoothing=options.label_smoothing_factor,
            focal_gamma=arguments.focal_gamma,
        ),
        "data_collator": DataCollatorWithPadding(tokenizer) if data.stream is None else stream_collator(tokenizer),
        "compute_metrics": metrics_function(data),
    }


def evaluate(
    arguments: RecipeArguments,
    data: ClassificationData,
    tokens: dict[str, Dataset],
    evaluator: Trainer,
    output_dir: Path,
) -> dict[str, Any]:
    """Calibrate the model, score every evaluation split, write its predictions and score the baselines."""
    logits = {name: predict(evaluator, split, data.problem) for name, split in tokens.items() if name != "train"}
    calibration = fit_calibration(data, logits["validation"]) if arguments.calibrate else Calibration()
    results = {
        "problem": data.problem,
        "thresholds": calibration.thresholds,
        "calibration": calibration.as_dict(),
        "splits": score_splits(data, logits, calibration, output_dir),
    }
    if data.problem == "regression" and arguments.neutral_band is not None:
        values = {name: PROBLEMS[data.problem].probabilities(logits[name]) for name in logits}
        results["polarity"] = score_polarity(data, values, arguments.neutral_band)
    if arguments.baseline and data.stream is None:
        results["baseline"] = score_baselines(data, seed_of(arguments), arguments.lexicon)
    config = plain_model(evaluator).config
    config.temperature, config.thresholds = calibration.temperature, calibration.thresholds
    return results


def load(arguments: RecipeArguments) -> ClassificationData:
    """Load and check the data, all of it or, with `streaming`, all but the rows of train."""
    return load_stream(arguments) if arguments.streaming else load_data(arguments)


CLASSIFICATION = Task(
    name="text-classification",
    load=load,
    with_validation=with_validation,
    check=report_on_data,
    tokenise=tokenise_splits,
    build_model=build_model,
    label_counts=label_counts,
    metrics=metric_names,
    selection_metric=selection_metric,
    trainer_options=trainer_options,
    evaluate=evaluate,
)
