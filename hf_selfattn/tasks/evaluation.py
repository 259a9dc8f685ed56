"""Predict every row once, and score the predictions beside a baseline."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from accelerate import PartialState
from datasets import Dataset, DatasetDict
from numpy.typing import NDArray
from transformers import PreTrainedModel

from ..data import fingerprint
from ..files import write_text
from ..metrics import fit_temperature, fit_thresholds, metric_values, predicted_labels, score
from ..metrics.abstention import abstention_table, confidences, wrong_answers
from ..metrics.baselines import joined_texts, tfidf_baseline
from ..metrics.intervals import Score, wilson_interval
from .problems import PROBLEMS, Array, as_references

if TYPE_CHECKING:
    from transformers import EvalPrediction, Trainer


class LabelledData(Protocol):
    """Checked rows of texts or images, whose splits have a column `label`."""

    splits: DatasetDict
    problem: str
    label_names: list[str]


def plain_model(trainer: Trainer) -> PreTrainedModel:
    """Return the model without the wrappers of accelerate, its autocast among them."""
    return trainer.accelerator.unwrap_model(trainer.model, keep_fp32_wrapper=False)


def metrics_function(data: LabelledData) -> Callable[[EvalPrediction], dict[str, float]]:
    """Return what `Trainer` calls after each evaluation."""

    def compute(prediction: EvalPrediction) -> dict[str, float]:
        outputs = PROBLEMS[data.problem].probabilities(logits_of(prediction.predictions))
        references = np.asarray(prediction.label_ids)
        values = metric_values(data.problem, references, outputs, data.label_names)
        return {name: value for name, value in values.items() if "/" not in name}

    return compute


def metric_names(data: LabelledData) -> list[str]:
    """Return the metrics that the validation split defines, as the right answers themselves are scored."""
    references = as_references(data.splits["validation"]["label"][:], data.problem)
    classes = data.problem in ("single_label_classification", "ordinal")
    outputs = np.eye(len(data.label_names))[references] if classes else references
    return list(metric_values(data.problem, references, outputs, data.label_names))


def logits_of(predictions: Any) -> Array:
    """Return the logits (N, C) among what a model put out, in double precision."""
    logits = predictions[0] if isinstance(predictions, tuple) else predictions
    return np.asarray(logits, dtype=np.float64)


def order_by_length(tokens: Dataset) -> Array:
    """Return the rows of a tokenised split in the order in which they are evaluated: little padding is read so."""
    return np.argsort(tokens["length"][:], kind="stable")


def predicted_logits(trainer: Trainer, tokens: Dataset, problem: str) -> Array:
    """Return the logits of every row, in the order of the rows.

    Rows of like length stand together in a batch, so that little padding is read.
    """
    order = order_by_length(tokens)
    prediction = trainer.predict(tokens.select(order))
    logits = logits_of(prediction.predictions)
    references = as_references(tokens["labels"][:], problem)[order]
    if len(logits) != len(tokens) or not np.allclose(np.asarray(prediction.label_ids), references):
        raise ValueError(
            f"{len(tokens)} rows were evaluated, but {len(logits)} predictions came back, or in another order. Each "
            "row must be predicted once: check custom samplers and `dataloader_drop_last`."
        )
    by_row = np.empty_like(logits)
    by_row[order] = logits
    return by_row


@dataclass(frozen=True)
class Calibration:
    """What turns logits into calibrated answers; without arguments it changes nothing."""

    temperature: float = 1.0  # divides the logits
    thresholds: list[float] | None = None  # least probability of each label of a multi-label problem

    def as_dict(self) -> dict[str, Any]:
        """Return the numbers as they stand in `results.json`."""
        return {"temperature": self.temperature, "thresholds": self.thresholds}


def fit_calibration(data: LabelledData, logits: Array) -> Calibration:
    """Fit temperature and thresholds on logits (N, C) of the validation split; a regression has neither."""
    if data.problem == "regression":
        return Calibration()
    references = as_references(data.splits["validation"]["label"][:], data.problem)
    temperature = fit_temperature(data.problem, references, logits)
    if data.problem != "multi_label_classification":
        return Calibration(temperature)
    probabilities = PROBLEMS[data.problem].probabilities(logits / temperature)
    return Calibration(temperature, fit_thresholds(references, probabilities).tolist())


def score_splits(
    data: LabelledData,
    logits: dict[str, Array],
    calibration: Calibration,
    output_dir: Path,
    top: int = 0,
    group_column: str | None = None,
) -> dict[str, Any]:
    """Score each evaluation split with intervals, before and after calibration, and write its predictions."""
    record = {}
    probabilities = PROBLEMS[data.problem].probabilities
    for name, raw in logits.items():
        split = data.splits[name]
        references = as_references(split["label"][:], data.problem)
        output = probabilities(raw / calibration.temperature)
        before = metric_values(data.problem, references, probabilities(raw), data.label_names)
        predictions_file = f"predictions-{name}.jsonl"
        if PartialState().is_main_process:
            write_predictions(output_dir / predictions_file, references.tolist(), output)
        record[name] = {
            **score_outputs(data, name, output, calibration.thresholds, top, group_column),
            "uncalibrated": {metric: value for metric, value in before.items() if "/" not in metric},
            "predictions_file": predictions_file,
        }
    return record


def score_outputs(
    data: LabelledData,
    name: str,
    outputs: Array,
    thresholds: list[float] | None = None,
    top: int = 0,
    group_column: str | None = None,
) -> dict[str, Any]:
    """Return the scores of a split with intervals, of its outputs (N, C), or (N,) for a regression.

    Args:
        top: of how many likeliest classes one must be right to count as an answer, in a score of its own; 0 for none.
        group_column: where the split has it, intervals are over its groups.
    """
    split = data.splits[name]
    references = as_references(split["label"][:], data.problem)
    groups = split[group_column][:] if group_column in split.column_names else None
    scores = score(data.problem, references, outputs, data.label_names, thresholds=thresholds, groups=groups)
    if data.problem == "single_label_classification" and 0 < top < len(data.label_names):
        scores = {
            "accuracy": scores.pop("accuracy"),
            f"top_{top}_accuracy": top_accuracy(references, outputs, top),
            **scores,
        }
    return {
        "rows": len(split),
        "fingerprint": fingerprint(split),
        "scores": {metric: value.as_dict() for metric, value in scores.items()},
    }


def top_accuracy(references: Array, outputs: Array, top: int) -> Score:
    """Return the share of rows whose class is among the likeliest ones, with Wilson's interval."""
    likeliest = np.argpartition(-outputs, top - 1, axis=1)[:, :top]
    right = (likeliest == references[:, None]).any(axis=1)
    return Score(float(right.mean()), *wilson_interval(right.sum(), len(right), 0.95))


