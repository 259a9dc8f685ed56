"""What is gained by giving no answer where a model is unsure: how many rows are answered, and how many wrongly."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from .inputs import Array
from .intervals import Score, check_confidence, wilson_interval

STEPS = 100  # thresholds of a table: 0, .01, .02, …


@dataclass(frozen=True)
class Abstention:
    """What happens where only the rows are answered whose probability is at least the threshold."""

    threshold: float
    answered: Score  # share of the rows
    error: Score | None  # share of the answered rows that are wrong; none where no row is answered


def confidences(predicted: ArrayLike, outputs: ArrayLike) -> Array:
    """Return (N,) the probability of each answer: that of a class, or the least among the labels of a row.

    That of no label is how sure it is that none is one.

    Args:
        predicted: (N,) classes, or (N, C) 0/1 of several labels.
        outputs: (N, C) probabilities.
    """
    chosen, scores = np.asarray(predicted), np.asarray(outputs)
    if chosen.ndim == 1:
        sure: Array = scores[np.arange(len(chosen)), chosen]
        return sure
    least = np.where(chosen == 1, scores, np.inf).min(axis=1)
    sure = np.where(np.isfinite(least), least, 1 - scores.max(axis=1))
    return sure


def wrong_answers(predicted: ArrayLike, references: ArrayLike) -> Array:
    """Return (N,) whether each answer, a class or a set of labels, differs from the right one."""
    given, right = np.asarray(predicted), np.asarray(references)
    wrong: Array = (given != right).reshape(len(right), -1).any(axis=1)
    return wrong


def abstention(confidences: ArrayLike, wrong: ArrayLike, threshold: float, confidence: float = 0.95) -> Abstention:
    """Return what happens at one threshold: (N,) probabilities of the answers, (N,) whether each is wrong."""
    sure, mistaken = _checked(confidences, wrong)
    kept = sure >= threshold
    return _counted(threshold, len(sure), int(kept.sum()), int(mistaken[kept].sum()), confidence)


def abstention_curve(confidences: ArrayLike, wrong: ArrayLike, steps: int = STEPS) -> list[Abstention]:
    """Return what happens at each of `steps` + 1 thresholds from 0 to 1."""
    return [abstention(confidences, wrong, step / steps) for step in range(steps + 1)]


def abstention_table(confidences: ArrayLike, wrong: ArrayLike) -> dict[str, Any]:
    """Return the numbers of `rows`, and of `answered` and `wrong` ones at the thresholds 0, .01, …, 1."""
    sure, mistaken = _checked(confidences, wrong)
    kept = sure[:, None] >= np.arange(STEPS + 1) / STEPS
    return {
        "rows": len(sure),
        "answered": kept.sum(axis=0).tolist(),
        "wrong": (kept & mistaken[:, None]).sum(axis=0).tolist(),
    }


def abstention_of(table: Mapping[str, Any], threshold: float) -> Abstention:
    """Return what a table says of the greatest of its thresholds that is not above this one."""
    step = int(threshold * STEPS + 1e-9)
    return _counted(step / STEPS, table["rows"], table["answered"][step], table["wrong"][step], 0.95)


def _checked(confidences: ArrayLike, wrong: ArrayLike) -> tuple[Array, Array]:
    sure, mistaken = np.asarray(confidences, dtype=float), np.asarray(wrong, dtype=bool)
    if sure.shape != mistaken.shape or sure.ndim != 1 or len(sure) == 0:
        raise ValueError(
            f"confidences and wrong have the shapes {sure.shape} and {mistaken.shape}, but need one of each per row, "
            "and at least one row."
        )
    return sure, mistaken


def _counted(threshold: float, rows: int, answered: int, wrong: int, confidence: float) -> Abstention:
    check_confidence(confidence)
    share = Score(answered / rows, *wilson_interval(answered, rows, confidence))
    if not answered:
        return Abstention(threshold, share, None)
    return Abstention(threshold, share, Score(wrong / answered, *wilson_interval(wrong, answered, confidence)))
