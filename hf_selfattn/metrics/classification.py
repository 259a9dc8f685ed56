"""Classification metrics of predicted labels, and of how the probabilities rank the rows.

Each builder takes predictions and returns a statistic (see `intervals`): row weights (N, R) to values (R,) per metric.
A class without references or predictions has no F1 and is left out of the macro mean, as in scikit-learn.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from .inputs import Array, Predictions
from .intervals import Statistic, cumulative, mean_of_defined, precision_recall_f1, ratio, wilson_interval


def label_statistic(predictions: Predictions) -> Statistic:
    """Build accuracy, F1, precision, recall and Matthews correlation from counts per class.

    Single-label and ordinal: accuracy, balanced_accuracy, macro_f1, micro_f1, weighted_f1, mcc (multi-class: Gorodkin
    2004; 0 where a side has one class only, as in scikit-learn). Multi-label: micro_f1, macro_f1, subset_accuracy.
    Both: "f1/NAME", "precision/NAME" and "recall/NAME" for each class.
    """
    truth, predicted = class_indicators(predictions)
    hits = truth * predicted
    right = (truth == predicted).all(axis=1).astype(np.float64)
    single = predictions.problem != "multi_label_classification"

    def statistic(weights: Array) -> dict[str, Array]:
        true_positive, actual, claimed = hits.T @ weights, truth.T @ weights, predicted.T @ weights  # (C, R)
        precision, recall, f1 = precision_recall_f1(true_positive, actual, claimed)
        micro = ratio(2 * true_positive.sum(axis=0), (actual + claimed).sum(axis=0))
        share_right = right @ weights / weights.sum(axis=0)
        values = {"macro_f1": mean_of_defined(f1), "micro_f1": micro}
        if single:
            values["accuracy"] = share_right
            values["balanced_accuracy"] = mean_of_defined(recall)
            values["weighted_f1"] = (np.where(actual > 0, f1, 0) * actual).sum(axis=0) / actual.sum(axis=0)
            values["mcc"] = _matthews_correlation(true_positive, actual, claimed)
        else:
            values["subset_accuracy"] = share_right
        for index, name in enumerate(predictions.label_names):
            values |= {f"f1/{name}": f1[index], f"precision/{name}": precision[index], f"recall/{name}": recall[index]}
        return values

    return statistic


def proportion_intervals(predictions: Predictions, confidence: float) -> dict[str, tuple[float, float]]:
    """Wilson intervals of the metrics that are proportions of rows, which hold also where the bootstrap sees no error.

    Accuracy, subset accuracy, precision and recall are such proportions. So is the Jaccard index J of one class, the
    hits among the rows where the class is the reference or the prediction, and F1 = 2J / (1 + J) grows with it.
    """
    truth, predicted = class_indicators(predictions)
    right = (truth == predicted).all(axis=1)
    overall = wilson_interval(right.sum(), len(right), confidence)
    if predictions.problem == "multi_label_classification":
        intervals = {"subset_accuracy": overall}
    else:
        intervals = {"accuracy": overall, "micro_f1": overall}
    hits, actual, claimed = (truth * predicted).sum(axis=0), truth.sum(axis=0), predicted.sum(axis=0)
    for index, name in enumerate(predictions.label_names):
        trials = {"precision": claimed[index], "recall": actual[index]}
        for metric, count in trials.items():
            if count:
                intervals[f"{metric}/{name}"] = wilson_interval(hits[index], count, confidence)
        union = claimed[index] + actual[index] - hits[index]
        if union:
            low, high = wilson_interval(hits[index], union, confidence)
            intervals[f"f1/{name}"] = 2 * low / (1 + low), 2 * high / (1 + high)
    return intervals


def ranking_statistic(predictions: Predictions) -> Statistic:
    """Build the mean over classes of the area under the ROC curve or, for multi-label, of the average precision.

    `roc_auc` is one class against the rest (Hanley & McNeil 1982: the share of pairs in the right order, ties count
    half); `mean_average_precision` sums precision over the steps of recall without interpolation. A class without
    positives (for ROC also: without negatives) is left out of the mean.
    """
    truth, _ = class_indicators(predictions)
    multi = predictions.problem == "multi_label_classification"
    build = _average_precision if multi else _roc_auc
    per_class = [build(truth[:, index] > 0, scores) for index, scores in enumerate(predictions.outputs.T)]

    def statistic(weights: Array) -> dict[str, Array]:
        values = mean_of_defined(np.stack([value(weights) for value in per_class]))
        return {"mean_average_precision" if multi else "roc_auc": values}

    return statistic


def class_indicators(predictions: Predictions) -> tuple[Array, Array]:
    """Return references and predicted labels as two (N, C) arrays of 0 and 1."""
    if predictions.problem == "multi_label_classification":
        return predictions.references.astype(np.float64), predictions.predicted.astype(np.float64)
    classes = np.eye(len(predictions.label_names))
    return classes[predictions.references], classes[predictions.predicted]


def _matthews_correlation(true_positive: Array, actual: Array, claimed: Array) -> Array:
    rows = actual.sum(axis=0)
    covariance = true_positive.sum(axis=0) * rows - (actual * claimed).sum(axis=0)
    variances = (rows**2 - (actual**2).sum(axis=0)) * (rows**2 - (claimed**2).sum(axis=0))
    return np.nan_to_num(ratio(covariance, np.sqrt(variances)))


def _roc_auc(positive: Array, scores: Array) -> Callable[[Array], Array]:
    positives, negatives = np.flatnonzero(positive), _ascending(~positive, scores)
    below = np.searchsorted(scores[negatives], scores[positives], side="left")
    up_to = np.searchsorted(scores[negatives], scores[positives], side="right")

    def value(weights: Array) -> Array:
        negative = cumulative(weights[negatives])
        pairs_in_order = (weights[positives] * (negative[below] + negative[up_to])).sum(axis=0) / 2
        return ratio(pairs_in_order, weights[positives].sum(axis=0) * negative[-1])

    return value


def _average_precision(positive: Array, scores: Array) -> Callable[[Array], Array]:
    positives, negatives = _ascending(positive, scores), _ascending(~positive, scores)
    positives_below = np.searchsorted(scores[positives], scores[positives], side="left")
    negatives_below = np.searchsorted(scores[negatives], scores[positives], side="left")

    def value(weights: Array) -> Array:
        hits, misses = cumulative(weights[positives]), cumulative(weights[negatives])
        hits_from_here = hits[-1] - hits[positives_below]  # (P, R): as sure as this positive, or surer
        precision = ratio(hits_from_here, hits_from_here + misses[-1] - misses[negatives_below])
        return ratio((weights[positives] * np.nan_to_num(precision)).sum(axis=0), hits[-1])

    return value


def _ascending(chosen: Array, scores: Array) -> Array:
    rows = np.flatnonzero(chosen)
    return rows[np.argsort(scores[rows], kind="stable")]
