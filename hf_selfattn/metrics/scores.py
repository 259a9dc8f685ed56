"""All metrics of a problem, each with its confidence interval; the statistics of numbers and of ordered classes."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence

import numpy as np
from numpy.typing import ArrayLike

from .calibration import calibration_statistic
from .classification import label_statistic, proportion_intervals, ranking_statistic
from .inputs import Array, Predictions, check_predictions, group_numbers
from .intervals import (
    Score,
    Statistic,
    basic_interval,
    bca_interval,
    check_confidence,
    cumulative,
    ratio,
    replicate,
    values_of,
    wilson_interval,
)

# A variance below this share of the whole data's is a rounding error: the resample holds one distinct value only.
NO_VARIANCE = 1e-12


def regression_statistic(predictions: Predictions) -> Statistic:
    """Build pearson, spearman (Pearson's correlation of the mid-ranks), mae and rmse."""
    truth, values = predictions.references, predictions.outputs
    error = (values - truth)[:, None]
    # Less a number from their midst: no cancellation, and a constant becomes exactly 0.
    centred_truth, centred_values = (truth - np.median(truth))[:, None], (values - np.median(values))[:, None]
    truth_ranks, value_ranks = _mid_ranks(truth), _mid_ranks(values)

    def statistic(weights: Array) -> dict[str, Array]:
        rows = weights.sum(axis=0)
        return {
            "pearson": _correlation(centred_truth, centred_values, weights),
            "spearman": _correlation(truth_ranks(weights), value_ranks(weights), weights),
            "mae": (np.abs(error) * weights).sum(axis=0) / rows,
            "rmse": np.sqrt((error**2 * weights).sum(axis=0) / rows),
        }

    return statistic


def ordinal_statistic(predictions: Predictions) -> Statistic:
    """Build mae in classes, and quadratic_kappa (Cohen 1968: 1 - squared distance / that expected by chance)."""
    truth, predicted = predictions.references.astype(np.float64), predictions.predicted.astype(np.float64)
    distance = np.abs(truth - predicted)

    def statistic(weights: Array) -> dict[str, Array]:
        rows = weights.sum(axis=0)
        expected = (truth**2 + predicted**2) @ weights * rows - 2 * (truth @ weights) * (predicted @ weights)
        observed = distance**2 @ weights * rows
        return {"mae": distance @ weights / rows, "quadratic_kappa": 1 - ratio(observed, expected)}

    return statistic


def _correlation(first: Array, second: Array, weights: Array) -> Array:
    """Return Pearson's correlation of (N, R) or (N, 1) arrays under weights (N, R)."""
    rows = weights.sum(axis=0)
    first, second = (values - (values * weights).sum(axis=0) / rows for values in (first, second))
    covariance = (first * second * weights).sum(axis=0)
    variance, other_variance = ((values**2 * weights).sum(axis=0) for values in (first, second))
    constant = (variance <= NO_VARIANCE * (first**2).sum(axis=0)) | (
        other_variance <= NO_VARIANCE * (second**2).sum(axis=0)
    )
    return np.where(constant, np.nan, np.clip(ratio(covariance, np.sqrt(variance * other_variance)), -1, 1))


def _mid_ranks(values: Array) -> Callable[[Array], Array]:
    """Build the map from weights (N, R) to the rank of each row in each resample, ties sharing their mean rank."""
    order = np.argsort(values, kind="stable")
    below = np.searchsorted(values[order], values, side="left")
    up_to = np.searchsorted(values[order], values, side="right")

    def ranks(weights: Array) -> Array:
        sums = cumulative(weights[order])
        return (sums[below] + sums[up_to] + 1) / 2

    return ranks


CLASSIFICATION_STATISTICS = (label_statistic, ranking_statistic, calibration_statistic)
STATISTICS = {
    "single_label_classification": CLASSIFICATION_STATISTICS,
    "multi_label_classification": CLASSIFICATION_STATISTICS,
    "ordinal": (*CLASSIFICATION_STATISTICS, ordinal_statistic),
    "regression": (regression_statistic,),
}
# Losses: their best value is 0, or has no bound; for every other metric it is 1.
ERROR_RATES = ("wer", "cer", "substitutions", "deletions", "insertions")
LOWER_IS_BETTER = frozenset({"ece", "brier", "nll", "mae", "rmse", *ERROR_RATES})


def score(
    problem: str,
    references: ArrayLike,
    outputs: ArrayLike,
    label_names: Sequence[str] | None,
    *,
    thresholds: ArrayLike | None = None,
    top_one_if_none: bool = True,
    groups: Sequence[Hashable] | None = None,
    confidence: float = 0.95,
    resamples: int = 1000,
    seed: int = 0,
) -> dict[str, Score]:
    """Compute every metric of the problem with its confidence interval.

    A metric that is undefined on the data is absent. Proportions of rows get Wilson's interval, the calibration error
    the basic bootstrap's, and all others that of the BCa bootstrap over rows (see `intervals` for the papers).

    Args:
        references: (N,) ints for single-label and ordinal, (N, C) 0/1 for multi-label, (N,) floats for regression.
        outputs: (N, C) probabilities, or (N,) values for regression.
        label_names: C names, for the metrics per class such as "f1/NAME"; not read for regression.
        thresholds: (C,) least probability per class of a multi-label problem; 0.5 each by default.
        top_one_if_none: whether a multi-label row where no class passes gets its most probable class.
        groups: what each row belongs to, such as its speaker: whole groups are drawn, and proportions, too, get the
            bootstrap's intervals.

    Raises:
        ValueError: the inputs do not fit the problem or each other.
    """
    check_confidence(confidence)
    predictions = check_predictions(
        problem, references, outputs, label_names, thresholds=thresholds, top_one_if_none=top_one_if_none
    )
    numbers = group_numbers(groups, len(predictions.outputs), "groups", "rows")
    rows, by_row = int(numbers.max()) + 1, statistic_of(predictions)
    by_group = by_row if groups is None else lambda weights: by_row(weights[numbers])
    replicates = replicate(by_group, rows, resamples, seed)
    are_rows = problem != "regression" and groups is None
    intervals = proportion_intervals(predictions, confidence) if are_rows else {}
    scores = {}
    for name, value in replicates.values.items():
        if name in intervals:
            low, high = intervals[name]
        elif name == "ece":
            low, high = basic_interval(value, replicates.resampled[name], confidence)
        elif name not in LOWER_IS_BETTER and abs(value - 1) < 1e-12:
            # No resample of a perfect answer shows an error: the bound is that of N right answers out of N.
            low, high = wilson_interval(rows, rows, confidence)
        else:
            low, high = bca_interval(value, replicates.resampled[name], replicates.jackknife[name], confidence)
        scores[name] = Score(value, low, high)
    return scores


def metric_values(
    problem: str,
    references: ArrayLike,
    outputs: ArrayLike,
    label_names: Sequence[str] | None,
    *,
    thresholds: ArrayLike | None = None,
    top_one_if_none: bool = True,
) -> dict[str, float]:
    """Compute every metric of the problem without its interval, as the evaluations during training need it."""
    predictions = check_predictions(
        problem, references, outputs, label_names, thresholds=thresholds, top_one_if_none=top_one_if_none
    )
    return values_of(statistic_of(predictions), len(predictions.outputs))


def statistic_of(predictions: Predictions, metric: str | None = None) -> Statistic:
    """Build the statistic of all metrics of the problem, or of the family of metrics that holds one of them."""
    statistics = [build(predictions) for build in STATISTICS[predictions.problem]]

    def every(weights: Array) -> dict[str, Array]:
        return {name: value for statistic in statistics for name, value in statistic(weights).items()}

    if metric is None:
        return every
    ones = np.ones((len(predictions.outputs), 1))
    for statistic in statistics:
        values = statistic(ones)
        if metric in values:
            if np.isnan(values[metric][0]):
                raise ValueError(f"metric {metric!r} is undefined on these data, for instance for lack of a class.")
            return statistic
    raise ValueError(f"metric is {metric!r}, but {predictions.problem} has {', '.join(every(ones))}.")
