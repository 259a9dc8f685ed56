"""How far probabilities can be believed, and the temperature and thresholds that mend them on a validation split."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax

from .inputs import DEFAULT_THRESHOLD, Array, Predictions, checked_classes, checked_outputs
from .intervals import Statistic

BINS = 15
LEAST_PROBABILITY = 1e-15
TEMPERATURE_BOUNDS = (0.02, 50.0)


def calibration_statistic(predictions: Predictions) -> Statistic:
    """Build ece, brier and nll (see `intervals` for what a statistic is).

    - ece: expected calibration error (Naeini et al. 2015) over 15 bins of equal mass (Nguyen & O'Connor 2015), cut
      once, on the whole data: the mean distance of confidence and accuracy. Confidence is the top class's probability;
      for multi-label, each of the row. On few rows chance alone lifts it: to about .09 on 200 rows and .04 on 1,000.
    - brier: squared distance of the probabilities to the truth (Brier 1950), summed over classes: 0 to 2.
    - nll: negative log-likelihood with the natural logarithm, probabilities clipped at 1e-15.

    For multi-label brier and nll are means over the classes.
    """
    gaps = _confidence_gaps(predictions)  # (N, bins)
    brier, nll = _row_losses(predictions)  # (N,) each

    def statistic(weights: Array) -> dict[str, Array]:
        rows = weights.sum(axis=0)
        ece = np.abs(gaps.T @ weights).sum(axis=0) / rows
        return {"ece": ece, "brier": brier @ weights / rows, "nll": nll @ weights / rows}

    return statistic


def fit_temperature(problem: str, references: ArrayLike, logits: ArrayLike) -> float:
    """Find the temperature T that divides the logits (Guo et al. 2017, "On calibration of modern neural networks").

    It minimises the negative log-likelihood, which has one minimum in log T. When every answer is right there is none
    (ever sharper is ever better); T is then 1, for such data hold no evidence.

    Args:
        references: (N,) ints, or (N, C) 0/1 for multi-label, of the validation split.
        logits: (N, C), before softmax (sigmoid for multi-label).
    """
    if problem == "regression":
        raise ValueError("problem is 'regression', whose outputs are no probabilities: it has no temperature.")
    scores = checked_outputs(problem, logits, "logits")
    truth = checked_classes(problem, references, *scores.shape)
    multi = problem == "multi_label_classification"
    rows = np.arange(len(truth))
    # How far each answer is on the right side: of 0, or of the best wrong class.
    margins = np.where(truth == 1, scores, -scores) if multi else _margins(scores, truth)
    if (margins > 0).all():
        return 1.0

    def loss(log_temperature: float) -> float:
        scaled = scores / np.exp(log_temperature)
        if multi:
            return float(np.mean(np.logaddexp(0, scaled) - truth * scaled))
        return float(-np.mean(log_softmax(scaled, axis=1)[rows, truth]))

    best = minimize_scalar(loss, bounds=np.log(TEMPERATURE_BOUNDS), method="bounded", options={"xatol": 1e-6})
    return float(np.exp(best.x))


def fit_thresholds(references: ArrayLike, probabilities: ArrayLike) -> Array:
    """Find the threshold (C,) of each class that maximises its F1 on a validation split: references 0/1 (N, C).

    A class is predicted where its probability (N, C) is at least its threshold, which lies midway between two
    neighbouring probabilities, or is 0.5. Of several that are equally good, the nearest to 0.5 is taken; a class
    without positives keeps 0.5.
    """
    scores = checked_outputs("multi_label_classification", probabilities, "probabilities")
    truth = checked_classes("multi_label_classification", references, *scores.shape)
    return np.array([_best_threshold(truth[:, index] == 1, scores[:, index]) for index in range(truth.shape[1])])


def _margins(scores: Array, truth: Array) -> Array:
    """Return the true class's logit less the best of the others: (N,)."""
    others = scores.copy()
    others[np.arange(len(truth)), truth] = -np.inf
    margins: Array = scores[np.arange(len(truth)), truth] - others.max(axis=1)
    return margins


def _best_threshold(positive: Array, scores: Array) -> float:
    if not positive.any():
        return DEFAULT_THRESHOLD
    ordered = np.unique(scores)
    midpoints = (ordered[1:] + ordered[:-1]) / 2
    candidates = np.concatenate([ordered[:1], midpoints, [DEFAULT_THRESHOLD]])
    hits = np.sum(positive) - np.searchsorted(np.sort(scores[positive]), candidates)
    claimed = len(scores) - np.searchsorted(np.sort(scores), candidates)
    f1 = 2 * hits / (claimed + np.sum(positive))
    best = candidates[f1 >= f1.max() - 1e-12]
    return float(best[np.abs(best - DEFAULT_THRESHOLD).argmin()])


def _confidence_gaps(predictions: Predictions) -> Array:
    """Return confidence minus truth, summed per row and bin: (N, bins), each row's share of the calibration error."""
    outputs, rows = predictions.outputs, len(predictions.outputs)
    if predictions.problem == "multi_label_classification":
        confidence, truth = outputs, predictions.references
    else:
        confidence = outputs.max(axis=1, keepdims=True)
        truth = (predictions.predicted == predictions.references)[:, None]
    edges = np.quantile(confidence, np.arange(1, BINS) / BINS)
    bins = np.searchsorted(edges, confidence.ravel(), side="left")
    cells = np.repeat(np.arange(rows), confidence.shape[1]) * BINS + bins
    share = (confidence - truth).ravel() / confidence.shape[1]
    gaps: Array = np.bincount(cells, weights=share, minlength=rows * BINS).reshape(rows, BINS)
    return gaps


def _row_losses(predictions: Predictions) -> tuple[Array, Array]:
    outputs, truth = predictions.outputs, predictions.references
    clipped = np.clip(outputs, LEAST_PROBABILITY, 1 - LEAST_PROBABILITY)
    if predictions.problem == "multi_label_classification":
        log_likelihood = np.log(np.where(truth == 1, clipped, 1 - clipped))
        return ((outputs - truth) ** 2).mean(axis=1), -log_likelihood.mean(axis=1)
    rows = np.arange(len(truth))
    brier = ((outputs - np.eye(outputs.shape[1])[truth]) ** 2).sum(axis=1)
    return brier, -np.log(clipped[rows, truth])
