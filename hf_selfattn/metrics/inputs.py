"""What a metric is computed on: checked references and outputs, and the labels predicted from them."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[Any]

PROBLEMS = ("single_label_classification", "multi_label_classification", "regression", "ordinal")
DEFAULT_THRESHOLD = 0.5


@dataclass(frozen=True)
class Predictions:
    """Checked inputs of the metrics of one system on one split of N rows and C classes."""

    problem: str  # one of `PROBLEMS`
    references: Array  # (N,) ints, (N, C) 0/1 or (N,) floats, by problem
    outputs: Array  # (N, C) probabilities, or (N,) values for regression
    predicted: Array  # what `predicted_labels` makes of the outputs
    label_names: tuple[str, ...]  # C; none for regression


def check_problem(problem: str) -> None:
    """Raise a ValueError unless `problem` is one of `PROBLEMS`."""
    if problem not in PROBLEMS:
        raise ValueError(f"problem is {problem!r}, but must be one of {', '.join(PROBLEMS)}.")


def predicted_labels(
    problem: str, outputs: ArrayLike, thresholds: ArrayLike | None = None, top_one_if_none: bool = True
) -> Array:
    """Turn outputs into answers: the argmax (N,), the classes that pass their threshold (N, C), or the value itself.

    Args:
        outputs: (N, C) probabilities, or (N,) values for regression.
        thresholds: (C,) least probability per class of a multi-label problem; 0.5 each by default.
        top_one_if_none: whether a multi-label row where no class passes gets its most probable class.
    """
    check_problem(problem)
    scores = checked_outputs(problem, outputs)
    if problem == "regression":
        return scores
    if problem != "multi_label_classification":
        classes: Array = scores.argmax(axis=1)
        return classes
    num_labels = scores.shape[1]
    least = np.full(num_labels, DEFAULT_THRESHOLD) if thresholds is None else np.asarray(thresholds, dtype=float)
    if least.shape != (num_labels,):
        raise ValueError(f"thresholds has shape {least.shape}, but must be ({num_labels},): one for each class.")
    passed = (scores >= least).astype(np.int64)
    if top_one_if_none:
        empty = np.flatnonzero(passed.sum(axis=1) == 0)
        passed[empty, scores[empty].argmax(axis=1)] = 1
    return passed


def check_predictions(
    problem: str,
    references: ArrayLike,
    outputs: ArrayLike,
    label_names: Sequence[str] | None = None,
    *,
    thresholds: ArrayLike | None = None,
    top_one_if_none: bool = True,
) -> Predictions:
    """Check the inputs of the metrics, as `score` takes them, and predict the labels; an error names the bad row."""
    check_problem(problem)
    scores = checked_outputs(problem, outputs)
    if problem == "regression":
        return Predictions(problem, _checked_values(references, len(scores)), scores, scores, ())
    rows, num_labels = scores.shape
    _check_probabilities(problem, scores)
    truth = checked_classes(problem, references, rows, num_labels)
    names = tuple(map(str, range(num_labels) if label_names is None else label_names))
    if len(names) != num_labels or len(set(names)) != num_labels:
        raise ValueError(
            f"label_names must be {num_labels} different names, one per column of outputs, but is {names}."
        )
    predicted = predicted_labels(problem, scores, thresholds, top_one_if_none)
    return Predictions(problem, truth, scores, predicted, names)


def group_numbers(groups: Sequence[Hashable] | None, rows: int, what: str, units: str) -> NDArray[np.int64]:
    """Number the groups of rows from 0: (N,); every row is its own where none are given."""
    if groups is None:
        return np.arange(rows)
    if len(groups) != rows:
        raise ValueError(f"there are {len(groups)} {what}, but {rows} {units}: give one for each.")
    numbers: dict[Hashable, int] = {}
    return np.array([numbers.setdefault(group, len(numbers)) for group in groups], dtype=np.int64)


def checked_outputs(problem: str, outputs: ArrayLike, name: str = "outputs") -> Array:
    """Return outputs as float64 (N, C), or (N,) for regression; raise a ValueError if shape or values are wrong."""
    scores = np.asarray(outputs, dtype=np.float64)
    if problem == "regression" and scores.ndim == 2 and scores.shape[1] == 1:
        scores = scores[:, 0]
    ndim, shape = (1, "(N,)") if problem == "regression" else (2, "(N, C)")
    if scores.ndim != ndim or scores.size == 0:
        raise ValueError(f"{name} has shape {scores.shape}, but {problem} needs {shape} with at least one row.")
    _check_finite(scores, name)
    return scores


def checked_classes(problem: str, references: ArrayLike, rows: int, num_labels: int) -> Array:
    """Return references as ints (N,), or 0/1 (N, C) for multi-label; raise a ValueError with the first bad row."""
    multi = problem == "multi_label_classification"
    truth, expected = np.asarray(references), (rows, num_labels) if multi else (rows,)
    if truth.shape != expected:
        raise ValueError(f"references has shape {truth.shape}, but {problem} with these outputs needs {expected}.")
    if truth.dtype.kind not in "biuf":
        raise ValueError(f"references must be integers, but is of type {truth.dtype}: map label names to ids first.")
    classes = 2 if multi else num_labels
    bad = ~np.isin(truth, np.arange(classes)).reshape(rows, -1).all(axis=1)
    if bad.any():
        row = int(bad.argmax())
        raise ValueError(f"references must be integers from 0 to {classes - 1}, but row {row} is {truth[row]}.")
    return truth.astype(np.int64)


def _check_probabilities(problem: str, scores: Array) -> None:
    bad = ((scores < 0) | (scores > 1)).any(axis=1)
    if problem != "multi_label_classification":
        bad |= np.abs(scores.sum(axis=1) - 1) > 0.01
    if bad.any():
        row = int(bad.argmax())
        raise ValueError(
            f"outputs must be probabilities, but row {row} is {np.round(scores[row], 4).tolist()}. "
            "Apply softmax (sigmoid for multi-label) to logits first."
        )


def _checked_values(references: ArrayLike, rows: int) -> Array:
    truth = np.asarray(references, dtype=np.float64)
    if truth.shape != (rows,):
        raise ValueError(f"references has shape {truth.shape}, but outputs has {rows} rows: one of each per row.")
    _check_finite(truth, "references")
    return truth


def _check_finite(values: Array, name: str) -> None:
    bad = np.flatnonzero(~np.isfinite(values.reshape(len(values), -1)).all(axis=1))
    if len(bad):
        raise ValueError(f"{name} is not finite in row {bad[0]} ({len(bad)} such rows).")