def abstention_record(data: LabelledData, logits: Array, calibration: Calibration) -> dict[str, Any]:
    """Return what the validation split, of logits (N, C), says of answers given only where the model is sure."""
    if data.problem == "regression":
        return {}
    outputs = PROBLEMS[data.problem].probabilities(logits / calibration.temperature)
    predicted = predicted_labels(data.problem, outputs, calibration.thresholds)
    references = as_references(data.splits["validation"]["label"][:], data.problem)
    return {"abstention": abstention_table(confidences(predicted, outputs), wrong_answers(predicted, references))}


def score_tfidf(data: LabelledData, seed: int) -> dict[str, Any]:
    """Score TF-IDF with a linear model on the same rows."""
    texts = {name: joined_texts(split) for name, split in data.splits.items()}
    evaluated = {name: texts[name] for name in texts if name != "train"}
    references = as_references(data.splits["train"]["label"][:], data.problem)
    started = time.perf_counter()
    answers = tfidf_baseline(
        data.problem, texts["train"], references, evaluated, seed=seed, num_labels=len(data.label_names)
    )
    return score_answers(data, answers, time.perf_counter() - started)


def score_answers(data: LabelledData, answers: dict[str, Array], seconds: float, top: int = 0) -> dict[str, Any]:
    """Return the scores of a baseline with intervals, by split."""
    scored = {name: score_outputs(data, name, output, top=top)["scores"] for name, output in answers.items()}
    return {"seconds": seconds, "splits": {name: {"scores": scores} for name, scores in scored.items()}}


def write_predictions(path: Path, references: Sequence[Any], outputs: NDArray[Any]) -> None:
    """Write one line per row: its number, the right answer, (N,) or (N, C), and the output, (N, C) or (N,)."""
    rows = (
        json.dumps({"row": number, "reference": reference, "output": output})
        for number, (reference, output) in enumerate(zip(references, outputs.tolist(), strict=True))
    )
    write_text(path, "".join(f"{row}\n" for row in rows))
